"""Who works on what reaches everything below, and ends with its block."""

from __future__ import annotations

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chanuka_ops import context
from chanuka_ops.context import OperationContext, Progress


def test_what_is_not_given_is_inherited() -> None:
    with context.scope(operation="nightly", database="main", run_id="r", actor="me") as outer:
        with context.scope(operation="backup") as inner:
            assert context.current() is inner
            assert (inner.operation, inner.database, inner.run_id, inner.actor) == ("backup", "main", "r", "me")
        assert context.current() is outer
    assert context.current().operation == "-"


def test_a_scope_ends_with_an_error_too() -> None:
    with pytest.raises(KeyError), context.scope(operation="backup"):
        raise KeyError
    assert context.current().operation == "-"


def test_each_scope_of_its_own_has_its_own_run() -> None:
    with context.scope() as first:
        pass
    with context.scope() as second:
        pass
    assert first.run_id != second.run_id


def test_another_thread_has_its_own() -> None:
    seen: list[str] = []
    with context.scope(operation="backup"):
        thread = threading.Thread(target=lambda: seen.append(context.current().operation))
        thread.start()
        thread.join()
    assert seen == ["-"]


def test_progress_reaches_whoever_watches() -> None:
    seen: list[Progress] = []
    context.progress("before", 0, None, "rows")
    with context.scope(on_progress=seen.append), context.scope(operation="backup"):
        context.progress("dump", 5, 10, "rows")
    assert seen == [Progress("dump", 5, 10, "rows")]


def test_the_name_that_the_server_shows() -> None:
    assert OperationContext(operation="backup", run_id="0123456789").application_name() == "chanuka/backup/01234567"


@given(operation=st.text(), run_id=st.text())
def test_the_name_fits_the_server(operation: str, run_id: str) -> None:
    name = OperationContext(operation=operation.replace("\ud800", ""), run_id=run_id).application_name()
    assert len(name.encode()) <= context.APPLICATION_NAME_MAX_BYTES
    assert name.startswith("chanuka/")


@pytest.mark.parametrize("letter", ["é", "漢", "😀"])
def test_a_name_is_not_cut_within_a_letter(letter: str) -> None:
    name = OperationContext(operation=letter * 60, run_id="0123456789").application_name()
    assert name.endswith("/01234567"), "the run is what one looks up"
    assert set(name.removeprefix("chanuka/").removesuffix("/01234567")) == {letter}
    assert 60 <= len(name.encode()) <= 63


def test_the_name_says_job_operation_and_run() -> None:
    name = OperationContext(job="nightly", operation="take_backup", run_id="0123456789").application_name()
    assert name == "chanuka/nightly/take_backup/01234567"
