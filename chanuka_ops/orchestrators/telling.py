"""Tells whoever wants to know what became of a database's backups, and keeps its heartbeat going.

A *sibling* is another database of a configured one's server, backed up beside it: `main.other` is `other` beside
`main`. What is of a sibling is told where the configured one's notices go.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from chanuka_ops import errors, notify
from chanuka_ops.backup.answers import Created, Drilled, Expiry, Verified
from chanuka_ops.backup.restoring.restored import Restored
from chanuka_ops.config import HeartbeatSettings, Settings
from chanuka_ops.db.credentials import resolve_secret
from chanuka_ops.notify import Notice, Severity

_LISTED = 10
_PLACEHOLDER = "{database}"


class Telling:
    """What is told of one database's backups."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self.name = name

    @contextmanager
    def failures(self, operation: str, *, asked_for: str | None = None) -> Iterator[None]:
        """Tell of an operation that fails in the block; a refusal is its caller's business.

        So is an id that was `asked_for` and isn't there; that there's no backup at all is told.
        """
        try:
            yield
        except (errors.RefusedError, errors.Interrupted):
            raise
        except Exception as error:
            if asked_for is not None and isinstance(error, errors.BackupNotFound):
                raise
            said = str(error) if isinstance(error, errors.ChanukaError) else f"{type(error).__name__}: {error}"
            self._tell(f"{operation}.failed", "critical", f"{operation} of {self.name} failed", said)
            raise

    def created(self, created: Created) -> None:
        """Tell of a backup, and which stores don't have it."""
        title = f"backup {created.backup_id} taken"
        facts = {"backup_id": created.backup_id, "tier": str(created.tier), "bytes": created.bytes}
        if created.missing:
            missing = _listing(f"{placed.store}: {placed.problem}" for placed in created.missing)
            self._tell("backup.incomplete", "warning", f"{title}, but not in every store", missing, facts)
        else:
            self._tell("backup.taken", "info", title, f"{created.tables} tables, {created.rows:,} rows", facts)

    def verified(self, verified: Verified) -> None:
        """Tell of damage, and of stores that couldn't be read; that all is well is not worth a message."""
        named = f"backup {verified.backup_id}"
        if verified.problems:
            listing = _listing(f"{p.store}: {p.file} ({p.kind})" for p in verified.problems)
            self._tell("backup.damaged", "critical", f"{named} is damaged", listing)
        if verified.unread:
            listing = _listing(f"{name}: {problem}" for name, problem in verified.unread.items())
            self._tell("verify.incomplete", "warning", f"{named} was not read in every store", listing)

    def drilled(self, drilled: Drilled) -> None:
        """Tell of a drill; only one that proved its backup is a heartbeat."""
        facts = {"backup_id": drilled.backup_id, "tier": str(drilled.tier), "rto_seconds": drilled.rto_seconds}
        if not drilled.proven:
            title = f"backup {drilled.backup_id} is not proven"
            self._tell("drill.failed", "critical", title, drilled.failure(), facts)
            return
        said = f"{drilled.tables_compared} tables, {drilled.rows_compared:,} rows compared, none differs"
        self._tell("backup.proven", "info", f"backup {drilled.backup_id} proven", said, facts)
        notify.heartbeat(
            heartbeat_of(self._settings, self.name), {"database": self.name, "backup_id": drilled.backup_id}
        )

    def restored(self, restored: Restored) -> None:
        """Tell of a restore, and whether it was put in place."""
        if restored.restored:
            said = f"{restored.tables} tables, {restored.rows:,} rows"
            self._tell("restore.done", "info", f"{restored.backup_id} is in database {restored.database}", said)
        else:
            listing = _listing(f"{m.object}: {m.source}, restored {m.restored}" for m in restored.mismatches)
            self._tell("restore.failed", "critical", f"{restored.backup_id} was not put in place", listing)

    def expired(self, done: Iterable[Expiry]) -> None:
        """Tell where a guard or a store kept backups from expiring."""
        stopped = [
            f"{expiry.decided.database or self.name} in store {expiry.decided.store}: {expiry.problem}"
            for expiry in done
            if expiry.problem
        ]
        if stopped:
            self._tell("expire.refused", "warning", "not everything expired that the policy lets go", _listing(stopped))

    def _tell(
        self, event: str, severity: Severity, title: str, body: str, facts: Mapping[str, object] | None = None
    ) -> None:
        name = configured(self._settings, self.name) or self.name
        tags = self._settings.databases[name].tags if name in self._settings.databases else {}
        notice = Notice(event=event, severity=severity, database=name, title=title, body=body, facts=facts or {})
        notify.send(notice, self._settings.operations.notify, tags=tags)


def configured(settings: Settings, name: str) -> str | None:
    """Return the configured database of that name, or of which it is a sibling; None where there's none.

    No configured name holds a dot, so that none is taken for a sibling.
    """
    return next((known for known in (name, name.partition(".")[0]) if known in settings.databases), None)


def heartbeat_of(settings: Settings, name: str) -> HeartbeatSettings:
    """Return what is touched for a database: a sibling never keeps the heartbeat of its configured one going."""
    stated = settings.operations.backup.heartbeat
    if "." not in name:
        return stated
    url, file = stated.url, stated.file
    try:
        if url is not None and _PLACEHOLDER not in resolve_secret(url, "its URL"):
            url = None
    except errors.ConfigurationError:
        pass  # the heartbeat itself says why
    return HeartbeatSettings(url=url, file=file if _PLACEHOLDER in str(file) else None)


def _listing(lines: Iterable[str]) -> str:
    found = list(lines)
    more = f"; and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
    return "; ".join(found[:_LISTED]) + more
