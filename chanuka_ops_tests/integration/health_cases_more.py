"""More planted cases: the variants that tools miss, and the look-alikes that they raise. In health_cases.py's form."""

from __future__ import annotations

from chanuka_ops_tests.integration.health_cases import FLUSH, Planted

_FILL_100K = "insert into t select g, md5(g::text) from generate_series(1, 100000) g"
_TABLE = "create table t(id bigint primary key, v text)"
_PARENT = "create table p(id bigint primary key)"
_BY_TIME = "create table m(id bigint, at timestamptz not null, primary key (id, at)) partition by range (at)"
_F = "create function f() returns trigger language plpgsql as 'begin return new; end'"


def _part(name: str, begins: str, ends: str, *, of: str = "m") -> str:
    """A partition whose bounds are reckoned from now, as a nightly job would write them."""
    return (
        f"do $$ begin execute format('create table {name} partition of {of} for values from (%L) to (%L)',"
        f" {begins}, {ends}); end $$"
    )


_MONTH = "date_trunc('month', now())"
_DAY = "date_trunc('day', now())"

INDEXES = (
    Planted(
        "invalid_after_a_failed_rebuild",
        "index.invalid",
        "{s}.t_v_ccnew",
        (
            "create table t(v int)",
            "insert into t values (1), (1)",
            "create unique index concurrently t_v_ccnew on t(v)",
        ),
        fails=frozenset({"create unique index concurrently t_v_ccnew on t(v)"}),
    ),
    Planted(
        "invalid_on_a_partition",
        "index.invalid",
        "{s}.m1_v",
        (
            "create table m(v int) partition by range (v)",
            "create table m1 partition of m for values from (0) to (9)",
            "insert into m values (1), (1)",
            "create unique index concurrently m1_v on m1(v)",
        ),
        fails=frozenset({"create unique index concurrently m1_v on m1(v)"}),
    ),
    Planted(
        "duplicate_of_a_unique_constraint",
        "index.duplicate",
        "{s}.t_extra",
        ("create table t(a int, constraint t_a unique (a))", "create unique index t_extra on t(a)"),
        twin=("create table t(a int, constraint t_a unique (a))", "create unique index t_extra on t(a) where a > 0"),
    ),
    Planted(
        "duplicate_plain_beside_the_primary_key",
        "index.duplicate",
        "{s}.t_id",
        (_TABLE, "create index t_id on t(id)"),
    ),
    Planted(
        "duplicate_of_an_expression",
        "index.duplicate",
        "{s}.t_b",
        (_TABLE, "create index t_a on t(lower(v))", "create index t_b on t(lower(v))"),
    ),
    Planted(
        "duplicate_with_a_predicate",
        "index.duplicate",
        "{s}.t_b",
        (_TABLE, "create index t_a on t(v) where id > 5", "create index t_b on t(v) where id > 5"),
    ),
    Planted(
        "duplicate_gin",
        "index.duplicate",
        "{s}.t_b",
        ("create table t(j jsonb)", "create index t_a on t using gin (j)", "create index t_b on t using gin (j)"),
    ),
    Planted(
        "duplicate_of_two_unique_constraints",
        "index.duplicate",
        "{s}.t_two",
        (
            "create table t(a int)",
            "alter table t add constraint t_one unique (a)",
            "alter table t add constraint t_two unique (a)",
        ),
    ),
    Planted(
        "trap_duplicate_unique_stays",
        "index.duplicate",
        None,
        ("create table t(a int, b int)", "create unique index on t(a)", "create index on t(a, b)"),
    ),
    Planted(
        "redundant_to_the_primary_key",
        "index.redundant",
        "{s}.t_a",
        ("create table t(a int, b int, primary key (a, b))", "create index t_a on t(a)"),
        status="info",
    ),
    Planted(
        "redundant_of_three_columns",
        "index.redundant",
        "{s}.t_ab",
        ("create table t(a int, b int, c int)", "create index t_ab on t(a, b)", "create index t_abc on t(a, b, c)"),
        status="info",
    ),
    Planted(
        "trap_redundant_method",
        "index.redundant",
        None,
        ("create table t(a int, b int)", "create index on t using hash (a)", "create index on t(a, b)"),
    ),
    Planted(
        "trap_redundant_opclass",
        "index.redundant",
        None,
        ("create table t(a text, b int)", "create index on t(a text_pattern_ops)", "create index on t(a, b)"),
    ),
    Planted(
        "trap_redundant_include_that_the_wider_lacks",
        "index.redundant",
        None,
        ("create table t(a int, b int, c int)", "create index on t(a) include (c)", "create index on t(a, b)"),
    ),
    Planted(
        "trap_redundant_constraint",
        "index.redundant",
        None,
        ("create table t(a int primary key, b int)", "create index on t(a, b)"),
    ),
    Planted(
        "trap_mostly_null_partial",
        "index.mostly_null",
        None,
        (
            "create table t(id int, v int)",
            "insert into t select g, case when g % 20 = 0 then g end from generate_series(1, 20000) g",
            "create index on t(v) where v is not null",
            "analyze t",
        ),
    ),
    Planted(
        "trap_unused_constraint",
        "index.unused",
        None,
        (
            "create table t(v text primary key, w text unique)",
            "insert into t select repeat(md5(g::text), 8), repeat(md5((-g)::text), 8) from generate_series(1, 30000) g",
        ),
    ),
)

