-- name: blockers
-- what: who keeps a waiting session waiting (nobody: no row); pid 0 is a prepared transaction
select
    blocking.pid,
    coalesce(b.application_name, '') as application_name,
    coalesce(b.usename, '') as role,
    coalesce(b.state, 'prepared transaction') as state,
    coalesce(extract(epoch from clock_timestamp() - b.xact_start), 0)::float8 as transaction_age_s,
    coalesce(extract(epoch from clock_timestamp() - b.state_change), 0)::float8 as state_age_s,
    coalesce(b.backend_type, '') as backend_type,
    coalesce((select r.rolsuper from pg_roles r where r.oid = b.usesysid), true) as superuser,
    coalesce(left(regexp_replace(b.query, '\s+', ' ', 'g'), 80), '') as query
from pg_stat_activity waiting
cross join lateral unnest(pg_blocking_pids(waiting.pid)) as blocking (pid)
left join pg_stat_activity b on b.pid = blocking.pid
where waiting.pid = :pid and waiting.wait_event_type = 'Lock'
order by b.xact_start nulls last;

-- name: end_session
-- what: end the server session of a migration process that was killed; no row when it is gone
select pg_terminate_backend(pid)
from pg_stat_activity
where pid = :pid and application_name = :application_name;

-- name: relation
-- what: a table by its name as SQL; no row where there is none
select
    c.oid::bigint as oid,
    n.nspname::text as schema,
    c.relname::text as name,
    c.relkind::text as kind,
    case when c.reltuples >= 0 then c.reltuples::bigint end as rows
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where c.oid = to_regclass(cast(:name as text)) and c.relkind in ('r', 'p', 'f');

-- name: index_named
-- what: what has an index's name in a schema: the table it is of, whether it's valid, and its shape
select
    c.oid::bigint as oid,
    i.indrelid::bigint as table_oid,
    t.relname::text as table_name,
    i.indisvalid and i.indisready and i.indislive as valid,
    pg_get_indexdef(i.indexrelid) as definition,
    jsonb_build_array(
        am.amname, i.indisunique, i.indnkeyatts, i.indcollation::text, i.indclass::text, i.indoption::text,
        (select jsonb_agg(pg_get_indexdef(i.indexrelid, k, true) order by k) from generate_series(1, i.indnatts) k),
        pg_get_expr(i.indpred, i.indrelid, true), to_jsonb(i) -> 'indnullsnotdistinct'
    )::text as shape
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
left join pg_index i on i.indexrelid = c.oid
left join pg_class t on t.oid = i.indrelid
left join pg_am am on am.oid = c.relam
where n.nspname = cast(:schema as text) and c.relname = cast(:name as text);

-- name: index_shape
-- what: an index's shape, written by the server: alike for two that are alike
select
    jsonb_build_array(
        am.amname, i.indisunique, i.indnkeyatts, i.indcollation::text, i.indclass::text, i.indoption::text,
        (select jsonb_agg(pg_get_indexdef(i.indexrelid, k, true) order by k) from generate_series(1, i.indnatts) k),
        pg_get_expr(i.indpred, i.indrelid, true), to_jsonb(i) -> 'indnullsnotdistinct'
    )::text as shape
from pg_index i
join pg_class c on c.oid = i.indexrelid
join pg_am am on am.oid = c.relam
where i.indexrelid = to_regclass(cast(:index as text));

-- name: partitions_without_index
-- what: the partitions of a table that have no index attached to an index of their parent
select c.oid::bigint as oid, n.nspname::text as schema, c.relname::text as name, c.relkind::text as kind
from pg_inherits h
join pg_class c on c.oid = h.inhrelid
join pg_namespace n on n.oid = c.relnamespace
where
    h.inhparent = cast(:table_oid as bigint)::oid
    and not h.inhdetachpending
    and not exists (
        select
        from pg_inherits attached
        join pg_index i on i.indexrelid = attached.inhrelid
        where attached.inhparent = cast(:index_oid as bigint)::oid and i.indrelid = c.oid
    )
order by c.relname;


-- name: journal_ready
-- what: whether the journal's tables are there
select to_regclass('chanuka_ops.migration_acts') is not null;

-- name: journal_schema
-- what: a schema of the journal's own, out of the application's way
create schema if not exists chanuka_ops;

-- name: journal_entries_table
-- what: one row for each run of a revision
create table if not exists chanuka_ops.migration_entries (
    id bigint generated always as identity primary key,
    run_id text not null,
    actor text not null,
    host text not null,
    revision text not null,
    direction text not null check (direction in ('up', 'down')),
    sha256 text not null,
    backend_pid integer,
    backend_start timestamptz,
    application_name text not null default '',
    attempts integer not null default 1,
    started_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    outcome text not null check (outcome in ('running', 'done', 'failed', 'partial')),
    message text not null default ''
);

