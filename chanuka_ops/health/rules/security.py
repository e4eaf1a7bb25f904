"""Who may do what without being asked."""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Limits, Need, Rows, Scope, Status

# Two weeks: one holiday's notice.
EXPIRY_DAYS = 14.0
# Beside the one that the cluster was made with: the first more is the one to ask about.
MORE_SUPERUSERS = 1


# The last version that was delivered with it.
PUBLIC_CREATES_BY_DEFAULT = 14


def public_create(rows: Rows, case: Case) -> Iterator[Finding]:
    """Every role may put objects where others look for theirs."""
    for row in rows:
        delivered = row["schema_name"] == "public" and case.facts.major <= PUBLIC_CREATES_BY_DEFAULT
        yield case.finding(
            row["name"],
            f"every role may create objects in {row['name']}, and so shadow functions and tables that others call"
            f"{' (as this version is delivered)' if delivered else ''}",
            f"revoke create on {row['name']} from public",
            status=Status.INFO if delivered else Status.WARNING,
        )


def public_write(rows: Rows, case: Case) -> Iterator[Finding]:
    """Every role may change the rows."""
    for row in rows:
        privileges = ", ".join(row["privileges"])
        yield case.finding(
            row["name"],
            f"every role may {privileges} {row['name']}",
            f"revoke {privileges.lower()} on {row['name']} from public",
        )


def definer_search_path(rows: Rows, case: Case) -> Iterator[Finding]:
    """The owner's rights, the caller's names."""
    for row in rows:
        kind = "procedure" if row["is_procedure"] else "function"
        yield case.finding(
            row["name"],
            f"{kind} {row['name']} runs with its owner's rights and looks its names up in the caller's search_path",
            f"alter {kind} {row['name']} set search_path = pg_catalog, …, pg_temp",
        )


def rls_disabled(rows: Rows, case: Case) -> Iterator[Finding]:
    """Policies that nobody enforces."""
    for row in rows:
        if not row["enabled"]:
            yield case.finding(
                row["name"],
                f"{row['name']} has {row['policies']} row security policies, and row security is off",
                f"alter table {row['name']} enable row level security, or drop the policies",
            )


def rls_no_policy(rows: Rows, case: Case) -> Iterator[Finding]:
    """On without a policy: nobody but the owner sees a row."""
    for row in rows:
        if row["enabled"]:
            yield case.finding(
                row["name"],
                f"row security is on for {row['name']} without a policy: only its owner sees rows",
                "create a policy, or switch row security off if that is not meant",
            )


def md5_password(rows: Rows, case: Case) -> Iterator[Finding]:
    """Kept as MD5."""
    for row in rows:
        yield case.finding(
            row["name"],
            f"the password of role {row['name']} is kept as an MD5 hash, which is as good as the password",
            "set password_encryption = 'scram-sha-256', then set the password anew",
        )


def password_expiring(rows: Rows, case: Case) -> Iterator[Finding]:
    """Soon, or already."""
    for row in rows:
        days, limit = row["days"], EXPIRY_DAYS if case.limits.first is None else case.limits.first
        if days < limit:
            ended = f"ended {-days:.1f} days ago" if days < 0 else f"ends in {days:.1f} days"
            yield case.finding(
                row["name"],
                f"the password of role {row['name']} {ended}",
                f"alter role {row['name']} valid until '…', with a new password",
                value=days,
                status=Status.WARNING,
            )


def superusers(rows: Rows, case: Case) -> Iterator[Finding]:
    """More than the one that the cluster was made with, as soon as there are more of them than the limit allows."""
    measured = case.finding(None, f"{len(rows)} more superusers than the cluster was made with", "", value=len(rows))
    if measured.status is Status.OK:
        yield measured
        return
    for row in rows:
        how = "is a superuser" if row["is_superuser"] else f"may become superuser {row['through']}"
        strip = f"alter role {row['name']} nosuperuser"
        remedy = strip if row["is_superuser"] else f"revoke {row['through']} from {row['name']}"
        yield case.finding(
            row["name"],
            f"role {row['name']} logs in and {how}: no rule of the database holds for it",
            f"{remedy}, and grant what it needs (pg_monitor, pg_read_all_data, pg_signal_backend)",
            value=len(rows),
        )


