"""The optimiser against a real server: what it does, what it refuses, and what stands in its way."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from psycopg import sql as pgsql
from sqlalchemy import text

from chanuka_ops import context, errors
from chanuka_ops.config import DatabaseSettings, OptimisationSettings
from chanuka_ops.context import Progress
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.optimisation.model import Applied, Plan
from chanuka_ops.optimisation.service import Optimiser
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.process import started
from chanuka_ops.postgres.server import Server, embedded
from chanuka_ops_tests.plugins.postgres import connect

pytestmark = pytest.mark.postgres

LOCK_TIMEOUT_S = 0.4
EVIL = 'evil"; drop table x; --'
NAMES = [EVIL, "Bills", "two words", "100%", "a:b", "ürün", "it's", "select"]


@dataclass(frozen=True)
class Found:
    check: str
    object: str
    summary: str = "something is wrong"
    value: float | None = 1.0
    status: str = "warning"


@pytest.fixture
def optimiser(manager: ConnectionManager) -> Optimiser:
    return Optimiser(manager, OptimisationSettings(lock_timeout_s=LOCK_TIMEOUT_S))


def run(manager: ConnectionManager, *statements: str) -> None:
    with manager.autocommit() as connection:
        raw = connection.connection.driver_connection
        assert isinstance(raw, psycopg.Connection)
        for statement in statements:
            raw.execute(statement.encode())


def value(manager: ConnectionManager, query: str) -> object:
    with manager.autocommit() as connection:
        return connection.execute(text(query)).scalar_one()


def make_dead(manager: ConnectionManager, table: str, rows: int = 1000) -> None:
    """Make a table whose every row is dead once, and wait until that is counted."""
    run(
        manager,
        f"create table {table} (id int, note text) with (autovacuum_enabled = off)",
        f"insert into {table} select n, repeat('x', 200) from generate_series(1, {rows}) n",
        f"update {table} set id = id",
    )
    literal = pgsql.Literal(table).as_string(None)
    wait_for(manager, f"select pg_stat_get_dead_tuples({literal}::regclass) >= {rows}")


@contextmanager
def session(manager: ConnectionManager, application: str = "somebody") -> Iterator[psycopg.Connection[object]]:
    """Open another session, in a transaction once it does something."""
    with (
        context.scope(operation="test"),
        connect(manager.settings, Profile.MAINTENANCE) as connection,
    ):
        connection.execute(pgsql.SQL("set application_name = {}").format(application))
        connection.commit()
        yield connection
        connection.rollback()


def only(applied: list[Applied]) -> Applied:
    (one,) = applied
    return one


def test_vacuum_removes_the_dead_rows_and_says_so(manager: ConnectionManager, optimiser: Optimiser) -> None:
    make_dead(manager, "bills")
    assert value(manager, "select pg_stat_get_dead_tuples('bills'::regclass)") == 1000
    plan = optimiser.plan([Found("vacuum.dead_tuples", "public.bills"), Found("stats.missing", "public.bills")])
    done = only(optimiser.apply(plan))
    assert (done.outcome, done.dead_tuples_before, done.dead_tuples_after) == ("applied", 1000, 0)
    assert done.seconds > 0
    assert value(manager, "select pg_stat_get_dead_tuples('bills'::regclass)") == 0
    assert value(manager, "select last_analyze is not null from pg_stat_user_tables where relname = 'bills'")


def test_the_gain_is_what_the_disk_got_back(manager: ConnectionManager, optimiser: Optimiser) -> None:
    make_dead(manager, "bills")
    run(manager, "delete from bills")
    before = value(manager, "select pg_total_relation_size('bills')")
    done = only(optimiser.apply(optimiser.plan([Found("vacuum.dead_tuples", "public.bills")])))
    after = value(manager, "select pg_total_relation_size('bills')")
    assert isinstance(before, int)
    assert isinstance(after, int)
    assert done.gained_bytes == before - after
    assert before - after > 100_000


def test_analyze_of_a_table_never_analysed(manager: ConnectionManager, optimiser: Optimiser) -> None:
    run(manager, "create table users as select n as id from generate_series(1, 500) n")
    assert value(manager, "select count(*) from pg_stats where tablename = 'users'") == 0
    done = only(optimiser.apply(optimiser.plan([Found("stats.missing", "public.users")])))
    assert (done.outcome, done.sql) == ("applied", "ANALYZE public.users")
    assert value(manager, "select count(*) from pg_stats where tablename = 'users'") == 1


def test_a_partitioned_table_with_its_partitions(manager: ConnectionManager, optimiser: Optimiser) -> None:
    run(
        manager,
        "create table events (at int) partition by range (at)",
        "create table events_1 partition of events for values from (0) to (1000)",
        "insert into events select n from generate_series(0, 999) n",
        "delete from events where at < 500",
    )
    found = [Found("stats.missing", "public.events"), Found("vacuum.dead_tuples", "public.events_1")]
    applied = optimiser.apply(optimiser.plan(found))
    assert {item.outcome for item in applied} == {"applied"}
    assert value(manager, "select count(*) from pg_stats where tablename = 'events' and inherited") == 1


def test_dry_run_changes_nothing(manager: ConnectionManager, optimiser: Optimiser) -> None:
    make_dead(manager, "bills")
    done = only(optimiser.apply(optimiser.plan([Found("vacuum.dead_tuples", "public.bills")]), dry_run=True))
    assert (done.outcome, done.gained_bytes, done.dead_tuples_before) == ("dry_run", None, 1000)
    assert value(manager, "select pg_stat_get_vacuum_count('bills'::regclass)") == 0


def test_only_the_chosen_advice(manager: ConnectionManager, optimiser: Optimiser) -> None:
    run(manager, "create table a ()", "create table b ()")
    plan = optimiser.plan([Found("stats.missing", "public.a"), Found("stats.missing", "public.b")])
    chosen = plan.advice[1]
    assert only(optimiser.apply(plan, only={chosen.id})).object == chosen.object
    with pytest.raises(errors.ConfigurationError, match="cafe"):
        optimiser.apply(plan, only={"cafe"})


def test_a_locked_table_is_passed_over_naming_who_holds_it(manager: ConnectionManager, optimiser: Optimiser) -> None:
    run(manager, "create table busy ()", "create table idle ()")
    plan = optimiser.plan([Found("stats.missing", "public.busy"), Found("stats.missing", "public.idle")])
    reports: list[Progress] = []
    with session(manager, "the culprit") as holder, context.scope(on_progress=reports.append):
        holder.execute("lock table busy in share mode")
        start = time.monotonic()
        applied = {item.object: item for item in optimiser.apply(plan)}
        seconds = time.monotonic() - start
        pid = holder.info.backend_pid
    assert applied["public.busy"].outcome == "lock_timeout"
    assert f"the culprit (pid {pid}" in (applied["public.busy"].reason or "")
    assert "ShareLock" in (applied["public.busy"].reason or "")
    assert applied["public.idle"].outcome == "applied"
    assert LOCK_TIMEOUT_S <= seconds < LOCK_TIMEOUT_S + 3
    assert [(report.done, report.total, report.unit) for report in reports] == [
        (0, 2, "tables"),
        (1, 2, "tables"),
        (2, 2, "tables"),
    ]


def test_a_table_locked_exclusively_ends_neither_plan_nor_apply(
    manager: ConnectionManager, optimiser: Optimiser
) -> None:
    run(manager, "create table busy ()", "create table idle ()")
    evidence = [Found("stats.missing", "public.busy"), Found("stats.missing", "public.idle")]
    plan = optimiser.plan(evidence)
    with session(manager, "the culprit") as holder:
        holder.execute("lock table busy in access exclusive mode")
        while_locked = optimiser.plan(evidence)
        applied = {item.object: item for item in optimiser.apply(plan)}
    assert [advice.object for advice in while_locked.advice] == ["public.idle"]
    assert "locked exclusively" in while_locked.withheld[0].reason
    assert applied["public.busy"].outcome == "lock_timeout"
    assert "the culprit" in (applied["public.busy"].reason or "")
    assert applied["public.idle"].outcome == "applied"


def test_a_statement_past_its_time_is_ended(manager: ConnectionManager) -> None:
    make_dead(manager, "bills", rows=20_000)
    run(manager, "alter role postgres set vacuum_cost_delay = 50", "alter role postgres set vacuum_cost_limit = 1")
    impatient = Optimiser(manager, OptimisationSettings(lock_timeout_s=LOCK_TIMEOUT_S, statement_timeout_s=0.3))
    try:
        done = only(impatient.apply(impatient.plan([Found("vacuum.dead_tuples", "public.bills")])))
    finally:
        run(manager, "alter role postgres reset all")
    assert done.outcome == "failed"
    assert "statement timeout" in (done.reason or "")


def test_drops_and_rebuilds_wait_for_a_person(manager: ConnectionManager, optimiser: Optimiser) -> None:
    run(
        manager,
        "create table users (id int primary key, email text, name text)",
        "create index users_email_a on users (email)",
        "create index users_email_b on users (email)",
        "create index users_email_name on users (email desc, name)",
    )
    plan = optimiser.plan(
        [
            Found("index.duplicate", "public.users_email_b"),
            Found("index.redundant", "public.users_email_name"),
            Found("index.unused", "public.users_pkey"),
        ]
    )
    assert {advice.sql for advice in plan.advice} == {
        "DROP INDEX CONCURRENTLY public.users_email_b",
        "DROP INDEX CONCURRENTLY public.users_email_name",
    }
    assert plan.advice[0].gain_bytes == 8192
    assert [item.object for item in plan.withheld] == ["public.users_pkey"]
    applied = optimiser.apply(plan)
    assert [item.outcome for item in applied] == ["refused", "refused"]
    assert all("approval" in (item.reason or "") for item in applied)
    assert value(manager, "select count(*) from pg_indexes where tablename = 'users'") == 4


@pytest.mark.parametrize(
    ("first", "second", "twins"),
    [
        ("(email)", "(email)", True),
        ("(lower(email))", "(lower(  email ))", True),
        ("(email) where id > 0", "(email) where (id>0)", True),
        ("(email)", "(email desc)", False),
        ("(email)", "(email text_pattern_ops)", False),
        ('(email collate "C")', '(email collate "POSIX")', False),
        ("(email)", "(email) include (id)", False),
        ("(email)", "(email) where id > 0", False),
        ("(email)", "using hash (email)", False),
    ],
)
def test_which_index_could_do_anothers_work(
    manager: ConnectionManager, optimiser: Optimiser, first: str, second: str, *, twins: bool
) -> None:
    run(
        manager,
        "create table users (id int, email text)",
        f"create index one on users {first}",
        f"create index two on users {second}",
    )
    plan = optimiser.plan([Found("index.duplicate", "public.two")])
    assert bool(plan.advice) == twins


def test_a_unique_index_has_no_plain_twin(manager: ConnectionManager, optimiser: Optimiser) -> None:
    run(
        manager,
        "create table users (email text)",
        "create unique index strict on users (email)",
        "create index plain on users (email)",
    )
    plan = optimiser.plan([Found("index.duplicate", "public.strict"), Found("index.duplicate", "public.plain")])
    assert [advice.object for advice in plan.advice] == ["public.plain"]


def test_an_invalid_index_is_rebuilt_and_is_nobodys_twin(manager: ConnectionManager, optimiser: Optimiser) -> None:
    run(manager, "create table users (email text)", "insert into users values ('a'), ('a')")
    run(manager, "create index plain on users (email)")
    for name in ("strict", "strict_ccnew1"):
        with pytest.raises(errors.DatabaseError, match="could not create unique index"):
            run(manager, f"create unique index concurrently {name} on users (email)")
    found = [Found("index.invalid", "public.strict"), Found("index.invalid", "public.strict_ccnew1")]
    plan = optimiser.plan([*found, Found("index.duplicate", "public.plain"), Found("index.invalid", "public.plain")])
    assert {advice.sql for advice in plan.advice} == {
        "REINDEX INDEX CONCURRENTLY public.strict",
        "DROP INDEX CONCURRENTLY public.strict_ccnew1",
    }
    assert [item.check for item in plan.withheld] == ["index.duplicate", "index.invalid"]


def test_an_index_that_a_foreign_key_refers_to_stays(manager: ConnectionManager, optimiser: Optimiser) -> None:
    run(
        manager,
        "create table users (email text)",
        "create unique index users_email on users (email)",
        "create unique index users_email_2 on users (email)",
        "create table posts (author text references users (email))",
    )
    backing = value(manager, "select conindid::regclass::text from pg_constraint where conname = 'posts_author_fkey'")
    plan = optimiser.plan([Found("index.duplicate", f"public.{backing}")])
    assert plan.advice == ()
    assert "posts_author_fkey" in plan.withheld[0].reason


def test_an_index_being_built_is_left_alone(manager: ConnectionManager, optimiser: Optimiser) -> None:
    run(manager, "create table users (id int)")
    with session(manager) as writer:
        writer.execute("insert into users values (1)")  # the build waits for this transaction
        builder = threading.Thread(target=run, args=(manager, "create index concurrently slow on users (id)"))
        builder.start()
        try:
            wait_for(manager, "select count(*) from pg_stat_progress_create_index")
            plan = optimiser.plan([Found("index.invalid", "public.slow")])
        finally:
            writer.rollback()
            builder.join(10)
    assert plan.advice == ()
    assert "being built" in plan.withheld[0].reason


def test_any_name_is_safe(manager: ConnectionManager, optimiser: Optimiser) -> None:
    run(manager, "create table x ()")
    found = []
    for name in NAMES:
        table, index = pgsql.Identifier("public", name).as_string(None), pgsql.Identifier(f"{name} i").as_string(None)
        make_dead(manager, table, rows=10)
        run(manager, f"create index {index} on {table} ((1))")
        found += [Found("vacuum.dead_tuples", table), Found("index.unused", f"public.{index}")]
    plan = optimiser.plan(found)
    assert plan.withheld == ()
    applied = optimiser.apply(plan)
    done = [item for item in applied if item.outcome == "applied"]
    refused = [item for item in applied if item.outcome == "refused"]
    assert (len(done), len(refused)) == (len(NAMES), len(NAMES))
    assert all((item.dead_tuples_before, item.dead_tuples_after) == (10, 0) for item in done)
    assert all(item.sql.startswith("DROP INDEX CONCURRENTLY public.") for item in refused)
    assert value(manager, "select count(*) from pg_tables where schemaname = 'public'") == len(NAMES) + 1


def test_an_object_that_is_none_is_withheld_and_the_rest_planned(
    manager: ConnectionManager, optimiser: Optimiser
) -> None:
    nothings = ["public.nowhere", "a.b.c.d", "", "public.bills; drop table bills", '"', "nul.l.", "a\0b"]
    run(manager, "create table bills ()")
    plan = optimiser.plan([Found("stats.missing", name) for name in [*nothings, "public.bills"]])
    assert [advice.object for advice in plan.advice] == ["public.bills"]
    assert [item.object for item in plan.withheld] == sorted(nothings)


def test_what_went_since_the_plan_is_gone(manager: ConnectionManager, optimiser: Optimiser) -> None:
    run(manager, "create table a ()", "create table b ()")
    plan = optimiser.plan([Found("stats.missing", "public.a"), Found("stats.missing", "public.b")])
    run(manager, "drop table a", "create index a on b ((1))")
    assert [item.outcome for item in optimiser.apply(plan)] == ["gone", "applied"]


def test_only_the_statement_that_was_planned_is_run(manager: ConnectionManager, optimiser: Optimiser) -> None:
    run(manager, "create table a ()", "create table b ()")
    plan = optimiser.plan([Found("stats.missing", "public.a")])
    forged = Plan("main", (replace(plan.advice[0], sql="DROP TABLE public.b"),))
    done = only(optimiser.apply(forged))
    assert done.outcome == "refused"
    assert value(manager, "select to_regclass('public.b') is not null")


def test_a_plan_of_another_database_is_refused(optimiser: Optimiser) -> None:
    with pytest.raises(errors.RefusedError, match="other"):
        optimiser.apply(Plan("other", ()))


@pytest.mark.parametrize("application", ["pg_dump", "chanuka/backup/0a1b2c3d"])
def test_no_maintenance_beside_a_dump(manager: ConnectionManager, optimiser: Optimiser, application: str) -> None:
    run(manager, "create table bills ()")
    plan = optimiser.plan([Found("stats.missing", "public.bills")])
    with session(manager, application) as dump:
        assert only(optimiser.apply(plan)).outcome == "applied", "an idle session is no dump"
        dump.execute("select 1")
        done = only(optimiser.apply(plan))
        assert (done.outcome, f"pid {dump.info.backend_pid}" in (done.reason or "")) == ("refused", True)


def test_no_maintenance_beside_a_base_backup(
    manager: ConnectionManager, optimiser: Optimiser, server: Server, tmp_path: Path
) -> None:
    run(manager, "create table bills ()")
    plan = optimiser.plan([Found("stats.missing", "public.bills")])
    program = server.bin_dir / "pg_basebackup"
    where = ("-h", server.socket_dir, "-U", server.superuser, "-D", tmp_path / "copy")
    with started([program, *where, "-X", "none", "--checkpoint=fast", "--max-rate=32k", "--no-sync"]):
        wait_for(manager, "select count(*) from pg_stat_progress_basebackup")
        done = only(optimiser.apply(plan))
        run(manager, "select pg_terminate_backend(pid) from pg_stat_replication")  # by itself it ends in ten seconds
    assert (done.outcome, "base backup" in (done.reason or "")) == ("refused", True)
    wait_for(manager, "select count(*) = 0 from pg_stat_progress_basebackup")  # it is the whole server's affair


def test_no_maintenance_beside_a_vacuum_of_that_table(manager: ConnectionManager, optimiser: Optimiser) -> None:
    make_dead(manager, "bills", rows=20_000)
    plan = optimiser.plan([Found("vacuum.dead_tuples", "public.bills")])
    with session(manager, "another vacuum") as other:
        other.autocommit = True
        other.execute("set vacuum_cost_delay = 100; set vacuum_cost_limit = 1")
        worker = threading.Thread(target=_vacuum_until_cancelled, args=(other,))
        worker.start()
        try:
            wait_for(manager, "select count(*) from pg_stat_progress_vacuum")
            done = only(optimiser.apply(plan))
        finally:
            other.cancel_safe()
            worker.join(10)
    assert done.outcome == "refused"
    assert "another vacuum" in (done.reason or "")


def _vacuum_until_cancelled(connection: psycopg.Connection[object]) -> None:
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute("vacuum bills")


def wait_for(manager: ConnectionManager, query: str) -> None:
    deadline = time.monotonic() + 10
    while not value(manager, query):
        assert time.monotonic() < deadline, query
        time.sleep(0.02)


def test_a_role_that_may_not_is_told_instead_of_a_silent_skip(manager: ConnectionManager) -> None:
    role = f"guest_{manager.settings.sqlalchemy_url.database}"
    run(manager, f"create role {role} login", "create table bills ()", f"grant select on bills to {role}")
    url = manager.settings.sqlalchemy_url.set(username=role).render_as_string(hide_password=False)
    settings = DatabaseSettings.model_validate({"url": url})
    try:
        with ConnectionManager("main", settings) as guest:
            optimiser = Optimiser(guest, OptimisationSettings())
            done = only(optimiser.apply(optimiser.plan([Found("stats.missing", "public.bills")])))
    finally:
        run(manager, f"drop owned by {role}", f"drop role {role}")
    assert done.outcome == "refused"
    assert "may not maintain" in (done.reason or "")


def test_no_maintenance_on_a_standby(state_dir: Path, pg: Binaries) -> None:
    found = [Found("stats.missing", "pg_catalog.pg_class")]
    with embedded(state_dir, pg) as primary:
        data = Path(str(_show(primary, "data_directory")))
    (data / "standby.signal").touch()
    with embedded(state_dir, pg) as standby, ConnectionManager("main", standby.settings("postgres")) as manager:
        optimiser = Optimiser(manager, OptimisationSettings())
        done = only(optimiser.apply(optimiser.plan(found)))
    assert done.outcome == "refused"
    assert "standby" in (done.reason or "")


def _show(server: Server, setting: str) -> object:
    with ConnectionManager("main", server.settings("postgres")) as manager:
        return value(manager, f"show {setting}")


def test_a_server_gone_in_the_middle_leaves_an_outcome_for_each(
    manager: ConnectionManager, caplog: pytest.LogCaptureFixture
) -> None:
    run(manager, "create table a ()", "create table b ()")
    plan = Optimiser(manager, OptimisationSettings()).plan(
        [Found("stats.missing", "public.a"), Found("stats.missing", "public.b")]
    )
    nowhere = DatabaseSettings.model_validate({"url": "postgresql://x@127.0.0.1:1/x", "timeouts": {"connect": "2s"}})
    with ConnectionManager("main", nowhere) as gone, caplog.at_level(logging.CRITICAL):
        applied = Optimiser(gone, OptimisationSettings()).apply(plan)
    assert [item.outcome for item in applied] == ["failed", "failed"]
    assert all("not tried" in (item.reason or "") for item in applied)