-- name: journal_steps_table
-- what: one row for each statement that was sent
create table if not exists chanuka_ops.migration_steps (
    id bigint generated always as identity primary key,
    entry_id bigint not null references chanuka_ops.migration_entries on delete cascade,
    attempt integer not null,
    step integer not null,
    kind text not null,
    fingerprint text not null,
    statement text not null,
    autocommit boolean not null,
    answers boolean not null,
    row_count bigint not null,
    xid xid8,
    outcome text not null check (
        outcome in ('running', 'sent', 'done', 'failed', 'rolled_back', 'redone', 'repeatable')
    ),
    resolution text not null default '' check (resolution in ('', 'done', 'redo')),
    started_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz
);

-- name: journal_steps_index
-- what: the steps of a run
create index if not exists migration_steps_entry_id_idx on chanuka_ops.migration_steps (entry_id);

-- name: journal_acts_table
-- what: one row for each session that was ended because it kept a migration waiting
create table if not exists chanuka_ops.migration_acts (
    id bigint generated always as identity primary key,
    run_id text not null,
    revision text not null,
    at timestamptz not null default clock_timestamp(),
    act text not null,
    pid integer not null,
    application_name text not null,
    role text not null,
    state text not null,
    age_s double precision not null,
    query text not null
);

-- name: journal_schemas_table
-- what: what the schema was after each run, as a fingerprint
create table if not exists chanuka_ops.migration_schemas (
    id bigint generated always as identity primary key,
    run_id text not null,
    at timestamptz not null default clock_timestamp(),
    revision text,
    tool_major integer not null,
    fingerprint jsonb not null
);

-- name: journal_schema_record
-- what: the schema as it is after a run
insert into chanuka_ops.migration_schemas (run_id, revision, tool_major, fingerprint)
values (:run_id, :revision, :tool_major, cast(:fingerprint as jsonb));

-- name: journal_schema_newest
-- what: the schema as it was after the newest run
select s.at, s.revision, s.tool_major, s.fingerprint
from chanuka_ops.migration_schemas s
order by s.id desc
limit 1;

-- name: journal_applied
-- what: the SHA-256 that each applied revision's file had, by the newest run of it
select distinct on (e.revision) e.revision, e.direction, e.sha256
from chanuka_ops.migration_entries e
where e.outcome = 'done'
order by e.revision, e.id desc;

-- name: journal_accepted
-- what: a person's word that an applied revision's file may be as it is now
insert into chanuka_ops.migration_entries (run_id, actor, host, revision, direction, sha256, ended_at, outcome, message)
values (:run_id, :actor, :host, :revision, 'up', :sha256, clock_timestamp(), 'done', :message);

-- name: user_tables
-- what: whether the database holds tables of anybody's (an extension's, the journal's and the version table don't count)
select exists (
    select
    from pg_class c
    where c.relkind in ('r', 'p', 'm')
        and c.relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
        and c.relnamespace is distinct from to_regnamespace(:journal_schema)
        and c.relname <> 'alembic_version'
        and c.relpersistence <> 't'
        and not exists (
            select from pg_depend d
            where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e'
        )
);

-- name: journal_begin
-- what: a revision's run begins
insert into chanuka_ops.migration_entries
    (run_id, actor, host, revision, direction, sha256, backend_pid, backend_start, application_name, outcome)
values (
    :run_id, :actor, :host, :revision, :direction, :sha256, :pid,
    (select a.backend_start from pg_stat_get_activity(:pid) a), :application_name, 'running'
)
returning id;

-- name: journal_next
-- what: a revision's run is done, and the next one begins
with ended as (
    update chanuka_ops.migration_entries
    set outcome = 'done', ended_at = clock_timestamp(), attempts = greatest(attempts, :attempts)
    where id = :ended
), settled as (
    update chanuka_ops.migration_steps set outcome = 'done' where entry_id = :ended and outcome = 'sent'
)
insert into chanuka_ops.migration_entries
    (run_id, actor, host, revision, direction, sha256, backend_pid, backend_start, application_name, outcome)
values (
    :run_id, :actor, :host, :revision, :direction, :sha256, :pid,
    (select a.backend_start from pg_stat_get_activity(:pid) a), :application_name, 'running'
)
returning id;

-- name: journal_again
-- what: another attempt, on another session
update chanuka_ops.migration_entries
set
    attempts = :attempt, backend_pid = :pid,
    backend_start = (select a.backend_start from pg_stat_get_activity(:pid) a)
where id = :entry;

-- name: journal_steps
-- what: write statements down, several at once
insert into chanuka_ops.migration_steps
    (entry_id, attempt, step, kind, fingerprint, statement, autocommit, answers, row_count, xid, outcome, resolution,
     started_at, ended_at)
select
    :entry, :attempt, r.step, r.kind, r.fingerprint, r.statement, r.autocommit, r.answers, r.row_count, cast(r.xid as xid8),
    r.outcome, r.resolution, coalesce(r.started_at, clock_timestamp()), r.ended_at
from json_to_recordset(cast(:rows as json)) as r (
    step integer, kind text, fingerprint text, statement text, autocommit boolean, answers boolean, row_count bigint,
    xid text, outcome text, resolution text, started_at timestamptz, ended_at timestamptz
)
returning id;

