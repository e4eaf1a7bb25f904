"""Planted incidents: what is about sessions or the whole server, each with its twin or a look-alike."""

from __future__ import annotations

from chanuka_ops_tests.plugins.planting import ANY, Held, Incident

_ACCOUNTS = ("create table acc(id int primary key, v int)", "insert into acc values (1, 1), (2, 1)")
_BURN = (
    "create table burnt(v int)",
    (
        "do $$ begin for i in 1..110000 loop begin insert into burnt values (i); exception when others then null; end;"
        " end loop; end $$"
    ),
)
_RELOAD = "select pg_reload_conf()"
_NAPTIME = "alter system set autovacuum_naptime = '1min'"  # the server's own hour is a finding
_WAL = "insert into w select repeat(md5(g::text), 30) from generate_series(1, 40000) g"


def _setting(name: str, check: str, setting: str, value: str, status: str) -> Incident:
    """A setting for the whole server, and its default as the twin."""
    return Incident(
        name,
        check,
        setting,
        status,
        plant=(f"alter system set {setting} = {value}", _RELOAD),
        cleanup=(f"alter system reset {setting}", _RELOAD),
        twin=(),
        settles_s=0.2,
    )


SESSIONS = (
    Incident(
        "idle_in_transaction",
        "session.idle_in_transaction",
        ANY,
        plant=_ACCOUNTS,
        sessions=(Held(("begin", "update acc set v = 2 where id = 1")),),
        limits={"session.idle_in_transaction": 0.5},
        twin=(),
    ),
    Incident(
        "aborted_in_transaction",
        "session.idle_in_transaction",
        ANY,
        sessions=(Held(("begin", "select 1 / 0")),),
        limits={"session.idle_in_transaction": 0.5},
    ),
    Incident(
        "trap_idle_without_a_transaction",
        "session.idle_in_transaction",
        None,
        sessions=(Held(("select 1",)),),
        limits={"session.idle_in_transaction": 0.2},
        settles_s=0.4,
    ),
    Incident(
        "long_query",
        "session.long_query",
        ANY,
        sessions=(Held(waits="select pg_sleep(60)"),),
        limits={"session.long_query": 0.5},
        twin=(),
    ),
    Incident(
        "trap_long_dump",
        "session.long_query",
        None,
        sessions=(Held(waits="select pg_sleep(60)", application="pg_dump"),),
        limits={"session.long_query": 0.2},
        settles_s=0.5,
    ),
    Incident(
        "transaction_of_many_statements",
        "txn.long_running",
        ANY,
        plant=_ACCOUNTS,
        sessions=(Held(("begin", "update acc set v = 2 where id = 1"), waits="select pg_sleep(60)"),),
        limits={"txn.long_running": 0.5},
        twin=(),
    ),
    Incident(
        "trap_long_without_a_snapshot",
        "txn.long_running",
        None,
        sessions=(Held(("begin",)),),
        limits={"txn.long_running": 0.2},
        settles_s=0.5,
    ),
    Incident(
        "blocked_chain",
        "lock.blocked",
        ANY,
        plant=_ACCOUNTS,
        twin=_ACCOUNTS,
        sessions=(
            Held(("begin", "update acc set v = 2 where id = 1")),
            Held(waits="update acc set v = 3 where id = 1"),
            Held(waits="update acc set v = 4 where id = 1"),
        ),
    ),
    Incident(
        "blocked_by_a_prepared_transaction",
        "lock.blocked",
        "pid 0",
        plant=(*_ACCOUNTS, "begin", "update acc set v = 2 where id = 1", "prepare transaction 'held_{db}'"),
        sessions=(Held(waits="update acc set v = 3 where id = 1"),),
        cleanup=("rollback prepared 'held_{db}'",),
    ),
    Incident(
        "trap_locks_nobody_waits_for",
        "lock.blocked",
        None,
        plant=_ACCOUNTS,
        sessions=(
            Held(("begin", "update acc set v = 2 where id = 1")),
            Held(("begin", "update acc set v = 2 where id = 2")),
        ),
        settles_s=0.7,
    ),
    Incident(
        "queue_behind_waiting_ddl",
        "lock.ddl_queue",
        "public.acc",
        "critical",
        plant=_ACCOUNTS,
        twin=_ACCOUNTS,
        sessions=(
            Held(("begin", "select * from acc")),
            Held(waits="alter table acc add column w int"),
            Held(waits="select * from acc"),
        ),
    ),
    Incident(
        "queue_behind_ddl_left_open",
        "lock.ddl_queue",
        "public.acc",
        "critical",
        plant=_ACCOUNTS,
        sessions=(Held(("begin", "alter table acc add column w int")), Held(waits="select * from acc")),
    ),
    Incident(
        "trap_ddl_waits_alone",
        "lock.ddl_queue",
        None,
        plant=_ACCOUNTS,
        sessions=(Held(("begin", "select * from acc")), Held(waits="alter table acc add column w int")),
        settles_s=0.8,
    ),
    Incident(
        "trap_row_locks_are_no_ddl",
        "lock.ddl_queue",
        None,
        plant=_ACCOUNTS,
        sessions=(
            Held(("begin", "update acc set v = 2 where id = 1")),
            Held(waits="update acc set v = 3 where id = 1"),
            Held(waits="update acc set v = 4 where id = 1"),
        ),
        settles_s=0.8,
    ),
    Incident(
        "advisory_lock_forgotten",
        "lock.advisory_held_long",
        ANY,
        "info",
        sessions=(Held(("select pg_advisory_lock(7)",)),),
        limits={"lock.advisory_held_long": 0.3},
        twin=(),
    ),
    Incident(
        "many_locks",
        "lock.table_use",
        ANY,
        sessions=(Held(("begin", "select pg_advisory_xact_lock(g) from generate_series(1, 1500) g")),),
        twin=(),
    ),
    Incident(
        "most_slots_taken",
        "connections.saturation",
        ANY,
        sessions=tuple(Held() for _ in range(31)),
        twin=(),
    ),
    Incident(
        "database_at_its_own_limit",
        "connections.saturation",
        "database {db}",
        "critical",
        plant=("alter database {db} connection limit 3",),
        sessions=(Held(), Held()),
    ),
    Incident(
        "prepared_and_forgotten",
        "txn.prepared_orphan",
        "orphan_{db}",
        "critical",
        plant=("create table tt(v int)", "begin", "insert into tt values (1)", "prepare transaction 'orphan_{db}'"),
        cleanup=("rollback prepared 'orphan_{db}'",),
        settles_s=1.1,
        twin=(),
    ),
    Incident(
        "horizon_held_by_a_snapshot",
        "txn.xmin_horizon",
        ANY,
        plant=("create table tt(v int)",),
        sessions=(
            Held(("begin isolation level repeatable read", "select * from tt")),
            Held(tuple("select pg_current_xact_id()" for _ in range(20))),
        ),
        limits={"txn.xmin_horizon": 10},
        twin=(),
    ),
    Incident(
        "trap_index_being_built",
        "index.invalid",
        None,
        plant=_ACCOUNTS,
        sessions=(
            Held(("begin", "update acc set v = 2 where id = 1")),
            Held(waits="create index concurrently acc_v on acc(v)"),
        ),
        settles_s=0.5,
    ),
    Incident(
        "trap_index_being_rebuilt",
        "index.invalid",
        None,
        plant=(*_ACCOUNTS, "create index acc_v on acc(v)"),
        sessions=(
            Held(("begin", "update acc set v = 2 where id = 1")),
            Held(waits="reindex index concurrently acc_v"),
        ),
        settles_s=0.5,
    ),
)