def untrusted_language(rows: Rows, case: Case) -> Iterator[Finding]:
    """May do what the server's own account may."""
    for row in rows:
        yield case.finding(
            row["name"],
            f"function {row['name']} is written in {row['language']}, which may do all that the server's account may",
            f"look at who may change and call it: revoke execute on routine {row['name']} from public",
        )


def trust_auth(rows: Rows, case: Case) -> Iterator[Finding]:
    """Whoever reaches the port is in."""
    for row in rows:
        yield case.finding(
            f"pg_hba.conf, line {row['line']}",
            f"whoever connects from {row['address'] or 'anywhere'} is let in as {row['users']} to {row['databases']}"
            " without a password",
            "write scram-sha-256 (or cert) in place of trust, then: select pg_reload_conf()",
        )


def tls_off(rows: Rows, case: Case) -> Iterator[Finding]:
    """What is said in clear on the network."""
    for row in rows:
        yield case.finding(
            row["user"],
            f"{row['sessions']} sessions of {row['user'] or 'no role'} came over the network without TLS, from"
            f" {row['address']} for one",
            "write hostssl in pg_hba.conf, and sslmode=verify-full in the clients",
            value=row["sessions"],
        )


_W = (Status.WARNING,)

CHECKS = (
    Check(
        "security.public_create",
        "not everybody may create objects",
        _W,
        public_create,
        "Whoever may create in a schema that others search can put a function of his own before theirs. New databases"
        " are safe from 15 on; older ones keep the grant when they are upgraded.",
        remedy="REVOKE CREATE ON SCHEMA … FROM PUBLIC, and grant it to the roles that make objects there. What is"
        " already there stays; look for what others put in: select relname, relowner::regrole from pg_class where"
        " relnamespace = 'public'::regnamespace.",
        link="https://www.postgresql.org/docs/current/ddl-schemas.html#DDL-SCHEMAS-PATTERNS",
        query="public_create",
    ),
    Check(
        "security.public_write",
        "not everybody may write",
        _W,
        public_write,
        "A table that PUBLIC may write to can be changed by every role there is and every role to come.",
        remedy="REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON … FROM PUBLIC, and grant them to the roles that write."
        " Look at ALTER DEFAULT PRIVILEGES too, or the next table is open again.",
        link="https://www.postgresql.org/docs/current/ddl-priv.html",
        query="public_write",
    ),
    Check(
        "security.definer_search_path",
        "SECURITY DEFINER functions fix their search path",
        _W,
        definer_search_path,
        "Such a function acts with its owner's rights. Without a search_path of its own, the caller decides which table"
        " or operator a name means.",
        remedy="ALTER FUNCTION … SET search_path = pg_catalog, the schemas it needs, pg_temp (last, or everybody's"
        " temporary tables come first); and REVOKE EXECUTE … FROM PUBLIC, which has it from the start.",
        link="https://www.postgresql.org/docs/current/sql-createfunction.html#SQL-CREATEFUNCTION-SECURITY",
        query="definer_functions",
    ),
    Check(
        "security.rls_disabled",
        "row security policies are enforced",
        _W,
        rls_disabled,
        "A policy does nothing until row security is switched on for its table.",
        remedy="ALTER TABLE … ENABLE ROW LEVEL SECURITY, ACCESS EXCLUSIVE for a moment, after a look at what the"
        " policies let through; or DROP POLICY what is not meant. FORCE makes them hold for the owner too.",
        link="https://www.postgresql.org/docs/current/ddl-rowsecurity.html",
        query="row_security",
    ),
    Check(
        "security.rls_no_policy",
        "row security has policies",
        (Status.INFO,),
        rls_no_policy,
        "Row security without a policy hides every row from everybody but the owner. It may be meant.",
        remedy="CREATE POLICY … for who should see rows; or ALTER TABLE … DISABLE ROW LEVEL SECURITY.",
        link="https://www.postgresql.org/docs/current/ddl-rowsecurity.html",
        query="row_security",
    ),
    Check(
        "security.md5_password",
        "passwords are kept as SCRAM",
        _W,
        md5_password,
        "Who steals an MD5 hash can log in with it. SCRAM has been the default since 14; old passwords stay as they are"
        " until they are set anew.",
        remedy="set password_encryption = 'scram-sha-256', then ALTER ROLE … PASSWORD '…' anew (\\password in psql"
        " sends only the hash); clients need a libpq of 10 or later. Then write scram-sha-256 in pg_hba.conf.",
        link="https://www.postgresql.org/docs/current/auth-password.html",
        query="md5_roles",
        scope=Scope.CLUSTER,
        needs=(Need.PASSWORDS,),
    ),
    Check(
        "security.password_expiring",
        "passwords don't end soon",
        _W,
        password_expiring,
        "VALID UNTIL refuses the password from that moment on, at the next connect.",
        remedy="Set a new password with its next end: ALTER ROLE … PASSWORD '…' VALID UNTIL '…'; sessions that are"
        " open stay. VALID UNTIL 'infinity' takes the end away.",
        link="https://www.postgresql.org/docs/current/sql-createrole.html",
        query="expiring_roles",
        scope=Scope.CLUSTER,
        unit="days",
        limits=Limits(EXPIRY_DAYS),
    ),
    Check(
        "security.superusers",
        "one superuser logs in",
        _W,
        superusers,
        "For a superuser no grant, policy or limit holds, and it may run programs on the server. Counted beside the one"
        " that the cluster was made with: who logs in as superuser, or may become one by SET ROLE. Raise the limit to"
        " the number that is meant.",
        remedy="Give the role what it does need (pg_monitor, pg_read_all_data, pg_signal_backend, ownership of its"
        " database), then ALTER ROLE … NOSUPERUSER, or REVOKE the membership. It holds for the next statement;"
        " nothing is dropped.",
        link="https://www.postgresql.org/docs/current/role-attributes.html",
        query="superusers",
        scope=Scope.CLUSTER,
        unit="superusers",
        limits=Limits(MORE_SUPERUSERS),
    ),
    Check(
        "security.untrusted_language",
        "functions keep within the database",
        (Status.INFO,),
        untrusted_language,
        "A function in C, plpython3u or plperlu reads and writes files and runs programs as the server's account. Such"
        " as extensions bring are left out.",
        remedy="Ask whether it must: SQL, PL/pgSQL or a trusted language keep within the role's rights. If it must,"
        " see that only few may call it: REVOKE EXECUTE … FROM PUBLIC.",
        link="https://www.postgresql.org/docs/current/plpython.html",
        query="untrusted_functions",
    ),
    Check(
        "security.trust_auth",
        "everybody from outside proves who they are",
        _W,
        trust_auth,
        "The method trust asks for nothing: whoever reaches the port may be any role, superusers too. Lines for this"
        " machine only are left out.",
        remedy="Write scram-sha-256 in place of trust, give the roles passwords, and select pg_reload_conf();"
        " sessions that are open stay. Roles without a password can't log in any more after that: look first.",
        link="https://www.postgresql.org/docs/current/auth-trust.html",
        query="trusted_addresses",
        scope=Scope.CLUSTER,
        needs=(Need.CONFIG_FILES,),
    ),
    Check(
        "security.tls_off",
        "sessions are encrypted",
        _W,
        tls_off,
        "Sessions from other machines without TLS send rows, and often passwords, in clear. Local ones are left out.",
        remedy="Set ssl = on with a certificate (a reload is enough), write hostssl in place of host in pg_hba.conf,"
        " and sslmode=verify-full in the clients. pg_stat_ssl shows who still comes in clear.",
        link="https://www.postgresql.org/docs/current/ssl-tcp.html",
        query="plain_sessions",
        scope=Scope.CLUSTER,
        unit="sessions",
        needs=(Need.SESSIONS,),
    ),
)
