"""An interrupt reaches whoever is to stop, wherever in the main thread it comes. Each case is lost without its mend."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from chanuka_ops import interrupts
from chanuka_ops.backup.restoring import swap
from chanuka_ops.backup.storing.leases import Lease
from chanuka_ops.postgres import process

LONG_S = 30.0
SOON_S = 15.0  # less than LONG_S by as much as a loaded machine may need

_at_a_fork: list[Callable[[], None]] = []


def _fork() -> None:
    for act in _at_a_fork:
        act()


os.register_at_fork(after_in_parent=_fork)  # for good: there's no way to take it back


class Stop(BaseException):
    """Dagster's own is no Exception and no KeyboardInterrupt either."""


def interrupt(number: signal.Signals = signal.SIGINT) -> None:
    """Send it to the process, as a terminal or an orchestrator does."""
    os.kill(os.getpid(), number)
    time.sleep(0.05)  # another thread may have taken it: then the handler runs at the next instruction


class InterruptedStart(threading.Thread):
    """A thread that is interrupted while it starts: whoever starts it waits just then."""

    def _bootstrap_inner(self) -> None:
        interrupt()
        super()._bootstrap_inner()  # type: ignore[misc]  # threading's own


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Stop

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def another_thread() -> Iterator[None]:
    """A thread that blocks no signal: what the main one blocks, it is given."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    yield
    over.set()
    thread.join()


@contextmanager
def ends_soon() -> Iterator[None]:
    start = time.monotonic()
    with pytest.raises(Stop):
        yield
    assert time.monotonic() - start < SOON_S


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.usefixtures("another_thread")
def test_one_that_comes_during_a_fork_is_not_ignored(number: signal.Signals) -> None:
    """As CI met it: the fork of pg_dumpall, beside the fingerprint's thread."""
    started: list[process.Running] = []
    _at_a_fork.append(lambda: interrupt(number))
    try:
        with ends_soon(), process.started(["sleep", str(LONG_S)]) as running:
            started.append(running)
            running.wait(deadline_s=LONG_S)
    finally:
        _at_a_fork.clear()
    assert all(running.ended() for running in started)


@pytest.mark.usefixtures("another_thread")
def test_a_held_one_comes_at_the_end_of_the_block() -> None:
    done: list[str] = []

    def work() -> None:
        with interrupts.held():
            interrupt()
            interrupt(signal.SIGTERM)
            done.append("work")
        done.append("more")

    with pytest.raises(Stop):
        work()
    assert done == ["work"]
    with pytest.raises(Stop):  # and the handlers are back
        interrupt()


def test_a_held_one_outweighs_the_blocks_own_failure() -> None:
    def fail() -> None:
        with interrupts.held():
            interrupt()
            raise ValueError

    with pytest.raises(Stop):
        fail()


def test_held_without_any_changes_nothing() -> None:
    before = [signal.getsignal(number) for number in interrupts.INTERRUPTS]
    with interrupts.held(), interrupts.held():
        pass
    assert [signal.getsignal(number) for number in interrupts.INTERRUPTS] == before


def test_one_that_comes_while_the_handlers_are_put_back_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    real = signal.signal
    restored: list[int] = []

    def put(number: int, handler: Any) -> Any:
        if getattr(handler, "__name__", "") == "stop" and not restored:
            restored.append(number)
            interrupt()
        return real(number, handler)

    with monkeypatch.context() as patch, pytest.raises(Stop), interrupts.held():
        patch.setattr("signal.signal", put)


def test_an_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts.kept(), interrupts.held():
        interrupt()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_another_thread_has_no_handlers() -> None:
    seen = []

    def work() -> None:
        with interrupts.kept(), interrupts.held():
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


class Destructor:
    """What Python runs here, it lets fail without anybody noticing."""

    def __del__(self) -> None:
        interrupt()


def test_one_that_python_ignored_comes_again() -> None:
    with ends_soon(), interrupts.kept():
        Destructor()
        time.sleep(LONG_S)


def test_what_else_python_ignores_is_told_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __del__(self) -> None:
            raise ValueError

    told: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: told.append(lost.exc_type))
    hook = sys.unraisablehook
    with interrupts.kept():
        Failing()
    assert told == [ValueError]
    assert sys.unraisablehook is hook


def test_one_that_comes_while_a_thread_starts_comes_when_it_has_started() -> None:
    over = threading.Event()
    thread = InterruptedStart(target=over.wait)
    started = []
    with ends_soon(), interrupts.kept():
        thread.start()
        started.append(thread)
        time.sleep(LONG_S)
    over.set()
    assert started == [thread]
    thread.join()


def test_one_that_comes_as_a_block_is_entered_comes_within_it() -> None:
    @contextmanager
    def block() -> Iterator[None]:
        yield

    manager = block()
    # the instant after the generator has yielded and before anybody has the block: nothing of Python's runs there
    manager.gen = map(functools.partial(os.kill, os.getpid()), [signal.SIGINT])  # type: ignore[assignment]
    entered: list[None] = []
    with ends_soon(), interrupts.kept():
        entered.append(manager.__enter__())
        time.sleep(LONG_S)
    assert len(entered) == 1


def test_without_a_thread_left_it_comes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise RuntimeError

    thread = InterruptedStart(target=lambda: None)
    monkeypatch.setattr("chanuka_ops.interrupts._thread.start_new_thread", none)  # threading has its own name for it
    with ends_soon(), interrupts.kept():
        thread.start()
        time.sleep(LONG_S)


class InterruptedLock:
    """Popen's own, interrupted the first time that it has been taken and before anybody knows that."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first = True

    def acquire(self, blocking: bool = True) -> bool:  # noqa: FBT001, FBT002 - as threading's
        taken = self._lock.acquire(blocking)
        if self._first:
            self._first = False
            interrupt()
        return taken

    def release(self) -> None:
        self._lock.release()

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()


def test_one_that_comes_while_a_program_is_looked_at_leaves_it_to_be_ended() -> None:
    with ends_soon(), process.started(["sleep", str(LONG_S)]) as running:
        running._process._waitpid_lock = InterruptedLock()  # type: ignore[attr-defined]
        running.wait(deadline_s=LONG_S)
    assert running.ended()


def test_the_thread_that_empties_a_database_ends_though_its_start_was_interrupted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Target:
        """Its door stays open: the thread goes on until it's told to end."""

        def ask(self, *_: object, **__: object) -> list[dict[str, bool]]:
            return [{"exists": False}]

    monkeypatch.setattr(swap.threading, "Thread", InterruptedStart)  # type: ignore[attr-defined]
    target: Any = Target()
    existing: Any = SimpleNamespace(oid=1)
    with pytest.raises(Stop), swap._ending(target, existing, lambda: None, []):
        pass
    assert [thread for thread in threading.enumerate() if thread.name == "chanuka-swap"] == []


def test_a_lease_is_given_back_though_its_threads_start_was_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    deleted: list[str] = []

    class Bucket:
        """It holds the one lease, as it was made."""

        def read(self, _: str) -> tuple[bytes, None]:
            return lease.content(), None

        def delete(self, keys: list[str]) -> None:
            deleted.extend(keys)

    monkeypatch.setattr("chanuka_ops.backup.storing.leases.threading.Thread", InterruptedStart)
    bucket: Any = Bucket()
    lease = Lease(bucket, "main/.leases/x/exclusive.json", "write")
    with pytest.raises(Stop), lease.held():
        pass
    assert deleted == [lease.key]
    assert [thread for thread in threading.enumerate() if thread.name.startswith("lease-")] == []
