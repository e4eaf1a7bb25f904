"""DatabaseResource: one database's orchestrator, opened for a run and closed after it."""

import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg
from pydantic import Field, PrivateAttr

from chanuka_ops import config, context, errors, interrupts
from chanuka_ops.logs import redact
from chanuka_ops.orchestrators.database import DatabaseOrchestrator

PROGRESS_EVERY_S = 5.0


class DatabaseResource(dg.ConfigurableResource):  # type: ignore[type-arg]  # it provides itself
    """A database of chanuka.toml, by name. It has no field for a secret: Dagster stores and shows every field."""

    database: str = Field("main", description="Name of the database in the settings (databases.<name>).")
    _orchestrator: DatabaseOrchestrator | None = PrivateAttr(default=None)

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator["DatabaseResource"]:
        """Load the settings, open the orchestrator for the run, close it.

        Errors: `dg.Failure` with a plain sentence.
        """
        with _run_scope(context.run), _plain(), _opened(self.database) as self._orchestrator:
            yield self
        self._orchestrator = None

    @contextmanager
    def working(self) -> Iterator[None]:
        """Do an op's work in the block: as `readable`, and a server that was out of reach is tried again later.

        The manager has tried for seconds by then. What takes longer is Dagster's to wait for: it holds no process.

        Errors: `dg.Failure`; `dg.RetryRequested` with the seconds to wait.
        """
        asked: dg.RetryRequested | None = None
        failure: dg.Failure
        try:
            with interrupts.kept():
                yield
        except errors.ChanukaError as error:
            failure = _failure(error)
            runs = self.orchestrator.settings.operations.runs
            if error.transient and runs.max_retries:
                told_s = error.retry_after_s if isinstance(error, errors.DatabaseError) else None
                wait_s = max(told_s or 0.0, runs.retry_wait_s * (1 + random.random()))  # noqa: S311 - jitter
                asked = dg.RetryRequested(max_retries=runs.max_retries, seconds_to_wait=wait_s)
        else:
            return
        if asked is not None:
            raise asked from failure
        raise failure from None

    def connection_metadata(self) -> dict[str, dg.MetadataValue]:
        """Return what this run's connections went through, as numbers that plot."""
        return connection_metadata(self.orchestrator.manager.snapshot())

    @property
    def orchestrator(self) -> DatabaseOrchestrator:
        """The open orchestrator."""
        if self._orchestrator is None:
            raise errors.ChanukaError("DatabaseResource is used outside a run")
        return self._orchestrator


@contextmanager
def _opened(database: str) -> Iterator[DatabaseOrchestrator]:
    with DatabaseOrchestrator.open(config.load(), database) as orchestrator:
        yield orchestrator


@contextmanager
def readable() -> Iterator[None]:
    """Do an op's work in the block: our errors become `dg.Failure`, and no cancel of the run is lost.

    The block must not yield to Dagster, which has handlers of its own for each part of an op.
    """
    with _plain(), interrupts.kept():
        yield


@contextmanager
def _plain() -> Iterator[None]:
    """Turn our errors into `dg.Failure`: one sentence, its kind and exit code, no stack of causes, no secret.

    A refusal or a wrong setting won't go away by trying again, so it isn't retried.
    """
    try:
        yield
    except errors.ChanukaError as error:
        failure = _failure(error)
    else:
        return
    raise failure from None


def _failure(error: errors.ChanukaError) -> dg.Failure:
    return dg.Failure(
        description=f"{type(error).__name__}: {redact(str(error))}",
        metadata={"error": type(error).__name__, "exit_code": error.exit_code},
        allow_retries=error.exit_code == errors.ChanukaError.exit_code,
    )


def connection_metadata(snapshot: Mapping[str, Any]) -> dict[str, dg.MetadataValue]:
    """Turn the manager's numbers into metadata."""
    nodes = snapshot["nodes"]
    counts = Counter[str]()
    for node in nodes:
        counts.update(node["counts"])
    waits = [node["times"]["wait"]["p95_ms"] for node in nodes if "wait" in node.get("times", {})]
    retries = sum(number for name, number in counts.items() if name.startswith("retries."))
    changes = sum(number for name, number in counts.items() if name.startswith("breaker_"))
    return {
        "db_connects": dg.MetadataValue.int(counts["connects"]),
        "db_retries": dg.MetadataValue.int(retries),
        "db_breaker_changes": dg.MetadataValue.int(changes),
        "db_reads_on_primary": dg.MetadataValue.int(snapshot["reads_on_primary"]),
        **({"db_wait_p95_ms": dg.MetadataValue.float(max(waits))} if waits else {}),
        **{
            f"db_lag_bytes/{node['name']}": dg.MetadataValue.int(node["lag_bytes"])
            for node in nodes
            if node["lag_bytes"] is not None
        },
    }


@contextmanager
def _run_scope(run: dg.DagsterRun | None) -> Iterator[None]:
    """Carry the run into every connection's application_name, and progress into the run's captured output."""
    last_s = time.monotonic()

    def show(step: context.Progress) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= PROGRESS_EVERY_S:
            last_s = time.monotonic()
            print(step.words(), file=sys.stderr)  # noqa: T201 - a log line would be an event and a row

    run_id, job = (run.run_id, run.job_name) if run else ("-", "-")
    with context.scope(job=job, run_id=run_id, actor=f"dagster:{context.current().actor}", on_progress=show):
        yield
