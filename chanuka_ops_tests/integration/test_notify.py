"""Notices and heartbeats on their way: to who takes, refuses, hangs, isn't there; and where no token may show."""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from chanuka_ops import durable, notify, sender
from chanuka_ops.config import HeartbeatSettings, NotifySettings, SecretSource
from chanuka_ops.db.retry import Backoff
from chanuka_ops.notify import Delivery, Notice
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.hooks import LOCALHOST, Answer, Receive

NOTICE = Notice("drill.failed", "critical", "main", "backup main-1 is not proven", "1 table differs", {"rows": 7})
LATE_S = 30.0  # a generous bound: a machine may be busy
Routes = Callable[..., NotifySettings]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "BACKOFF", Backoff(first_s=0.02, most_s=0.02))


@pytest.fixture
def routes(monkeypatch: pytest.MonkeyPatch) -> Routes:
    """Settings with the routes' URLs in the environment."""

    def made(urls: Mapping[str, str], **fields: Any) -> NotifySettings:
        for name, url in urls.items():
            monkeypatch.setenv(f"ROUTE_{name.upper()}", url)
        stated = {name: {"url": {"env": f"ROUTE_{name.upper()}"}} for name in urls}
        return NotifySettings.model_validate({"routes": stated, "attempts": 2, "timeout": "10s", **fields})

    return made


# ------------------------------------------------------------------ messages


def test_a_message_arrives_once_with_its_words(receive: Receive, routes: Routes) -> None:
    receiver = receive()
    told = Notice("backup.failed", "warning", "main", "<b>no</b>", "*not* <script> :tada: \\n", {"password": "hunter2"})
    deliveries = notify.send(told, routes({"hook": receiver.url("json", "/x")}))
    assert deliveries == (Delivery("hook", delivered=True, attempts=1),)
    (request,) = receiver.requests
    arrived = json.loads(request.body)
    assert (request.method, request.path) == ("POST", "/x")
    assert (arrived["title"], arrived["type"]) == ("[warning] main: <b>no</b>", "warning")
    assert arrived["message"] == "*not* <script> :tada: \\n\n\npassword: ********\nevent: backup.failed"


def test_names_are_no_markup_where_the_service_takes_html(receive: Receive, routes: Routes) -> None:
    receiver = receive()
    told = Notice("backup.failed", "warning", "main", "t", "table <script>alert(1)</script>")
    notify.send(told, routes({"hook": receiver.url("json", "/?format=html")}))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in json.loads(receiver.requests[0].body)["message"]


@pytest.mark.parametrize(("severity", "kind"), [("info", "info"), ("warning", "warning"), ("critical", "failure")])
def test_each_severity_has_its_kind_at_the_service(
    receive: Receive, routes: Routes, severity: notify.Severity, kind: str
) -> None:
    receiver = receive()
    (delivery,) = notify.send(Notice("x", severity, None, "t", "b"), routes({"hook": receiver.url("json")}))
    assert delivery.delivered
    assert json.loads(receiver.requests[0].body)["type"] == kind


@pytest.mark.parametrize(
    ("answers", "delivery"),
    [
        ([500, 200], Delivery("hook", delivered=True, attempts=2)),
        ([429, 200], Delivery("hook", delivered=True, attempts=2)),
        ([500], Delivery("hook", delivered=False, attempts=2, problem="JSON answered with HTTP 500")),
        # the same would be refused again
        ([403], Delivery("hook", delivered=False, attempts=1, problem="JSON answered with HTTP 403")),
    ],
)
def test_what_is_refused_is_tried_again_where_that_may_help(
    receive: Receive, routes: Routes, answers: list[Answer], delivery: Delivery
) -> None:
    receiver = receive(*answers)
    assert notify.send(NOTICE, routes({"hook": receiver.url("json")})) == (delivery,)
    assert len(receiver.requests) == delivery.attempts


