"""A migration process that is started before anybody has a request for it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from contextlib import suppress

import pytest

from chanuka_ops.cli import main
from chanuka_ops.migrator.running.ahead import ahead, started
from chanuka_ops.postgres.process import Running, wait_until
from chanuka_ops_tests.integration.test_migrator_trouble import runner_pids

START_S = 60.0  # of a Python on a busy machine


def ended(running: Running, request: str = "{}") -> int:
    running.ask(request)
    return running.wait(deadline_s=START_S, check=False).status


def own() -> list[int]:
    return runner_pids(os.getpid())


def test_the_first_request_goes_to_it_and_a_second_to_another() -> None:
    said: list[str] = []
    with ahead():
        [pid] = own()
        with started(said.append) as first:
            assert first.pid == pid
            assert ended(first) != 0
        with started(said.append) as second:
            assert second.pid != pid
            assert ended(second) != 0
    assert [json.loads(line)["event"] for line in said] == ["error", "error"], "neither had a request worth the name"
    assert own() == []


def test_one_that_nobody_asks_ends_with_the_block() -> None:
    with suppress(KeyError), ahead():
        assert len(own()) == 1
        raise KeyError
    assert own() == []


def test_one_that_has_died_meanwhile_is_replaced() -> None:
    with ahead():
        [pid] = own()
        os.kill(pid, signal.SIGKILL)
        assert wait_until(lambda: own() == [], timeout_s=START_S)
        with started(lambda _: None) as another:
            assert another.pid != pid


def test_without_one_ahead_it_is_started_when_it_is_needed() -> None:
    said: list[str] = []
    with started(said.append) as running:
        assert ended(running) != 0
    assert json.loads(said[0])["event"] == "error"


@pytest.mark.parametrize("line", [["migrate", "up", "--help"], ["migrate", "--help"], ["migrate", "history", "--help"]])
def test_who_asks_for_help_has_none_started(line: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def never() -> Callable[[], None]:
        pytest.fail("a process was started")

    monkeypatch.setattr("chanuka_ops.cli.migrate.ahead", never)
    assert main.run(line) == 0
