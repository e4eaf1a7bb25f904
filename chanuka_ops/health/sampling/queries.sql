-- Counters that are compared with the look before. Each row has a `key`, unique and stable, and, where the server tells
-- when its counters began anew, a `reset`. Run as health/queries.sql is: read only, search_path = pg_catalog.

-- name: incarnation
-- what: whose counters these are: the cluster, this database, and the start of the server that counts
select concat_ws('/', (select system_identifier from pg_control_system()),
                 (select oid from pg_database where datname = current_database()),
                 extract(epoch from pg_postmaster_start_time())::bigint) as incarnation;

-- name: incarnation_without_control
-- what: the same for a role that may not read the control file: the start of a server is hardly ever another's too
select concat_ws('/', (select oid from pg_database where datname = current_database()),
                 extract(epoch from pg_postmaster_start_time())) as incarnation;

-- name: database_counters
-- what: deadlocks, commits, rollbacks and temporary files of this database
select datname::text as key, coalesce(stats_reset::text, '') as reset, deadlocks, xact_commit as commits,
       xact_rollback as rollbacks, temp_files, temp_bytes::float8 as temp_bytes,
       coalesce(to_char(stats_reset at time zone 'UTC', 'YYYY-MM-DD HH24\:MI "UTC"'), 'the server was made') as since
  from pg_stat_database where datname = current_database();

-- name: cache
-- what: blocks of this database found in shared buffers and blocks asked of the system
select datname::text as key, coalesce(stats_reset::text, '') as reset, blks_hit as hit, blks_read as read
  from pg_stat_database where datname = current_database();

-- name: checkpoints
-- what: checkpoints by time and by request, and the WAL that was written meanwhile
select 'server' as key, concat_ws(' ', b.stats_reset, w.stats_reset) as reset, b.checkpoints_timed as timed,
       b.checkpoints_req as requested, w.wal_bytes::float8 as wal_bytes,
       pg_size_bytes(current_setting('max_wal_size'))::float8 as max_wal_bytes,
       current_setting('checkpoint_completion_target')::float8 as completion_target
  from pg_stat_bgwriter b, pg_stat_wal w;

-- name: checkpoints
-- what: the same, from the view that they have had since 17
-- since: 17
select 'server' as key, concat_ws(' ', c.stats_reset, w.stats_reset) as reset, c.num_timed as timed,
       c.num_requested as requested, w.wal_bytes::float8 as wal_bytes,
       pg_size_bytes(current_setting('max_wal_size'))::float8 as max_wal_bytes,
       current_setting('checkpoint_completion_target')::float8 as completion_target
  from pg_stat_checkpointer c, pg_stat_wal w;

-- name: table_counters
-- what: scans and updates of the tables that a rule could name: those that are large or much updated
select c.oid::text as key, format('%I.%I', n.nspname, c.relname) as name, c.reltuples::float8 as reltuples,
       pg_stat_get_live_tuples(c.oid) as live, pg_stat_get_numscans(c.oid) as seq_scans,
       pg_stat_get_tuples_returned(c.oid) as seq_rows, pg_stat_get_tuples_updated(c.oid) as updated,
       pg_stat_get_tuples_hot_updated(c.oid) as hot_updated
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
 where c.relkind in ('r', 'm')
   and (pg_stat_get_tuples_updated(c.oid) >= 1000 or pg_stat_get_tuples_returned(c.oid) >= 100000)
   and c.oid not in (select objid from pg_depend where refclassid = 'pg_extension'::regclass
                                                   and classid = 'pg_class'::regclass and deptype = 'e')
 order by pg_stat_get_tuples_returned(c.oid) + pg_stat_get_tuples_updated(c.oid) desc limit 2000;

