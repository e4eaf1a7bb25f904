"""Who may do what without being asked."""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops.health.model import Case, Check, Finding, Limits, Need, Rows, Scope, Status

# Two weeks: one holiday's notice.
EXPIRY_DAYS = 14.0


def public_create(rows: Rows, case: Case) -> Iterator[Finding]:
    """Every role may put objects where others look for theirs."""
    for row in rows:
        yield case.finding(
            row["name"],
            f"every role may create objects in {row['name']}, and so shadow functions and tables that others call",
            f"revoke create on {row['name']} from public",
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
        query="public_create",
    ),
    Check(
        "security.public_write",
        "not everybody may write",
        _W,
        public_write,
        "A table that PUBLIC may write to can be changed by every role there is and every role to come.",
        query="public_write",
    ),
    Check(
        "security.definer_search_path",
        "SECURITY DEFINER functions fix their search path",
        _W,
        definer_search_path,
        "Such a function acts with its owner's rights. Without a search_path of its own, the caller decides which table"
        " or operator a name means.",
        query="definer_functions",
    ),
    Check(
        "security.rls_disabled",
        "row security policies are enforced",
        _W,
        rls_disabled,
        "A policy does nothing until row security is switched on for its table.",
        query="row_security",
    ),
    Check(
        "security.rls_no_policy",
        "row security has policies",
        (Status.INFO,),
        rls_no_policy,
        "Row security without a policy hides every row from everybody but the owner. It may be meant.",
        query="row_security",
    ),
    Check(
        "security.md5_password",
        "passwords are kept as SCRAM",
        _W,
        md5_password,
        "Who steals an MD5 hash can log in with it. SCRAM has been the default since 14; old passwords stay as they are"
        " until they are set anew.",
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
        query="expiring_roles",
        scope=Scope.CLUSTER,
        unit="days",
        limits=Limits(EXPIRY_DAYS),
    ),
    Check(
        "security.tls_off",
        "sessions are encrypted",
        _W,
        tls_off,
        "Sessions from other machines without TLS send rows, and often passwords, in clear. Local ones are left out.",
        query="plain_sessions",
        scope=Scope.CLUSTER,
        unit="sessions",
        needs=(Need.SESSIONS,),
    ),
)
