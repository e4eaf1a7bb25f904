"""Others at work on the same database or store: a backup waits in bounds, refuses, or goes on beside them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from chanuka_ops import context, errors
from chanuka_ops.backup.answers import Created
from chanuka_ops.backup.service import BackupService
from chanuka_ops.config import DatabaseSettings, TimeoutSettings
from chanuka_ops.db.lock import operation_lock
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.postgres.process import wait_until
from chanuka_ops_tests.plugins.backup import execute, local, scalars
from chanuka_ops_tests.plugins.processes import Cli, url_of

pytestmark = pytest.mark.postgres


def create(service: BackupService, database: DatabaseSettings, name: str = "main") -> Created:
    with ConnectionManager(name, database) as manager, context.scope(operation="backup"):
        return service.create(manager)


def assert_nothing_left(service: BackupService) -> None:
    assert service.catalogue() == []
    assert list(local(service).root.glob(".partial/*")) == []


@contextmanager
def locked(database: DatabaseSettings, table: str) -> Iterator[None]:
    with ConnectionManager("locker", database) as manager, manager.transaction() as connection:
        connection.exec_driver_sql(f"lock table {table} in access exclusive mode")
        yield


def test_a_table_that_is_locked(service: BackupService, small: DatabaseSettings) -> None:
    impatient = small.model_copy(update={"timeouts": TimeoutSettings(lock_s=0.5)})
    with locked(small, "votes"):
        start = time.monotonic()
        with pytest.raises(errors.ChanukaError, match="lock timeout") as failure:
            create(service, impatient)
        assert "votes" in str(failure.value)
        assert time.monotonic() - start < 10
        assert_nothing_left(service)
    assert create(service, impatient).tables == 2


def test_a_table_that_is_dropped_meanwhile(service: BackupService, large: DatabaseSettings) -> None:
    """It waits for the dump, for as long as its own lock timeout lets it: the backup is whole."""
    execute(large, "create table if not exists passing as select 1 as id")
    backing = threading.Thread(target=create, args=(service, large))
    backing.start()
    assert wait_until(lambda: bool(list(local(service).root.glob(".partial/*/dump/*.dat.gz"))), timeout_s=20)
    with (
        ConnectionManager("main", large) as manager,
        pytest.raises(errors.LockTimeout),
        manager.transaction(lock_timeout_s=0.05) as connection,
    ):
        connection.exec_driver_sql("drop table passing")
    backing.join()
    execute(large, "drop table passing")
    assert service.verify(service.newest("main")).problems == ()


@pytest.mark.slow
def test_two_backups_of_one_database(service: BackupService, small: DatabaseSettings, cli: Cli) -> None:
    with (
        ConnectionManager("main", small) as holder,
        context.scope(operation="backup", run_id="0123456789abcdef"),
        operation_lock(holder),
    ):
        with pytest.raises(errors.LockHeld, match=r"chanuka/backup/01234567 \(pid \d+, role postgres, from local"):
            create(service, small)
        ran = cli("--json", "backup", "create", env={"DATABASE_URL": url_of(small)})
    assert ran.status == 3
    assert "chanuka/backup/01234567" in ran.json["error"]["message"]
    assert_nothing_left(service)
    create(service, small)


def test_two_backups_that_really_run_at_once(service: BackupService, large: DatabaseSettings) -> None:
    backing = threading.Thread(target=create, args=(service, large))
    backing.start()
    assert wait_until(lambda: bool(list(local(service).root.glob(".partial/*/dump/*.dat.gz"))), timeout_s=20)
    with pytest.raises(errors.LockHeld, match="another operation is under way: chanuka/backup/"):
        create(service, large)
    backing.join()
    assert len(service.catalogue("main")) == 1


@pytest.mark.slow
def test_backups_of_two_databases_in_one_store(
    service: BackupService, large: DatabaseSettings, small: DatabaseSettings
) -> None:
    backing = threading.Thread(target=create, args=(service, large, "first"))
    backing.start()
    for _ in range(3):
        create(service, small, "second")
    backing.join()
    assert {(backup.database, backup.problem) for backup in service.catalogue()} == {("first", None), ("second", None)}
    assert len(service.catalogue("second")) == 3
    assert all(service.verify(backup.backup_id).problems == () for backup in service.catalogue())


def test_a_lost_operation_lock_lists_nothing(service: BackupService, large: DatabaseSettings) -> None:
    """Another operation may have run beside this one: what was dumped doesn't count."""
    failures: list[BaseException] = []

    def backup() -> None:
        try:
            create(service, large)
        except errors.ChanukaError as failure:
            failures.append(failure)

    backing = threading.Thread(target=backup)
    backing.start()
    assert wait_until(lambda: bool(list(local(service).root.glob(".partial/*/dump/*.dat.gz"))), timeout_s=20)
    scalars(
        large,
        "select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'"
        " and database = (select oid from pg_database where datname = current_database())",
    )
    backing.join()
    assert isinstance(failures[0], errors.ConnectionLost)
    assert_nothing_left(service)