SCHEMA = (
    Planted(
        "fk_only_an_invalid_index",
        "schema.fk_unindexed",
        "{s}.c(p_id)",
        (
            _PARENT,
            "create table c(id int primary key, p_id bigint references p)",
            "insert into p values (1)",
            "insert into c values (1, 1), (2, 1)",
            "create unique index concurrently c_p on c(p_id)",
        ),
        status="info",
        fails=frozenset({"create unique index concurrently c_p on c(p_id)"}),
    ),
    Planted(
        "fk_only_a_partial_index",
        "schema.fk_unindexed",
        "{s}.c(p_id)",
        (
            _PARENT,
            "create table c(id int primary key, p_id bigint references p, done boolean)",
            "create index on c(p_id) where not done",
        ),
        status="info",
    ),
    Planted(
        "fk_only_a_second_column",
        "schema.fk_unindexed",
        "{s}.c(p_id)",
        (
            _PARENT,
            "create table c(id int primary key, p_id bigint references p)",
            "create index on c(id, p_id)",
        ),
        status="info",
    ),
    Planted(
        "fk_only_half_of_it",
        "schema.fk_unindexed",
        "{s}.c(a, b)",
        (
            "create table p(a int, b int, primary key (a, b))",
            "create table c(a int, b int, foreign key (a, b) references p)",
            "create index on c(a)",
        ),
        status="info",
    ),
    Planted(
        "fk_to_itself",
        "schema.fk_unindexed",
        "{s}.tree(parent_id)",
        ("create table tree(id bigint primary key, parent_id bigint references tree)",),
        status="info",
    ),
    Planted(
        "fk_names_need_quotes",
        "schema.fk_unindexed",
        '{s}."Order"("customerId")',
        (_PARENT, 'create table "Order"(id int primary key, "customerId" bigint references p)'),
        status="info",
    ),
    *(
        Planted(
            f"trap_fk_served_by_{name}",
            "schema.fk_unindexed",
            None,
            (_PARENT, f"create table c(id int, p_id bigint references p, x int{key})", *index),
        )
        for name, key, index in (
            ("the_primary_key", ", primary key (p_id, id)", ()),
            ("a_hash", "", ("create index on c using hash (p_id)",)),
            ("a_longer_one", "", ("create index on c(p_id desc, x)",)),
            ("not_null", "", ("create index on c(p_id) where p_id is not null",)),
            ("a_covering_one", "", ("create index on c(p_id) include (x)",)),
        )
    ),
    Planted(
        "trap_fk_of_partitions_served",
        "schema.fk_unindexed",
        None,
        (
            _PARENT,
            "create table m(p_id bigint references p, at date) partition by range (at)",
            "create table m1 partition of m for values from ('2026-01-01') to ('2026-02-01')",
            "create index on m(p_id)",
        ),
    ),
    Planted(
        "fk_type_without_time_zone",
        "schema.fk_type_mismatch",
        "{s}.c(at)",
        ("create table p(at timestamptz primary key)", "create table c(at timestamp references p)"),
    ),
    Planted(
        "fk_type_smallint_of_two_columns",
        "schema.fk_type_mismatch",
        "{s}.c(a, b)",
        (
            "create table p(a bigint, b int, primary key (a, b))",
            "create table c(a bigint, b smallint, foreign key (a, b) references p)",
        ),
    ),
    Planted(
        "trap_fk_type_domain",
        "schema.fk_type_mismatch",
        None,
        (
            "create domain key as bigint",
            "create table p(id key primary key)",
            "create table c(p_id bigint references p)",
        ),
    ),
    Planted(
        "fk_twice",
        "schema.fk_duplicate",
        "{s}.c.again",
        (
            _PARENT,
            "create table c(p_id bigint constraint a_first references p)",
            "alter table c add constraint again foreign key (p_id) references p on delete cascade",
        ),
        status="info",
        twin=(
            _PARENT,
            "create table c(p_id bigint references p, q_id bigint references p)",
        ),
    ),
    Planted(
        "foreign_key_not_valid",
        "schema.constraint_not_valid",
        "{s}.c.to_p",
        (
            _PARENT,
            "create table c(p_id bigint)",
            "alter table c add constraint to_p foreign key (p_id) references p not valid",
        ),
        status="info",
    ),
    Planted(
        "domain_constraint_not_valid",
        "schema.constraint_not_valid",
        "{s}.short.to_ten",
        (
            "create domain short as text",
            "alter domain short add constraint to_ten check (length(value) < 11) not valid",
        ),
        status="info",
        twin=("create domain short as text", "alter domain short add constraint to_ten check (length(value) < 11)"),
    ),
    Planted(
        "no_primary_key_but_unique",
        "schema.no_primary_key",
        "{s}.t",
        ("create table t(v int not null unique)",),
        status="info",
    ),
    Planted(
        "trap_no_primary_key_of_a_foreign_kind",
        "schema.no_primary_key",
        None,
        (
            "create view v as select 1 as one",
            "create materialized view mv as select 1 as one",
            "create type ty as (a int)",
        ),
    ),
    Planted(
        "trap_trigger_of_replicas_only",
        "schema.trigger_disabled",
        None,
        (
            "create table t(v int)",
            _F,
            "create trigger audit before insert on t for each row execute function f()",
            "alter table t enable replica trigger audit",
        ),
    ),
    Planted(
        "trigger_of_a_partitioned_table_disabled",
        "schema.trigger_disabled",
        "{s}.m.audit",
        (
            "create table m(v int) partition by range (v)",
            "create table m1 partition of m for values from (0) to (9)",
            _F,
            "create trigger audit after insert on m for each row execute function f()",
            "alter table m disable trigger audit",
        ),
    ),
    Planted(
        "trap_matview_refreshed",
        "schema.matview_unpopulated",
        None,
        ("create materialized view mv as select 1 as one with no data", "refresh materialized view mv"),
    ),
)