@pytest.mark.parametrize("answer", ["silence", "trickle"])
def test_one_that_never_answers_is_given_up_at_the_deadline(
    receive: Receive, routes: Routes, answer: Answer, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = receive(answer)
    began = time.monotonic()
    deliveries = notify.send(NOTICE, routes({"hook": receiver.url("json")}, timeout="500ms"))
    assert time.monotonic() - began < LATE_S
    assert deliveries == (Delivery("hook", delivered=False, attempts=2, problem="no answer within 0.5 s"),)
    assert len(receiver.requests) == 2


def test_one_that_isn_t_there_is_a_warning_and_an_answer_and_no_exception(
    nobody: int, routes: Routes, caplog: pytest.LogCaptureFixture
) -> None:
    (delivery,) = notify.send(NOTICE, routes({"hook": f"json://{LOCALHOST}:{nobody}"}))
    assert delivery == Delivery("hook", delivered=False, attempts=2, problem="JSON: no connection to it")
    (record,) = caplog.records
    told = {name: record.__dict__[name] for name in ("event", "route", "notice", "attempts", "levelname")}
    assert told == {
        "event": "notice.undelivered", "route": "hook", "notice": "drill.failed", "attempts": 2, "levelname": "WARNING",
    }  # fmt: skip
    assert record.getMessage() == (
        "route hook not told of drill.failed (backup main-1 is not proven) after 2 tries: JSON: no connection to it"
    )


@pytest.mark.slow
def test_routes_do_not_wait_for_one_another(receive: Receive, routes: Routes) -> None:
    silent, good = receive("silence"), receive()
    urls = {name: silent.url("json", f"/{name}") for name in ("a", "b", "c", "d")} | {"good": good.url("json")}
    began = time.monotonic()
    deliveries = notify.send(NOTICE, routes(urls, timeout="5s", attempts=1))
    assert time.monotonic() - began < 18.0  # one after the other they'd take 20 s and more
    assert [(one.route, one.delivered) for one in deliveries] == [
        ("a", False), ("b", False), ("c", False), ("d", False), ("good", True),
    ]  # fmt: skip
    assert len(good.requests) == 1


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ({"env": "UNSET_ROUTE_URL"}, "its URL is to come from $UNSET_ROUTE_URL, which is not set"),
        ({"file": "/nowhere/url"}, "its URL is to come from /nowhere/url, which can't be read: "),
        ({"command": ["false"]}, "its URL is to come from the command 'false', which exited with 1"),
        ({"command": ["printf", "\\377"]}, "UnicodeDecodeError"),
    ],
)
def test_a_url_that_can_t_be_had_is_an_answer(source: dict[str, Any], problem: str) -> None:
    settings = NotifySettings.model_validate({"routes": {"hook": {"url": source}}})
    (delivery,) = notify.send(NOTICE, settings)
    assert (delivery.delivered, delivery.attempts) == (False, 0)
    assert str(delivery.problem).startswith(problem)


