"""Approvals: a person's word on one plan, by its hash, in a file of its own. A plan that changes has another hash."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from chanuka_ops import context, durable, errors
from chanuka_ops.migrator.gate import Approval

_HASH = re.compile(r"[0-9a-f]{64}")


def find(directory: Path, plan_hash: str) -> Approval | None:
    """Return the approval of a plan, or None. Errors: `StoreError` where it's there and can't be read."""
    path = directory / f"{plan_hash}.json"
    try:
        found = Approval(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise errors.StoreError(f"the approval {path.name} can't be read: {error}") from None
    return found if found.plan_hash == plan_hash else None


def give(directory: Path, plan_hash: str, reason: str, now: datetime) -> Approval:
    """Write an approval down. Errors: `ConfigurationError` for what is no hash; `StoreError`."""
    if not _HASH.fullmatch(plan_hash):
        raise errors.ConfigurationError(f"{plan_hash!r} is no plan's hash: `chanuka-ops migrate gate` says the one")
    approval = Approval(plan_hash, context.current().actor, f"{now:%Y-%m-%d %H:%M:%S} UTC", reason)
    try:
        durable.make(directory)
        durable.replace(directory / f"{plan_hash}.json", json.dumps(asdict(approval), indent=1).encode())
    except OSError as error:
        raise errors.StoreError(f"the approval can't be written to {directory}: {error.strerror}") from None
    return approval