AGES = (
    Incident(
        "freeze_age_past_the_tables_own_limit",
        "vacuum.freeze_age",
        "public.old",
        plant=(
            "create table old(v int) with (autovacuum_freeze_max_age = 100000)",
            "insert into old values (1)",
            *_BURN,
        ),
        twin=("create table old(v int)", "insert into old values (1)", *_BURN),
    ),
    Incident(
        "freeze_age_of_toast",
        "vacuum.freeze_age",
        "public.old",
        plant=("create table old(v text) with (toast.autovacuum_freeze_max_age = 100000)", *_BURN),
    ),
    Incident(
        "multixacts_past_the_tables_own_limit",
        "vacuum.freeze_age",
        "public.old",
        plant=(
            "create table old(id int primary key, v int)",
            "alter table old set (autovacuum_multixact_freeze_max_age = 10000)",
            "insert into old values (1, 1)",
        ),
        sessions=(
            Held(("begin", "select * from old where id = 1 for key share")),
            Held(
                (
                    (
                        "do $$ begin for i in 1..11000 loop perform 1 from old where id = 1 for key share; commit; end"
                        " loop; end $$"
                    ),
                )
            ),
        ),
    ),
    Incident(
        "queue_of_tables_nobody_vacuums",
        "vacuum.stale",
        ANY,
        plant=tuple(
            statement
            for n in range(16)
            for statement in (
                f"create table t{n}(v int)",
                f"insert into t{n} select generate_series(1, 2000)",
                f"analyze t{n}",
                f"update t{n} set v = v + 1",
            )
        ),
        twin=("create table t(v int)", "insert into t select generate_series(1, 2000)", "analyze t", "vacuum t"),
    ),
)