PARTITIONS = (
    Planted(
        "no_partition_of_this_month",
        "partition.missing_future",
        "{s}.m",
        (
            _BY_TIME,
            _part("m1", f"{_MONTH} - interval '2 months'", f"{_MONTH} - interval '1 month'"),
            _part("m2", f"{_MONTH} - interval '1 month'", _MONTH),
        ),
        twin=(
            _BY_TIME,
            _part("m1", f"{_MONTH} - interval '1 month'", _MONTH),
            _part("m2", _MONTH, f"{_MONTH} + interval '1 month'"),
            _part("m3", f"{_MONTH} + interval '1 month'", f"{_MONTH} + interval '2 months'"),
        ),
    ),
    Planted(
        "no_partition_of_tomorrow",
        "partition.missing_future",
        "{s}.m",
        (
            "create table m(d date) partition by range (d)",
            _part("m1", f"{_DAY} - interval '1 day'", _DAY),
        ),
        twin=(
            "create table m(d date) partition by range (d)",
            *(
                _part(f"m{day}", f"{_DAY} + interval '{day} days'", f"{_DAY} + interval '{day + 1} days'")
                for day in range(3)
            ),
        ),
    ),
    Planted(
        "few_numbers_left_in_the_newest_partition",
        "partition.missing_future",
        "{s}.m",
        (
            "create table m(id bigint primary key) partition by range (id)",
            "create table m1 partition of m for values from (0) to (1000)",
            "create table m2 partition of m for values from (1000) to (2000)",
            "insert into m values (1), (1900)",
        ),
        twin=(
            "create table m(id bigint primary key) partition by range (id)",
            "create table m1 partition of m for values from (0) to (1000)",
            "create table m2 partition of m for values from (1000) to (2000)",
            "insert into m values (1), (900)",
        ),
    ),
    *(
        Planted(f"trap_future_{name}", "partition.missing_future", None, statements)
        for name, statements in {
            "archive": (
                _BY_TIME,
                "create table m1 partition of m for values from ('2019-01-01') to ('2020-01-01')",
                "create table m2 partition of m for values from ('2020-01-01') to ('2021-01-01')",
            ),
            "open_end": (_BY_TIME, "create table m1 partition of m for values from ('2026-01-01') to (maxvalue)"),
            "infinity": (_BY_TIME, "create table m1 partition of m for values from ('2026-01-01') to ('infinity')"),
            "default": (
                _BY_TIME,
                _part("m1", f"{_MONTH} - interval '1 month'", _MONTH),
                "create table m_default partition of m default",
            ),
            "list": (
                "create table m(d date) partition by list (d)",
                "create table m1 partition of m for values in ('2026-01-01')",
            ),
            "hash": (
                "create table m(d date) partition by hash (d)",
                "create table m1 partition of m for values with (modulus 1, remainder 0)",
            ),
            "months_of_a_past_year": (
                "create table y(d date) partition by range (d)",
                _part("m", f"{_MONTH} - interval '1 year'", f"{_MONTH} + interval '2 years'", of="y").replace(
                    "to (%L)", "to (%L) partition by range (d)"
                ),
                _part("m1", f"{_MONTH} - interval '1 month'", _MONTH),
            ),
            "no_partition_yet": (_BY_TIME,),
        }.items()
    ),
    Planted(
        "default_rows_of_a_list",
        "partition.default_rows",
        "{s}.m_rest",
        (
            "create table m(r text) partition by list (r)",
            "create table m_de partition of m for values in ('de')",
            "create table m_rest partition of m default",
            "insert into m values ('fr')",
        ),
        twin=(
            "create table m(r text) partition by list (r)",
            "create table m_de partition of m for values in ('de')",
            "create table m_rest partition of m default",
            "insert into m values ('de')",
        ),
    ),
)