-- name: statements
-- what: where pg_stat_statements is and can be read, the statement that reads this database's dearest 500
-- (a row's queries are summed over roles; utility statements are left out, and with them passwords)
select 'extension' as key, e.extname is not null as installed,
       current_setting('pg_stat_statements.max', true) is not null as loaded,
       case when e.extname is not null and current_setting('pg_stat_statements.max', true) is not null then format(
         $$select coalesce(jsonb_agg(to_jsonb(q)), '[]') from (
             select s.queryid::text as key, (select stats_reset::text from %1$I.pg_stat_statements_info) as reset,
                    sum(s.calls)::bigint as calls, sum(s.total_exec_time) as total_ms,
                    min(left(regexp_replace(s.query, '\s+', ' ', 'g'), 200)) as query
               from %1$I.pg_stat_statements s
              where s.dbid = (select oid from pg_database where datname = current_database())
                and s.queryid is not null and s.query ~* '^\s*(select|insert|update|delete|merge|with|values)\y'
              group by s.queryid order by sum(s.total_exec_time) desc limit 500) q$$, n.nspname) end as probe
  from (values (1)) one
  left join pg_extension e on e.extname = 'pg_stat_statements'
  left join pg_namespace n on n.oid = e.extnamespace;

-- name: database_size
-- what: this database's size
select datname::text as key, pg_database_size(oid)::float8 as bytes
  from pg_database where datname = current_database();

-- name: data_directory
-- what: the data directory, where the role may know it, and when its server was started
select 'disk' as key, (select setting from pg_settings where name = 'data_directory') as directory,
       extract(epoch from pg_postmaster_start_time())::float8 as started;

-- name: running_backups
-- what: sessions that take a backup, by whatever program
select a.pid, coalesce(nullif(a.application_name, ''), a.backend_type) as program,
       extract(epoch from clock_timestamp() - a.backend_start)::float8 / 3600 as hours
  from pg_stat_activity a
 where a.pid in (select pid from pg_stat_progress_basebackup)
    or (a.datname = current_database() and a.application_name in ('pg_dump', 'pg_dumpall'))
 order by a.backend_start;

-- name: schema_marker
-- what: what changes with every change of the schema: who wrote the catalogue's rows, and how many there are
-- (VACUUM and ANALYZE write pg_class in place, so they don't change it; a dump and restore does, and costs one look)
select md5(concat_ws(' ',
         (select concat_ws(',', count(*), sum(xmin::text::bigint)) from pg_class where oid >= 16384),
         (select concat_ws(',', count(*), sum(xmin::text::bigint)) from pg_attribute where attrelid >= 16384),
         (select concat_ws(',', count(*), sum(xmin::text::bigint)) from pg_attrdef),
         (select concat_ws(',', count(*), sum(xmin::text::bigint)) from pg_constraint where oid >= 16384),
         (select concat_ws(',', count(*), sum(xmin::text::bigint)) from pg_index where indexrelid >= 16384),
         (select concat_ws(',', count(*), sum(xmin::text::bigint)) from pg_proc where oid >= 16384),
         (select concat_ws(',', count(*), sum(xmin::text::bigint)) from pg_type where oid >= 16384),
         (select concat_ws(',', count(*), sum(xmin::text::bigint)) from pg_trigger where oid >= 16384),
         (select concat_ws(',', count(*), sum(xmin::text::bigint)) from pg_policy),
         (select concat_ws(',', count(*), sum(xmin::text::bigint)) from pg_rewrite where oid >= 16384),
         (select concat_ws(',', count(*), sum(xmin::text::bigint)) from pg_sequence),
         (select concat_ws(',', count(*), sum(xmin::text::bigint)) from pg_enum where oid >= 16384),
         (select concat_ws(',', count(*), sum(xmin::text::bigint)) from pg_namespace where oid >= 16384),
         (select concat_ws(',', count(*), sum(xmin::text::bigint)) from pg_extension where oid >= 16384),
         (select concat_ws(',', count(*), sum(xmin::text::bigint)) from pg_description where objoid >= 16384))) as marker;
