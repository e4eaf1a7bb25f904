"""What health checks are handed: of backups, of what the last migration left of the schema, of who wasn't told.

A look at backups may go over a network, one at the schema runs pg_dump. So the daemon's, which come each minute, use
what was seen some minutes ago; and the schema is looked at when the catalogue has changed, and once a day.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from chanuka_ops import errors
from chanuka_ops.backup import rules as backup_rules
from chanuka_ops.backup.answers import Catalogue
from chanuka_ops.backup.service import BackupService
from chanuka_ops.config import BackupSettings, Settings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.health import service
from chanuka_ops.health.alerting import service as alerting
from chanuka_ops.health.keeping import BY_HAND, Keeper
from chanuka_ops.health.model import Row, Rows
from chanuka_ops.health.sampling.model import Sample
from chanuka_ops.migrator.drift import Drift

log = logging.getLogger(__name__)

AGE, DRILL, DRIFT = "backup.proven_age", "backup.drill_failed", "schema.drift"
UNTOLD = "self.undelivered"
HANDED = frozenset({AGE, DRILL, DRIFT, UNTOLD})
BACKUPS_SEEN_FOR = timedelta(minutes=10)
DRIFT_SEEN_FOR = timedelta(days=1)
_NONE_RECORDED = "no baseline yet: no migration of this program has recorded the schema here"


@dataclass(frozen=True, slots=True)
class Handing:
    """What the checks of one database are handed. `drift` opens the comparison when it is wanted."""

    settings: Settings
    manager: ConnectionManager
    backups: BackupService
    drift: Callable[[], Drift]
    reader: str

    @property
    def name(self) -> str:
        """The database's name in the settings."""
        return self.manager.name

    def keeper(self) -> Keeper:
        """Return what remembers the looks of this reader."""
        return Keeper(self.settings.state_dir, reader=self.reader)

    def rows(self, only: Collection[str] | None, *, reached: bool) -> Mapping[str, Rows]:
        """Look at what is wanted; what can't be looked at is unknown, and nothing is raised.

        A server that was not `reached` just now isn't asked again: that would cost another connect timeout.
        """
        off = self.settings.operations.monitoring.of(self.name).disabled
        wanted = HANDED - off if only is None else HANDED & set(only)
        found: dict[str, Rows] = {}
        if wanted & {AGE, DRILL}:
            found |= self._backups()
        if UNTOLD in wanted:
            found[UNTOLD] = alerting.undelivered(self.settings.state_dir, datetime.now(UTC))
        if DRIFT in wanted:
            found[DRIFT] = self._schema() if reached else [_drift(unknown="the server can't be asked")]
        return found

    def _backups(self) -> dict[str, Rows]:
        now = datetime.now(UTC)
        kept = self._seen("backups", now, BACKUPS_SEEN_FOR) if self.reader != BY_HAND else None
        if kept is None:
            try:
                found = self.backups.look(self.name)
            except errors.ChanukaError as error:
                found = Catalogue(backups=(), problems={"all": str(error)})
            rows = backup_rows(self.settings.operations.backup, found, now)
            kept = tuple({"check": check, **row} for check, its in rows.items() for row in its)
            self._keep("backups", now, kept)
        return {check: [row for row in kept if row["check"] == check] for check in (AGE, DRILL)}

    def _schema(self) -> Rows:
        """Compare the schema with what was recorded, if the catalogue has changed since the last comparison."""
        if self.settings.operations.migration.on_drift == "off":
            return [_drift(note="operations.migration.on_drift is off: drift is not looked at")]
        now = datetime.now(UTC)
        try:
            marker = service.schema_marker(self.manager)
            kept = self._seen(DRIFT, now, DRIFT_SEEN_FOR)
            if kept is not None and kept[0]["marker"] == marker:
                return kept
            found = self.drift().seen()
        except errors.ChanukaError as error:
            return [_drift(unknown=f"whether the schema has drifted isn't known: {error}")]
        row = _drift(note=_NONE_RECORDED) if found is None else _drift(differs=found or None)
        self._keep(DRIFT, now, ({**row, "marker": marker},))
        return [row]

    def _seen(self, what: str, now: datetime, within: timedelta) -> tuple[Row, ...] | None:
        try:
            sample = self.keeper().samples(self.name).get(what)
        except errors.KeepingError:
            return None  # the look itself says so
        return sample.rows if sample is not None and timedelta(0) <= now - sample.at < within else None

    def _keep(self, what: str, now: datetime, rows: tuple[Row, ...]) -> None:
        try:
            self.keeper().keep(self.name, {what: Sample(now, str(os.getpid()), rows)}, ())
        except errors.KeepingError as error:
            log.warning("what was seen of %s is not kept: %s", what, error, extra={"event": "health.not_kept"})


def backup_rows(settings: BackupSettings, found: Catalogue, now: datetime) -> dict[str, Rows]:
    """Return what the rules of backups judge. Pure."""
    within = timedelta(hours=settings.proven_within_hours)
    fresh = backup_rules.freshness(found, within, now)
    proven = [one for one in found.backups if one.tier == "proven" and one.created_at is not None]
    newest = max(proven, key=lambda one: one.created_at or now, default=None)
    unseen = fresh.verdict if fresh.verdict.startswith("unknown") else None
    age: Row = {
        "problem": unseen,
        "hours": None if fresh.age_seconds is None else fresh.age_seconds / 3600.0,
        "backup_id": None if newest is None else newest.backup_id,
        "backups": len(found.backups),
        "configured": settings.store is not None or bool(settings.stores),
        "within_hours": float(settings.proven_within_hours),
    }
    since = None if newest is None else newest.created_at
    failed = [
        {"backup_id": one.backup_id, "step": one.disproved}
        for one in found.backups
        if one.disproved is not None and (since is None or one.created_at is None or one.created_at > since)
    ]
    return {AGE: [age], DRILL: failed}


def _drift(*, note: str | None = None, unknown: str | None = None, differs: str | None = None) -> Row:
    return {"note": note, "unknown": unknown, "differs": differs}