KEYS = (
    Planted(
        "sequence_past_its_column",
        "sequence.exhaustion",
        "{s}.wide",
        (
            "create sequence wide",
            "create table t(id int primary key default nextval('wide'))",
            "select setval('wide', 3000000000)",
        ),
        status="critical",
        twin=(
            "create sequence wide",
            "create table t(id bigint primary key default nextval('wide'))",
            "select setval('wide', 3000000000)",
        ),
    ),
    Planted(
        "sequence_at_80_percent_of_a_smallint",
        "sequence.exhaustion",
        "{s}.t_id_seq",
        ("create table t(id smallserial primary key)", "select setval('t_id_seq', 26300)"),
    ),
    Planted(
        "sequence_with_a_ceiling_of_its_own",
        "sequence.exhaustion",
        "{s}.tickets",
        ("create sequence tickets maxvalue 1000", "select setval('tickets', 950)"),
        status="critical",
        twin=("create sequence tickets maxvalue 1000", "select setval('tickets', 500)"),
    ),
    Planted(
        "sequence_of_a_quoted_column",
        "sequence.exhaustion",
        '{s}."T_Id_seq"',
        ('create table "T"("Id" serial primary key)', "select setval('\"T_Id_seq\"', 2040109465)"),
        status="critical",
    ),
    Planted(
        "sequence_that_cycles_beyond_its_column",
        "sequence.exhaustion",
        "{s}.round",
        (
            "create sequence round cycle",
            "create table t(id int primary key default nextval('round'))",
            "select setval('round', 2040109465)",
        ),
        status="critical",
    ),
    Planted(
        "trap_sequence_over_the_whole_int_range",
        "sequence.exhaustion",
        None,
        (
            "create table t(id int primary key)",
            "create sequence s as int minvalue -2147483648 start -2147483648 owned by t.id",
            "alter table t alter id set default nextval('s')",
            "select setval('s', 5)",
        ),
    ),
    Planted(
        "key_of_a_smallint",
        "schema.int_key_overflow",
        "{s}.t(id)",
        ("create table t(id smallint primary key)", "insert into t values (26000)"),
        twin=("create table t(id smallint primary key)", "insert into t values (200)"),
    ),
    Planted(
        "key_that_runs_below_zero",
        "schema.int_key_overflow",
        "{s}.t(id)",
        ("create table t(id int primary key)", "insert into t values (-2100000000), (5)"),
        status="critical",
    ),
    Planted(
        "key_unique_but_not_primary",
        "schema.int_key_overflow",
        "{s}.t(number)",
        ("create table t(id bigint primary key, number int unique)", "insert into t values (1, 1800000000)"),
    ),
    Planted(
        "trap_key_filled_by_a_sequence",
        "schema.int_key_overflow",
        None,
        ("create table t(id int generated by default as identity primary key)", "insert into t values (2000000000)"),
    ),
)

