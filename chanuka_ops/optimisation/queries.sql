-- The optimiser's SQL. Objects are found by to_regclass and named by the catalogue: no name that came from outside is
-- ever part of a statement's text.

-- name: resolve
-- what: the oid and kind of a relation, by the name as SQL would write it; no row: it doesn't exist
select c.oid::bigint as oid, c.relkind::text as kind
from pg_class c
where c.oid = to_regclass(:name)

-- name: table
-- what: what is to be known of a table before advising or acting; a partitioned one counts with its partitions
select c.oid::bigint as oid,
       format('%I.%I', n.nspname, c.relname) as identifier,
       c.relkind::text as kind,
       c.relpersistence = 't' as temporary,
       -- waits for the table's lock where it is locked exclusively: the session's lock_timeout ends that
       (select sum(pg_total_relation_size(t.relid))::bigint
        from (select c.oid union select relid from pg_partition_tree(c.oid)) as t (relid)) as bytes
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where c.oid = cast(:oid as oid)

-- name: index
-- what: what is to be known of an index before advising to rebuild or drop it
select i.indexrelid::bigint as oid,
       format('%I.%I', n.nspname, c.relname) as identifier,
       c.relname::text as name,
       format('%I.%I', tn.nspname, t.relname) as "table",
       pg_get_indexdef(i.indexrelid) as definition,
       pg_total_relation_size(i.indexrelid) as bytes,
       i.indisvalid and i.indisready and i.indislive as valid,
       i.indisunique as "unique",
       c.relkind = 'I' as partitioned,
       c.relispartition as is_partition,
       i.indisreplident as replica_identity,
       -- by the lock, which every role may see; the progress view hides its relid from ordinary roles
       exists (select
               from pg_stat_progress_create_index p
               join pg_locks l using (pid)
               where l.locktype = 'relation' and l.granted and l.relation = i.indrelid
                 and l.database = (select oid from pg_database where datname = current_database())) as building,
       -- a foreign key names the unique index it refers to, even one that backs no constraint of its own table
       (select con.conname::text from pg_constraint con
        where con.conindid = i.indexrelid order by con.contype desc, con.conname limit 1) as "constraint",
       array(select format('%I.%I', on_.nspname, oc.relname)
             from pg_index o
             join pg_class oc on oc.oid = o.indexrelid
             join pg_namespace on_ on on_.oid = oc.relnamespace
             where o.indrelid = i.indrelid and o.indexrelid <> i.indexrelid
               and o.indisvalid and o.indisready and o.indislive
               and oc.relam = c.relam
               and o.indnkeyatts = i.indnkeyatts
               and o.indkey::text = i.indkey::text
               and o.indclass::text = i.indclass::text
               and o.indcollation::text = i.indcollation::text
               and o.indoption::text = i.indoption::text
               -- the stored trees hold positions in the text they came from; their SQL doesn't
               and pg_get_expr(o.indexprs, o.indrelid) is not distinct from pg_get_expr(i.indexprs, i.indrelid)
               and pg_get_expr(o.indpred, o.indrelid) is not distinct from pg_get_expr(i.indpred, i.indrelid)
               -- a unique index is replaced only by one with the same rule; the key is absent before 15
               and (not i.indisunique or (o.indisunique
                    and (to_jsonb(o) -> 'indnullsnotdistinct') is not distinct from (to_jsonb(i) -> 'indnullsnotdistinct')
                    and o.indimmediate = i.indimmediate))
             order by 1) as twins
from pg_index i
join pg_class c on c.oid = i.indexrelid
join pg_namespace n on n.oid = c.relnamespace
join pg_class t on t.oid = i.indrelid
join pg_namespace tn on tn.oid = t.relnamespace
where i.indexrelid = cast(:oid as oid)

-- name: limit_statement
-- what: the statement timeout of this session, in milliseconds
select set_config('statement_timeout', :milliseconds, false)

-- name: conditions
-- what: what forbids maintenance of a table now, naming who; pids and locks are visible to every role
select pg_is_in_recovery() as standby,
       -- pg_dump and our own backup keep a transaction open; an idle pooled connection is only named like one
       (select string_agg(format('%s (pid %s)', a.application_name, a.pid), ', ' order by a.pid)
        from pg_stat_activity a
        where a.datname = current_database() and a.pid <> pg_backend_pid() and a.state is distinct from 'idle'
          and (a.application_name in ('pg_dump', 'pg_dumpall')
               or starts_with(a.application_name, 'chanuka/backup/'))) as dumps,
       (select string_agg(format('pid %s', b.pid), ', ' order by b.pid)
        from pg_stat_progress_basebackup b) as base_backups,
       (select string_agg(distinct format('%s (pid %s)', coalesce(nullif(a.application_name, ''), a.backend_type), l.pid), ', ')
        from pg_locks l
        join pg_stat_activity a using (pid)
        where l.locktype = 'relation' and l.granted and l.pid <> pg_backend_pid()
          and l.mode = 'ShareUpdateExclusiveLock'
          and l.database = (select oid from pg_database where datname = current_database())
          and l.relation in (select cast(:oid as oid) union select relid from pg_partition_tree(cast(:oid as oid)))
          and (a.backend_type = 'autovacuum worker'
               or l.pid in (select pid from pg_stat_progress_vacuum union select pid from pg_stat_progress_analyze))
       ) as vacuums

-- name: permitted
-- what: whether the role may vacuum and analyse a relation: its owner's, or the database owner's, rights
select pg_has_role(c.relowner, 'USAGE') or pg_has_role(d.datdba, 'USAGE') as permitted
from pg_class c, pg_database d
where c.oid = cast(:oid as oid) and d.datname = current_database()

-- name: permitted
-- what: whether the role may vacuum and analyse a relation; from 17 on it can be granted
-- since: 17
select pg_has_role(c.relowner, 'USAGE') or pg_has_role(d.datdba, 'USAGE')
       or has_table_privilege(c.oid, 'MAINTAIN') as permitted
from pg_class c, pg_database d
where c.oid = cast(:oid as oid) and d.datname = current_database()

-- name: measure
-- what: a table's size, dead rows and how often it was vacuumed and analysed, with its partitions
select sum(pg_total_relation_size(t.relid))::bigint as bytes,
       sum(pg_stat_get_dead_tuples(t.relid))::bigint as dead_tuples,
       sum(pg_stat_get_vacuum_count(t.relid))::bigint as vacuums,
       sum(pg_stat_get_analyze_count(t.relid))::bigint as analyses,
       current_setting('track_counts')::boolean as counted
from (select cast(:oid as oid) union select relid from pg_partition_tree(cast(:oid as oid))) as t (relid)

-- name: blockers
-- what: who holds, or waits ahead of us for, a lock on a relation that conflicts with SHARE UPDATE EXCLUSIVE
select l.pid,
       l.mode,
       l.granted,
       a.application_name,
       a.usename::text as role,
       a.xact_start
from pg_locks l
left join pg_stat_activity a using (pid)
where l.locktype = 'relation' and l.pid is distinct from pg_backend_pid()
  and l.database = (select oid from pg_database where datname = current_database())
  and l.relation in (select cast(:oid as oid) union select relid from pg_partition_tree(cast(:oid as oid)))
  and l.mode in ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
order by l.granted desc, a.xact_start nulls first, l.pid