-- name: journal_sent
-- what: write down what a session has sent in its open transaction, with the number of that (it has none: no row)
with session as (
    select cast(cast(a.backend_xid as text) as bigint) as xid from pg_stat_get_activity(:pid) a
), newest as (
    select cast(cast(pg_snapshot_xmax(pg_current_snapshot()) as text) as bigint) as xid
), numbered as (
    -- the session shows the lower half of its number: the whole one is the nearest to the newest of all
    select cast(cast(n.xid + mod(s.xid - mod(n.xid, 4294967296) + 6442450944, 4294967296) - 2147483648 as text) as xid8)
        as xid
    from session s
    cross join newest n
    where s.xid is not null
)
insert into chanuka_ops.migration_steps
    (entry_id, attempt, step, kind, fingerprint, statement, autocommit, answers, row_count, xid, outcome, resolution,
     started_at, ended_at)
select
    :entry, :attempt, r.step, r.kind, r.fingerprint, r.statement, r.autocommit, r.answers, r.row_count, n.xid,
    r.outcome, r.resolution, coalesce(r.started_at, clock_timestamp()), r.ended_at
from numbered n
cross join json_to_recordset(cast(:rows as json)) as r (
    step integer, kind text, fingerprint text, statement text, autocommit boolean, answers boolean, row_count bigint,
    outcome text, resolution text, started_at timestamptz, ended_at timestamptz
)
returning id;

-- name: journal_step_ended
-- what: how a step ended
update chanuka_ops.migration_steps
set outcome = :outcome, row_count = :row_count, ended_at = clock_timestamp()
where id = :id;

-- name: journal_end
-- what: how a revision's run ended; what was sent in transactions that were committed is done
with settled as (
    update chanuka_ops.migration_steps set outcome = 'done'
    where entry_id = :entry and outcome = 'sent' and :outcome = 'done'
)
update chanuka_ops.migration_entries
set outcome = :outcome, ended_at = clock_timestamp(), attempts = greatest(attempts, :attempts), message = :message
where id = :entry;

-- name: journal_unsettled
-- what: runs whose end was never written, with the server session each had, if that is still there
select
    e.id, e.revision, e.direction, e.run_id, e.backend_pid, a.pid is not null as alive, coalesce(a.application_name, '') as application_name,
    coalesce(a.state, '') as state, coalesce(left(a.query, 80), '') as query
from chanuka_ops.migration_entries e
left join pg_stat_activity a
    on a.pid = e.backend_pid and a.backend_start = e.backend_start and a.datname = current_database()
where e.outcome = 'running'
order by e.id;

-- name: journal_partial
-- what: the revisions whose last run was broken off with something of it committed
select last.id, last.revision, last.direction, last.sha256
from (
    select distinct on (e.revision) e.id, e.revision, e.direction, e.sha256, e.outcome
    from chanuka_ops.migration_entries e
    where e.outcome <> 'failed'
    order by e.revision, e.id desc
) as last
where last.outcome = 'partial';

-- name: journal_steps_of
-- what: the steps of a run, in order
select
    s.id, s.step, s.kind, s.fingerprint, s.statement, s.outcome, s.resolution, s.answers, s.autocommit, s.row_count,
    cast(s.xid as text) as xid
from chanuka_ops.migration_steps s
where s.entry_id = :entry
order by s.id;

-- name: journal_statuses
-- what: what became of a run's transactions; null where the server has forgotten
select cast(s.xid as text) as xid, pg_xact_status(s.xid) as status
from (select distinct xid from chanuka_ops.migration_steps where entry_id = :entry and outcome = 'sent' and xid is not null) as s;

-- name: journal_resolve
-- what: a person's word on a step
update chanuka_ops.migration_steps set resolution = :resolution where id = :id;

-- name: journal_accept
-- what: a person's word that the file may have changed
update chanuka_ops.migration_entries set sha256 = :sha256 where id = :entry;

-- name: journal_forget
-- what: a person's word that nothing is left of a revision's runs
update chanuka_ops.migration_entries set outcome = 'failed', message = :message
where revision = :revision and outcome = 'partial';

-- name: journal_history
-- what: the runs, newest first
select
    e.revision, e.direction, e.actor, e.run_id, e.host, e.started_at, e.attempts, e.outcome, e.sha256, e.message,
    extract(epoch from coalesce(e.ended_at, e.started_at) - e.started_at)::float8 as seconds
from chanuka_ops.migration_entries e
order by e.id desc
limit :most;

-- name: journal_act
-- what: a session that kept a migration waiting was ended
insert into chanuka_ops.migration_acts (run_id, revision, act, pid, application_name, role, state, age_s, query)
values (:run_id, :revision, :act, :pid, :application_name, :role, :state, :age_s, :query);

-- name: index_state
-- what: whether an index is there, and of use
select coalesce(
    (select case when i.indisvalid then 'valid' else 'invalid' end from pg_index i where i.indexrelid = to_regclass(:name)),
    'gone'
);

