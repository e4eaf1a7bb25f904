"""The dump engine: what it writes beside the data, who is told of a failure, and that nothing of it is left running."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from chanuka_ops import context, errors
from chanuka_ops.backup.taking import compression, dump, picking
from chanuka_ops.backup.taking import fingerprint as fingerprints
from chanuka_ops.backup.taking import globals as server_globals
from chanuka_ops.backup.taking.dump import Dumped
from chanuka_ops.config import BackupSettings, DatabaseSettings, TimeoutSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres import process
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.postgres.server import Server, scratch
from chanuka_ops_tests.integration.test_backup_killed import assert_nothing_runs
from chanuka_ops_tests.plugins.backup import Serve, as_role, execute, fresh_database, scalars

pytestmark = pytest.mark.postgres

SLOW_VIEW_S = 60
Dump = Callable[..., Dumped]


@pytest.fixture
def take(pg: Binaries, tmp_path: Path) -> Dump:
    """Dump a database into the test's directory, afresh each time."""

    def taken(database: DatabaseSettings, **options: object) -> Dumped:
        settings = BackupSettings.model_validate({"compression": "none", **options})
        for left in tmp_path.iterdir():
            shutil.rmtree(left)
        with ConnectionManager("main", database) as manager, context.scope(operation="backup"):
            return dump.dump(manager, pg, settings, tmp_path)

    return taken


@contextmanager
def role_of(database: DatabaseSettings, *grants: str) -> Iterator[tuple[str, DatabaseSettings]]:
    role = f"plain_{uuid.uuid4().hex[:8]}"
    execute(database, f"create role {role} login password 'kept s3cret'", *(grant.format(role) for grant in grants))
    try:
        yield role, as_role(database, role)
    finally:
        execute(database, f"drop owned by {role}", f"drop role {role}")


@contextmanager
def failing_after(seconds: float, monkeypatch: pytest.MonkeyPatch, failure: Exception) -> Iterator[None]:
    """Let the fingerprint fail while pg_dump is under way."""

    def take(*_: object, still_worthwhile: Callable[[], None], **__: object) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            still_worthwhile()
            time.sleep(0.01)
        raise failure

    with monkeypatch.context() as patch:
        patch.setattr(fingerprints, "take", take)
        yield


# ---- one fails, the other ends ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_fingerprint_that_fails_stops_pg_dump_at_once(
    take: Dump, large: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = time.monotonic()
    with (
        failing_after(0.1, monkeypatch, errors.PermissionDenied("public.big_0 can't be read")),
        pytest.raises(errors.PermissionDenied, match="big_0"),
    ):
        take(large, rate_limit="1MB")  # for more than a minute, if it were let
    assert time.monotonic() - start < SLOW_VIEW_S / 2
    assert_nothing_runs(large)


def slow_fingerprint(patch: pytest.MonkeyPatch) -> None:
    """Let the fingerprint wait on the server, where only a cancel ends it."""

    def take(connection: object, **_: object) -> None:
        connection.exec_driver_sql(f"select pg_sleep({SLOW_VIEW_S})")  # type: ignore[attr-defined]

    patch.setattr(fingerprints, "take", take)


