"""Who holds the connections: the bound, the wait, and the line that forgot to give one back."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, PoolSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.slots import Slots
from chanuka_ops.postgres.process import wait_until

LEAK_AFTER_S = 0.05


def leaks(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if getattr(record, "event", "") == "db.leak"]


def here() -> int:
    frame = inspect.currentframe()
    assert frame is not None
    assert frame.f_back is not None
    return frame.f_back.f_lineno


def test_no_more_than_the_limit_at_once() -> None:
    slots = Slots(2, 60)
    numbers = [slots.take(0), slots.take(0)]
    assert slots.in_use == 2
    with pytest.raises(errors.PoolExhausted):
        slots.take(0)
    slots.give_back(numbers[0])
    assert slots.take(0) not in numbers
    assert slots.in_use == 2


def test_to_give_back_twice_is_harmless() -> None:
    slots = Slots(1, 60)
    number = slots.take(0)
    slots.give_back(number)
    slots.give_back(number)
    slots.take(0)
    with pytest.raises(errors.PoolExhausted):  # else the second one would have made a slot out of nothing
        slots.take(0)


def test_the_wait_is_bounded_and_the_holders_are_named() -> None:
    slots = Slots(2, 60)
    slots.take(0)
    line = here() - 1
    slots.take(0)
    start = time.monotonic()
    with pytest.raises(errors.PoolExhausted, match="all 2 connections") as caught:
        slots.take(0.1)
    assert 0.1 <= time.monotonic() - start < 5
    held = f"{__file__}:{line} for"
    assert held in str(caught.value)
    assert f"{__file__}:{line + 2} for" in str(caught.value)
    assert slots.waiting == 0
    assert caught.value.__suppress_context__


def test_a_crowd_of_holders_is_not_listed_whole() -> None:
    slots = Slots(20, 60)
    for _ in range(20):
        slots.take(0)
    with pytest.raises(errors.PoolExhausted) as caught:
        slots.take(0)
    assert str(caught.value).count(__file__) == 5


def test_a_slot_that_comes_free_ends_the_wait() -> None:
    slots = Slots(1, 60)
    number = slots.take(0)
    got: list[int] = []
    waiter = threading.Thread(target=lambda: got.append(slots.take(30)))
    waiter.start()
    assert wait_until(lambda: slots.waiting == 1, timeout_s=10)
    slots.give_back(number)
    waiter.join(timeout=10)
    assert len(got) == 1
    assert (slots.waiting, slots.in_use) == (0, 1)


def test_threads_never_hold_more_than_the_limit_and_lose_no_slot() -> None:
    slots = Slots(3, 60)
    most = 0

    def use() -> None:
        nonlocal most
        for _ in range(300):
            number = slots.take(30)
            most = max(most, slots.in_use)
            slots.give_back(number)

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= most <= 3
    assert slots.in_use == 0
    for _ in range(3):
        slots.take(0)


def test_a_leak_is_told_once_with_its_line(caplog: pytest.LogCaptureFixture) -> None:
    slots = Slots(5, LEAK_AFTER_S)
    slots.take(0)
    line = here() - 1
    slots.warn_of_leaks()
    assert leaks(caplog) == [], "not before its time"
    assert wait_until(lambda: told(slots) == 1, timeout_s=10)
    slots.warn_of_leaks()
    slots.take(0)  # who takes one looks too
    (record,) = leaks(caplog)
    assert (record.__dict__["file"], record.__dict__["line"]) == (__file__, line)
    assert f"{__file__}:{line} for" in record.getMessage()


def told(slots: Slots) -> int:
    slots.warn_of_leaks()
    return slots.leaked


def test_what_is_given_back_in_time_or_may_be_held_for_long_is_no_leak(caplog: pytest.LogCaptureFixture) -> None:
    brief, patient = Slots(5, LEAK_AFTER_S), Slots(5, 60)
    brief.give_back(brief.take(0))
    number = patient.take(0)
    start = time.monotonic()
    assert wait_until(lambda: time.monotonic() - start > 2 * LEAK_AFTER_S, timeout_s=10)
    assert (told(brief), told(patient)) == (0, 0)
    assert leaks(caplog) == []
    patient.give_back(number)


def of_pool(manager: ConnectionManager) -> list[str]:
    node = manager._cluster.nodes[0]
    return [f"{one.file}:{one.line}" for slots in (node.slots, node.dedicated_slots) for one in slots.holders()]


Enter = Callable[[ConnectionManager], AbstractContextManager[Any]]


@pytest.mark.postgres
@pytest.mark.parametrize(
    "enter",
    [
        lambda manager: manager.read(),
        lambda manager: manager.transaction(),
        lambda manager: manager.transaction(lock_timeout_s=1.0),
        lambda manager: manager.autocommit(),
        lambda manager: manager.session(),
    ],
    ids=["read", "transaction", "dedicated", "autocommit", "session"],
)
def test_a_holder_is_the_line_that_entered_the_block(manager: ConnectionManager, enter: Enter) -> None:
    with enter(manager):
        assert of_pool(manager) == [f"{__file__}:{here() - 1}"]
    assert of_pool(manager) == []


@pytest.mark.postgres
def test_a_holder_within_run_transaction_is_the_line_that_called_it(manager: ConnectionManager) -> None:
    seen: list[str] = []
    manager.run_transaction(lambda _: seen.extend(of_pool(manager)))
    assert seen == [f"{__file__}:{here() - 1}"]


@pytest.mark.postgres
def test_a_full_pool_names_the_line_that_holds_it(database: DatabaseSettings) -> None:
    small = database.model_copy(update={"pool": PoolSettings(size=1, overflow=0, acquire_timeout_s=0.1)})
    with ConnectionManager("main", small) as manager, manager.read():
        line = here() - 1
        with pytest.raises(errors.PoolExhausted) as caught, manager.read():
            pass
        assert f"Held by {__file__}:{line} for" in str(caught.value)