-- name: partition_state
-- what: whether a partition is attached, half detached or gone
-- since: 14
select coalesce(
    (select case when i.inhdetachpending then 'pending' else 'attached' end from pg_inherits i
     where i.inhrelid = to_regclass(:partition) and i.inhparent = to_regclass(:parent)),
    'gone'
);

-- name: session_writes
-- what: how many rows this session has written in its transaction, catalogues included
select coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint from pg_stat_xact_all_tables;

-- name: constraint_named
-- what: a table's constraint: its kind, whether it's proved, its columns by name, and what a foreign key refers to
select
    case k.contype
        when 'c' then 'check' when 'f' then 'foreign key' when 'u' then 'unique' when 'p' then 'primary key'
        when 'n' then 'not null' else 'other'
    end as kind,
    k.convalidated as validated,
    pg_get_constraintdef(k.oid) as definition,
    array(
        select a.attname::text from unnest(k.conkey) with ordinality as c (number, place)
        join pg_attribute a on a.attrelid = k.conrelid and a.attnum = c.number order by c.place
    ) as columns,
    k.confrelid::bigint as referenced_oid,
    array(
        select a.attname::text from unnest(k.confkey) with ordinality as c (number, place)
        join pg_attribute a on a.attrelid = k.confrelid and a.attnum = c.number order by c.place
    ) as referenced_columns,
    (
        jsonb '{"a": "no action", "r": "restrict", "c": "cascade", "n": "set null", "d": "set default"}'
        ->> k.confdeltype::text
    ) as on_delete,
    (
        jsonb '{"a": "no action", "r": "restrict", "c": "cascade", "n": "set null", "d": "set default"}'
        ->> k.confupdtype::text
    ) as on_update
from pg_constraint k
where k.conrelid = cast(:table_oid as bigint)::oid and k.conname = cast(:name as text);

-- name: not_null
-- what: whether a column is proved to hold no null, and by which constraint
select a.attnotnull as proved, null::text as constraint_name
from pg_attribute a
where a.attrelid = cast(:table_oid as bigint)::oid and a.attname = cast(:column as text) and not a.attisdropped;

-- name: not_null
-- what: whether a column is proved to hold no null, and by which constraint
-- since: 18
select a.attnotnull and coalesce(k.convalidated, true) as proved, k.conname::text as constraint_name
from pg_attribute a
left join pg_constraint k on k.conrelid = a.attrelid and k.contype = 'n' and k.conkey = array[a.attnum]
where a.attrelid = cast(:table_oid as bigint)::oid and a.attname = cast(:column as text) and not a.attisdropped;

-- name: walkable_keys
-- what: the keys by which all rows of a table can be walked: unique, whole, and never null; the primary key first
select
    i.indisprimary as is_primary,
    array_agg(a.attname::text order by c.place) as columns,
    array_agg(format_type(a.atttypid, a.atttypmod) order by c.place) as types
from pg_index i
cross join lateral unnest(i.indkey::smallint[]) with ordinality as c (number, place)
left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = c.number
where
    i.indrelid = cast(:table_oid as bigint)::oid
    and i.indisunique and i.indisvalid and i.indimmediate and i.indpred is null and i.indexprs is null
    and c.place <= i.indnkeyatts
group by i.indexrelid, i.indisprimary
having bool_and(a.attnotnull)
order by i.indisprimary desc, i.indexrelid;

-- name: schema_named
-- what: a schema; no row where there is none
select n.oid::bigint as oid from pg_namespace n where n.nspname = cast(:name as text);

-- name: backfill_load
-- what: WAL written so far, how far the worst standby is behind it, standbys that can't be seen, and an urgent autovacuum
select
    pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint as wal_bytes,
    coalesce(max(greatest(pg_wal_lsn_diff(pg_current_wal_lsn(), s.replay_lsn), 0)), 0)::bigint as lag_bytes,
    (count(*) filter (where s.pid is not null and s.state is null))::integer as hidden,
    exists (
        select
        from pg_stat_progress_vacuum v
        join pg_stat_activity a on a.pid = v.pid
        where
            a.query like '%(to prevent wraparound)%'
            and (
                v.relid = cast(:table_oid as bigint)::oid
                or v.relid in (select relid from pg_partition_tree(cast(:table_oid as bigint)::oid::regclass))
            )
    ) as wraparound
from (select) as once
left join pg_stat_replication s on s.state is null or s.state in ('streaming', 'catchup');

-- name: lint_server
-- what: what a linted script will meet: the major version, the time zone, the search path
select
    current_setting('server_version_num')::int / 10000 as major,
    current_setting('TimeZone') as time_zone,
    current_schemas(false)::text[] as path;

