"""The words of a health check: how it stands, what it is about, what it can't look without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum


class Status(StrEnum):
    """The monitoring world's own words, with an order: the worst of several is `worst(…)`."""

    OK = "ok"
    INFO = "info"
    WARNING = "warning"
    UNKNOWN = "unknown"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """Position from best to worst. Unknown stands above warning: what was not seen may be worse than a warning."""
        return _ORDER.index(self)


_ORDER = (Status.OK, Status.INFO, Status.WARNING, Status.UNKNOWN, Status.CRITICAL)


def worst(statuses: Iterable[Status]) -> Status:
    """Return the worst of the statuses; ok where there is none.

    >>> worst([Status.WARNING, Status.UNKNOWN, Status.OK])
    <Status.UNKNOWN: 'unknown'>
    """
    return max(statuses, key=lambda status: status.rank, default=Status.OK)


class Scope(StrEnum):
    """What a finding is about: this database's contents, its sessions just now, or the whole server."""

    DATABASE = "database"
    SESSION = "session"
    CLUSTER = "cluster"


class Need(StrEnum):
    """What a check can't look without. The value is what `health list` prints."""

    SESSIONS = "pg_read_all_stats"
    WAL_FILES = "pg_ls_waldir()"
    CONFIG_FILES = "pg_file_settings"
    PASSWORDS = "pg_authid"
    TABLES = "SELECT on the tables"  # judged table by table, by the rule
    SEQUENCES = "SELECT on the sequences"  # likewise


CURES: Mapping[Need, str] = {
    Need.SESSIONS: "grant pg_monitor to the role (it includes pg_read_all_stats)",
    Need.WAL_FILES: "grant pg_monitor to the role (it may then list the WAL directory)",
    Need.CONFIG_FILES: (
        "as a superuser: grant select on pg_file_settings, pg_hba_file_rules to the role, and execute on functions"
        " pg_show_all_file_settings(), pg_hba_file_rules(); or list the check under operations.monitoring.disabled"
    ),
    Need.PASSWORDS: (
        "grant pg_read_all_data to the role (it may then read pg_authid), or list the check under"
        " operations.monitoring.disabled"
    ),
    Need.TABLES: "grant pg_read_all_data to the role, or SELECT on the tables",
    Need.SEQUENCES: "grant pg_read_all_data to the role, or SELECT on the sequences",
}