VACUUM = (
    Planted(
        "dead_rows_past_the_tables_own_trigger",
        "vacuum.dead_tuples",
        "{s}.t",
        (
            _TABLE,
            "alter table t set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000)",
            "insert into t select g, md5(g::text) from generate_series(1, 50000) g",
            FLUSH,
            "analyze t",
            "update t set v = v || 'x' where id <= 3000",
            FLUSH,
        ),
        twin=(
            _TABLE,
            "insert into t select g, md5(g::text) from generate_series(1, 50000) g",
            FLUSH,
            "analyze t",
            "update t set v = v || 'x' where id <= 3000",
            FLUSH,
        ),
    ),
    Planted(
        "dead_rows_after_a_delete_of_a_third",
        "vacuum.dead_tuples",
        "{s}.t",
        (_TABLE, _FILL_100K, FLUSH, "analyze t", "delete from t where id % 3 = 0", FLUSH),
        twin=(_TABLE, _FILL_100K, FLUSH, "analyze t", "delete from t where id % 10 = 0", FLUSH),
    ),
    Planted(
        "dead_rows_of_toast",
        "vacuum.dead_tuples",
        "{s}.t",
        (
            "create table t(id int primary key, v text)",
            "alter table t alter v set storage external",
            "insert into t select g, repeat(md5(g::text), 100) from generate_series(1, 8000) g",
            FLUSH,
            "vacuum analyze t",
            "update t set v = v || 'x'",
            FLUSH,
        ),
    ),
    Planted(
        "autovacuum_off_for_a_matview",
        "vacuum.disabled_table",
        "{s}.mv",
        ("create materialized view mv with (autovacuum_enabled = false) as select 1 as one",),
    ),
    Planted(
        "autovacuum_off_for_one_partition",
        "vacuum.disabled_table",
        "{s}.m1",
        (
            "create table m(v int) partition by range (v)",
            "create table m1 partition of m for values from (0) to (9) with (autovacuum_enabled = false)",
        ),
    ),
    Planted(
        "no_cost_delay_for_toast",
        "settings.autovacuum_unthrottled",
        "{s}.t",
        ("create table t(v text) with (toast.autovacuum_vacuum_cost_delay = 0)",),
    ),
    Planted(
        "trap_static_table",
        "vacuum.stale",
        None,
        (_TABLE, _FILL_100K, FLUSH, "analyze t"),
    ),
    Planted(
        "statistics_stale_after_updates_of_a_fifth",
        "stats.stale",
        "{s}.t",
        (_TABLE, _FILL_100K, FLUSH, "analyze t", "update t set v = 'x' where id % 5 = 0", FLUSH),
        twin=(_TABLE, _FILL_100K, FLUSH, "analyze t", "update t set v = 'x' where id % 15 = 0", FLUSH),
    ),
    Planted(
        "statistics_missing_after_vacuum_alone",
        "stats.missing",
        "{s}.t",
        (_TABLE, "insert into t select g, 'x' from generate_series(1, 20000) g", FLUSH, "vacuum t"),
    ),
    Planted(
        "statistics_missing_of_a_matview",
        "stats.missing",
        "{s}.mv",
        ("create materialized view mv as select generate_series(1, 20000) as g", FLUSH),
    ),
    Planted(
        "trap_hot_updates",
        "table.low_hot",
        None,
        (
            "create table t(id int primary key, v int) with (fillfactor = 50)",
            "insert into t select g, g from generate_series(1, 20000) g",
            "update t set v = v + 1",
            FLUSH,
        ),
    ),
    Planted(
        "table_half_deleted",
        "table.bloat",
        "{s}.t",
        (
            _TABLE,
            "insert into t select g, repeat('x', 300) from generate_series(1, 50000) g",
            FLUSH,
            "delete from t where id % 2 = 0",
            FLUSH,
            "vacuum (analyze) t",
        ),
    ),
    *(
        Planted(f"trap_air_{name}", "table.bloat", None, statements)
        for name, statements in {
            "fillfactor": (
                "create table t(id int, v text) with (fillfactor = 50)",
                "insert into t select g, repeat('x', 300) from generate_series(1, 30000) g",
                FLUSH,
                "vacuum (analyze) t",
            ),
            "padding": (
                "create table t(a int, b bigint, c int, d bigint, e bool, f bigint)",
                "insert into t select g, g, g, g, true, g from generate_series(1, 150000) g",
                FLUSH,
                "vacuum (analyze) t",
            ),
            "nulls_and_json": (
                "create table t(id int, j jsonb, a text, b text, c text)",
                (
                    "insert into t select g, jsonb_build_object('k', repeat('v', g % 200)), null, null,"
                    " case when g % 3 = 0 then 'x' end from generate_series(1, 60000) g"
                ),
                FLUSH,
                "vacuum (analyze) t",
            ),
            "toasted": (
                "create table t(id int, v text)",
                "alter table t alter v set storage external",
                "insert into t select g, repeat(md5(g::text), 100) from generate_series(1, 9000) g",
                FLUSH,
                "vacuum (analyze) t",
            ),
            "wide_rows": (
                "create table t(id int, v text)",
                "alter table t alter v set storage plain",
                "insert into t select g, repeat('x', 4200) from generate_series(1, 2000) g",
                FLUSH,
                "vacuum (analyze) t",
            ),
        }.items()
    ),
    Planted(
        "trap_air_deduplicated_index",
        "index.bloat",
        None,
        (
            "create table t(id int, kind int)",
            "insert into t select g, g % 5 from generate_series(1, 300000) g",
            "create index on t(kind)",
            FLUSH,
            "vacuum (analyze) t",
        ),
    ),
    Planted(
        "trap_air_all_null_index",
        "index.bloat",
        None,
        (
            "create table t(id int, kind text)",
            "insert into t select g, null from generate_series(1, 300000) g",
            "create index on t(kind)",
            FLUSH,
            "vacuum (analyze) t",
        ),
    ),
    Planted(
        "trap_air_index_fillfactor",
        "index.bloat",
        None,
        (
            "create table t(id bigint)",
            "insert into t select g from generate_series(1, 200000) g",
            "create index on t(id) with (fillfactor = 40)",
            FLUSH,
            "vacuum (analyze) t",
        ),
    ),
    Planted(
        "index_of_text_mostly_air",
        "index.bloat",
        "{s}.t_v",
        (
            _TABLE,
            "insert into t select g, md5(g::text) from generate_series(1, 200000) g",
            "create index t_v on t(v)",
            "delete from t where id % 10 <> 0",
            FLUSH,
            "vacuum (analyze) t",
        ),
    ),
)

