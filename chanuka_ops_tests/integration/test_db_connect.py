"""Why no connection came about is told apart, and the password shows nowhere."""

from __future__ import annotations

import os
import signal
import socket
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy.engine import URL

from chanuka_ops import errors
from chanuka_ops.config import DRIVER, DatabaseSettings, SecretSource, TimeoutSettings
from chanuka_ops.db import parameters
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres import process
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.postgres.server import PORT, Server, scratch
from chanuka_ops_tests.plugins.backup import Serve, as_role, execute, local

pytestmark = pytest.mark.postgres

SECRET = r"s3cr:et\with'quote %41 ü"
SUPERUSER = "postgres"


@pytest.fixture(scope="module")
def guarded(pg: Binaries, session_dir: Path) -> Iterator[Server]:
    """A server on which the role `guarded` needs a password, with room for few sessions."""
    few = {"max_connections": "12", "superuser_reserved_connections": "3"}
    if pg.major >= 16:
        few["reserved_connections"] = "0"
    with scratch(session_dir, pg, superuser=SUPERUSER, settings=few) as server:
        hba = server.socket_dir.parent / "data" / "pg_hba.conf"
        hba.write_text("local all guarded scram-sha-256\nlocal nowhere all reject\nlocal all all trust\n")
        literal = SECRET.replace("'", "''").replace("\\", "\\\\")
        execute(
            server.settings("postgres"),
            f"create role guarded login password E'{literal}'",
            "create role limited login connection limit 0",
            "select pg_reload_conf()",
        )
        yield server


def failure_of(database: DatabaseSettings) -> errors.ConnectError:
    with pytest.raises(errors.ConnectError) as caught, ConnectionManager("main", database) as manager:
        manager.probe()
    text = "".join(traceback.format_exception(caught.value))
    shown = (str(caught.value), repr(caught.value), repr(caught.value.args), text, repr(vars(caught.value)))
    for secret in (SECRET, "s3cr", "wr0ng"):
        assert not any(secret in words for words in shown), shown
    return caught.value


def test_the_right_password_gets_in(guarded: Server) -> None:
    with ConnectionManager("main", as_role(guarded.settings("postgres"), "guarded", SECRET)) as manager:
        probe = manager.probe()
    assert probe.role == "primary"
    assert probe.major == guarded.major
    assert probe.latency_ms > 0


def test_a_wrong_password(guarded: Server) -> None:
    failure = failure_of(as_role(guarded.settings("postgres"), "guarded", "wr0ng-s3cr"))
    assert isinstance(failure, errors.AuthenticationFailed)
    assert "guarded" in str(failure)


def test_no_password(guarded: Server) -> None:
    assert isinstance(failure_of(as_role(guarded.settings("postgres"), "guarded")), errors.AuthenticationFailed)


def test_an_unknown_role(guarded: Server) -> None:
    failure = failure_of(as_role(guarded.settings("postgres"), "nobody_here", "wr0ng"))
    assert isinstance(failure, errors.AuthenticationFailed)


def test_no_rule_lets_it_in(guarded: Server) -> None:
    assert isinstance(failure_of(guarded.settings("nowhere")), errors.AuthenticationFailed)


@pytest.mark.parametrize("name", ["missing", 'od"d %41', "ü"])
def test_a_missing_database(guarded: Server, name: str) -> None:
    failure = failure_of(guarded.settings(name))
    assert type(failure) is errors.DatabaseMissing
    assert "has no database of that name" in str(failure)


def test_nobody_there(guarded: Server, tmp_path: Path) -> None:
    url = URL.create(DRIVER, "guarded", "s3cr", database="x", query={"host": str(tmp_path), "port": "5432"})
    failure = failure_of(DatabaseSettings(url=SecretStr(url.render_as_string(hide_password=False))))
    assert type(failure) is errors.TargetUnavailable
    with socket.socket() as taken:  # bound, and not listening
        taken.bind(("127.0.0.1", 0))
        url = URL.create(DRIVER, "guarded", "s3cr", host="127.0.0.1", port=taken.getsockname()[1], database="x")
        failure = failure_of(DatabaseSettings(url=SecretStr(url.render_as_string(hide_password=False))))
    assert type(failure) is errors.TargetUnavailable


@pytest.mark.slow
def test_somebody_who_never_answers() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = URL.create(DRIVER, "guarded", "s3cr", host="127.0.0.1", port=silent.getsockname()[1], database="x")
        database = DatabaseSettings(
            url=SecretStr(url.render_as_string(hide_password=False)), timeouts=TimeoutSettings(connect_s=1)
        )
        assert type(failure_of(database)) is errors.TargetUnavailable