SERVER = (
    Incident(
        "slot_nobody_reads",
        "replication.slot_inactive",
        "slot_{db}",
        "critical",
        plant=("select pg_create_logical_replication_slot('slot_{db}', 'pgoutput')", "create table w(v text)", _WAL),
        cleanup=("select pg_drop_replication_slot(slot_name) from pg_replication_slots",),
        twin=("create table w(v text)", _WAL),
    ),
    Incident(
        "slot_lost",
        "replication.slot_lost",
        "slot_{db}",
        "critical",
        plant=(
            "alter system set max_slot_wal_keep_size = '1MB'",
            _RELOAD,
            "select pg_create_physical_replication_slot('slot_{db}', true)",
            "create table w(v text)",
            _WAL,
            "select pg_switch_wal()",
            "checkpoint",
            _WAL,
            "select pg_switch_wal()",
            "checkpoint",
        ),
        cleanup=(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots",
            "alter system reset max_slot_wal_keep_size",
            _RELOAD,
        ),
        twin=("select pg_create_physical_replication_slot('slot_{db}', true)",),
    ),
    Incident(
        "slot_of_a_standby_that_is_gone",
        "replication.standby_missing",
        "slot_{db}",
        plant=("select pg_create_physical_replication_slot('slot_{db}', true)",),
        cleanup=("select pg_drop_replication_slot(slot_name) from pg_replication_slots",),
        twin=("select pg_create_physical_replication_slot('slot_{db}')",),  # made and never used
    ),
    Incident(
        "subscription_whose_publisher_is_gone",
        "replication.subscription_down",
        "sub",
        "critical",
        plant=(
            (
                "create subscription sub connection 'host=127.0.0.1 port=1 dbname=gone' publication p"
                " with (connect = false, slot_name = 'gone')"
            ),
            "alter subscription sub enable",
        ),
        cleanup=(
            "alter subscription sub disable",
            "alter subscription sub set (slot_name = none)",
            "drop subscription sub",
        ),
        twin=(
            (
                "create subscription sub connection 'host=127.0.0.1 port=1 dbname=gone' publication p"
                " with (connect = false, slot_name = none)"
            ),
        ),
    ),
    Incident(
        "subscription_disabled",
        "replication.subscription_down",
        "sub",
        "info",
        plant=(
            (
                "create subscription sub connection 'host=127.0.0.1 port=1 dbname=gone' publication p"
                " with (connect = false, slot_name = 'gone')"
            ),
        ),
        cleanup=("alter subscription sub set (slot_name = none)", "drop subscription sub"),
    ),
    Incident(
        "archiver_fails",
        "archive.failing",
        ANY,
        "critical",
        plant=(
            "alter system set archive_command = 'false'",
            _RELOAD,
            "create table ar(v int)",
            "insert into ar values (1)",
            "select pg_switch_wal()",
        ),
        cleanup=("alter system reset archive_command", _RELOAD, "select pg_switch_wal()"),
        twin=("create table ar(v int)", "insert into ar values (1)", "select pg_switch_wal()"),
        twin_clears=True,
    ),
    Incident(
        "too_much_wal",
        "wal.directory_size",
        ANY,
        plant=(
            "alter system set max_wal_size = '32MB'",
            "alter system set min_wal_size = '32MB'",
            _RELOAD,
            "select pg_create_physical_replication_slot('slot_{db}', true)",
            "create table w(v text)",
            _WAL,
            _WAL,
            "select pg_switch_wal()",
            "checkpoint",
        ),
        cleanup=(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots",
            "alter system reset max_wal_size",
            "alter system reset min_wal_size",
            _RELOAD,
        ),
        twin=("checkpoint",),
        twin_clears=True,
    ),
    _setting("autovacuum_off", "settings.autovacuum_off", "autovacuum", "off", "critical"),
    _setting("track_counts_off", "settings.track_counts_off", "track_counts", "off", "critical"),
    _setting("fsync_off", "settings.unsafe_durability", "fsync", "off", "critical"),
    _setting("full_page_writes_off", "settings.unsafe_durability", "full_page_writes", "off", "critical"),
    _setting("commit_asynchronous", "settings.unsafe_durability", "synchronous_commit", "off", "warning"),
    _setting("waits_for_a_restart", "settings.pending_restart", "max_connections", "77", "info"),
    _setting(
        "autovacuum_without_a_throttle",
        "settings.autovacuum_unthrottled",
        "autovacuum_vacuum_cost_delay",
        "0",
        "warning",
    ),
    Incident(
        "track_counts_off_for_the_database",
        "settings.track_counts_off",
        "track_counts",
        "critical",
        plant=("alter database {db} set track_counts = off",),
    ),
    Incident(
        "planner_switch_left_off",
        "settings.sanity",
        "enable_seqscan",
        "info",
        plant=(_NAPTIME, "alter system set enable_seqscan = off", _RELOAD),
        cleanup=("alter system reset enable_seqscan", "alter system reset autovacuum_naptime", _RELOAD),
        twin=(_NAPTIME, _RELOAD),
        settles_s=0.3,
    ),
    Incident(
        "line_that_is_wrong",
        "settings.config_error",
        "no_such_setting",
        lines={"postgresql.conf": "no_such_setting = 1"},
        twin=(),
    ),
    Incident(
        "rule_of_hba_that_is_wrong",
        "settings.config_error",
        ANY,
        lines={"pg_hba.conf": "local all all no_such_method"},
    ),
    Incident(
        "trap_line_that_waits_for_a_restart",
        "settings.config_error",
        None,
        plant=("alter system set max_connections = 78", _RELOAD),
        cleanup=("alter system reset max_connections", _RELOAD),
        settles_s=0.3,
    ),
    Incident(
        "anybody_from_the_network",
        "security.trust_auth",
        ANY,
        lines={"pg_hba.conf": "host all all 10.0.0.0/8 trust"},
        twin=(),
    ),
    Incident(
        "second_superuser",
        "security.superusers",
        "root_{db}",
        plant=("create role root_{db} login superuser",),
        cleanup=("drop role if exists root_{db}",),
        twin=("create role root_{db} login createdb createrole",),
    ),
    Incident(
        "member_of_a_superuser",
        "security.superusers",
        "near_{db}",
        plant=("create role near_{db} login", "grant postgres to near_{db}"),
        cleanup=("drop role near_{db}",),
    ),
    Incident(
        "trap_superuser_that_cannot_log_in",
        "security.superusers",
        None,
        plant=("create role owner_{db} superuser nologin",),
        cleanup=("drop role owner_{db}",),
    ),
    Incident(
        "password_as_md5",
        "security.md5_password",
        "old_{db}",
        plant=("create role old_{db} login password 'md50123456789abcdef0123456789abcdef'",),
        cleanup=("drop role if exists old_{db}",),
        twin=("create role old_{db} login password 'secret'",),
    ),
    Incident(
        "password_ends_soon",
        "security.password_expiring",
        "old_{db}",
        plant=(
            (
                "do $$ begin execute format('create role old_{db} login password ''x'' valid until %L',"
                " now() + interval '5 days'); end $$"
            ),
        ),
        cleanup=("drop role if exists old_{db}",),
        twin=("create role old_{db} login password 'x' valid until 'infinity'",),
    ),
    Incident(
        "everybody_creates_in_public",
        "security.public_create",
        "schema public",
        plant=("grant create on schema public to public",),
        twin=("revoke create on schema public from public",),
        oldest=15,
    ),
    Incident(
        "event_trigger_disabled",
        "schema.trigger_disabled",
        "watch",
        plant=(
            "create function f() returns event_trigger language plpgsql as 'begin end'",
            "create event trigger watch on ddl_command_end execute function f()",
            "alter event trigger watch disable",
        ),
        twin=(
            "create function f() returns event_trigger language plpgsql as 'begin end'",
            "create event trigger watch on ddl_command_end execute function f()",
        ),
    ),
    Incident(
        "large_object_nobody_names",
        "storage.orphan_large_objects",
        "pg_largeobject",
        "info",
        plant=("select lo_from_bytea(0, 'x')", "create table t(v text)"),
        twin=("create table t(v oid)", "insert into t select lo_from_bytea(0, 'x')"),
    ),
    Incident(
        "large_object_of_a_deleted_row",
        "storage.orphan_large_objects",
        "pg_largeobject",
        "info",
        plant=(
            "create domain lo as oid",
            "create table t(v lo)",
            "insert into t select lo_from_bytea(0, 'x') from generate_series(1, 3)",
            "delete from t where ctid = '(0,1)'",
        ),
    ),
    Incident(
        "extension_of_an_older_version",
        "extension.outdated",
        "pg_trgm",
        "info",
        plant=("create extension pg_trgm version '1.3'",),
        twin=("create extension pg_trgm",),
    ),
)

