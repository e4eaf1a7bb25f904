"""A password that is rotated under live connections, one that is wrong, and the places where none may ever show."""

from __future__ import annotations

import io
import logging
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from chanuka_ops import errors, logs
from chanuka_ops.config import DatabaseSettings, PoolSettings, SecretSource
from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.plugins.backup import as_role, execute
from chanuka_ops_tests.plugins.nodes import LOCALHOST
from chanuka_ops_tests.plugins.processes import Guarded
from chanuka_ops_tests.plugins.proxy import Proxy, ProxyTo, through

pytestmark = pytest.mark.postgres

ROTATED = "r0tated-s3cret"


@dataclass(frozen=True)
class Kept:
    """A database that demands a password, a file that holds it, and the wire to it, which counts connections."""

    role: str
    password: str
    admin: DatabaseSettings
    database: DatabaseSettings
    file: Path
    wire: Proxy

    def alter(self, password: str) -> None:
        execute(self.admin, f"alter role {self.role} password '{password}'")

    def by(self, source: SecretSource | None, password: str | None = None) -> DatabaseSettings:
        """It, its password from elsewhere."""
        database = as_role(self.database, self.role, password)
        return database.model_copy(update={"password": source})


@pytest.fixture
def kept(server: Server, guarded: Guarded, proxy_to: ProxyTo, tmp_path: Path) -> Kept:
    file = tmp_path / "secret"
    file.write_text(f"{guarded.password}\n", encoding="utf-8")
    wire, admin = proxy_to(server), server.settings("postgres")
    database = as_role(through(admin, wire), guarded.role).model_copy(update={"password": SecretSource(file=file)})
    return Kept(guarded.role, guarded.password, admin, database, file, wire)


def counts(manager: ConnectionManager) -> dict[str, int]:
    found: dict[str, int] = manager.snapshot()["nodes"][0]["counts"]
    return found


def breaker_states(manager: ConnectionManager) -> dict[str, str]:
    shown: dict[str, Any] = manager.snapshot()["nodes"][0]["breakers"]
    return {name: one["state"] for name, one in shown.items()}


def works(manager: ConnectionManager) -> bool:
    with manager.session() as connection:
        return bool(connection.execute(text("select 1")).scalar_one() == 1)


# ------------------------------------------------------------------ rotation


def test_a_password_rotated_under_a_live_pool(kept: Kept) -> None:
    with ConnectionManager("main", kept.database) as manager, manager.transaction() as connection:
        kept.alter(ROTATED)
        assert connection.execute(text("select 1")).scalar_one() == 1, "who is in stays in"
        with pytest.raises(errors.AuthenticationFailed):
            works(manager)
        kept.file.write_text(f"{ROTATED}\n", encoding="utf-8")
        for _ in range(3):
            assert works(manager), "the file is read anew for each new connection"
        assert connection.execute(text("select 1")).scalar_one() == 1
        assert counts(manager)["connect_failed.AuthenticationFailed"] == 1
    with ConnectionManager("main", kept.by(None, kept.password)) as manager, pytest.raises(errors.AuthenticationFailed):
        works(manager)  # the twin: a password that is read once is of no use any more


def test_a_rotation_between_reading_the_secret_and_connecting(kept: Kept, tmp_path: Path) -> None:
    """The store hands out the old one first, as a cache would, then the new one."""
    kept.alter(ROTATED)
    told = tmp_path / "told"
    script = 'if [ -e "$0" ]; then cat "$1"; else touch "$0"; cat "$2"; fi'
    new, old = tmp_path / "new", kept.file
    new.write_text(ROTATED, encoding="utf-8")
    source = SecretSource(command=("sh", "-c", script, str(told), str(new), str(old)))
    with ConnectionManager("main", kept.by(source)) as manager:
        before = kept.wire.connections
        assert works(manager)
        assert kept.wire.connections - before == 2
        assert counts(manager)["retries.new_secret"] == 1
        assert "connect_failed.AuthenticationFailed" not in counts(manager)
        assert works(manager)
        assert counts(manager)["retries.new_secret"] == 1