-- name: lint_relations
-- what: the relations that a migration may touch, with their partitioning
select
    n.nspname as schema,
    c.relname as name,
    c.relkind::text as kind,
    pn.nspname as parent_schema,
    p.relname as parent,
    dn.nspname as default_schema,
    d.relname as default_partition,
    (
        select array_agg(a.attname::text order by k.position)
        from unnest(pt.partattrs::int2[]) with ordinality as k (number, position)
        join pg_attribute a on a.attrelid = c.oid and a.attnum = k.number
    ) as partition_key,
    (select count(*) from pg_policy l where l.polrelid = c.oid)::int as policies,
    c.relpersistence::text as persistence,
    c.relispopulated as populated,
    (select m.amname from pg_am m where m.oid = c.relam) as access_method,
    (
        select coalesce(s.spcname, ds.spcname)
        from pg_database b
        join pg_tablespace ds on ds.oid = b.dattablespace
        left join pg_tablespace s on s.oid = c.reltablespace
        where b.datname = current_database()
    ) as tablespace
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
left join pg_inherits i on i.inhrelid = c.oid and c.relispartition
left join pg_class p on p.oid = i.inhparent
left join pg_namespace pn on pn.oid = p.relnamespace
left join pg_partitioned_table pt on pt.partrelid = c.oid
left join pg_class d on d.oid = pt.partdefid
left join pg_namespace dn on dn.oid = d.relnamespace
where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema';

-- name: lint_columns
-- what: their columns, the types as one writes them
select
    n.nspname as schema,
    c.relname as relation,
    a.attname as name,
    format_type(a.atttypid, a.atttypmod) as type,
    a.attnotnull as not_null,
    a.attgenerated::text as generated,
    (select l.collname from pg_collation l where l.oid = a.attcollation and l.collname <> 'default') as collation
from pg_attribute a
join pg_class c on c.oid = a.attrelid
join pg_namespace n on n.oid = c.relnamespace
where
    a.attnum > 0 and not a.attisdropped
    and c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema';

-- name: lint_constraints
-- what: their constraints, with the definitions from which a proof can be read
select
    n.nspname as schema,
    c.relname as relation,
    k.conname as name,
    k.contype::text as kind,
    k.convalidated as valid,
    (
        select array_agg(a.attname::text order by u.position)
        from unnest(k.conkey) with ordinality as u (number, position)
        join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.number
    ) as columns,
    case when k.contype = 'c' then pg_get_constraintdef(k.oid) end as definition,
    rn.nspname as references_schema,
    r.relname as references_relation,
    (
        select array_agg(a.attname::text order by u.position)
        from unnest(k.confkey) with ordinality as u (number, position)
        join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.number
    ) as referred
from pg_constraint k
join pg_class c on c.oid = k.conrelid
join pg_namespace n on n.oid = c.relnamespace
left join pg_class r on r.oid = k.confrelid
left join pg_namespace rn on rn.oid = r.relnamespace
where k.contype in ('c', 'f', 'u', 'p', 'x', 'n') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema';

-- name: lint_indexes
-- what: their indexes; an expression's place holds no name
select
    n.nspname as schema,
    c.relname as relation,
    ic.relname as name,
    x.indisunique as is_unique,
    x.indisvalid as valid,
    x.indpred is not null as partial,
    (
        select coalesce(s.spcname, ds.spcname)
        from pg_database b
        join pg_tablespace ds on ds.oid = b.dattablespace
        left join pg_tablespace s on s.oid = ic.reltablespace
        where b.datname = current_database()
    ) as tablespace,
    (
        select array_agg(coalesce(a.attname::text, '') order by k.position)
        from unnest(x.indkey::int2[]) with ordinality as k (number, position)
        left join pg_attribute a on a.attrelid = x.indrelid and a.attnum = k.number and k.number > 0
        where k.position <= x.indnkeyatts
    ) as columns,
    (
        select array_agg(distinct a.attname::text)
        from pg_depend d
        join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid
        where
            d.classid = 'pg_class'::regclass and d.objid = x.indexrelid
            and d.refclassid = 'pg_class'::regclass and d.refobjid = x.indrelid and d.refobjsubid > 0
    ) as uses
from pg_index x
join pg_class ic on ic.oid = x.indexrelid
join pg_class c on c.oid = x.indrelid
join pg_namespace n on n.oid = c.relnamespace
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema';

-- name: lint_view_columns
-- what: which columns a view, or a materialized view, reads of which relation
select distinct
    n.nspname as schema,
    c.relname as relation,
    a.attname as column,
    vn.nspname as view_schema,
    v.relname as view
from pg_depend d
join pg_rewrite w on w.oid = d.objid and d.classid = 'pg_rewrite'::regclass
join pg_class v on v.oid = w.ev_class
join pg_namespace vn on vn.oid = v.relnamespace
join pg_class c on c.oid = d.refobjid and d.refclassid = 'pg_class'::regclass and c.oid <> v.oid
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum = d.refobjsubid and d.refobjsubid > 0
where n.nspname !~ '^pg_' and n.nspname <> 'information_schema';

-- name: lint_column_users
-- what: which columns of a relation a trigger, a policy or a generated column of it names: their type can't be changed
select
    n.nspname as schema,
    c.relname as relation,
    a.attname as column,
    case d.classid
        when 'pg_trigger'::regclass then 'trigger ' || t.tgname
        when 'pg_policy'::regclass then 'policy ' || l.polname
        else 'generated column ' || g.attname
    end as used_by