def test_a_pg_dump_that_fails_cancels_the_fingerprint_at_once_and_is_told_in_its_own_words(
    take: Dump, small: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with role_of(small, "grant select on bills, numbers to {}") as (_, limited):
        slow_fingerprint(monkeypatch)
        start = time.monotonic()
        words = r"pg_dump exited with 1: .*permission denied for table votes"
        with pytest.raises(errors.PermissionDenied, match=words):
            take(limited)
        assert time.monotonic() - start < SLOW_VIEW_S / 2
        assert_nothing_runs(small)


def test_an_interrupt_ends_both(
    take: Dump, small: DatabaseSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    slow_fingerprint(monkeypatch)

    def interrupted(*_: object) -> None:
        if (tmp_path / dump.DUMP).exists():
            raise KeyboardInterrupt

    monkeypatch.setattr("chanuka_ops.backup.taking.watching.Watch.look", interrupted)
    execute(small, "create table filler as select g, md5(g::text) from generate_series(1, 400000) g")
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        take(small, rate_limit="1MB")  # so that the dump is under way still
    assert time.monotonic() - start < SLOW_VIEW_S / 2
    assert_nothing_runs(small)
    assert not [thread for thread in threading.enumerate() if thread.name == dump.FINGERPRINT]


def test_the_deadline_bounds_the_fingerprint_too(
    take: Dump, small: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_fingerprint(monkeypatch)
    start = time.monotonic()
    with pytest.raises(errors.StatementTimeout):
        take(small, deadline=1.5)
    assert 1 < time.monotonic() - start < SLOW_VIEW_S / 2
    assert_nothing_runs(small)


def test_the_earlier_of_two_failures_is_told(
    take: Dump, small: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pg_dump waits half a second longer for a lock than the fingerprint, which names the one table that is locked."""
    impatient = small.model_copy(update={"timeouts": TimeoutSettings(lock_s=0.5)})
    with ConnectionManager("locker", small) as manager, manager.transaction() as connection:
        connection.exec_driver_sql("lock table votes in access exclusive mode")
        with pytest.raises(errors.LockTimeout, match=r"^public\.votes is locked by another session"):
            take(impatient)
        with (
            failing_after(2, monkeypatch, errors.PermissionDenied("too late")),
            pytest.raises(errors.LockTimeout, match=r"^a table is locked .* lock timeout .*LOCK TABLE .*votes"),
        ):
            take(impatient)
    assert_nothing_runs(small)


@pytest.mark.parametrize("first", ["pg_dump", "fingerprint"])
def test_of_two_failures_within_one_look_the_first_is_told(
    first: str, take: Dump, small: DatabaseSettings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A stand-in for pg_dump, that complains when it's wanted to; the main thread looks once, before any of it."""
    heard, real = threading.Event(), dump._FirstComplaint.hear

    def hear(complaint: dump._FirstComplaint, line: str) -> None:
        real(complaint, line)
        heard.set()

    def fails(*_: object, **__: object) -> None:
        if first == "pg_dump":
            assert heard.wait(10)
        else:
            time.sleep(0.1)
        raise errors.PermissionDenied("the fingerprint's words")

    script = "sleep 0.4; echo 'pg_dump: error: its own words' >&2; sleep 0.2; exit 1"
    monkeypatch.setattr(dump._FirstComplaint, "hear", hear)
    monkeypatch.setattr(fingerprints, "take", fails)
    monkeypatch.setattr(dump, "pg_dump", lambda _: (["/bin/sh", "-c", script], None))
    monkeypatch.setattr(server_globals, "commands", lambda *_: ())
    monkeypatch.setattr(process, "MEANWHILE_S", 5)
    with pytest.raises(errors.ChanukaError) as failure:
        take(small)
    assert {"pg_dump": "its own words", "fingerprint": "the fingerprint's words"}[first] in str(failure.value)


# ---- what goes wrong on the server -----------------------------------------------------------------------------------


def started(service_root: Path) -> bool:
    return bool(list(service_root.glob(".partial/*/dump/*.dat*")))


@pytest.mark.slow
def test_an_alter_table_that_waits_behind_the_dump_holds_it_up_no_longer_than_the_lock_timeout(
    take: Dump, small: DatabaseSettings
) -> None:
    """What queues for ACCESS EXCLUSIVE keeps later readers waiting: pg_dump's own workers among them."""
    impatient = small.model_copy(update={"timeouts": TimeoutSettings(lock_s=0.5)})
    with ConnectionManager("reader", small) as reader, reader.transaction() as reading:
        reading.exec_driver_sql("select count(*) from votes")

        def alter() -> None:
            with (
                ConnectionManager("alterer", small) as manager,
                pytest.raises(errors.LockTimeout),
                manager.transaction(lock_timeout_s=8) as connection,
            ):
                connection.exec_driver_sql("alter table votes add column more int")

        altering = threading.Thread(target=alter)
        altering.start()
        waiting = "select 1 from pg_locks where not granted and relation = 'votes'::regclass"
        assert wait_until(lambda: bool(scalars(small, waiting)), timeout_s=5)
        start = time.monotonic()
        with pytest.raises(errors.LockTimeout, match="votes"):
            take(impatient)
        assert time.monotonic() - start < 7, "and not for as long as the ALTER TABLE"
        altering.join()
    assert_nothing_runs(small)


def test_a_table_dropped_before_pg_dump_locks_it(
    take: Dump, small: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot still sees it, so the dump can't be whole: it fails, naming it."""
    real = dump.pg_dump

    def dropping_first(order: dump.Order) -> tuple[list[str | Path], str | None]:
        execute(small, "drop table votes")
        return real(order)

    monkeypatch.setattr(dump, "pg_dump", dropping_first)
    with pytest.raises(errors.ChanukaError, match="votes"):
        take(small)
    assert_nothing_runs(small)


def test_a_backend_killed_in_mid_dump(serve: Serve, large: DatabaseSettings) -> None:
    service = serve(compression="gzip", compression_level=9)
    failures: list[BaseException] = []

    def backup() -> None:
        with ConnectionManager("main", large) as manager, context.scope(operation="backup", run_id="k" * 32):
            try:
                service.create(manager)
            except errors.ChanukaError as failure:
                failures.append(failure)

    backing = threading.Thread(target=backup)
    backing.start()
    own = "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'chanuka/backup/kkkkkkkk'"
    assert wait_until(lambda: bool(scalars(large, f"{own} and query like 'COPY %'")), timeout_s=20, poll_s=0.02)
    backing.join(timeout=30)
    assert isinstance(failures[0], errors.ToolFailed)
    assert "pg_dump" in str(failures[0])
    assert "terminating connection" in str(failures[0]) or "server closed the connection" in str(failures[0])
    assert service.catalogue() == []
    assert list(Path(service.store.where).glob(".partial/*")) == []
    assert_nothing_runs(large)


@pytest.mark.slow
def test_a_server_killed_in_mid_dump_leaves_nothing_here(serve: Serve, pg: Binaries, state_dir: Path) -> None:
    service = serve(compression="gzip", compression_level=9)
    with scratch(state_dir, pg, superuser="postgres") as server:
        database = server.settings("postgres")
        execute(database, "create table t as select g, md5(g::text) from generate_series(1, 600000) g")
        failures: list[BaseException] = []

        def backup() -> None:
            with ConnectionManager("main", database) as manager, context.scope(operation="backup"):
                try:
                    service.create(manager)
                except errors.ChanukaError as failure:
                    failures.append(failure)

        backing = threading.Thread(target=backup)
        backing.start()
        assert wait_until(lambda: started(Path(service.store.where)), timeout_s=20)
        os.kill(server.pid, 3)  # an immediate shutdown
        backing.join(timeout=30)
    assert isinstance(failures[0], errors.ToolFailed | errors.ConnectionLost)
    assert service.catalogue() == []
    assert list(Path(service.store.where).glob(".partial/*")) == []
    assert not [thread for thread in threading.enumerate() if thread.name == dump.FINGERPRINT]


# ---- compression -----------------------------------------------------------------------------------------------------


def test_pg_dump_is_asked_what_it_was_built_with(pg: Binaries, take: Dump, small: DatabaseSettings) -> None:
    """Whatever the answer is, a dump with that codec must agree with it."""
    for codec in ("zstd", "lz4"):
        if compression.built_with(pg, codec):
            assert take(small, compression=codec).compression.codec == codec
        else:
            with pytest.raises(errors.ConfigurationError, match=f"was not built with {codec}, it has gzip"):
                take(small, compression=codec)


def test_asking_reaches_no_server(pg: Binaries, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    compression._has.cache_clear()
    monkeypatch.setenv("PGHOST", str(server.socket_dir))
    monkeypatch.setenv("PGHOSTADDR", "127.0.0.1")
    assert compression.built_with(pg, "gzip")
    compression.built_with(pg, "zstd")


def test_the_codec_that_was_used_is_told(take: Dump, small: DatabaseSettings, pg: Binaries, tmp_path: Path) -> None:
    taken = take(small, compression="auto", compression_level=3)
    expected = "zstd" if compression.built_with(pg, "zstd") else "gzip"
    assert (taken.compression.codec, taken.compression.level) == (expected, 3)
    assert list((tmp_path / dump.DUMP).glob("*.dat.zst" if expected == "zstd" else "*.dat.gz"))


def test_none_is_none(take: Dump, small: DatabaseSettings, tmp_path: Path) -> None:
    assert take(small, compression_level=0, compression="gzip").compression == compression.Compression("none", 0)
    assert list((tmp_path / dump.DUMP).glob("*.dat"))
    assert not list((tmp_path / dump.DUMP).glob("*.gz"))


# ---- what belongs to no database -------------------------------------------------------------------------------------


def everything(directory: Path, pg: Binaries) -> str:
    """All that the backup says, as SQL."""
    restored = subprocess.run(
        [pg.path("pg_restore"), "--create", "--file=-", str(directory / dump.DUMP)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return restored + "".join(path.read_text() for path in sorted((directory / dump.GLOBALS).iterdir()))


def test_the_settings_of_roles_and_databases_are_all_there(
    take: Dump, small: DatabaseSettings, pg: Binaries, tmp_path: Path
) -> None:
    name = small.sqlalchemy_url.database
    with role_of(
        small,
        "alter role {} set work_mem = '11MB'",
        f"alter role {{}} in database {name} set work_mem = '12MB'",
        f"alter database {name} set work_mem = '13MB'",
    ) as (role, _):
        take(small)
        said = everything(tmp_path, pg)
    assert f"ALTER ROLE {role} SET work_mem TO '11MB'" in said
    assert f"ALTER ROLE {role} IN DATABASE {name} SET work_mem TO '12MB'" in said
    assert f"ALTER DATABASE {name} SET work_mem TO '13MB'" in said
    assert "wal_level = 'logical'" in (tmp_path / dump.SERVER_SETTINGS).read_text(), "as the server under test has it"


def test_passwords_are_left_out_unless_they_are_asked_for(take: Dump, small: DatabaseSettings, tmp_path: Path) -> None:
    with role_of(small) as (role, _):
        take(small)
        (line,) = [line for line in (tmp_path / dump.ROLES).read_text().splitlines() if f"ALTER ROLE {role} " in line]
        assert "PASSWORD" not in line
        take(small, role_passwords=True)
        (line,) = [line for line in (tmp_path / dump.ROLES).read_text().splitlines() if f"ALTER ROLE {role} " in line]
        assert "PASSWORD 'SCRAM-SHA-256$" in line


def test_an_ordinary_role_backs_up_roles_but_no_passwords(take: Dump, small: DatabaseSettings, tmp_path: Path) -> None:
    """As on a managed server, where nobody may read pg_authid."""
    execute(small, "select lo_unlink(4711)")
    with role_of(small, "grant select on all tables in schema public to {}", "grant select on numbers to {}") as (
        role,
        ordinary,
    ):
        with pytest.raises(errors.RefusedError, match=r"role_passwords: this role may not read .* superuser"):
            take(ordinary, role_passwords=True)
        assert not (tmp_path / dump.DUMP).exists()
        take(ordinary)
        assert f"CREATE ROLE {role};" in (tmp_path / dump.ROLES).read_text()
        assert "kept s3cret" not in (tmp_path / dump.ROLES).read_text()


def test_no_secret_of_the_servers_configuration_is_written(take: Dump, small: DatabaseSettings, tmp_path: Path) -> None:
    execute(small, "alter system set primary_conninfo = 'host=other password=hidden1'", "select pg_reload_conf()")
    execute(small, "alter system set archive_command = 'push --key hidden2'", "select pg_reload_conf()")
    try:
        assert wait_until(lambda: scalars(small, "show archive_command") != [""], timeout_s=5)
        take(small)
        text = (tmp_path / dump.SERVER_SETTINGS).read_text()
    finally:
        execute(
            small,
            "alter system reset primary_conninfo",
            "alter system reset archive_command",
            "select pg_reload_conf()",
        )
    assert "hidden" not in text
    assert "# primary_conninfo is set and left out: it may hold a secret" in text


# ---- several databases -----------------------------------------------------------------------------------------------


def test_the_other_databases_of_a_server_are_found(server: Server) -> None:
    tag = uuid.uuid4().hex[:8]
    with (
        fresh_database(server, f'one "{tag}"') as one,
        fresh_database(server, f"two_{tag}"),
        fresh_database(server, f"Three.{tag}"),
        ConnectionManager("main", one) as manager,
    ):
        assert picking.siblings(manager, (f"*{tag}*",)) == sorted([f"Three.{tag}", f"two_{tag}"], key=collation_c)
        assert picking.siblings(manager, (f'one "{tag}"',)) == [], "its own is no other"
        with pytest.raises(errors.RefusedError, match="'template0' matches no database of the server"):
            picking.siblings(manager, ("template0",))
        assert set(picking.siblings(manager, ("*",))) >= {"postgres", f"two_{tag}"}


def collation_c(name: str) -> bytes:
    return name.encode()


# ---- the fingerprint -------------------------------------------------------------------------------------------------


def test_without_content_only_the_structure_is_fingerprinted(take: Dump, small: DatabaseSettings) -> None:
    assert take(small).fingerprint.has_content
    taken = take(small, fingerprint="structure")
    assert not taken.fingerprint.has_content
    assert "public.bills" in taken.fingerprint.tables


# ---- its rate --------------------------------------------------------------------------------------------------------


def test_a_rate_limit_holds(take: Dump, small: DatabaseSettings) -> None:
    execute(small, "create table filler as select repeat(md5(g::text), 30) as v from generate_series(1, 2000) g")
    start = time.monotonic()
    take(small, rate_limit="1MB", fingerprint="structure")
    assert time.monotonic() - start > 1.5, "2 MB pass at 1 MB a second"
