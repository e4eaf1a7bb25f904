"""What goes wrong around a backup: one clear error, in bounded time, and nothing new listed."""

from __future__ import annotations

import os
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from chanuka_ops import context, errors
from chanuka_ops.backup.answers import Created
from chanuka_ops.backup.model import Fingerprint
from chanuka_ops.backup.service import BackupService
from chanuka_ops.backup.taking import fingerprint
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.engines import translated
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.process import wait_until
from chanuka_ops.postgres.server import scratch
from chanuka_ops_tests.plugins.backup import Serve, as_role, execute, local, scalars
from chanuka_ops_tests.plugins.disks import PAGE, leave, mounted, needs_root
from chanuka_ops_tests.plugins.processes import Cli, url_of

pytestmark = pytest.mark.postgres


def create(service: BackupService, database: DatabaseSettings, name: str = "main") -> Created:
    with ConnectionManager(name, database) as manager, context.scope(operation="backup"):
        return service.create(manager)


def assert_nothing_left(service: BackupService) -> None:
    assert service.catalogue() == []
    assert list(local(service).root.glob(".partial/*")) == []


@pytest.mark.slow
@pytest.mark.root
@needs_root
def test_a_full_disk(service: BackupService, large: DatabaseSettings) -> None:
    with mounted(local(service).root, "size=4m"):
        with pytest.raises(errors.ToolFailed, match="No space left on device"):
            create(service, large)
        assert_nothing_left(service)