@contextmanager
def sessions(server: Server, count: int) -> Iterator[None]:
    managers = [ConnectionManager("filler", server.settings("postgres")) for _ in range(count)]
    with ExitStack() as opened:

        def enter(manager: ConnectionManager) -> bool:
            try:
                opened.enter_context(manager.autocommit())
            except errors.TargetSaturated:  # by sessions of the test before, which are about to end
                return False
            return True

        for manager in managers:
            assert wait_until(lambda manager=manager: enter(manager), timeout_s=5)  # type: ignore[misc]  # its type is plain
        yield


def test_no_slot_is_free(guarded: Server) -> None:
    with sessions(guarded, 9):  # what is left is reserved for superusers
        failure = failure_of(as_role(guarded.settings("postgres"), "guarded", SECRET))
        assert type(failure) is errors.TargetSaturated
    with sessions(guarded, 12):
        assert type(failure_of(guarded.settings("postgres"))) is errors.TargetSaturated


def test_the_role_has_no_slot_left(guarded: Server) -> None:
    assert type(failure_of(as_role(guarded.settings("postgres"), "limited"))) is errors.TargetSaturated


def test_a_server_that_shuts_down(pg: Binaries, state_dir: Path) -> None:
    """It says the same, and with the same code, as one that starts up; this moment can be held still."""
    with scratch(state_dir, pg, superuser=SUPERUSER) as server:
        with ConnectionManager("last", server.settings("postgres")) as manager, manager.autocommit():
            os.kill(server.pid, signal.SIGTERM)  # smart shutdown: it waits for the last session
            assert wait_until(
                lambda: type(failure_of(server.settings("postgres"))) is errors.TargetStarting, timeout_s=5
            )
        assert wait_until(
            lambda: type(failure_of(server.settings("postgres"))) is errors.TargetUnavailable, timeout_s=9
        )


# ------------------------------------------------------------------ a password on its way to PostgreSQL's programs


def shown_of(pid: int) -> bytes:
    return b"".join(Path(f"/proc/{pid}/{name}").read_bytes() for name in ("cmdline", "environ"))


SECRETS = {"all": SECRET, "plain": "pla1n", "colons": ":::", "slashes": "\\\\:\\", "spaces": " leading and trailing "}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())  # the name of a test is in its environment
def test_a_program_gets_the_password_and_shows_it_nowhere(guarded: Server, secret: str) -> None:
    literal = secret.replace("'", "''").replace("\\", "\\\\")
    execute(guarded.settings("postgres"), f"alter role guarded password E'{literal}'")
    database = as_role(guarded.settings("postgres"), "guarded")
    psql: list[str | Path] = [
        guarded.bin_dir / "psql",
        "-XAtq",
        "--no-password",
        f"--dbname={parameters.conninfo(database)}",
    ]
    try:
        with process.password_file(secret) as (env, fds):
            argv: list[str | Path] = [*psql, "-c", "select 'in as ' || current_user", "-c", "select pg_sleep(0.5)"]
            lines: list[str] = []
            with process.started(argv, env=env, pass_fds=fds, on_line=lines.append) as running:
                assert wait_until(lambda: bool(lines), timeout_s=5)
                assert secret.encode() not in shown_of(running.pid)
                assert "in as guarded" in running.wait(deadline_s=10).stdout
        with pytest.raises(errors.ToolFailed, match=r"fe_sendauth|password"):
            process.run([*psql, "-c", "select 1"], deadline_s=10)
    finally:
        literal = SECRET.replace("'", "''").replace("\\", "\\\\")
        execute(guarded.settings("postgres"), f"alter role guarded password E'{literal}'")


def test_a_backup_by_a_role_with_a_password(guarded: Server, serve: Serve, tmp_path: Path) -> None:
    """pg_dump's parallel workers connect anew: each finds the password again."""
    execute(guarded.settings("postgres"), "grant pg_read_all_data to guarded", "create table if not exists t(v int)")
    secret = tmp_path / "secret"
    secret.write_text(f"{SECRET}\n", encoding="utf-8")
    database = as_role(guarded.settings("postgres"), "guarded").model_copy(
        update={"password": SecretSource(file=secret)}
    )
    with ConnectionManager("main", database) as manager:
        service = serve(jobs=2)
        created = service.create(manager)
    for path in local(service).directory(created.backup_id).rglob("*"):
        assert not path.is_file() or b"s3cr" not in path.read_bytes()


def test_a_password_with_a_line_break_is_refused_in_words() -> None:
    with pytest.raises(errors.ConfigurationError, match="line break"), process.password_file("a\nb"):
        pass


def test_the_connection_string_for_programs_has_no_password(guarded: Server) -> None:
    database = as_role(guarded.settings("postgres"), "guarded", SECRET)
    info = parameters.conninfo(database)
    assert "s3cr" not in info
    assert f"port={PORT}" in info
