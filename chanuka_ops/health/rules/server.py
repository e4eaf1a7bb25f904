"""The server itself: does it answer, how old is it, is its data whole."""

from __future__ import annotations

from collections.abc import Iterator

from chanuka_ops import errors
from chanuka_ops.health.model import Case, Check, Finding, Limits, Rates, Rows, Scope, Status
from chanuka_ops.health.rules.releases import AS_OF, RELEASES
from chanuka_ops.health.sampling.rules import added

# The last minor release comes half a year before nothing more comes: time to plan an upgrade.
EOL_NOTICE_DAYS = 180
# Minor releases come four times a year; a month is time enough for one restart.
MINOR_GRACE_DAYS = 30


# The kind of failure in one word, and what to do about it. The order matters: the first that fits is taken.
_FAILURES: tuple[tuple[type[errors.DatabaseError], str, str], ...] = (
    (errors.TargetUnavailable, "unavailable", "start the server; look at host, port and firewall"),
    (errors.TargetStarting, "starting", "wait until it has started or recovered; its log says how far it is"),
    (errors.TargetSaturated, "saturated", "close idle sessions; reserved_connections keeps slots for monitoring (16+)"),
    (errors.AuthenticationFailed, "authentication", "correct the role, the password or pg_hba.conf"),
    (errors.DatabaseMissing, "database missing", "create the database, or correct the name in the URL"),
    (errors.ConnectionLost, "connection lost", "it broke in mid-work: look at the server's log for a crash or restart"),
    (errors.PoolExhausted, "pool exhausted", "this process uses all its connections: look for one that isn't closed"),
)


def reachable(rows: Rows, case: Case) -> Iterator[Finding]:
    """Say why no connection came about: the run itself gives the error when that happened."""
    for row in rows:
        error = row["error"]
        kind, remedy = next(
            ((word, cure) for cls, word, cure in _FAILURES if isinstance(error, cls)),
            ("refused", "the message says what the server said"),
        )
        yield case.finding(None, f"{kind}: {error}", remedy)


def version_eol(rows: Rows, case: Case) -> Iterator[Finding]:
    """Past the end of support, or near it."""
    del rows
    major, today = case.facts.major, case.facts.now.date()
    release = RELEASES.get(major)
    if release is None:
        if major > max(RELEASES):
            yield case.unknown(
                None, f"PostgreSQL {major} is newer than the table of releases of {AS_OF}", "upgrade this package"
            )
        else:
            yield case.finding(None, f"PostgreSQL {major} has had no fixes for years", "upgrade to a supported version")
        return
    left = (release.end_of_life - today).days
    if left < EOL_NOTICE_DAYS:
        ended = left < 0
        yield case.finding(
            None,
            f"PostgreSQL {major} {'got its last fixes' if ended else 'gets its last fixes'} on {release.end_of_life}",
            "plan the upgrade to a newer major version (pg_upgrade or logical replication), and rehearse it",
            value=left,
            status=Status.WARNING if ended else Status.INFO,
        )


def minor_behind(rows: Rows, case: Case) -> Iterator[Finding]:
    """Fixes that are out and not in."""
    del rows
    major, minor = case.facts.major, case.facts.server_version % 10000
    release = RELEASES.get(major)
    if release is None or minor >= release.minor:
        return
    out_for = (case.facts.now.date() - release.released).days
    yield case.finding(
        None,
        f"the server is {major}.{minor}; {major}.{release.minor} came out on {release.released}"
        f" (known on {max(AS_OF, release.released)})",
        "install the newest minor release and restart: it needs no dump and no pg_upgrade",
        value=release.minor - minor,
        status=Status.WARNING if out_for >= MINOR_GRACE_DAYS else Status.INFO,
    )


def extension_outdated(rows: Rows, case: Case) -> Iterator[Finding]:
    """The library is newer than the SQL objects."""
    for row in rows:
        yield case.finding(
            row["name"],
            f"extension {row['name']} is at {row['installed']}, the server brings {row['available']}",
            f"read its release notes, then: alter extension {row['name']} update",
        )


def collation_mismatch(rows: Rows, case: Case) -> Iterator[Finding]:
    """The order of text changed under the indexes."""
    for row in rows:
        if row["is_database"]:
            cure = f"reindex {row['name']}; then: alter {row['name']} refresh collation version"
            used = "its default collation"
        else:
            cure = f"reindex what uses it; then: alter collation {row['name']} refresh version"
            used = f"{row['columns']} columns and index columns use it"
        yield case.finding(
            row["name"],
            f"{row['name']}: built with collation version {row['recorded']}, the system has {row['actual']} ({used}):"
            " indexes on text may miss rows or let duplicates in",
            cure,
        )


def checksum_failures(rows: Rows, case: Case) -> Iterator[Finding]:
    """Pages came back from the disk other than they were written."""
    for row in rows:
        yield case.finding(
            f"database {row['name']}",
            f"{row['failures']} pages of {row['name']} had a wrong checksum, the last at {row['last_failure']}",
            "take the server out of service, look at its disk and log, restore the tables from a proven backup",
            value=row["failures"],
        )


def checksums_off(rows: Rows, case: Case) -> Iterator[Finding]:
    """Damage by the disk is read as data."""
    del rows
    if case.facts.settings.get("data_checksums") == "off":
        yield case.finding(
            None,
            "pages have no checksums: what the disk or the memory changes is read as if it were data",
            "at the next longer stop: pg_checksums --enable --progress on the data directory, on standbys too",
        )