from pg_depend d
join pg_class c on c.oid = d.refobjid and d.refclassid = 'pg_class'::regclass
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum = d.refobjsubid and d.refobjsubid > 0
left join pg_trigger t on d.classid = 'pg_trigger'::regclass and t.oid = d.objid and not t.tgisinternal
left join pg_policy l on d.classid = 'pg_policy'::regclass and l.oid = d.objid
left join pg_attrdef f on d.classid = 'pg_attrdef'::regclass and f.oid = d.objid and f.adrelid = c.oid
left join pg_attribute g on g.attrelid = f.adrelid and g.attnum = f.adnum and g.attgenerated <> '' and g.attnum <> a.attnum
where
    coalesce(t.oid, l.oid, g.attrelid) is not null
    and n.nspname !~ '^pg_' and n.nspname <> 'information_schema';

-- name: lint_needed
-- what: what needs a function or a sequence of users, so that neither can be dropped alone
select
    case when p.oid is null then 'sequence' else 'function' end as kind,
    n.nspname as schema,
    coalesce(p.proname, s.relname) as name,
    pg_describe_object(d.classid, d.objid, d.objsubid) as dependent,
    un.nspname as user_schema,
    u.relname as user_relation
from pg_depend d
left join pg_proc p on d.refclassid = 'pg_proc'::regclass and p.oid = d.refobjid
left join pg_class s on d.refclassid = 'pg_class'::regclass and s.oid = d.refobjid and s.relkind = 'S'
join pg_namespace n on n.oid = coalesce(p.pronamespace, s.relnamespace)
left join pg_trigger t on d.classid = 'pg_trigger'::regclass and t.oid = d.objid
left join pg_attrdef f on d.classid = 'pg_attrdef'::regclass and f.oid = d.objid
left join pg_class u on u.oid = coalesce(t.tgrelid, f.adrelid, case when d.classid = 'pg_class'::regclass then d.objid end)
left join pg_namespace un on un.oid = u.relnamespace
where
    d.deptype = 'n' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
    and (p.oid is null or 1 = (select count(*) from pg_proc m where (m.proname, m.pronamespace) = (p.proname, p.pronamespace)))
union all
select 'sequence', n.nspname, s.relname, 'identity of column ' || a.attname, un.nspname, u.relname
from pg_depend d
join pg_class s on s.oid = d.objid and s.relkind = 'S'
join pg_namespace n on n.oid = s.relnamespace
join pg_class u on u.oid = d.refobjid
join pg_namespace un on un.oid = u.relnamespace
join pg_attribute a on a.attrelid = u.oid and a.attnum = d.refobjsubid
where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass and d.deptype = 'i';

-- name: lint_types
-- what: domains, enums and composite types, whether a domain is constrained, and the columns that are of it
with recursive base as (
    select t.oid, t.typbasetype, t.typnotnull from pg_type t where t.typtype = 'd'
    union all
    select b.oid, t.typbasetype, t.typnotnull from base b join pg_type t on t.oid = b.typbasetype and t.typtype = 'd'
)
select
    n.nspname as schema,
    t.typname as name,
    t.typtype::text as kind,
    case when t.typtype = 'd' then format_type(t.typbasetype, t.typtypmod) end as base,
    exists (
        select from base b
        where
            b.oid = t.oid
            and (b.typnotnull or exists (select from pg_constraint k where k.contypid in (b.oid, b.typbasetype)))
    ) as constrained,
    (
        select array_agg(cn.nspname || '.' || c.relname || '.' || a.attname)
        from pg_attribute a
        join pg_class c on c.oid = a.attrelid and c.relkind in ('r', 'p', 'm')
        join pg_namespace cn on cn.oid = c.relnamespace
        where a.atttypid = t.oid and not a.attisdropped
    ) as columns
from pg_type t
join pg_namespace n on n.oid = t.typnamespace
left join pg_class tc on tc.oid = t.typrelid
where
    t.typtype in ('d', 'e', 'c') and coalesce(tc.relkind, 'c') = 'c'
    and n.nspname !~ '^pg_' and n.nspname <> 'information_schema';

-- name: lint_routines
-- what: functions and procedures of users: how volatile, and what they do
select
    n.nspname as schema,
    p.proname as name,
    p.provolatile::text as volatility,
    l.lanname as language,
    coalesce(p.prosrc, '') as body,
    pg_get_functiondef(p.oid) as definition,
    p.prosecdef or p.proconfig is not null as guarded
from pg_proc p
join pg_namespace n on n.oid = p.pronamespace
join pg_language l on l.oid = p.prolang
where p.prokind in ('f', 'p') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema';

-- name: lint_volatile_builtins
-- what: the server's own functions that have another value in each row
select distinct p.proname as name
from pg_proc p
where p.pronamespace = 'pg_catalog'::regnamespace and p.provolatile = 'v' and p.prokind = 'f';

