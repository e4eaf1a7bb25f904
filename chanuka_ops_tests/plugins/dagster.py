"""Dagster's face under test: definitions of given settings, and every event of a run as Dagster stores it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.events.log import EventLogEntry
from dagster_shared.serdes import serialize_value

from chanuka_ops.definitions import defs

Definitions = Callable[..., dg.Definitions]

OURS = ("CHANUKA", "DAGSTER", "DATABASE_URL", "PG")


@pytest.fixture
def definitions(base_environment: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Definitions:
    """Load the definitions of these variables, which stay in force for the test: definitions(DATABASE_URL=…)."""
    for name in list(os.environ):
        if name.startswith(OURS):
            monkeypatch.delenv(name)
    for name, value in base_environment.items():
        if name.startswith(OURS):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("CHANUKA__OPERATIONS__RUNS__RETRY_WAIT", "10ms")
    monkeypatch.chdir(tmp_path)

    def load(**environ: str) -> dg.Definitions:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        loaded = defs()
        dg.Definitions.validate_loadable(loaded)
        return loaded

    return load


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance of the test's own."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def stored_events(instance: dg.DagsterInstance, run_id: str) -> str:
    """Every event of a run, and the run itself, as they are written into Dagster's storage."""
    entries: Sequence[EventLogEntry] = instance.all_logs(run_id)
    run = instance.get_run_by_id(run_id)
    return "\n".join([*(serialize_value(entry) for entry in entries), serialize_value(run) if run else ""])
