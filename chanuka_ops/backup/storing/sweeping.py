"""What killed operations left in clear below the state directory: the next one of any kind removes it."""

from __future__ import annotations

import logging
from pathlib import Path

from chanuka_ops import errors
from chanuka_ops.backup.storing import fetching
from chanuka_ops.backup.storing.local import LocalStore

log = logging.getLogger(__name__)

STAGING = "staging"
STAGING_ENCRYPTED = "staging-encrypted"
FETCHED = "fetched"


def sweep(state_dir: Path) -> None:
    """Remove what nobody holds the lock of. What can't be removed is told of, and stops no operation."""
    for name in (STAGING, STAGING_ENCRYPTED):
        try:
            LocalStore(state_dir / name, name).sweep()
        except errors.StoreError as error:
            log.warning("what a killed backup left stays: %s", error, extra={"event": "backup.left"})
    try:
        fetching.sweep(state_dir / FETCHED)
    except OSError as error:
        log.warning("what a killed restore left stays: %s", error, extra={"event": "backup.left"})
