"""Fingerprints of a database as it is now, and of a copy as its original was."""

from __future__ import annotations

from chanuka_ops.backup.model import Fingerprint
from chanuka_ops.backup.taking import fingerprint as fingerprints
from chanuka_ops.backup.taking.selection import EVERYTHING, Selection
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager


def taken(
    database: DatabaseSettings,
    *,
    selection: Selection = EVERYTHING,
    content: bool = True,
    sample: fingerprints.Sample | None = None,
) -> Fingerprint:
    with (
        ConnectionManager("main", database) as manager,
        manager.transaction(isolation="REPEATABLE READ", read_only=True) as connection,
    ):
        fingerprints.fix_settings(connection, deadline_s=60)
        return fingerprints.take(connection, label="test", selection=selection, content=content, sample=sample)


def retaken(database: DatabaseSettings, original: Fingerprint, *, part: int | None = None) -> Fingerprint:
    with (
        ConnectionManager("main", database) as manager,
        manager.transaction(isolation="REPEATABLE READ", read_only=True) as connection,
    ):
        fingerprints.fix_settings(connection, deadline_s=60)
        return fingerprints.retake(connection, original, label="test", part=part)