-- name: trace_locks
-- what: the locks on relations of this database that a session holds or waits for
select l.relation::bigint, l.mode
from pg_locks l
where l.pid = :pid and l.locktype = 'relation'
    and l.database = (select oid from pg_database where datname = current_database());

-- name: trace_waits
-- what: whether a session waits for a lock, or for another transaction to end
select exists (select from pg_locks l where l.pid = :pid and not l.granted);

-- name: trace_named
-- what: the relation that a statement names, as this session's search path has it
select coalesce(to_regclass(:relation)::oid, 0)::bigint;

-- name: trace_names
-- what: the names of relations, as this session's search path has them
select c.oid::regclass::text from pg_class c where c.oid = any(cast(:oids as oid[])) order by c.oid;

-- name: trace_relations
-- what: the application's relations, with what tells that their file was replaced or moved
select c.oid::bigint, c.oid::regclass::text, c.relkind::text,
    coalesce(pg_relation_filenode(c.oid), 0)::bigint, c.reltablespace::bigint
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p', 'm', 'i', 'I', 'v', 'S', 'f')
    and n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and n.nspname <> :own_schema;

-- name: trace_alone
-- what: ends the sessions that idle on the copy: what they read is counted as they end, and not seconds later as a statement's
select pg_terminate_backend(pid, 10000) from pg_stat_activity
where datname = current_database() and backend_type = 'client backend' and state = 'idle' and pid <> pg_backend_pid();

-- name: trace_rows
-- what: rows read so far in this transaction, by table
select x.relid::bigint, (x.seq_tup_read + coalesce(x.idx_tup_fetch, 0))::bigint
from pg_stat_xact_user_tables x;

-- name: trace_rows
-- what: rows read so far by anybody, by table: what this session has not reported yet, and what was reported, also by parallel workers
-- since: 15
select x.relid::bigint,
    (x.seq_tup_read + coalesce(x.idx_tup_fetch, 0) + s.seq_tup_read + coalesce(s.idx_tup_fetch, 0))::bigint
from pg_stat_xact_user_tables x join pg_stat_user_tables s using (relid);

-- name: trace_written
-- what: bytes of write-ahead log so far, and the database's size
select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint, pg_database_size(current_database());

-- name: trace_sizes
-- what: bytes of each table's heap with what is stored apart, and of its indexes
select c.oid::regclass::text as name, pg_table_size(c.oid) as heap_bytes, pg_indexes_size(c.oid) as index_bytes
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'm') and c.relpersistence <> 't'
    and n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and n.nspname <> :own_schema;

-- name: trace_content
-- what: for each table, the query that counts and sums up its rows
select c.oid::bigint as oid, c.oid::regclass::text as name, format(
    'select count(*), coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text from only %s t', c.oid::regclass
) as query
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'm') and c.relispopulated and c.relpersistence <> 't'
    and n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and n.nspname <> :own_schema
    and c.relname <> 'alembic_version';

-- name: trace_journal
-- what: drop the journal that came with the copy: its transactions' numbers are another server's
select format('drop schema if exists %I cascade', cast(:own_schema as text));

-- name: source_tablespaces
-- what: the tablespaces that a script may name
select spcname::text as name, quote_ident(spcname) as quoted from pg_tablespace where spcname !~ '^pg_' order by 1;

-- name: source_wal_level
-- what: how much a server writes into its write-ahead log
select current_setting('wal_level') as wal_level;

-- name: source_calls_query
-- what: where this database has pg_stat_statements: the query for its statements, their calls, and since how many seconds they are counted
select format(
    'select s.query, s.calls::bigint, greatest(1, extract(epoch from now() - i.stats_reset))::float8'
    ' from %1$I.pg_stat_statements s cross join %1$I.pg_stat_statements_info i'
    ' where s.dbid = (select oid from pg_database where datname = current_database()) and s.query is not null'
    ' order by s.calls desc limit 5000', n.nspname
) as query
from pg_extension e join pg_namespace n on n.oid = e.extnamespace
where e.extname = 'pg_stat_statements';

-- name: source_pace
-- what: for the largest table, the query that reads a sample of it, at most 4000 pages, and its number of pages
select format('select count(*) from only %s where ctid < %L', c.name, format('(%s,0)', least(4000, c.pages))) as query,
    c.name as name, least(4000, c.pages)::int as pages
from (
    select c.oid::regclass::text as name, pg_relation_size(c.oid) / current_setting('block_size')::int as pages
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.relkind = 'r' and c.relpersistence = 'p' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
    order by 2 desc, 1 limit 1
) c
where c.pages > 0;

-- name: left_invalid_indexes
-- what: indexes of a build or a drop that was broken off (that of a partitioned table lacks one of a part)
select
    'invalid_index' as kind,
    i.indexrelid::regclass::text as object,
    case
        when not i.indislive then format('drop index concurrently %s', i.indexrelid::regclass)
        when c.relkind = 'I' then format(
            'alter index %s attach partition NAME, for an index like it of each partition', i.indexrelid::regclass
        )
        else format('reindex index concurrently %s', i.indexrelid::regclass)
    end as remedy
