"""Named, timed steps: what a run did, in order, for people, JSON and the report."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from chanuka_ops.logs import Stopwatch, redact

log = logging.getLogger(__name__)

_T = TypeVar("_T")
StepStatus = Literal["done", "failed"]


@dataclass(frozen=True, slots=True)
class Step:
    """One step: seconds it took, and when it began, counted from the run's start."""

    name: str
    status: StepStatus
    seconds: float
    started_s: float
    detail: str

    def to_json(self) -> dict[str, object]:
        """Return the entry of `demo --json`."""
        return {"name": self.name, "status": self.status, "seconds": self.seconds, "detail": self.detail}


class Steps:
    """Runs steps one after the other and keeps what came of each; a failed step ends the run."""

    def __init__(self, on_step: Callable[[Step], None] = lambda _: None) -> None:
        self._on_step = on_step
        self._watch = Stopwatch()
        self.done: list[Step] = []

    def run(self, name: str, action: Callable[[], _T], describe: Callable[[_T], str] = lambda _: "") -> _T:
        """Run one step. Errors: whatever the step raises, after it was recorded."""
        started_s = self._watch.seconds
        watch = Stopwatch()
        status: StepStatus = "failed"
        detail = ""
        try:
            result = action()
            status, detail = "done", describe(result)
        except BaseException as error:
            detail = redact(str(error) or type(error).__name__)
            raise
        finally:
            step = Step(name, status, watch.seconds, started_s, detail)
            self.done.append(step)
            log.info("%s %s: %s", name, status, detail, extra={"event": "step.ended", "step": name, "status": status})
            self._on_step(step)
        return result