_LONG_ROWS = (
    "create extension pgstattuple",
    "create table t(id int, v text)",
    "insert into t select g, repeat('x', 300) from generate_series(1, 40000) g",
    "create index t_v on t(v, id)",
)
# who believes them finds most of the table and its index empty
_LYING = "update pg_statistic set stawidth = 20 where starelid = 't'::regclass and stawidth > 20"

CONFIRMED = (
    Incident(
        "air_that_pgstattuple_confirms",
        "table.bloat",
        "public.t",
        plant=(*_LONG_ROWS, "select pg_sleep(1.1)", "delete from t where id % 5 <> 0", "vacuum (analyze) t"),
        twin=(*_LONG_ROWS, "vacuum (analyze) t"),
    ),
    Incident("trap_air_by_statistics_that_lie", "table.bloat", None, plant=(*_LONG_ROWS, "vacuum (analyze) t", _LYING)),
    Incident(
        "index_air_that_pgstattuple_confirms",
        "index.bloat",
        "public.t_v",
        plant=(*_LONG_ROWS, "select pg_sleep(1.1)", "delete from t where id % 5 <> 0", "vacuum (analyze) t"),
        twin=(*_LONG_ROWS, "vacuum (analyze) t"),
    ),
    Incident(
        "trap_index_air_by_statistics_that_lie", "index.bloat", None, plant=(*_LONG_ROWS, "vacuum (analyze) t", _LYING)
    ),
    Incident(
        "air_by_statistics_that_lie_where_nobody_counts",
        "table.bloat",
        "public.t",
        plant=(*_LONG_ROWS, "drop extension pgstattuple", "vacuum (analyze) t", _LYING),
    ),
)

INCIDENTS = (*SESSIONS, *AGES, *CONFIRMED, *SERVER)