from pg_index i
join pg_class c on c.oid = i.indexrelid
join pg_namespace n on n.oid = c.relnamespace
where not (i.indisvalid and i.indisready and i.indislive)
    and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
    -- another session's build that is under way is no leftover
    and not exists (
        select from pg_stat_progress_create_index p where p.index_relid = i.indexrelid and p.pid <> pg_backend_pid()
    )
order by 2;

-- name: left_unvalidated_constraints
-- what: constraints that were never proved for the rows that were there (one that isn't enforced can't be)
select
    'unvalidated_constraint' as kind,
    format('%s.%I', k.conrelid::regclass, k.conname) as object,
    format('alter table %s validate constraint %I', k.conrelid::regclass, k.conname) as remedy
from pg_constraint k
join pg_namespace n on n.oid = k.connamespace
where not k.convalidated and k.conrelid <> 0 and k.conparentid = 0
    and coalesce((to_jsonb(k) ->> 'conenforced')::boolean, true)
    and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
order by 2;

-- name: left_unindexed_foreign_keys
-- what: foreign keys whose columns no index begins with; a part of a partitioned table has its parent's key
select
    'unindexed_foreign_key' as kind,
    format('%s.%I', k.conrelid::regclass, k.conname) as object,
    format(
        'create index concurrently on %s (%s)', k.conrelid::regclass,
        (
            select string_agg(quote_ident(a.attname), ', ' order by u.position)
            from unnest(k.conkey) with ordinality u (number, position)
            join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.number
        )
    ) as remedy
from pg_constraint k
join pg_namespace n on n.oid = k.connamespace
where k.contype = 'f' and k.conparentid = 0 and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
    and not exists (
        select from pg_index i
        where i.indrelid = k.conrelid and i.indisvalid and i.indpred is null
            -- its first columns are the key's, in whatever order
            and (i.indkey::int2[])[0 : cardinality(k.conkey) - 1] operator(pg_catalog.@>) k.conkey
            and cardinality(k.conkey) <= i.indnkeyatts
    )
order by 2;

-- name: abort_state
-- what: whether a session waits for a lock, and how many wait for it, directly or behind one that does
with recursive waiting as materialized (
    select w.pid, pg_blocking_pids(w.pid) as by
    from (
        select distinct l.pid from pg_locks l
        where cast(:count as boolean) and not l.granted and l.pid <> cast(:pid as integer)
    ) w
), held (pid) as (
    select w.pid from waiting w where cast(:pid as integer) = any (w.by)
    union
    select w.pid from held h join waiting w on h.pid = any (w.by)
)
select
    coalesce((
        select a.wait_event_type = 'Lock' from pg_stat_activity a where a.pid = cast(:pid as integer)
    ), false) as waits,
    (select count(*) from held)::int as blocked;

-- name: abort_statement
-- what: cancel what a session is at
select pg_cancel_backend(a.pid) from pg_stat_activity a where a.pid = :pid and a.state = 'active';

-- name: abort_idle
-- what: end a session that lies idle in its transaction; no row where it doesn't
select pg_terminate_backend(a.pid)
from pg_stat_activity a
where a.pid = :pid and a.state like 'idle in transaction%'
    and clock_timestamp() - a.state_change > make_interval(secs => :idle_s);

-- name: statement_progress
-- what: how far a session's statement is, of those that the server tells of
select
    lower(p.command) as command, p.phase,
    case
        when p.phase like 'waiting for%' then 'lockers'
        when p.tuples_total > 0 then 'rows'
        when p.blocks_total > 0 then 'blocks'
        else 'partitions'
    end as unit,
    case
        when p.phase like 'waiting for%' then p.lockers_done
        when p.tuples_total > 0 then p.tuples_done
        when p.blocks_total > 0 then p.blocks_done
        else p.partitions_done
    end as done,
    case
        when p.phase like 'waiting for%' then p.lockers_total
        when p.tuples_total > 0 then p.tuples_total
        when p.blocks_total > 0 then p.blocks_total
        else p.partitions_total
    end as total
from pg_stat_progress_create_index p
where p.pid = :pid
union all
select lower(p.command), p.phase, 'blocks', p.heap_blks_scanned, p.heap_blks_total
from pg_stat_progress_cluster p
where p.pid = :pid
union all
select
    'vacuum', p.phase, 'blocks',
    case when p.phase like 'vacuuming%' then p.heap_blks_vacuumed else p.heap_blks_scanned end, p.heap_blks_total
from pg_stat_progress_vacuum p
where p.pid = :pid
union all
select 'analyze', p.phase, 'blocks', p.sample_blks_scanned, p.sample_blks_total
from pg_stat_progress_analyze p
where p.pid = :pid
union all
select lower(p.command), lower(p.type), 'bytes', p.bytes_processed, p.bytes_total
from pg_stat_progress_copy p
where p.pid = :pid;
