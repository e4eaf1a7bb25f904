"""Whether a database's schema has drifted, as far as it can be looked at: what can't be is said, and stops nothing."""

from __future__ import annotations

import logging

from chanuka_ops import errors
from chanuka_ops.config import Settings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.migrator import drift
from chanuka_ops.migrator.model import Plan
from chanuka_ops.postgres import binaries

log = logging.getLogger(__name__)

_BLIND = (errors.ToolMissing, errors.ToolFailed, errors.ToolTooOld, errors.DatabaseError)


def compared(settings: Settings, manager: ConnectionManager, plan: Plan) -> Plan:
    """Return the plan with what has drifted since the last run, unless that is switched off."""
    migration = settings.operations.migration
    if migration.on_drift == "off":
        return plan
    try:
        return opened(settings, manager).compared(plan)
    except _BLIND as failure:
        return drift.unknown(plan, failure, migration)


def record(settings: Settings, manager: ConnectionManager, revision: str | None) -> None:
    """Record what the next plan compares with. The migration is done: what fails here is told, not raised."""
    if settings.operations.migration.on_drift == "off":
        return
    try:
        opened(settings, manager).record(revision)
    except _BLIND as failure:
        log.warning("the schema after the migration was not recorded, so drift won't be seen: %s", failure,
                    extra={"event": "migrate.drift"})  # fmt: skip


def opened(settings: Settings, manager: ConnectionManager) -> drift.Drift:
    """Return what compares the schema with what was recorded. Errors: `ToolMissing`, `ConnectError`."""
    tools = binaries.find(
        configured=settings.postgres.bin_dir, server_major=manager.probe().major, programs=(*binaries.CLIENT,)
    )
    return drift.Drift(manager, settings.operations.migration, tools)