REPLICATION = (
    Planted(
        "published_with_a_whole_schema",
        "replication.no_replica_identity",
        "{s}.cdc",
        ("create table cdc(a int)", "create publication {s}_pub for tables in schema {s}"),
        status="critical",
        oldest=15,
    ),
    Planted(
        "published_with_identity_nothing",
        "replication.no_replica_identity",
        "{s}.cdc",
        (
            "create table cdc(a int primary key)",
            "alter table cdc replica identity nothing",
            "create publication {s}_pub for table cdc",
        ),
        status="critical",
    ),
    Planted(
        "trap_published_by_a_unique_index",
        "replication.no_replica_identity",
        None,
        (
            "create table cdc(a int not null)",
            "create unique index cdc_a on cdc(a)",
            "alter table cdc replica identity using index cdc_a",
            "create publication {s}_pub for table cdc",
        ),
    ),
)

SECURITY = (
    Planted(
        "everybody_truncates",
        "security.public_write",
        "{s}.t",
        ("create table t(v int)", "grant truncate on t to public"),
    ),
    Planted(
        "everybody_has_all_of_a_partitioned_table",
        "security.public_write",
        "{s}.m",
        (
            "create table m(v int) partition by range (v)",
            "create table m1 partition of m for values from (0) to (9)",
            "grant all on m to public",
        ),
    ),
    Planted(
        "definer_procedure",
        "security.definer_search_path",
        "{s}.p()",
        ("create procedure p() language plpgsql security definer as 'begin end'",),
        twin=(
            (
                "create procedure p() language plpgsql security definer set search_path = pg_catalog, pg_temp as 'begin"
                " end'"
            ),
        ),
    ),
    Planted(
        "trap_invoker_function",
        "security.definer_search_path",
        None,
        ("create function f() returns int language sql as 'select 1'",),
    ),
    Planted(
        "trap_row_security_without_any_policy_is_not_unenforced",
        "security.rls_disabled",
        None,
        ("create table t(v int)", "alter table t enable row level security", "create policy p on t using (true)"),
    ),
    Planted(
        "function_of_an_untrusted_language",
        "security.untrusted_language",
        "{s}.f(text)",
        ("create function f(text) returns int language internal strict as 'textlen'",),
        status="info",
        twin=("create function f(text) returns int language sql strict as 'select length($1)'",),
    ),
)

CASES = (*INDEXES, *SCHEMA, *PARTITIONS, *KEYS, *REPLICATION, *SECURITY)
# some hundred thousand rows: for the slow lane
HEAVY = VACUUM
