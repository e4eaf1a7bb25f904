"""DatabaseResource: one database's orchestrator, opened for a run and closed after it."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from pydantic import Field, PrivateAttr

from chanuka_ops import config, context, errors
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
        run_id = context.run.run_id if context.run else "-"
        with _run_scope(run_id), readable(), _opened(self.database) as self._orchestrator:
            yield self
        self._orchestrator = None

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
    """Turn our errors into `dg.Failure`: one sentence, its kind and exit code, no stack of causes, no secret.

    A refusal or a wrong setting won't go away by trying again, so it isn't retried.
    """
    try:
        yield
    except errors.ChanukaError as error:
        failure = dg.Failure(
            description=f"{type(error).__name__}: {redact(str(error))}",
            metadata={"error": type(error).__name__, "exit_code": error.exit_code},
            allow_retries=error.exit_code == errors.ChanukaError.exit_code,
        )
    else:
        return
    raise failure from None


@contextmanager
def _run_scope(run_id: str) -> Iterator[None]:
    """Carry the run into every connection's application_name, and progress into the run's captured output."""
    last_s = time.monotonic()

    def show(step: context.Progress) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= PROGRESS_EVERY_S:
            last_s = time.monotonic()
            print(f"{step.label}: {step.done:,} of {step.total or '?'} {step.unit}", file=sys.stderr)  # noqa: T201 - a log line would be an event and a row

    with context.scope(run_id=run_id, actor=f"dagster:{context.current().actor}", on_progress=show):
        yield