def test_a_rotation_to_a_wrong_secret_is_tried_once_only(kept: Kept, tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    source = SecretSource(command=("sh", "-c", 'echo x >> "$0"; wc -l < "$0"', str(counter)))
    with ConnectionManager("main", kept.by(source)) as manager:
        before = kept.wire.connections
        with pytest.raises(errors.AuthenticationFailed):
            works(manager)
        assert kept.wire.connections - before == 2
        assert counter.read_text(encoding="utf-8").count("x") == 2


def test_a_wrong_password_is_tried_once_a_checkout_and_then_left_alone(kept: Kept) -> None:
    kept.file.write_text("wr0ng", encoding="utf-8")
    with ConnectionManager("main", kept.database) as manager:
        for made in (1, 2, 3):
            with pytest.raises(errors.AuthenticationFailed) as caught:
                works(manager)
            assert caught.value.sqlstate == "28P01"
            assert kept.wire.connections == made, "each try may count towards a lock-out"
        with pytest.raises(errors.CircuitOpen) as open_:
            works(manager)
        assert kept.wire.connections == 3
        assert 0 < (open_.value.retry_after_s or 0) <= 6
        assert breaker_states(manager) == {"availability": "closed", "saturation": "closed", "authentication": "open"}
        kept.file.write_text(kept.password, encoding="utf-8")
        assert manager.reset_breakers()
        assert works(manager)


def test_an_open_connection_serves_while_authentication_is_left_alone(kept: Kept) -> None:
    with ConnectionManager("main", kept.database) as manager:
        with manager.transaction() as connection:
            pid = engines.backend_pid(connection)
        kept.file.write_text("wr0ng", encoding="utf-8")
        for _ in range(3):
            with pytest.raises(errors.AuthenticationFailed):
                works(manager)
        assert breaker_states(manager)["authentication"] == "open"
        with manager.transaction() as connection:
            assert engines.backend_pid(connection) == pid


@pytest.mark.parametrize(
    "source",
    [
        SecretSource(file=Path("missing-secret")),
        SecretSource(env="CHANUKA_NO_SUCH_SECRET"),
        SecretSource(command=("false",)),
        SecretSource(command=("no-such-program-here",)),
    ],
    ids=["file", "env", "command", "program"],
)
def test_a_secret_that_cannot_be_read_is_a_matter_of_configuration(kept: Kept, source: SecretSource) -> None:
    with ConnectionManager("main", kept.by(source)) as manager:
        with pytest.raises(errors.ConfigurationError, match="password"):
            works(manager)
        assert kept.wire.connections == 0
        assert manager.snapshot()["nodes"][0]["pool"]["dedicated"] == 0
        assert set(breaker_states(manager).values()) == {"closed"}


# ------------------------------------------------------------------ nowhere to be seen


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    """Everything that the package logs, as JSON and as text, down to debug."""
    root = logging.getLogger("chanuka_ops")
    kept = list(root.handlers), root.level, root.propagate
    stream = io.StringIO()
    logs.configure(as_json=True, level=logging.DEBUG, stream=stream)
    as_json = list(root.handlers)
    logs.configure(as_json=False, level=logging.DEBUG, stream=stream)
    root.handlers += as_json
    plain = logging.StreamHandler(stream)  # and as it comes, with nothing masked
    root.addHandler(plain)
    yield stream
    root.handlers[:], root.level, root.propagate = kept[0], kept[1], kept[2]


def shown(error: BaseException | None) -> str:
    """An exception as the most talkative tool would show it: its chain, and all variables of all its frames."""
    if error is None:
        return ""
    told = traceback.TracebackException(type(error), error, error.__traceback__, capture_locals=True)
    words = ["".join(told.format(chain=True)), repr(error), str(error), repr(vars(error)), repr(error.args)]
    return "\n".join([*words, shown(error.__cause__), shown(error.__context__)])


class Plain:
    """A value of a statement: an attribute, so that no frame of the test's own holds it."""

    value = "pla1n-" + "value"


def fails_in_session(manager: ConnectionManager) -> None:
    with manager.transaction() as connection:
        connection.execute(text("select * from missing where v = :v"), {"v": Plain.value})


def fails_lost(manager: ConnectionManager) -> None:
    with manager.transaction() as connection:
        connection.execute(text("select pg_terminate_backend(pg_backend_pid())"))


def fails_to_connect(manager: ConnectionManager) -> None:
    for _ in range(2):  # the third opens the breaker, which is logged
        with suppress(errors.AuthenticationFailed):
            works(manager)
    works(manager)


def fails_in_run(manager: ConnectionManager) -> None:
    manager.run_transaction(lambda connection: connection.execute(text("select 1 / 0")))


class Stop(BaseException):
    """As Dagster ends a run."""


def failure_of(fails: Callable[[ConnectionManager], object], manager: ConnectionManager) -> BaseException:
    """The failure, its outermost frame this one, which knows no secret."""
    try:
        fails(manager)
    except (errors.DatabaseError, Stop) as error:
        return error
    raise AssertionError("it went well")


@pytest.mark.parametrize("where", ["file", "url"])
@pytest.mark.parametrize("fails", [fails_in_session, fails_lost, fails_in_run, fails_to_connect])
def test_the_password_shows_nowhere(
    kept: Kept,
    said: io.StringIO,
    caplog: pytest.LogCaptureFixture,
    where: str,
    fails: Callable[[ConnectionManager], None],
) -> None:
    wrong = fails is fails_to_connect
    secret = "wr0ng-s3cret" if wrong else kept.password
    kept.file.write_text(secret, encoding="utf-8")
    database = kept.database if where == "file" else kept.by(None, secret)
    with ConnectionManager("main", database) as manager:
        failure = failure_of(fails, manager)
        words = {
            "exception": shown(failure),
            "log": said.getvalue() + caplog.text,
            "manager": repr(manager) + repr(vars(manager)) + repr(manager.settings) + str(manager.settings),
            "snapshot": repr(manager.snapshot()),
            "dump": repr(manager.settings.model_dump()) + manager.settings.model_dump_json(),
            "process": Path(f"/proc/{os.getpid()}/cmdline").read_bytes().decode(errors="replace"),
        }
    assert len(words["exception"]) > 1000
    assert "breaker.open" in words["log"] or not wrong
    assert [place for place, each in words.items() if secret in each or Plain.value in each] == []


def test_an_interrupt_in_mid_connect_shows_no_password(kept: Kept) -> None:
    def interrupt(*_: object) -> None:
        raise Stop

    kept.wire.silent()
    before = signal.signal(signal.SIGALRM, interrupt)
    with ConnectionManager("main", kept.database) as manager:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        try:
            words = shown(failure_of(works, manager))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        pool = manager.snapshot()["nodes"][0]["pool"]
    assert "Stop" in words
    assert kept.password not in words
    assert pool["dedicated"] == 0, "its slot is free again"


def test_the_drivers_own_failure_would_show_it(kept: Kept) -> None:
    """The twin: the same look at a plain connection finds the password in the variables of its frames."""
    kept.file.write_text("wr0ng-" + "s3cret", encoding="utf-8")

    def fails(file: Path) -> None:
        psycopg.connect(host=LOCALHOST, port=kept.wire.port, user=kept.role, password=file.read_text(encoding="utf-8"))

    with pytest.raises(psycopg.OperationalError) as caught:
        fails(kept.file)
    assert "wr0ng-" + "s3cret" in shown(caught.value)


def test_the_secret_of_a_pool_is_not_kept(kept: Kept) -> None:
    """Nothing of the manager holds it: it is read for each connection, and belongs to libpq then."""
    with ConnectionManager("main", kept.database.model_copy(update={"pool": PoolSettings(size=2)})) as manager:
        assert works(manager)
        with suppress(KeyError), manager.transaction() as connection:
            raw = engines.driver_connection(connection)
            assert kept.password not in repr(raw) + repr(vars(raw)) + repr(raw.info.get_parameters())