@pytest.mark.root
@needs_root
def test_a_disk_that_is_full_when_the_manifest_is_written(service: BackupService, small: DatabaseSettings) -> None:
    directory = local(service).directory(create(service, small).backup_id)
    files = [path for path in directory.rglob("*") if path.is_file() and path.parent != directory]
    needed = sum(-(-path.stat().st_size // PAGE) for path in files)  # and not one for the manifest
    with mounted(local(service).root, "size=4m"):
        ballast = leave(local(service).root, needed)
        with pytest.raises(errors.StoreError, match="No space left"):
            create(service, small)
        ballast.unlink()
        assert_nothing_left(service)


@pytest.mark.root
@needs_root
def test_a_store_that_is_read_only(service: BackupService, small: DatabaseSettings) -> None:
    with (
        mounted(local(service).root, "ro"),
        pytest.raises(errors.StoreError, match=r"can't be written: .*: Read-only file system"),
    ):
        create(service, small)


@pytest.mark.slow
def test_a_file_where_the_store_should_be(service: BackupService, small: DatabaseSettings, cli: Cli) -> None:
    local(service).root.write_bytes(b"")
    with pytest.raises(errors.StoreError, match="can't be written"):
        create(service, small)
    for database in (None, "main"):
        with pytest.raises(errors.StoreError, match="can't be read"):
            service.catalogue(database)
    ran = cli("--json", "backup", "create", env={"DATABASE_URL": url_of(small)})
    assert ran.status == 1
    assert str(local(service).root) in ran.json["error"]["message"]


def test_a_table_that_the_role_cannot_read(service: BackupService, small: DatabaseSettings) -> None:
    role = f"limited_{uuid.uuid4().hex[:8]}"
    execute(small, f"create role {role} login", f"grant select on bills, numbers to {role}")
    try:
        with pytest.raises(errors.ChanukaError, match="votes") as failure:
            create(service, as_role(small, role))
        assert failure.value.exit_code == 1
        assert_nothing_left(service)
        execute(small, f"grant select on votes to {role}", f"revoke select on numbers from {role}")
        with pytest.raises(errors.ChanukaError, match="numbers"):
            create(service, as_role(small, role))
        execute(small, f"grant pg_read_all_data to {role}", f"revoke select on all tables in schema public from {role}")
        with pytest.raises(errors.ChanukaError, match="large object"):
            create(service, as_role(small, role))
        execute(small, "select lo_unlink(4711)")
        assert create(service, as_role(small, role)).tables == 2
    finally:
        execute(small, f"drop owned by {role}", f"drop role {role}")


def test_rows_hidden_by_row_security_are_not_backed_up_in_silence(
    service: BackupService, small: DatabaseSettings
) -> None:
    role = f"limited_{uuid.uuid4().hex[:8]}"
    execute(
        small,
        "select lo_unlink(4711)",
        f"create role {role} login in role pg_read_all_data",
        "alter table votes enable row level security",
        "create policy few on votes using (bill < 10)",
    )
    try:
        with pytest.raises(errors.ChanukaError, match="votes"):
            create(service, as_role(small, role))
        assert_nothing_left(service)
    finally:
        execute(small, f"drop role {role}")


def test_a_fingerprint_never_counts_only_the_rows_a_policy_shows(small: DatabaseSettings) -> None:
    """pg_dump refuses by itself; the fingerprint must too, or the two would not have seen the same."""
    role = f"limited_{uuid.uuid4().hex[:8]}"
    execute(
        small,
        f"create role {role} login",
        f"grant select on all tables in schema public to {role}",
        "alter table votes enable row level security",
        "create policy few on votes using (bill < 10)",
    )
    try:
        with ConnectionManager("main", as_role(small, role)) as manager, manager.read() as connection:
            fingerprint.fix_settings(connection, deadline_s=60)
            with pytest.raises(errors.PermissionDenied, match=r"public\.votes can't be read .*row-level security"):
                fingerprint.take(connection, label="test")
    finally:
        execute(small, f"drop owned by {role}", f"drop role {role}")


def test_no_statement_of_a_fingerprint_outlives_the_deadline(small: DatabaseSettings) -> None:
    with ConnectionManager("main", small) as manager, manager.transaction(profile=Profile.MAINTENANCE) as connection:
        fingerprint.fix_settings(connection, deadline_s=0.2)
        with pytest.raises(errors.StatementTimeout), translated(), connection.begin_nested():
            connection.exec_driver_sql("select pg_sleep(60)")


@pytest.mark.slow
def test_the_server_stops_meanwhile(serve: Serve, pg: Binaries, state_dir: Path) -> None:
    service = serve()
    with scratch(state_dir, pg, superuser="postgres") as server:
        database = server.settings("postgres")
        execute(
            database,
            *(
                f"create table t{n} as select g as id, md5(g::text) as v from generate_series(1, 300000) g"
                for n in (1, 2)
            ),
        )
        failures: list[BaseException] = []

        def backup() -> None:
            try:
                create(service, database)
            except errors.ChanukaError as failure:
                failures.append(failure)

        backing = threading.Thread(target=backup)
        backing.start()
        assert wait_until(lambda: bool(list(local(service).root.glob(".partial/*/dump/*.dat.gz"))), timeout_s=20)
        os.kill(server.pid, 3)  # at once, as a crash would
        backing.join(timeout=30)
    assert isinstance(failures[0], errors.ToolFailed | errors.ConnectionLost)
    assert_nothing_left(service)


def test_a_deadline_ends_a_backup(serve: Serve, large: DatabaseSettings) -> None:
    service = serve(deadline_s=0.2)
    start = time.monotonic()
    with pytest.raises((errors.ToolFailed, errors.StatementTimeout)):
        create(service, large)
    assert time.monotonic() - start < 20
    assert_nothing_left(service)


def test_tools_older_than_the_server(serve: Serve, pg: Binaries, pg_15: Binaries, small: DatabaseSettings) -> None:
    if pg.major == 15:
        pytest.skip("the server under test is not newer than 15")
    service = serve(bin_dir=pg_15.bin_dir)
    with pytest.raises(errors.ToolTooOld, match=rf"server is PostgreSQL {pg.major}, .* older \(15\."):
        create(service, small)
    assert not local(service).root.exists()


LIMIT_S = 0.2
# by the server's clock, whatever the machine's speed
_OUTLASTED = f"clock_timestamp() - state_change > interval '{3 * LIMIT_S} s'"
_WAITS_FOR_A_LOCK = f"wait_event_type = 'Lock' and {_OUTLASTED}"
_IDLES = f"(state = 'idle in transaction' or state = 'idle' and query like '%pg_try_advisory_lock%') and {_OUTLASTED}"


def outlasted(database: DatabaseSettings, what: str) -> bool:
    """Whether two of the database's sessions have been at that for longer than they may."""
    query = f"select count(*) from pg_stat_activity where datname = current_database() and {what}"
    return scalars(database, query) == [2]


def test_no_session_setting_of_the_role_ends_a_backup(
    service: BackupService, small: DatabaseSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session holds the lock, one the snapshot; both idle, and statements wait: limits to that must not end them."""
    name = small.sqlalchemy_url.database
    limits = ["idle_session_timeout", "idle_in_transaction_session_timeout", "statement_timeout"]
    limits += map(str, scalars(small, "select name from pg_settings where name = 'transaction_timeout'"))
    held: list[bool] = []
    real = fingerprint.with_sequences

    def after_a_while(*args: Any) -> Fingerprint:
        """The last that is done in the snapshot's transaction."""
        held.append(wait_until(lambda: outlasted(small, _IDLES), timeout_s=20))
        return real(*args)

    monkeypatch.setattr(fingerprint, "with_sequences", after_a_while)
    with ThreadPoolExecutor() as pool, ConnectionManager("holder", small) as holder:
        with holder.transaction() as connection:
            connection.exec_driver_sql("lock table votes in access exclusive mode")
            for limit in limits:
                execute(small, f"alter database {name} set {limit} to '{LIMIT_S * 1000:.0f}ms'")
            backup = pool.submit(create, service, small, "main")
            # pg_dump and the fingerprint
            assert wait_until(lambda: backup.done() or outlasted(small, _WAITS_FOR_A_LOCK), timeout_s=20)
        assert backup.result(timeout=60).tables > 0
    assert held == [True]


@pytest.mark.parametrize("name", ["../outside", ".hidden", "a/b"])
def test_a_database_name_that_would_leave_the_store(service: BackupService, small: DatabaseSettings, name: str) -> None:
    with pytest.raises(errors.ConfigurationError, match="directory of the store"):
        create(service, small, name)
    assert not local(service).root.exists()
