"""Planted cases: what a database looks like when a check must speak, and when it must not.

Each case is planted in a schema of its own, `{s}`, by a session of its own. `found` is the object the check must name,
None where it must stay silent (a trap); `twin` is the same thing done right. Where an error belongs to the plant (a
build that fails), the statement stands in `fails`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

# makes the session's counters visible at once: it may keep them for a second otherwise
FLUSH = "select pg_stat_force_next_flush()"


@dataclass(frozen=True, slots=True)
class Planted:
    """One case. `oldest` is the first major version that can hold it."""

    name: str
    check: str
    found: str | None
    plant: tuple[str, ...]
    status: str = "warning"
    twin: tuple[str, ...] = ()
    fails: frozenset[str] = field(default_factory=frozenset)
    oldest: int = 14


_DUP = "create unique index concurrently orders_ext_ref_key on orders(ext_ref)"
_ORDERS = "create table orders(id bigint primary key, ext_ref text not null)"
_PARENT = "create table parent(a int, b int, primary key (a, b))"
_RANGE = "create table m(id int, at date, primary key (id, at)) partition by range (at)"

INDEXES = (
    Planted(
        "invalid_after_failed_build",
        "index.invalid",
        "{s}.orders_ext_ref_key",
        (_ORDERS, "insert into orders values (1, 'a'), (2, 'a')", _DUP),
        twin=(_ORDERS, "insert into orders values (1, 'a'), (2, 'b')", _DUP),
        fails=frozenset({_DUP}),
    ),
    Planted(
        "invalid_name_needs_quotes",
        "index.invalid",
        '{s}."Order Key"',
        (
            'create table "T x"(v int)',
            'insert into "T x" values (1), (1)',
            'create unique index concurrently "Order Key" on "T x"(v)',
        ),
        fails=frozenset({'create unique index concurrently "Order Key" on "T x"(v)'}),
    ),
    Planted(
        "duplicate_exact",
        "index.duplicate",
        "{s}.users_email_b",
        (
            "create table users(id bigint primary key, email text)",
            "create index users_email_a on users(email)",
            "create index users_email_b on users(email)",
        ),
        twin=("create table users(id bigint primary key, email text)", "create index users_email_a on users(email)"),
    ),
    Planted(
        "duplicate_of_the_primary_key_though_older",
        "index.duplicate",
        "{s}.t_first",
        (
            "create table t(id bigint not null)",
            "create unique index t_first on t(id)",
            "alter table t add primary key (id)",
        ),
    ),
    Planted(
        "duplicate_of_a_partitioned_table_once",
        "index.duplicate",
        "{s}.m_b",
        (
            "create table m(id int, at date) partition by range (at)",
            "create table m1 partition of m for values from ('2026-01-01') to ('2026-02-01')",
            "create table m2 partition of m for values from ('2026-02-01') to ('2026-03-01')",
            "create index m_a on m(id)",
            "create index m_b on m(id)",
        ),
    ),
    *(
        Planted(f"trap_duplicate_{name}", "index.duplicate", None, ("create table t(a text, b int, c int)", *indexes))
        for name, indexes in {
            "opclass": ("create index on t(a)", "create index on t(a text_pattern_ops)"),
            "collation": ("create index on t(a)", 'create index on t(a collate "C")'),
            "direction": ("create index on t(b, c)", "create index on t(b, c desc)"),
            "predicate": ("create index on t(b) where c = 1", "create index on t(b) where c = 2"),
            "method": ("create index on t(b)", "create index on t using hash (b)"),
            "include": ("create index on t(b) include (c)", "create index on t(b)"),
            "expression": ("create index on t(lower(a))", "create index on t(upper(a))"),
            "order": ("create index on t(b, c)", "create index on t(c, b)"),
        }.items()
    ),
    Planted(
        "trap_duplicate_deferrable",
        "index.duplicate",
        None,
        ("create table t(a int unique deferrable)", "create unique index t_a on t(a)"),
    ),
    Planted(
        "trap_duplicate_nulls_not_distinct",
        "index.duplicate",
        None,
        ("create table t(a int)", "create unique index on t(a)", "create unique index on t(a) nulls not distinct"),
        oldest=15,
    ),
    Planted(
        "redundant_prefix",
        "index.redundant",
        "{s}.t_a",
        ("create table t(a int, b int)", "create index t_a on t(a)", "create index t_ab on t(a, b)"),
        status="info",
        twin=("create table t(a int, b int)", "create index t_b on t(b)", "create index t_ab on t(a, b)"),
    ),
    Planted(
        "redundant_to_a_covering_one",
        "index.redundant",
        "{s}.t_a",
        ("create table t(a int, b int)", "create index t_a on t(a)", "create index t_ab on t(a) include (b)"),
        status="info",
    ),
    Planted(
        "trap_redundant_unique",
        "index.redundant",
        None,
        ("create table t(a int, b int)", "create unique index t_a on t(a)", "create index t_ab on t(a, b)"),
    ),
    Planted(
        "trap_redundant_predicate",
        "index.redundant",
        None,
        ("create table t(a int, b int)", "create index t_a on t(a) where b > 0", "create index t_ab on t(a, b)"),
    ),
    Planted(
        "trap_redundant_descending",
        "index.redundant",
        None,
        ("create table t(a int, b int)", "create index t_a on t(a desc nulls last)", "create index t_ab on t(a, b)"),
    ),
    Planted(
        "mostly_null",
        "index.mostly_null",
        "{s}.t_v",
        (
            "create table t(id int, v int)",
            "insert into t select g, case when g % 10 = 0 then g end from generate_series(1, 20000) g",
            "create index t_v on t(v)",
            "analyze t",
        ),
        status="info",
        twin=(
            "create table t(id int, v int)",
            "insert into t select g, case when g % 10 = 0 then g end from generate_series(1, 20000) g",
            "create index t_v on t(v) where v is not null",
            "analyze t",
        ),
    ),
    Planted(
        "trap_unused_young_statistics",
        "index.unused",
        None,
        (
            "create table t(id int, v text)",
            "insert into t select g, repeat(md5(g::text), 8) from generate_series(1, 50000) g",
            "create index t_v on t(v)",
        ),
    ),
)

SCHEMA = (
    Planted(
        "fk_without_index",
        "schema.fk_unindexed",
        "{s}.invoice(customer_id)",
        (
            "create table customer(id bigint primary key)",
            "create table invoice(id bigint primary key, customer_id bigint references customer(id))",
        ),
        status="info",
        twin=(
            "create table customer(id bigint primary key)",
            "create table invoice(id bigint primary key, customer_id bigint references customer(id))",
            "create index on invoice(customer_id)",
        ),
    ),
    Planted(
        "fk_with_an_unusable_partial_index",
        "schema.fk_unindexed",
        "{s}.c(a, b)",
        (
            _PARENT,
            "create table c(id int primary key, a int, b int, foreign key (a, b) references parent)",
            "create index on c(a, b) where id > 10",
        ),
        status="info",
    ),
    Planted(
        "fk_of_a_partitioned_table_once",
        "schema.fk_unindexed",
        "{s}.m(id)",
        (
            "create table p(id int primary key)",
            "create table m(id int references p, at date) partition by range (at)",
            "create table m1 partition of m for values from ('2026-01-01') to ('2026-02-01')",
            "create table m2 partition of m for values from ('2026-02-01') to ('2026-03-01')",
        ),
        status="info",
    ),
    *(
        Planted(
            f"trap_fk_{name}",
            "schema.fk_unindexed",
            None,
            (_PARENT, "create table c(id int primary key, a int, b int, foreign key (a, b) references parent)", index),
        )
        for name, index in {
            "other_order": "create index on c(b, a)",
            "longer": "create index on c(a, b, id)",
            "not_null": "create index on c(a, b) where a is not null and b is not null",
        }.items()
    ),
    Planted(
        "fk_type_mismatch",
        "schema.fk_type_mismatch",
        "{s}.c(p_id)",
        ("create table p(id bigint primary key)", "create table c(p_id int references p)"),
        twin=("create table p(id bigint primary key)", "create table c(p_id bigint references p)"),
    ),
    Planted(
        "trap_fk_varchar_and_domain",
        "schema.fk_type_mismatch",
        None,
        (
            "create domain code as text",
            "create table p(id code primary key)",
            "create table c(p_id varchar(20) references p)",
        ),
    ),
    Planted(
        "constraint_not_valid",
        "schema.constraint_not_valid",
        "{s}.t.positive",
        ("create table t(v int)", "alter table t add constraint positive check (v > 0) not valid"),
        status="info",
        twin=(
            "create table t(v int)",
            "alter table t add constraint positive check (v > 0) not valid",
            "alter table t validate constraint positive",
        ),
    ),
    Planted(
        "trap_constraint_not_enforced",
        "schema.constraint_not_valid",
        None,
        ("create table t(v int, constraint positive check (v > 0) not enforced)",),
        oldest=18,
    ),
    Planted(
        "no_primary_key",
        "schema.no_primary_key",
        "{s}.t",
        ("create table t(v int)",),
        status="info",
        twin=("create table t(v int primary key)",),
    ),
    Planted(
        "no_primary_key_of_a_partitioned_table_once",
        "schema.no_primary_key",
        "{s}.m",
        (
            "create table m(at date) partition by range (at)",
            "create table m1 partition of m for values from ('2026-01-01') to ('2026-02-01')",
        ),
        status="info",
    ),
    Planted(
        "matview_unpopulated",
        "schema.matview_unpopulated",
        "{s}.mv",
        ("create materialized view mv as select 1 as one with no data",),
        status="info",
        twin=("create materialized view mv as select 1 as one",),
    ),
    Planted(
        "trigger_disabled",
        "schema.trigger_disabled",
        "{s}.t.audit",
        (
            "create table t(v int)",
            "create function f() returns trigger language plpgsql as 'begin return new; end'",
            "create trigger audit before insert on t for each row execute function f()",
            "alter table t disable trigger audit",
        ),
        twin=(
            "create table t(v int)",
            "create function f() returns trigger language plpgsql as 'begin return new; end'",
            "create trigger audit before insert on t for each row execute function f()",
        ),
    ),
    Planted(
        "foreign_key_disabled",
        "schema.trigger_disabled",
        "{s}.c.to_parent",
        (
            "create table p(id int primary key)",
            "create table c(p_id int constraint to_parent references p)",
            "alter table c disable trigger all",
        ),
    ),
    Planted(
        "default_partition_with_rows",
        "partition.default_rows",
        "{s}.m_default",
        (_RANGE, "create table m_default partition of m default", "insert into m values (1, '2026-01-01')"),
        twin=(
            _RANGE,
            "create table m_default partition of m default",
            "create table m1 partition of m for values from ('2026-01-01') to ('2026-02-01')",
            "insert into m values (1, '2026-01-01')",
        ),
    ),
    Planted(
        "unlogged",
        "table.unlogged",
        "{s}.t",
        ("create unlogged table t(v int)",),
        status="info",
        twin=("create table t(v int)",),
    ),
)

KEYS = (
    Planted(
        "sequence_of_an_int_at_95_percent",
        "sequence.exhaustion",
        "{s}.t_serial_id_seq",
        ("create table t_serial(id serial primary key)", "select setval('t_serial_id_seq', 2040109465)"),
        status="critical",
        twin=("create table t_serial(id bigserial primary key)", "select setval('t_serial_id_seq', 2040109465)"),
    ),
    Planted(
        "sequence_wider_than_its_column",
        "sequence.exhaustion",
        "{s}.wide",
        (
            "create sequence wide as bigint",
            "create table t(id int primary key default nextval('wide'))",
            "select setval('wide', 1700000000)",
        ),
    ),
    Planted(
        "sequence_unowned",
        "sequence.exhaustion",
        "{s}.lonely",
        ("create sequence lonely as smallint", "select setval('lonely', 32000)"),
        status="critical",
    ),
    Planted(
        "sequence_descending",
        "sequence.exhaustion",
        "{s}.down",
        ("create sequence down as smallint increment -1", "select setval('down', -32000)"),
        status="critical",
        twin=("create sequence down as smallint increment -1", "select setval('down', -5)"),
    ),
    Planted(
        "sequence_identity",
        "sequence.exhaustion",
        "{s}.t_id_seq",
        (
            "create table t(id smallint generated always as identity primary key)",
            "alter table t alter id restart with 30000",
            "insert into t default values",
        ),
        status="critical",
    ),
    Planted(
        "trap_sequence_that_cycles",
        "sequence.exhaustion",
        None,
        ("create sequence round as smallint cycle", "select setval('round', 32760)"),
    ),
    Planted("trap_sequence_unused", "sequence.exhaustion", None, ("create sequence fresh as smallint",)),
    Planted(
        "key_filled_by_the_application",
        "schema.int_key_overflow",
        "{s}.t(id)",
        ("create table t(id int primary key)", "insert into t values (2000000000)"),
        status="critical",
        twin=("create table t(id bigint primary key)", "insert into t values (2000000000)"),
    ),
    Planted("trap_key_empty", "schema.int_key_overflow", None, ("create table t(id smallint primary key)",)),
)

_HOT = "create table hot(id bigint primary key, v text)"
_FILL = "insert into hot select g, md5(g::text) from generate_series(1, 20000) g"

VACUUM = (
    Planted(
        "dead_rows_past_the_trigger",
        "vacuum.dead_tuples",
        "{s}.hot",
        (_HOT, _FILL, FLUSH, "analyze hot", "update hot set v = v || 'x'", FLUSH),
        twin=(_HOT, _FILL, FLUSH, "analyze hot", "update hot set v = v || 'x'", FLUSH, "vacuum hot"),
    ),
    Planted(
        "trap_dead_rows_below_the_tables_own_trigger",
        "vacuum.dead_tuples",
        None,
        (
            _HOT,
            "alter table hot set (autovacuum_vacuum_scale_factor = 2)",
            _FILL,
            FLUSH,
            "analyze hot",
            "update hot set v = v || 'x'",
            FLUSH,
        ),
    ),
    Planted(
        "autovacuum_off_for_a_table",
        "vacuum.disabled_table",
        "{s}.t",
        ("create table t(v int) with (autovacuum_enabled = off)",),
        twin=("create table t(v int) with (autovacuum_enabled = on)",),
    ),
    Planted(
        "autovacuum_off_for_toast",
        "vacuum.disabled_table",
        "{s}.t",
        ("create table t(v text) with (toast.autovacuum_enabled = false)",),
    ),
    Planted(
        "no_cost_delay",
        "settings.autovacuum_unthrottled",
        "{s}.t",
        ("create table t(v int) with (autovacuum_vacuum_cost_delay = 0)",),
        twin=("create table t(v int) with (autovacuum_vacuum_cost_delay = 5)",),
    ),
    Planted(
        "statistics_missing",
        "stats.missing",
        "{s}.hot",
        (_HOT, _FILL, FLUSH),
        twin=(_HOT, _FILL, FLUSH, "analyze hot"),
    ),
    Planted(
        "statistics_missing_of_a_partitioned_table_once",
        "stats.missing",
        "{s}.m",
        (
            "create table m(id int, at date) partition by range (at)",
            "create table m1 partition of m for values from ('2026-01-01') to ('2026-02-01')",
            "create table m2 partition of m for values from ('2026-02-01') to ('2026-03-01')",
            "insert into m select g, '2026-01-05'::date + 31 * (g % 2) from generate_series(1, 40000) g",
            FLUSH,
        ),
    ),
    Planted(
        "trap_statistics_of_a_tiny_table",
        "stats.missing",
        None,
        ("create table t(v int)", "insert into t select generate_series(1, 1000)", FLUSH),
    ),
    Planted(
        "statistics_stale",
        "stats.stale",
        "{s}.hot",
        (_HOT, _FILL, FLUSH, "analyze hot", "delete from hot where id > 5000", FLUSH),
        twin=(_HOT, _FILL, FLUSH, "analyze hot", "delete from hot where id > 5000", FLUSH, "analyze hot"),
    ),
    Planted("trap_statistics_counted_late", "stats.stale", None, (_HOT, f"begin; {_FILL}; analyze hot; commit", FLUSH)),
    Planted(
        "updates_touch_every_index",
        "table.low_hot",
        "{s}.hot",
        (_HOT, "create index on hot(v)", _FILL, "update hot set v = v || 'x'", FLUSH),
        status="info",
    ),
    Planted(
        "table_mostly_air",
        "table.bloat",
        "{s}.air",
        (
            "create table air(id int, v text)",
            "insert into air select g, repeat('x', 400) from generate_series(1, 20000) g",
            "delete from air where id % 4 <> 0",
            FLUSH,
            "vacuum (analyze) air",
        ),
        twin=(
            "create table air(id int, a int, b bigint, c int, v text)",
            "insert into air select g, g, g, g, repeat('x', 400) from generate_series(1, 20000) g",
            FLUSH,
            "vacuum (analyze) air",
        ),
    ),
    Planted(
        "index_mostly_air",
        "index.bloat",
        "{s}.sess_token",
        (
            "create table sess(id bigint, token uuid)",
            "insert into sess select g, gen_random_uuid() from generate_series(1, 200000) g",
            "create index sess_token on sess(token)",
            "delete from sess where id % 10 <> 0",
            FLUSH,
            "vacuum (analyze) sess",
        ),
        twin=(
            "create table sess(id bigint, token uuid)",
            "insert into sess select g, gen_random_uuid() from generate_series(1, 200000) g",
            "create index sess_token on sess(token)",
            FLUSH,
            "vacuum (analyze) sess",
        ),
    ),
    Planted(
        "trap_air_with_stale_statistics",
        "table.bloat",
        None,
        (
            "create table air(id int, v text)",
            "insert into air select g, 'x' from generate_series(1, 20000) g",
            FLUSH,
            "vacuum (analyze) air",
            "update air set v = repeat('x', 400)",
            FLUSH,
        ),
    ),
)

REPLICATION = (
    Planted(
        "published_without_identity",
        "replication.no_replica_identity",
        "{s}.cdc",
        ("create table cdc(a int)", "create publication {s}_pub for table cdc"),
        status="critical",
        twin=("create table cdc(a int primary key)", "create publication {s}_pub for table cdc"),
    ),
    Planted(
        "published_with_a_deferrable_key",
        "replication.no_replica_identity",
        "{s}.cdc",
        ("create table cdc(a int primary key deferrable)", "create publication {s}_pub for table cdc"),
        status="critical",
    ),
    Planted(
        "published_partitioned_table_once",
        "replication.no_replica_identity",
        "{s}.m",
        (
            "create table m(at date) partition by range (at)",
            "create table m1 partition of m for values from ('2026-01-01') to ('2026-02-01')",
            "create table m2 partition of m for values from ('2026-02-01') to ('2026-03-01')",
            "create publication {s}_pub for table m",
        ),
        status="critical",
    ),
    Planted(
        "trap_published_inserts_only",
        "replication.no_replica_identity",
        None,
        ("create table cdc(a int)", "create publication {s}_pub for table cdc with (publish = 'insert')"),
    ),
    Planted(
        "trap_published_full_identity",
        "replication.no_replica_identity",
        None,
        (
            "create table cdc(a int)",
            "alter table cdc replica identity full",
            "create publication {s}_pub for table cdc",
        ),
    ),
)

SECURITY = (
    Planted(
        "everybody_creates",
        "security.public_create",
        "schema {s}",
        ("grant create on schema {s} to public",),
        twin=("grant usage on schema {s} to public",),
    ),
    Planted(
        "everybody_writes",
        "security.public_write",
        "{s}.t",
        ("create table t(v int)", "grant insert, select on t to public"),
        twin=("create table t(v int)", "grant select on t to public"),
    ),
    Planted(
        "everybody_writes_a_column",
        "security.public_write",
        "{s}.t",
        ("create table t(v int)", "grant update (v) on t to public"),
    ),
    Planted(
        "definer_without_search_path",
        "security.definer_search_path",
        "{s}.f(integer)",
        ("create function f(a int) returns int language sql security definer as 'select 1'",),
        twin=("create function f(a int) returns int language sql security definer set search_path = '' as 'select 1'",),
    ),
    Planted(
        "trap_definer_with_a_bound_body",
        "security.definer_search_path",
        None,
        ("create function f(a int) returns int language sql security definer begin atomic select 1; end",),
    ),
    Planted(
        "policies_not_enforced",
        "security.rls_disabled",
        "{s}.t",
        ("create table t(v int)", "create policy p on t using (true)"),
        twin=("create table t(v int)", "create policy p on t using (true)", "alter table t enable row level security"),
    ),
    Planted(
        "row_security_without_policy",
        "security.rls_no_policy",
        "{s}.t",
        ("create table t(v int)", "alter table t enable row level security"),
        status="info",
        twin=("create table t(v int)", "alter table t enable row level security", "create policy p on t using (true)"),
    ),
)

CASES = (*INDEXES, *SCHEMA, *KEYS, *VACUUM, *REPLICATION, *SECURITY)
