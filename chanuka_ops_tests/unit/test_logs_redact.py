"""Secrets are masked in whatever is logged; each record says which operation it is of."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chanuka_ops import context, logs


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://ops:s3cret@db/x",
        "postgresql+psycopg://ops:s3cret@/x?host=/run",
        "can't connect to postgres://ops:s3cret@db.internal:5432/x: no",
        "postgresql://:s3cret@db/x",
        "postgresql://ops:s3@cret@db/x",
        "https://me:s3cret@example.org/path",
        "host=db password=s3cret user=x",
        "host=db password = s3cret user=x",
        "password='s3cret and \\' more s3cret' host=db",
        'password="s3cret more s3cret"',
        "sslpassword=s3cret",
        "PGPASSWORD=s3cret pg_dump",
        "Connection(password='s3cret', host='db')",
        "password=b's3cret'",
        "password: s3cret",
        "{'user': 'u', 'password': 's3cret'}",
        "postgresql://ops:s3/cret@db/x",
        '{"password": "s3cret", "n": 1}',
    ],
)
def test_a_password_is_masked(text: str) -> None:
    masked = logs.redact(text)
    assert "s3cret" not in masked
    assert "cret" not in masked.replace("secret", "")
    assert logs.MASK in masked


@pytest.mark.parametrize(
    "text",
    [
        "",
        "postgresql://ops@db/x",
        "https://example.org:8080/path",
        "wrong role or password",
        "no password supplied",
        'the role "password" may not',
        "12:30:45 it's a: b",
    ],
)
def test_what_is_no_password_stays(text: str) -> None:
    assert logs.redact(text) == text


def test_what_stands_around_a_password_stays() -> None:
    assert logs.redact("a postgresql://ops:x@db:5432/y b") == f"a postgresql://ops:{logs.MASK}@db:5432/y b"
    assert logs.redact("host=db password=x user=u") == f"host=db password={logs.MASK} user=u"


@given(
    password=st.text(
        st.characters(codec="ascii", exclude_characters="/@ \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f", min_codepoint=33),
        min_size=6,
    )
)
def test_any_password_of_a_url(password: str) -> None:
    assert f":{password}@" not in logs.redact(f"postgresql://ops:{password}@db/x")


@given(text=st.text())
def test_masking_twice_is_masking_once(text: str) -> None:
    assert logs.redact(logs.redact(text)) == logs.redact(text)


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger("chanuka_ops")
    before = (list(root.handlers), root.level, root.propagate)
    yield io.StringIO()
    root.handlers[:], root.propagate = before[0], before[2]
    root.setLevel(before[1])


def test_text_records(stream: io.StringIO) -> None:
    logs.configure(stream=stream)
    with context.scope(operation="backup"):
        logging.getLogger("chanuka_ops.x").info("to %s", "postgresql://u:s3cret@h/d")
    line = stream.getvalue()
    assert "INFO    backup: to postgresql://u:********@h/d" in line
    assert "s3cret" not in line


def test_a_json_record_whose_message_ends_with_a_password(stream: io.StringIO) -> None:
    logs.configure(as_json=True, stream=stream)
    logging.getLogger("chanuka_ops.x").warning("password=s3cret")
    assert json.loads(stream.getvalue())["message"] == "password=********"


def test_json_records(stream: io.StringIO) -> None:
    logs.configure(as_json=True, stream=stream)
    with context.scope(operation="backup", database="main", run_id="r1"):
        logging.getLogger("chanuka_ops.x").warning(
            "to postgresql://u:s3cret@h/d", extra={"event": "x.y", "url": "postgresql://u:s3cret@h/d"}
        )
    record = json.loads(stream.getvalue())
    assert (record["operation"], record["database"], record["run_id"], record["event"]) == (
        "backup",
        "main",
        "r1",
        "x.y",
    )
    assert record["level"] == "WARNING"
    assert "s3cret" not in stream.getvalue()


@pytest.mark.parametrize("as_json", [False, True])
def test_tracebacks_are_masked_too(stream: io.StringIO, as_json: bool) -> None:  # noqa: FBT001 - both formats
    logs.configure(as_json=as_json, stream=stream)
    try:
        raise ValueError("postgresql://u:s3cret@h/d")  # noqa: TRY301 - the traceback is what is tested
    except ValueError:
        logging.getLogger("chanuka_ops.x").exception("it failed")
    assert "ValueError" in stream.getvalue()
    assert "s3cret" not in stream.getvalue()


def test_a_step_is_timed_also_when_it_fails(stream: io.StringIO) -> None:
    logs.configure(stream=stream, level=logging.DEBUG)
    log = logging.getLogger("chanuka_ops.x")
    with logs.timed(log, "x.step", "a step") as watch:
        pass
    assert watch.seconds >= 0
    with pytest.raises(KeyError), logs.timed(log, "x.step", "a step"):
        raise KeyError
    done, failed = stream.getvalue().splitlines()
    assert "a step: done in" in done
    assert "a step: failed in" in failed


def test_a_stopwatch_keeps_its_figure() -> None:
    watch = logs.Stopwatch()
    watch.stop()
    assert watch.seconds == watch.seconds


def test_a_json_line_stays_json() -> None:
    assert json.loads(logs.redact('{"password": "s3cret", "n": 1}')) == {"password": logs.MASK, "n": 1}