def test_a_message_can_be_interrupted_and_is_not_tried_again_behind_the_back(receive: Receive, routes: Routes) -> None:
    receiver = receive(500)

    def interrupt() -> None:
        wait_until(lambda: len(receiver.requests) > 0, timeout_s=LATE_S, poll_s=0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        notify.send(NOTICE, routes({"hook": receiver.url("json")}, attempts=10))
    assert not wait_until(lambda: len(receiver.requests) > 2, timeout_s=2.5)  # one may have been on its way


def test_a_sender_ends_at_its_deadline_though_nobody_waits_for_it(receive: Receive) -> None:
    order = {"kind": "touch", "url": receive("trickle").url(), "timeout_s": 0.3}
    with subprocess.Popen(
        [sys.executable, "-P", str(sender.__file__)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(order).encode())
        process.stdin.close()
        assert process.wait(LATE_S) == -signal.SIGALRM


def test_whoever_notifies_pays_for_no_import_of_apprise() -> None:
    program = (
        "import sys, chanuka_ops.notify as n; from chanuka_ops.config import NotifySettings as S;"
        "n.send(n.Notice('x', 'info', 'm', 't', 'b'), S()); n.send(n.Notice('x', 'info', 'm', 't', 'b'),"
        "S.model_validate({'routes': {'hook': {'url': {'command': ['echo', 'none']}}}}));"
        "print({'apprise', 'requests', 'urllib3', 'urllib.request'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "set()\n"


# ------------------------------------------------------------------ tokens

TOKEN = "t0k3n"


@pytest.mark.parametrize(
    ("answers", "problem"),
    [([500], "HTTP 500"), (["silence"], "no answer"), ([], "no connection"), ([200], None)],
)
def test_a_token_of_the_url_shows_nowhere(
    *, receive: Receive, routes: Routes, nobody: int, answers: list[Answer], problem: str | None,
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    caplog.set_level(logging.DEBUG)
    for name in ("apprise", "urllib3", "urllib3.connectionpool", "requests"):
        caplog.set_level(1, logger=name)
    port = receive(*answers).port if answers else nobody
    url = f"json://{TOKEN}user:{TOKEN}pass@{LOCALHOST}:{port}/{TOKEN}path?+X-Key={TOKEN}head&-q={TOKEN}query"
    settings = routes({"hook": url}, timeout="1s", attempts=1)
    (delivery,) = notify.send(NOTICE, settings)
    shown = f"{delivery!r} {delivery} {settings!r} {settings.model_dump_json()}"
    shown += "".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    shown += "".join(capfd.readouterr())
    assert TOKEN not in shown
    assert caplog.records
    assert delivery.delivered is (problem is None)
    assert problem is None or problem in str(delivery.problem)


@pytest.mark.parametrize("url", [f"{TOKEN}", f"{TOKEN}://x", f"slack://{TOKEN}", ""])
def test_a_url_that_apprise_can_t_use_is_tried_once_and_not_shown(
    routes: Routes, url: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    (delivery,) = notify.send(NOTICE, routes({"hook": url}))
    problem = "its URL is none that Apprise can use"
    assert delivery == Delivery("hook", delivered=False, attempts=1, problem=problem)
    assert TOKEN not in caplog.text + "".join(capfd.readouterr())


# ------------------------------------------------------------------ heartbeat

FACTS = {"database": "main", "backup_id": "main-1", "proven_at": datetime(2026, 11, 22, 17, 5, 9, tzinfo=UTC)}


@pytest.fixture
def beat(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[Delivery, ...]]:
    def beaten(url: str | None = None, file: Path | None = None, **fields: Any) -> tuple[Delivery, ...]:
        monkeypatch.setenv("HEARTBEAT_URL", url or "")
        source = SecretSource(env="HEARTBEAT_URL") if url is not None else None
        settings = HeartbeatSettings(url=source, file=file)
        return notify.heartbeat(settings, FACTS, **{"timeout_s": 10.0, "attempts": 2, **fields})

    return beaten


Beat = Callable[..., tuple[Delivery, ...]]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_without_a_heartbeat_nothing_is_touched(beat: Beat) -> None:
    assert beat() == ()


def test_the_url_is_touched_and_told_nothing(receive: Receive, beat: Beat) -> None:
    receiver = receive(500, 204)
    assert beat(receiver.url(path="/ping/{database}")) == (Delivery("url", delivered=True, attempts=2),)
    assert [(request.method, request.path, request.body) for request in receiver.requests] == [
        ("GET", "/ping/main", b"")
    ] * 2


@pytest.mark.parametrize(
    ("answer", "attempts", "problem"),
    [
        (404, 1, "it answered with HTTP 404"),
        (302, 2, "it answered with HTTP 302"),  # to file:///, where it doesn't go
        ("silence", 2, "no answer within 0.5 s"),
        ("trickle", 2, "no answer within 0.5 s"),
    ],
)
def test_a_touch_that_fails_is_a_warning(
    *, receive: Receive, beat: Beat, answer: Answer, attempts: int, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    deadline_s = 0.5 if isinstance(answer, str) else 10.0
    deliveries = beat(receive(answer).url(path=f"/{TOKEN}"), timeout_s=deadline_s)
    assert deliveries == (Delivery("url", delivered=False, attempts=attempts, problem=problem),)
    (record,) = caplog.records
    assert (record.levelname, record.__dict__["event"]) == ("WARNING", "heartbeat.missed")
    assert TOKEN not in caplog.text + repr(deliveries)


@pytest.mark.parametrize("url", [f"file:///etc/{TOKEN}", f"ftp://{LOCALHOST}/{TOKEN}", f"{TOKEN}", ""])
def test_only_http_is_touched(beat: Beat, url: str, caplog: pytest.LogCaptureFixture) -> None:
    (delivery,) = beat(url)
    assert (delivery.attempts, delivery.problem) == (0, "its URL is neither http:// nor https://")
    assert TOKEN not in caplog.text


@pytest.mark.parametrize("url", [f"http://{LOCALHOST}:notaport/{TOKEN}", f"http://[{TOKEN}/", f"http:// {TOKEN}/"])
def test_a_url_that_is_none_shows_nothing_of_itself(beat: Beat, url: str, caplog: pytest.LogCaptureFixture) -> None:
    (delivery,) = beat(url, attempts=1)
    assert not delivery.delivered
    assert TOKEN not in caplog.text + repr(delivery)


def test_nobody_there_and_a_file_that_is_written_all_the_same(nobody: int, beat: Beat, tmp_path: Path) -> None:
    url, file = beat(f"http://{LOCALHOST}:{nobody}/", tmp_path / "beat", attempts=1)
    assert url.problem == "no connection to it: Connection refused"
    assert file == Delivery("file", delivered=True, attempts=1)


def test_the_file_holds_one_line_and_is_replaced(beat: Beat, tmp_path: Path) -> None:
    file = tmp_path / "beat-main.json"
    file.write_text("an older, longer line" * 99, encoding="utf-8")
    before = datetime.now(UTC)
    assert beat(file=tmp_path / "beat-{database}.json") == (Delivery("file", delivered=True, attempts=1),)
    text = file.read_text(encoding="utf-8")
    line = json.loads(text)
    assert text.count("\n") == 1
    assert before <= datetime.fromisoformat(line.pop("at")) <= datetime.now(UTC)
    assert line == {"database": "main", "backup_id": "main-1", "proven_at": "2026-11-22T17:05:09+00:00"}
    assert names(tmp_path) == ["beat-main.json"]


@pytest.mark.parametrize(
    ("place", "problem"),
    [("missing/beat", "No such file or directory"), ("file/beat", "Not a directory"), ("dir", "Is a directory")],
)
def test_a_file_that_can_t_be_written_is_a_warning(
    beat: Beat, tmp_path: Path, place: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "dir").mkdir()
    (delivery,) = beat(file=tmp_path / place)
    assert delivery == Delivery(
        "file", delivered=False, attempts=1, problem=f"{tmp_path / place} can't be written: {problem}"
    )
    assert [record.__dict__["event"] for record in caplog.records] == ["heartbeat.missed"]
    assert names(tmp_path) == ["dir", "file"]


@pytest.mark.skipif(not Path("/sys").is_dir(), reason="needs a directory in which nobody may make a file")
def test_a_directory_that_takes_no_file_is_a_warning(beat: Beat) -> None:
    (delivery,) = beat(file=Path("/sys/chanuka-beat"))
    assert not delivery.delivered
    assert str(delivery.problem).startswith("/sys/chanuka-beat can't be written: ")


@contextmanager
def no_room() -> Iterator[None]:
    """Let no file grow in the block, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_where_there_is_no_room_the_old_file_stays_whole(beat: Beat, tmp_path: Path) -> None:
    file = tmp_path / "beat"
    beat(file=file)
    before = file.read_bytes()
    with no_room():
        (delivery,) = beat(file=file)
    assert not delivery.delivered
    assert file.read_bytes() == before
    assert names(tmp_path) == ["beat"]


def test_whoever_looks_at_a_file_that_is_replaced_finds_it_whole(tmp_path: Path) -> None:
    file, over = tmp_path / "beat", threading.Event()
    contents = [bytes([letter]) * 100_000 for letter in b"ab"]
    durable.replace(file, contents[0])

    def write() -> None:
        while not over.is_set():
            for content in contents:
                durable.replace(file, content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = {file.read_bytes() for _ in range(500)}
    finally:
        over.set()
        writer.join()
    assert seen <= set(contents)