def hit_ratio(rows: Rows, case: Case) -> Iterator[Finding]:
    """A chart, never an alarm: no limit is right for two databases."""
    for row in rows:
        hit, read = added(row, "hit"), added(row, "read")
        if hit + read:
            percent = 100.0 * hit / (hit + read)
            yield case.finding(None, f"{percent:.2f} % found in shared buffers", "", value=percent, status=Status.OK)


_C = Scope.CLUSTER
_CRITICAL = (Status.CRITICAL,)
_WARNING = (Status.WARNING,)

CHECKS = (
    Check(
        "server.reachable",
        "the server answers",
        _CRITICAL,
        reachable,
        "Tells apart: nobody answers, it is starting, no slot is free, wrong role or password, no such database. While"
        " it can't be reached, every other check is unknown.",
        remedy="Unavailable: start it, look at host, port and firewall. Starting: its log says how far recovery is."
        " Saturated: close idle sessions; reserved_connections (16+) keeps slots for monitoring. Authentication: the"
        " role, its password, pg_hba.conf. Missing: create the database, or correct the URL.",
        link="https://www.postgresql.org/docs/current/server-start.html",
        scope=_C,
    ),
    Check(
        "server.version_eol",
        "the major version is supported",
        _WARNING,
        version_eol,
        "Each major version gets fixes for five years. After that, holes in it stay open. From a table shipped with"
        " this package; half a year before the end it is an info.",
        remedy="Plan the upgrade: pg_upgrade takes minutes with --link, logical replication a switch-over of"
        " seconds. Rehearse it on a copy, and run ANALYZE afterwards.",
        link="https://www.postgresql.org/support/versioning/",
        scope=_C,
        unit="days left",
    ),
    Check(
        "server.minor_behind",
        "the newest minor release is installed",
        _WARNING,
        minor_behind,
        "Minor releases hold fixes only, of data loss and security too. From a dated table shipped with this package;"
        " an info in the first month after a release.",
        remedy="Install the packages and restart: minor releases change neither files nor the catalogue. Read the"
        " release notes between the two for what to do after the update (a REINDEX, now and then). Standbys first.",
        link="https://www.postgresql.org/docs/current/upgrading.html",
        scope=_C,
        unit="releases",
    ),
    Check(
        "extension.outdated",
        "extensions are current",
        (Status.INFO,),
        extension_outdated,
        "After an upgrade of packages, the SQL objects of an extension stay as they were until ALTER EXTENSION UPDATE.",
        remedy="Read the extension's release notes, then ALTER EXTENSION … UPDATE; it may lock what it changes."
        " Libraries that are preloaded need the server's restart first.",
        link="https://www.postgresql.org/docs/current/sql-alterextension.html",
        query="extensions",
    ),
    Check(
        "collation.version_mismatch",
        "collations are those the indexes were built with",
        _CRITICAL,
        collation_mismatch,
        "When the C library or ICU changes how text sorts, indexes built before are in the wrong order: queries miss"
        " rows, and unique indexes let duplicates in. The server only writes a warning to its log.",
        remedy="Look whether rows are out of order: select bt_index_check('…'::regclass) of the extension amcheck."
        " REINDEX (CONCURRENTLY) what is ordered by it: indexes on text, and exclusion constraints; look at"
        " partitions by range of text too. Then ALTER COLLATION … REFRESH VERSION, or ALTER DATABASE … REFRESH"
        " COLLATION VERSION (15+).",
        link="https://www.postgresql.org/docs/current/sql-altercollation.html",
        query="collations",
    ),
    Check(
        "checksum.failures",
        "pages are as they were written",
        _CRITICAL,
        checksum_failures,
        "A wrong checksum is a page that the disk, the controller or the memory changed. The count stays until the"
        " database's statistics are reset.",
        remedy="Take the server out of service and copy it as it is. Look at the disk's own log. Fail over to a"
        " standby, or restore from a proven backup; pg_amcheck shows what else is damaged. ignore_checksum_failure"
        " is the last resort, on a copy.",
        link="https://www.postgresql.org/docs/current/checksums.html",
        query="checksum_failures",
        scope=_C,
        unit="pages",
    ),
    Check(
        "checksum.off",
        "pages have checksums",
        (Status.INFO,),
        checksums_off,
        "Without checksums a page that was damaged below the server is found late, by a wrong answer, and is in every"
        " backup since. They are on by default from 18; older clusters keep what they were made with.",
        remedy="With the server stopped: pg_checksums --enable --progress reads and writes each page once. Or on a"
        " standby that is then promoted. It costs a few per cent of writes (hint bits go to the WAL).",
        link="https://www.postgresql.org/docs/current/app-pgchecksums.html",
        scope=_C,
    ),
    Check(
        "cache.hit_ratio",
        "blocks found in shared buffers",
        (Status.OK,),
        hit_ratio,
        "A chart to see a change in. Published limits go from 50 to 99 %, so there is none here.",
        remedy="Nothing by itself. Where it falls after a change, look at which query reads more than before"
        " (query.regression), before giving more memory.",
        link="https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-DATABASE-VIEW",
        query="cache",
        unit="%",
        limits=Limits(),
        rates=Rates(("hit", "read")),
    ),
)
