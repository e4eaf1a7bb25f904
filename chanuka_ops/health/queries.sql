-- What the checks read. Run with search_path = pg_catalog on a read-only connection; nothing here takes more than an
-- ACCESS SHARE lock, and nearly nothing takes that: pg_relation_size() and pg_partition_tree() lock what they look at,
-- so they would wait for the very DDL that the checks are to warn of; sizes are relpages instead. Names of user objects are always schema-qualified and quoted. Schemas that begin with pg_ are the
-- server's own (nobody else may make one); what an extension owns is the extension's business.

-- name: facts
-- what: the server's version, clock, role and rights, read once before all checks
select current_setting('server_version_num')::int as server_version,
       clock_timestamp() as now,
       current_database()::text as database,
       current_user::text as role,
       pg_is_in_recovery() as standby,
       pg_has_role(current_user, 'pg_read_all_stats', 'usage') as sees_sessions,
       has_function_privilege('pg_catalog.pg_ls_waldir()', 'execute') as sees_wal_files,
       has_function_privilege('pg_catalog.pg_show_all_file_settings()', 'execute')
         and has_table_privilege('pg_catalog.pg_file_settings', 'select')
         and has_function_privilege('pg_catalog.pg_hba_file_rules()', 'execute')
         and has_table_privilege('pg_catalog.pg_hba_file_rules', 'select') as sees_config_files,
       has_table_privilege('pg_catalog.pg_authid', 'select') as sees_passwords;

-- name: settings
-- what: every server setting in its base unit, and whether it waits for a restart
select name, setting, pending_restart, context, source from pg_settings;

-- name: connections
-- what: client connections of the server, of each limited role and of each limited database, with what each may have
select 'server' as kind, null::text as name,
       count(*) filter (where backend_type = 'client backend') as used,
       current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
         - coalesce(current_setting('reserved_connections', true)::int, 0) as allowed,
       count(*) filter (where backend_type = 'client backend' and state = 'idle') as idle
  from pg_stat_activity
union all
select 'role', quote_ident(r.rolname), count(a.pid), r.rolconnlimit, count(a.pid) filter (where a.state = 'idle')
  from pg_roles r
  left join pg_stat_activity a on a.usesysid = r.oid and a.backend_type = 'client backend'
 where r.rolconnlimit > 0 and r.rolcanlogin and not r.rolsuper
 group by r.rolname, r.rolconnlimit
union all
select 'database', quote_ident(d.datname), count(a.pid), d.datconnlimit, count(a.pid) filter (where a.state = 'idle')
  from pg_database d
  left join pg_stat_activity a on a.datid = d.oid and a.backend_type = 'client backend'
 where d.datconnlimit > 0 and d.datallowconn
 group by d.datname, d.datconnlimit;

-- name: sessions
-- what: this database's client sessions but our own, with how long each has been in its state and what it holds
select pid, usename::text as "user", application_name as application, state,
       extract(epoch from clock_timestamp() - state_change)::float8 as state_s,
       extract(epoch from clock_timestamp() - query_start)::float8 as query_s,
       extract(epoch from clock_timestamp() - xact_start)::float8 as xact_s,
       backend_xid is not null as holds_xid, backend_xmin is not null as holds_xmin,
       left(regexp_replace(query, '\s+', ' ', 'g'), 120) as query
  from pg_stat_activity
 where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend';

-- name: lock_waits
-- what: who waits for a lock and on whom, and each one that is waited for
with waiting as (
  select a.pid, array(select distinct b from unnest(pg_blocking_pids(a.pid)) b order by b) as blockers
    from pg_stat_activity a
   where a.datname = current_database() and a.wait_event_type = 'Lock' and a.pid <> pg_backend_pid()
), involved as (
  select pid from waiting where blockers <> '{}'
  union
  select unnest(blockers) from waiting
)
select i.pid, coalesce(w.blockers, '{}') as blockers, a.usename::text as "user", a.application_name as application,
       a.state, left(regexp_replace(a.query, '\s+', ' ', 'g'), 120) as query, l.mode, l.locktype, l.relation,
       extract(epoch from clock_timestamp() - coalesce(l.waitstart, a.state_change))::float8 as waits_s,
       (select array_agg(format('%I.%I', n.nspname, c.relname) order by 1)
          from pg_locks k join pg_class c on c.oid = k.relation join pg_namespace n on n.oid = c.relnamespace
         where k.pid = i.pid and k.granted and k.mode = 'AccessExclusiveLock' and k.locktype = 'relation'
           and k.database = (select oid from pg_database where datname = current_database())) as locked_out
  from involved i
  left join waiting w on w.pid = i.pid
  left join pg_stat_activity a on a.pid = i.pid
  left join lateral (
    select k.mode, k.locktype, k.waitstart,
           case when k.database = (select oid from pg_database where datname = current_database())
                then (select format('%I.%I', n.nspname, c.relname)
                        from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = k.relation)
           end as relation
      from pg_locks k where k.pid = i.pid and not k.granted
     order by k.relation nulls last limit 1) l on true;

-- name: lock_table
-- what: how many entries of the shared lock table are in use, and how many there are
select (select count(*) from pg_locks where not fastpath and mode <> 'SIReadLock') as used,
       current_setting('max_locks_per_transaction')::bigint
         * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint)
         as allowed;

-- name: advisory_locks
-- what: idle sessions of this database that hold advisory locks at session level
select a.pid, a.usename::text as "user", a.application_name as application, count(*) as locks,
       min(case when l.objsubid = 1 then ((l.classid::bigint << 32) | l.objid::bigint)::text
                else format('(%s, %s)', l.classid, l.objid) end) as key,
       extract(epoch from clock_timestamp() - a.state_change)::float8 as state_s
  from pg_locks l join pg_stat_activity a on a.pid = l.pid
 where l.locktype = 'advisory' and l.granted and a.state = 'idle' and a.pid <> pg_backend_pid()
   and l.database = (select oid from pg_database where datname = current_database())
 group by a.pid, a.usename, a.application_name, a.state_change order by a.pid;

-- name: database_ages
-- what: how old each database's oldest unfrozen transaction and multixact are
select quote_ident(datname) as name, datname = current_database() as here,
       age(datfrozenxid)::bigint as xid_age, mxid_age(datminmxid)::bigint as mxid_age
  from pg_database;

-- name: table_ages
-- what: how old each table's oldest unfrozen transaction and multixact are (its TOAST table's too), with the table's limits
with aged as (
  select c.oid, c.relnamespace, c.relname,
         age(c.relfrozenxid)::bigint as xid_age, age(t.relfrozenxid)::bigint as toast_xid_age,
         mxid_age(c.relminmxid)::bigint as mxid_age, mxid_age(t.relminmxid)::bigint as toast_mxid_age,
         own.xids as own_xid_limit, toast.xids as toast_xid_limit, own.mxids as own_mxid_limit, toast.mxids as toast_mxid_limit
    from pg_class c left join pg_class t on t.oid = c.reltoastrelid and t.relkind = 't'
    left join lateral (
      select min(case option_name when 'autovacuum_freeze_max_age' then option_value::bigint end) as xids,
             min(case option_name when 'autovacuum_multixact_freeze_max_age' then option_value::bigint end) as mxids
        from pg_options_to_table(c.reloptions)) own on c.reloptions is not null
    left join lateral (
      select min(case option_name when 'autovacuum_freeze_max_age' then option_value::bigint end) as xids,
             min(case option_name when 'autovacuum_multixact_freeze_max_age' then option_value::bigint end) as mxids
        from pg_options_to_table(t.reloptions)) toast on t.reloptions is not null
   where c.relkind in ('r', 'm') and c.relpersistence <> 't' and c.relfrozenxid <> 0::text::xid
     and (c.reloptions is not null or t.reloptions is not null
          or greatest(age(c.relfrozenxid), age(t.relfrozenxid))
             >= current_setting('autovacuum_freeze_max_age')::bigint / 2
          or greatest(mxid_age(c.relminmxid), mxid_age(t.relminmxid))
             >= current_setting('autovacuum_multixact_freeze_max_age')::bigint / 2)
)
select format('%I.%I', n.nspname, a.relname) as name, a.xid_age, a.toast_xid_age, a.own_xid_limit, a.toast_xid_limit,
       a.mxid_age, a.toast_mxid_age, a.own_mxid_limit, a.toast_mxid_limit,
       exists (select from pg_stat_progress_vacuum p
                where p.relid = a.oid and p.datname = current_database()) as being_vacuumed
  from aged a join pg_namespace n on n.oid = a.relnamespace
 where n.nspname !~ '^pg_(toast_)?temp_'
   and (greatest(a.xid_age, a.toast_xid_age)
          >= least(a.own_xid_limit, a.toast_xid_limit, current_setting('autovacuum_freeze_max_age')::bigint) / 2
        or greatest(a.mxid_age, a.toast_mxid_age)
          >= least(a.own_mxid_limit, a.toast_mxid_limit,
                   current_setting('autovacuum_multixact_freeze_max_age')::bigint) / 2)
 order by greatest(a.xid_age, a.toast_xid_age) desc limit 500;

-- name: horizon
-- what: everything that holds back the removal of dead rows of this database, oldest first
select * from (
  select 'session' as kind, pid::text as name, greatest(age(backend_xmin), age(backend_xid))::bigint as xids,
         extract(epoch from clock_timestamp() - xact_start)::float8 as seconds,
         format('user %s, application %s, state %s', usename, application_name, state) as detail
    from pg_stat_activity
   where (backend_xmin is not null or backend_xid is not null) and pid <> pg_backend_pid()
     and datname = current_database() and backend_type = 'client backend'
  union all
  select 'prepared transaction', gid, age(transaction)::bigint,
         extract(epoch from clock_timestamp() - prepared)::float8, format('owner %s, database %s', owner, database)
    from pg_prepared_xacts where database = current_database()
  union all
  select 'replication slot', slot_name::text, greatest(age(xmin), age(catalog_xmin))::bigint, null,
         case when active then 'in use' else 'not in use' end
    from pg_replication_slots
   where (xmin is not null or catalog_xmin is not null) and coalesce(database, current_database()) = current_database()
  union all
  select 'standby', application_name, age(backend_xmin)::bigint, null, format('address %s', client_addr)
    from pg_stat_replication where backend_xmin is not null
) holders order by xids desc nulls last limit 20;

-- name: prepared
-- what: prepared transactions of this database and how long each has stood
select gid, owner::text as owner, extract(epoch from clock_timestamp() - prepared)::float8 as seconds,
       exists (select from pg_stat_activity a
                where a.usename = p.owner and a.datname = p.database and a.pid <> pg_backend_pid()) as owner_is_here
  from pg_prepared_xacts p where database = current_database() order by prepared;

-- name: tables
-- what: activity and own vacuum settings of each table and materialised view that a rule could name, TOAST options folded in
-- (not of those without settings of their own and with less activity than the smallest floor of any rule: in a catalogue
-- of tens of thousands that is nearly all. The functions are those behind pg_stat_all_tables, without its joins.)
with active as (
  select c.oid, c.relnamespace, c.relname, c.relkind, c.relpersistence, c.reltuples, c.relpages, c.relispartition,
         c.reloptions, t.oid as toast_oid, t.reltuples as toast_reltuples, t.reloptions as toast_reloptions,
         pg_stat_get_dead_tuples(c.oid) as dead, pg_stat_get_mod_since_analyze(c.oid) as modified,
         pg_stat_get_tuples_updated(c.oid) as updated, pg_stat_get_ins_since_vacuum(c.oid) as inserted_since_vacuum,
         coalesce(pg_stat_get_dead_tuples(t.oid), 0) as toast_dead
    from pg_class c
    left join pg_class t on t.oid = c.reltoastrelid and t.relkind = 't'
   where c.relkind in ('r', 'm')
     and c.relnamespace in (select oid from pg_namespace where nspname <> 'information_schema' and nspname !~ '^pg_')
     and c.oid not in (select objid from pg_depend where refclassid = 'pg_extension'::regclass
                                                     and classid = 'pg_class'::regclass and deptype = 'e')
)
select c.oid::bigint as oid, format('%I.%I', n.nspname, c.relname) as name, c.relkind::text as kind,
       c.relpersistence::text as persistence, c.reltuples::float8 as reltuples, c.relpages as pages,
       c.relispartition as is_partition,
       pg_stat_get_live_tuples(c.oid) as live, c.dead, c.modified, c.updated,
       pg_stat_get_tuples_hot_updated(c.oid) as hot_updated,
       pg_stat_get_tuples_inserted(c.oid) as inserted, pg_stat_get_tuples_deleted(c.oid) as deleted,
       c.inserted_since_vacuum,
       coalesce(pg_stat_get_last_analyze_time(c.oid), pg_stat_get_last_autoanalyze_time(c.oid)) is not null as analyzed,
       c.toast_reltuples::float8 as toast_reltuples, c.toast_dead,
       coalesce((select jsonb_object_agg(option_name, option_value) from pg_options_to_table(c.reloptions)), '{}')
         as options,
       coalesce((select jsonb_object_agg(option_name, option_value) from pg_options_to_table(c.toast_reloptions)), '{}')
         as toast_options,
       exists (select from pg_stat_progress_vacuum p
                where p.relid = c.oid and p.datname = current_database()) as being_vacuumed
  from active c
  join pg_namespace n on n.oid = c.relnamespace
 where c.relpersistence = 'u' or c.reloptions is not null or c.toast_reloptions is not null
    or c.dead >= 100 or c.toast_dead >= 1000 or c.inserted_since_vacuum >= 1000
    or c.modified >= 1000 or c.updated >= 1000;

-- name: statistics
-- what: tables not known to be analysed lately: has the planner statistics, and may this role see them
select format('%I.%I', rn.nspname, r.relname) as root, c.reltuples::float8 as reltuples,
       coalesce(pg_stat_get_live_tuples(c.oid), 0) as live,
       has_table_privilege(c.oid, 'select') and not (c.relrowsecurity and row_security_active(c.oid)) as readable,
       exists (select from pg_stats s where s.schemaname = n.nspname and s.tablename = c.relname) as has_statistics
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  join pg_class r on r.oid = case when c.relispartition then pg_partition_root(c.oid) else c.oid end
  join pg_namespace rn on rn.oid = r.relnamespace
 where c.relkind in ('r', 'm') and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
   -- the rule's floor
   and greatest(c.reltuples, pg_stat_get_live_tuples(c.oid)) >= 10000
   and exists (select from pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)
   and c.oid not in (select objid from pg_depend where refclassid = 'pg_extension'::regclass
                                                   and classid = 'pg_class'::regclass and deptype = 'e')
   and not (coalesce(pg_stat_get_last_analyze_time(c.oid), pg_stat_get_last_autoanalyze_time(c.oid)) is not null
            and pg_stat_get_mod_since_analyze(c.oid) < pg_stat_get_live_tuples(c.oid));

-- name: table_widths
-- what: larger tables with what their rows should take: each column's width, alignment and share of nulls
-- (and those that this role may not read, whatever their size: of them nothing can be said). Where the extension
-- pgstattuple is there and the table looks airy and isn't huge, a probe that reads it.
with sized as (
  select format('%I.%I', n.nspname, c.relname) as name, c.reltuples::float8 as tuples,
         c.relpages * current_setting('block_size')::float8 as bytes, current_setting('block_size')::int as block,
         coalesce((select option_value::int from pg_options_to_table(c.reloptions) where option_name = 'fillfactor'), 100)
           as fillfactor,
         pg_stat_get_live_tuples(c.oid) as live, pg_stat_get_mod_since_analyze(c.oid) as modified,
         pg_stat_get_tuples_inserted(c.oid) as inserted, pg_stat_get_tuples_updated(c.oid) as updated,
         pg_stat_get_tuples_deleted(c.oid) as deleted,
         has_table_privilege(c.oid, 'select') and not (c.relrowsecurity and row_security_active(c.oid)) as readable,
         (select array_agg(jsonb_build_object('length', a.attlen, 'align', a.attalign, 'width', s.avg_width,
                                              'nulls', s.null_frac) order by a.attnum)
            from pg_attribute a
            left join pg_stats s
              on s.schemaname = n.nspname and s.tablename = c.relname and s.attname = a.attname and not s.inherited
           where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) as columns
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
   where c.relkind in ('r', 'm')
     and (c.relpages >= 4 * 1024 * 1024 / current_setting('block_size')::int or not has_table_privilege(c.oid, 'select'))
     and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
   order by bytes desc limit 500
), stats_function as (
  select format('%I.%I', n.nspname, p.proname) as name
    from pg_proc p
    join pg_namespace n on n.oid = p.pronamespace
    join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
    join pg_extension e on e.oid = d.refobjid and e.extname = 'pgstattuple'
   where p.proname = 'pgstattuple_approx' and has_function_privilege(p.oid, 'execute')
)
select s.*,
       case when s.readable and s.bytes <= 256 * 1024 * 1024 and s.bytes > 1.3 * 100 / s.fillfactor * s.tuples * (28 +
                 (select sum((x ->> 'width')::float8 * (1 - (x ->> 'nulls')::float8)) from unnest(s.columns) x))
            then (select format('select (approx_free_percent + dead_tuple_percent)::float8 from %s(%L::regclass)',
                                f.name, s.name) from stats_function f) end as probe,
       null::float8 as probed
  from sized s;

-- name: index_widths
-- what: larger plain B-trees with what their entries should take, column by column
-- (and those on tables that this role may not read, whatever their size). Where the extension pgstattuple is there and
-- the index looks airy and isn't huge, a probe that reads it: emptied pages, and what leaves lack to their fill factor.
with hidden as materialized (
  select i.indexrelid from pg_index i where i.indrelid in (
    select oid from pg_class where relkind in ('r', 'm') and not has_table_privilege(oid, 'select'))
), sized as (
  select format('%I.%I', n.nspname, c.relname) as name, format('%I.%I', tn.nspname, t.relname) as "table",
         c.reltuples::float8 as tuples, c.relpages * current_setting('block_size')::float8 as bytes,
         current_setting('block_size')::int as block,
         coalesce((select option_value::int from pg_options_to_table(c.reloptions) where option_name = 'fillfactor'), 90)
           as fillfactor,
         pg_stat_get_live_tuples(t.oid) as live, pg_stat_get_mod_since_analyze(t.oid) as modified,
         pg_stat_get_tuples_inserted(t.oid) as inserted, pg_stat_get_tuples_updated(t.oid) as updated,
         pg_stat_get_tuples_deleted(t.oid) as deleted,
         has_table_privilege(t.oid, 'select') and not (t.relrowsecurity and row_security_active(t.oid)) as readable,
         (select array_agg(jsonb_build_object('length', a.attlen, 'align', a.attalign, 'width', s.avg_width,
                                              'nulls', s.null_frac) order by u.ord)
            from unnest(string_to_array(i.indkey::text, ' ')::int[]) with ordinality u (attnum, ord)
            join pg_attribute a on a.attrelid = t.oid and a.attnum = u.attnum
            left join pg_stats s
              on s.schemaname = tn.nspname and s.tablename = t.relname and s.attname = a.attname and not s.inherited)
           as columns
    from pg_index i
    join pg_class c on c.oid = i.indexrelid and c.relkind = 'i'
    join pg_am m on m.oid = c.relam and m.amname = 'btree'
    join pg_namespace n on n.oid = c.relnamespace
    join pg_class t on t.oid = i.indrelid
    join pg_namespace tn on tn.oid = t.relnamespace
   where i.indisvalid and i.indexprs is null and i.indpred is null
     and (c.relpages >= 4 * 1024 * 1024 / current_setting('block_size')::int
          or c.oid in (select indexrelid from hidden))
     and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
   order by bytes desc limit 500
), stats_function as (
  select format('%I.%I', n.nspname, p.proname) as name
    from pg_proc p
    join pg_namespace n on n.oid = p.pronamespace
    join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
    join pg_extension e on e.oid = d.refobjid and e.extname = 'pgstattuple'
   where p.proname = 'pgstatindex' and p.proargtypes[0] = 'regclass'::regtype
     and has_function_privilege(p.oid, 'execute')
)
select s.*,
       case when s.readable and s.bytes <= 256 * 1024 * 1024 and s.bytes > 1.3 * 100 / s.fillfactor * s.tuples * (12 +
                 (select sum((x ->> 'width')::float8 * (1 - (x ->> 'nulls')::float8)) from unnest(s.columns) x))
            then (select format('select 100.0 * (empty_pages + deleted_pages + leaf_pages * greatest(0, 1 - avg_leaf_density'
                                ' / %s)) / greatest(index_size / %s, 1) from %s(%L::regclass)',
                                s.fillfactor, s.block, f.name, s.name) from stats_function f) end as probe,
       null::float8 as probed
  from sized s;

-- name: visibility
-- what: how many tables hide their statistics from this role
select count(*) as tables,
       count(*) filter (where not has_table_privilege(c.oid, 'select') or (c.relrowsecurity and row_security_active(c.oid))) as hidden,
       min(format('%I.%I', n.nspname, c.relname))
         filter (where not has_table_privilege(c.oid, 'select') or (c.relrowsecurity and row_security_active(c.oid))) as example
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p', 'm') and n.nspname <> 'information_schema' and n.nspname !~ '^pg_';

-- name: invalid_indexes
-- what: indexes that are not valid and that nobody is building just now
select format('%I.%I', n.nspname, c.relname) as name, format('%I.%I', tn.nspname, t.relname) as "table",
       i.indisunique as is_unique, pg_get_indexdef(i.indexrelid) as definition, c.relkind::text as kind,
       (select quote_ident(conname) from pg_constraint where conindid = i.indexrelid and contype in ('p', 'u', 'x') limit 1)
         as constraint_name,
       c.relpages * current_setting('block_size')::bigint as bytes
  from pg_index i
  join pg_class c on c.oid = i.indexrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_class t on t.oid = i.indrelid
  join pg_namespace tn on tn.oid = t.relnamespace
 where not (i.indisvalid and i.indisready and i.indislive)
   and n.nspname <> 'information_schema' and (n.nspname = 'pg_toast' or n.nspname !~ '^pg_')
   and not exists (select from pg_stat_progress_create_index p
                    where p.datname = current_database() and (p.relid = i.indrelid or p.index_relid = i.indexrelid))
   -- an index of a partitioned table is invalid because one of its parts is: the part is the finding
   and not (c.relkind = 'I' and exists (select from pg_inherits h join pg_index x on x.indexrelid = h.inhrelid
                                         where h.inhparent = c.oid and not x.indisvalid))
 order by 1;

-- name: indexes
-- what: valid indexes that begin with the same column (or any expression) as another of their table: what each is on,
-- column by column, what depends on it, and how large it is
with valid as (
  select i.*, count(*) over (partition by i.indrelid, i.indkey[0]) as alike
    from pg_index i where i.indisvalid and i.indisready and i.indislive
), backing as (
  select conindid, bool_or(contype in ('p', 'u', 'x')) as constrains, bool_or(contype = 'f') as referenced
    from pg_constraint where conindid <> 0 group by conindid
)
select i.indexrelid::bigint as oid, i.indrelid::bigint as table_oid,
       format('%I.%I', n.nspname, c.relname) as name, format('%I.%I', tn.nspname, t.relname) as "table",
       m.amname::text as method, i.indisunique as is_unique, i.indimmediate as is_immediate,
       i.indisprimary as is_primary, i.indisexclusion as is_exclusion, i.indisreplident as is_identity,
       i.indisunique and pg_get_indexdef(i.indexrelid) ~ ' NULLS NOT DISTINCT' as nulls_not_distinct,
       c.relispartition as is_partition,
       coalesce(k.constrains, false) as backs_constraint, coalesce(k.referenced, false) as is_referenced,
       (select array_agg(case when u.attnum = 0 then pg_get_indexdef(i.indexrelid, u.ord::int, false)
                              else u.attnum::text end
                         || ' ' || u.opclass || ' ' || u.collated || ' ' || u.direction order by u.ord)
          from unnest(string_to_array(i.indkey::text, ' ')::int[], string_to_array(i.indclass::text, ' '),
                      string_to_array(i.indcollation::text, ' '), string_to_array(i.indoption::text, ' '))
               with ordinality u (attnum, opclass, collated, direction, ord)
         where u.ord <= i.indnkeyatts) as keys,
       (string_to_array(i.indkey::text, ' ')::int[])[1\:i.indnkeyatts] as key_columns,
       array(select u from unnest((string_to_array(i.indkey::text, ' ')::int[])[i.indnkeyatts + 1\:]) u order by u)
         as included,
       coalesce(pg_get_expr(i.indpred, i.indrelid), '') as predicate,
       c.relpages * current_setting('block_size')::bigint as bytes
  from valid i
  join pg_class c on c.oid = i.indexrelid
  join pg_am m on m.oid = c.relam
  join pg_namespace n on n.oid = c.relnamespace
  join pg_class t on t.oid = i.indrelid
  join pg_namespace tn on tn.oid = t.relnamespace
  left join backing k on k.conindid = i.indexrelid
 where i.alike > 1
   and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
   and t.oid not in (select objid from pg_depend where refclassid = 'pg_extension'::regclass
                                                   and classid = 'pg_class'::regclass and deptype = 'e')
 order by i.indexrelid;

-- name: index_use
-- what: larger indexes no scan has used since statistics began, that nothing but queries needs, with the statistics' age
with age as (
  select extract(epoch from clock_timestamp() - greatest(pg_postmaster_start_time(),
           (select stats_reset from pg_stat_database where datname = current_database()),
           -- a crash discards all statistics and stamps the archiver's
           (select stats_reset from pg_stat_archiver)))::float8 / 86400 as days
)
select format('%I.%I', n.nspname, c.relname) as name, format('%I.%I', tn.nspname, t.relname) as "table",
       c.relpages * current_setting('block_size')::bigint as bytes, pg_get_indexdef(i.indexrelid) as definition,
       (select days from age) as statistics_days
  from pg_index i
  join pg_class c on c.oid = i.indexrelid and c.relkind = 'i'
  join pg_namespace n on n.oid = c.relnamespace
  join pg_class t on t.oid = i.indrelid
  join pg_namespace tn on tn.oid = t.relnamespace
 where (select days from age) >= 1  -- younger ones prove nothing, whatever the rule's limit
   and c.relpages >= 1024 * 1024 / current_setting('block_size')::int  -- nobody sets the limit below a megabyte
   and i.indisvalid and not i.indisunique and not i.indisexclusion and not i.indisreplident
   and coalesce(pg_stat_get_numscans(i.indexrelid), 0) = 0
   and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
   and not c.relispartition
   and not exists (select from pg_constraint k where k.conindid = i.indexrelid)
   -- it serves a foreign key: the scans of a cascade may come once a year, and be the difference to a full scan
   and not exists (select from pg_constraint k
                    where k.conrelid = i.indrelid and k.contype = 'f'
                      and (string_to_array(i.indkey::text, ' ')::smallint[])[1\:cardinality(k.conkey)] @> k.conkey)
   and t.oid not in (select objid from pg_depend where refclassid = 'pg_extension'::regclass
                                                   and classid = 'pg_class'::regclass and deptype = 'e')
 order by bytes desc;

-- name: null_shares
-- what: plain B-trees on one column of a larger table, with the column's share of nulls where this role may see it
select format('%I.%I', n.nspname, c.relname) as name, format('%I.%I', tn.nspname, t.relname) as "table",
       quote_ident(a.attname) as column_name, c.relpages * current_setting('block_size')::bigint as bytes,
       has_table_privilege(t.oid, 'select') and not (t.relrowsecurity and row_security_active(t.oid)) as readable, s.null_frac as nulls
  from pg_index i
  join pg_class c on c.oid = i.indexrelid and c.relkind = 'i'
  join pg_am m on m.oid = c.relam and m.amname = 'btree'
  join pg_namespace n on n.oid = c.relnamespace
  join pg_class t on t.oid = i.indrelid
  join pg_namespace tn on tn.oid = t.relnamespace
  join pg_attribute a on a.attrelid = t.oid and a.attnum = i.indkey[0]
  left join pg_stats s
    on s.schemaname = tn.nspname and s.tablename = t.relname and s.attname = a.attname and not s.inherited
 where i.indisvalid and not i.indisunique and i.indnatts = 1 and i.indexprs is null and i.indpred is null
   and not a.attnotnull and t.reltuples >= 10000 and not c.relispartition
   and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
   and t.oid not in (select objid from pg_depend where refclassid = 'pg_extension'::regclass
                                                   and classid = 'pg_class'::regclass and deptype = 'e')
 order by 1;

-- name: foreign_keys
-- what: foreign keys that no plain index serves, of unlike types or that stand twice: the indexes that could serve each,
-- and the types of its columns on both sides
with declared as materialized (
  -- two types with one equality operator are one to an index: text and varchar, a domain and its base
  select oid, conrelid, conkey, cardinality(conkey) = 1 as is_single, conppeqop <> conffeqop as unlike,
         count(*) over (partition by conrelid, confrelid) as alike
    from pg_constraint where contype = 'f' and conparentid = 0
), trees as (
  select indrelid, indkey from pg_index
   where indisvalid and indisready and indislive and indpred is null
     and indclass[0] in (select oid from pg_opclass where opcmethod = (select oid from pg_am where amname = 'btree'))
), served as (
  -- by a B-tree without a predicate: the others are the rule's to judge
  select d.oid
    from declared d join trees t on t.indrelid = d.conrelid and t.indkey[0] = d.conkey[1] where d.is_single
  union
  select d.oid
    from declared d join trees t on t.indrelid = d.conrelid
   where not d.is_single and (string_to_array(t.indkey::text, ' ')::smallint[])[1\:cardinality(d.conkey)] @> d.conkey
), keys as materialized (
  select oid from declared where unlike or alike > 1 or oid not in (select oid from served)
), partitioned as materialized (
  select pg_partition_root(oid) as root, sum(greatest(reltuples, 0)) as tuples
    from pg_class where relispartition and relkind = 'r' group by 1
)
select format('%I.%I', n.nspname, c.relname) as "table", quote_ident(k.conname) as name,
       format('%I.%I', pn.nspname, p.relname) as parent,
       k.conkey as columns, k.confkey as parent_columns, c.relkind::text as kind,
       (select array_agg(quote_ident(a.attname) order by u.ord)
          from unnest(k.conkey) with ordinality u (attnum, ord)
          join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.attnum) as column_names,
       (select array_agg(format_type(coalesce(nullif(y.typbasetype, 0), y.oid), null) order by u.ord)
          from unnest(k.conkey) with ordinality u (attnum, ord)
          join pg_attribute a on a.attrelid = k.conrelid and a.attnum = u.attnum
          join pg_type y on y.oid = a.atttypid) as types,
       (select array_agg(format_type(coalesce(nullif(y.typbasetype, 0), y.oid), null) order by u.ord)
          from unnest(k.confkey) with ordinality u (attnum, ord)
          join pg_attribute a on a.attrelid = k.confrelid and a.attnum = u.attnum
          join pg_type y on y.oid = a.atttypid) as parent_types,
       coalesce(case when c.relkind = 'p' then parts.tuples else greatest(c.reltuples, 0) end, 0)::float8 as rows,
       coalesce(pg_stat_get_tuples_deleted(p.oid) + pg_stat_get_tuples_updated(p.oid), 0) as parent_changes,
       coalesce((select jsonb_agg(jsonb_build_object(
                  'method', m.amname,
                  'columns', (string_to_array(i.indkey::text, ' ')::int[])[1\:i.indnkeyatts],
                  'predicate', pg_get_expr(i.indpred, i.indrelid)))
                   from pg_index i join pg_class x on x.oid = i.indexrelid join pg_am m on m.oid = x.relam
                  where i.indrelid = k.conrelid and i.indisvalid and i.indisready and i.indislive), '[]') as indexes
  from pg_constraint k
  join pg_class c on c.oid = k.conrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_class p on p.oid = k.confrelid
  join pg_namespace pn on pn.oid = p.relnamespace
  left join partitioned parts on parts.root = c.oid
 where k.contype = 'f' and k.conparentid = 0
   and k.oid in (select oid from keys)
   and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
   and c.oid not in (select objid from pg_depend where refclassid = 'pg_extension'::regclass
                                                   and classid = 'pg_class'::regclass and deptype = 'e')
 order by 1, 2;

-- name: constraints_not_valid
-- what: constraints that hold for new rows only, because the old ones were never checked
select format('%I.%I.%I', n.nspname, c.relname, k.conname) as name,
       format('%I.%I', n.nspname, c.relname) as "table", quote_ident(k.conname) as constraint_name,
       pg_get_constraintdef(k.oid) as definition, 'table' as kind
  from pg_constraint k
  join pg_class c on c.oid = k.conrelid
  join pg_namespace n on n.oid = c.relnamespace
 where not k.convalidated and coalesce(to_jsonb(k) ->> 'conenforced', 'true') = 'true'
   and k.conparentid = 0 and (k.conislocal or k.contype = 'f')
   and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
   and c.oid not in (select objid from pg_depend where refclassid = 'pg_extension'::regclass
                                                   and classid = 'pg_class'::regclass and deptype = 'e')
union all
select format('%I.%I.%I', n.nspname, y.typname, k.conname), format('%I.%I', n.nspname, y.typname),
       quote_ident(k.conname), pg_get_constraintdef(k.oid), 'domain'
  from pg_constraint k join pg_type y on y.oid = k.contypid join pg_namespace n on n.oid = y.typnamespace
 where not k.convalidated and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
 order by 1;

-- name: no_primary_key
-- what: tables without a primary key, a partitioned table once
select format('%I.%I', n.nspname, c.relname) as name
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't'
   and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
   and not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)
   and c.oid not in (select objid from pg_depend where refclassid = 'pg_extension'::regclass
                                                   and classid = 'pg_class'::regclass and deptype = 'e')
 order by 1;

-- name: unpopulated_matviews
-- what: materialised views that can't be read until they are refreshed
select format('%I.%I', n.nspname, c.relname) as name
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'm' and not c.relispopulated
   and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
 order by 1;

-- name: disabled_triggers
-- what: triggers and event triggers that don't fire; those of foreign keys and other constraints by the constraint's name
select format('%I.%I.%I', n.nspname, c.relname, coalesce(k.conname, g.tgname)) as name,
       format('%I.%I', n.nspname, c.relname) as "table", quote_ident(min(g.tgname::text)) as trigger_name,
       g.tgisinternal as is_internal, false as is_event, quote_ident(k.conname) as constraint_name
  from pg_trigger g
  join pg_class c on c.oid = g.tgrelid
  join pg_namespace n on n.oid = c.relnamespace
  left join pg_constraint k on k.oid = g.tgconstraint and g.tgisinternal
 where g.tgenabled = 'D' and g.tgparentid = 0
   and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
 group by 1, 2, 4, 6
union all
select quote_ident(evtname), null, quote_ident(evtname), false, true, null from pg_event_trigger where evtenabled = 'D'
 order by 1;

-- name: large_objects
-- what: how many large objects there are, and the statement that counts those no oid or lo column names
with there as (
  select count(*) as objects from pg_largeobject_metadata
), columns as materialized (
  select format('%I.%I', n.nspname, c.relname) as name, quote_ident(a.attname) as attname,
         has_column_privilege(c.oid, a.attnum, 'select') and not (c.relrowsecurity and row_security_active(c.oid)) as readable,
         c.relpages * current_setting('block_size')::bigint as bytes
    from pg_attribute a
    join pg_class c on c.oid = a.attrelid and c.relkind in ('r', 'm')
    join pg_namespace n on n.oid = c.relnamespace and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
    join pg_type y on y.oid = a.atttypid
   where (select objects from there) > 0 and a.attnum > 0 and not a.attisdropped
     and (y.oid = 'oid'::regtype or (y.typtype = 'd' and y.typbasetype = 'oid'::regtype))
)
select t.objects, coalesce(sum(c.bytes), 0)::float8 as bytes, count(c.name) filter (where not c.readable) as hidden,
       min(c.name) filter (where not c.readable) as example,
       case when t.objects > 0 and coalesce(bool_and(c.readable), true) and coalesce(sum(c.bytes), 0) <= 256 * 1024 * 1024
            then 'select count(*) from pg_catalog.pg_largeobject_metadata m where true'
                 || coalesce(string_agg(format(' and not exists (select from %s t where t.%s = m.oid)', c.name, c.attname),
                                        '' order by c.name, c.attname) filter (where c.name is not null), '') end as probe
  from there t left join columns c on true
 group by t.objects;

-- name: default_partitions
-- what: default partitions, each with the statement that tells whether it holds a row
select format('%I.%I', n.nspname, c.relname) as name, format('%I.%I', pn.nspname, p.relname) as parent,
       has_table_privilege(c.oid, 'select') as readable,
       case when has_table_privilege(c.oid, 'select')
            then format('select count(*) from (select from %I.%I limit 1) as first', n.nspname, c.relname) end as probe,
       coalesce(pg_stat_get_live_tuples(c.oid), 0) as live
  from pg_partitioned_table d
  join pg_class c on c.oid = d.partdefid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_class p on p.oid = d.partrelid
  join pg_namespace pn on pn.oid = p.relnamespace
 where n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
 order by 1;

-- name: range_partitions
-- what: tables partitioned by one range of time or number, without a default or an open end: the newest partition's bounds
-- (times as seconds since 1970; for numbers a probe of the largest key, where an index finds it)
with parents as (
  select d.partrelid, y.oid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype) as by_number, a.attname, a.attnum
    from pg_partitioned_table d
    join pg_attribute a on a.attrelid = d.partrelid and a.attnum = d.partattrs[0]
    join pg_type x on x.oid = a.atttypid
    join pg_type y on y.oid = coalesce(nullif(x.typbasetype, 0), x.oid)
   where d.partstrat = 'r' and d.partdefid = 0
     and y.oid in ('date'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype,
                   'int2'::regtype, 'int4'::regtype, 'int8'::regtype)
     -- a year that is itself partitioned by months ends with the year
     and not exists (select from pg_partition_ancestors(d.partrelid) up join pg_partitioned_table r on r.partrelid = up.relid
                      where up.relid <> d.partrelid and r.partstrat = 'r')
), parts as (
  select p.*, c.oid as part, c.relnamespace, c.relname, c.relkind,
         regexp_match(pg_get_expr(c.relpartbound, c.oid),
                      'FROM \(''?([^'',)]+)''?[^)]*\) TO \(''?([^'',)]+)''?[^)]*\)') as bounds
    from parents p join pg_inherits h on h.inhparent = p.partrelid join pg_class c on c.oid = h.inhrelid
   where not h.inhdetachpending
), bounded as (
  select p.*,
         case when bounds[1] = 'MINVALUE' then null when by_number then bounds[1]::numeric
              when bounds[1] ~* 'infinity' then null
              else extract(epoch from bounds[1]::timestamptz) end as lower,
         case when bounds[2] = 'MAXVALUE' then 'infinity'::numeric when by_number then bounds[2]::numeric
              when bounds[2] ~* 'infinity' then 'infinity'::numeric
              else extract(epoch from bounds[2]::timestamptz) end as upper
    from parts p
), newest as (
  select distinct on (partrelid) * from bounded order by partrelid, upper desc
)
select format('%I.%I', n.nspname, c.relname) as name, format('%I.%I', pn.nspname, w.relname) as newest,
       w.by_number, w.lower::float8 as lower, w.upper::float8 as upper, w.bounds[2] as upper_text,
       case when w.by_number then w.bounds[2] else quote_literal(w.bounds[2]) end as upper_literal,
       case when w.by_number and w.relkind = 'r' and has_column_privilege(w.part, w.attname, 'select')
             and exists (select from pg_index i join pg_attribute a on a.attrelid = w.part and a.attnum = i.indkey[0]
                          where i.indrelid = w.part and i.indisvalid and i.indpred is null and a.attname = w.attname)
            then format('select max(%I)::float8 from %I.%I', w.attname, pn.nspname, w.relname) end as probe,
       null::float8 as probed
  from newest w
  join pg_class c on c.oid = w.partrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_namespace pn on pn.oid = w.relnamespace
 where w.upper < 'infinity'::numeric
   and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
   and c.oid not in (select objid from pg_depend where refclassid = 'pg_extension'::regclass
                                                   and classid = 'pg_class'::regclass and deptype = 'e')
 order by 1;

-- name: sequences
-- what: the sequences that are furthest on, each with its last value, its bounds and the narrowest integer column it fills
-- (and those this role may not read)
with read as materialized (
  select s.*, has_sequence_privilege(s.seqrelid, 'select,usage') as readable,
         case when has_sequence_privilege(s.seqrelid, 'select,usage') then pg_sequence_last_value(s.seqrelid) end
           as last_value
    from pg_sequence s
    join pg_class c on c.oid = s.seqrelid
   where c.relnamespace in (select oid from pg_namespace where nspname <> 'information_schema' and nspname !~ '^pg_')
     and c.oid not in (select objid from pg_depend where refclassid = 'pg_extension'::regclass
                                                     and classid = 'pg_class'::regclass and deptype = 'e')
), begun as (
  -- a hundredth of what the narrowest column could hold, or of the sequence's own range: the others are far from any end
  select *, case when seqincrement > 0 then (last_value - least(seqmin, 0)::numeric) / (seqmax - least(seqmin, 0)::numeric)
                 else (greatest(seqmax, 0)::numeric - last_value) / (greatest(seqmax, 0)::numeric - seqmin) end as share
    from read
   where last_value is not null and seqmax > seqmin
     and (abs(last_value::numeric) >= 327 or seqmax::numeric - seqmin < 32768)
), ranked as (
  select b.*, f.relid, f.attname, f.width
    from begun b
    left join lateral (
      select o.relid, a.attname, y.typlen::int as width
        from (-- OWNED BY and identity, or a default that calls nextval() on a sequence nobody owns
              select d.refobjid as relid, d.refobjsubid::int as attnum
                from pg_depend d
               where d.classid = 'pg_class'::regclass and d.objid = b.seqrelid
                 and d.refclassid = 'pg_class'::regclass and d.refobjsubid > 0 and d.deptype in ('a', 'i')
              union all
              select e.adrelid, e.adnum::int
                from pg_depend d join pg_attrdef e on e.oid = d.objid
               where d.classid = 'pg_attrdef'::regclass and d.refclassid = 'pg_class'::regclass
                 and d.refobjid = b.seqrelid) o
        join pg_attribute a on a.attrelid = o.relid and a.attnum = o.attnum
        join pg_type x on x.oid = a.atttypid
        join pg_type y on y.oid = coalesce(nullif(x.typbasetype, 0), x.oid)
       where y.oid in ('int2'::regtype, 'int4'::regtype, 'int8'::regtype)
       order by y.typlen, o.relid, o.attnum limit 1) f on true
   order by greatest(b.share, abs(b.last_value::numeric) / power(2::numeric, 8 * f.width - 1)) desc limit 500
), told as (
  select seqrelid, seqstart, seqmin, seqmax, seqincrement, seqcycle, readable, last_value, relid, attname, width
    from ranked
  union all
  (select seqrelid, seqstart, seqmin, seqmax, seqincrement, seqcycle, readable, last_value, null, null, null
     from read where not readable limit 500)
)
select format('%I.%I', n.nspname, c.relname) as name, f.seqstart as start, f.seqmin as minimum, f.seqmax as maximum,
       f.seqincrement as increment, f.seqcycle as cycles, f.readable, f.last_value,
       case when f.attname is not null then format('%I.%I(%I)', tn.nspname, t.relname, f.attname) end as column_name,
       f.width
  from told f
  join pg_class c on c.oid = f.seqrelid
  join pg_namespace n on n.oid = c.relnamespace
  left join pg_class t on t.oid = f.relid
  left join pg_namespace tn on tn.oid = t.relnamespace
 order by 1;

-- name: integer_keys
-- what: narrow integer keys that no sequence fills, each with the index probe for its value furthest from zero
with filled as (
  select e.adrelid as relid, e.adnum as attnum
    from pg_depend d
    join pg_sequence q on q.seqrelid = d.refobjid
    join pg_attrdef e on e.oid = d.objid
   where d.classid = 'pg_attrdef'::regclass and d.refclassid = 'pg_class'::regclass
)
select format('%I.%I(%I)', n.nspname, c.relname, a.attname) as name, y.typlen::int as width,
       has_column_privilege(c.oid, a.attnum, 'select') as readable,
       case when has_column_privilege(c.oid, a.attnum, 'select')
            then format('select greatest(max(%1$I)::bigint, -1 - min(%1$I)::bigint) from %2$I.%3$I',
                        a.attname, n.nspname, c.relname) end as probe
  from pg_index i
  join pg_class c on c.oid = i.indrelid
  join pg_namespace n on n.oid = c.relnamespace
  join pg_class x on x.oid = i.indexrelid
  join pg_am m on m.oid = x.relam
  join pg_attribute a on a.attrelid = c.oid and a.attnum = i.indkey[0]
  join pg_type b on b.oid = a.atttypid
  join pg_type y on y.oid = coalesce(nullif(b.typbasetype, 0), b.oid)
 where i.indisunique and i.indisvalid and i.indpred is null and i.indnkeyatts = 1 and m.amname = 'btree'
   and y.oid in ('int2'::regtype, 'int4'::regtype) and c.relkind in ('r', 'p') and not c.relispartition
   and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
   -- an index probe costs nothing, but an empty or tiny table can't be near its limit by being filled
   and a.attidentity = ''
   and (c.oid, a.attnum) not in (select relid, attnum from filled)
   -- a foreign key's column follows its parent's key, which is looked at by itself
   and not exists (select from pg_constraint k where k.conrelid = c.oid and k.contype = 'f' and a.attnum = any (k.conkey))
   and c.oid not in (select objid from pg_depend where refclassid = 'pg_extension'::regclass
                                                   and classid = 'pg_class'::regclass and deptype = 'e')
 order by c.reltuples desc limit 500;

-- name: slots
-- what: replication slots with the WAL each keeps back
select slot_name::text as name, slot_type as kind, active, wal_status, safe_wal_size,
       pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end,
                       restart_lsn)::float8 as retained_bytes,
       coalesce(to_jsonb(s) ->> 'invalidation_reason', '') as invalidation_reason,
       coalesce(to_jsonb(s) ->> 'synced', 'false') = 'true' as synced
  from pg_replication_slots s where not temporary order by 1;

-- name: replicas
-- what: standbys and subscribers that stream from here, and how far behind each is; on a standby, itself too
select application_name as name, state, sync_state,
       pg_wal_lsn_diff(case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end,
                       replay_lsn)::float8 as lag_bytes
  from pg_stat_replication where state <> 'backup'
union all
select 'this standby', case when pg_is_in_recovery() then 'replay ' || pg_get_wal_replay_pause_state() end, 'standby',
       pg_wal_lsn_diff(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())::float8
 where pg_is_in_recovery();

-- name: published_tables
-- what: published tables (a partitioned one once) with what the publication sends and what identifies a row
select distinct on (1) format('%I.%I', rn.nspname, r.relname) as name, quote_ident(p.pubname) as publication,
       p.pubupdate as updates, p.pubdelete as deletes, current_setting('wal_level') as wal_level
  from pg_publication p
  join pg_publication_tables pt on pt.pubname = p.pubname
  join pg_namespace n on n.nspname = pt.schemaname
  join pg_class c on c.relnamespace = n.oid and c.relname = pt.tablename
  -- identity is looked for where UPDATE needs it: in the table itself, or in each leaf of a partitioned one
  join lateral (select c.oid as relid where c.relkind = 'r'
                union all
                select part.oid from pg_class part
                 where c.relkind = 'p' and part.relispartition and part.relkind = 'r'
                   and c.oid in (select a.relid from pg_partition_ancestors(part.oid) a)) leaf on true
  join pg_class l on l.oid = leaf.relid
  join pg_class r on r.oid = case when c.relispartition then pg_partition_root(c.oid) else c.oid end
  join pg_namespace rn on rn.oid = r.relnamespace
 where (p.pubupdate or p.pubdelete)
   and (l.relreplident = 'n'
        or l.relreplident = 'd' and not exists (select from pg_index i
             where i.indrelid = l.oid and i.indisprimary and i.indimmediate and i.indisvalid)
        or l.relreplident = 'i' and not exists (select from pg_index i
             where i.indrelid = l.oid and i.indisreplident and i.indisvalid))
 order by 1, 2;

-- name: standbys
-- what: standbys that stream from here, and slots that one used and nobody does now
select 'standby' as kind, application_name as name
  from pg_stat_replication r
 where state <> 'backup' and application_name <> 'pg_receivewal'
   and not exists (select from pg_replication_slots s where s.active_pid = r.pid and s.slot_type = 'logical')
union all
select 'slot', slot_name::text
  from pg_replication_slots s
 where slot_type = 'physical' and not active and not temporary and restart_lsn is not null
   and coalesce(wal_status, '') <> 'lost'
 order by 1, 2;

-- name: wal_receiver
-- what: on a standby, whether it hears its primary, and how far it is
select (select status from pg_stat_wal_receiver) as status,
       to_char(pg_last_xact_replay_timestamp() at time zone 'UTC', 'YYYY-MM-DD HH24\:MI\:SS "UTC"') as replayed;

-- name: subscriptions
-- what: this database's subscriptions that use a slot, and whether the worker of each is there
select quote_ident(s.subname) as name, s.subenabled as enabled,
       false as disable_on_error, exists (
         select from pg_stat_subscription w where w.subid = s.oid and w.pid is not null and w.relid is null) as works
  from pg_subscription s
 where s.subdbid = (select oid from pg_database where datname = current_database())
   and s.subslotname is not null;

-- name: subscriptions
-- what: the same; one may disable itself at an error
-- since: 15
select quote_ident(s.subname) as name, s.subenabled as enabled, s.subdisableonerr as disable_on_error, exists (
         select from pg_stat_subscription w where w.subid = s.oid and w.pid is not null and w.relid is null) as works
  from pg_subscription s
 where s.subdbid = (select oid from pg_database where datname = current_database())
   and s.subslotname is not null;

-- name: archiver
-- what: the archiver's last success and last failure
select archived_count, failed_count, last_archived_time, last_failed_time, last_failed_wal,
       current_setting('archive_mode') as archive_mode
  from pg_stat_archiver;

-- name: wal_directory
-- what: the size of the WAL directory, and what the settings allow for
select sum(size)::float8 as bytes,
       (select sum(pg_size_bytes(current_setting(name))) from pg_settings
         where name in ('max_wal_size', 'wal_keep_size'))::float8 as allowed
  from pg_ls_waldir();

-- name: config_errors
-- what: lines of the configuration files that the server can't use
select * from (
  select f.sourcefile as file, f.sourceline as line, f.name, f.setting, f.error, s.context, s.vartype,
         coalesce(s.pending_restart, false) as pending_restart
    from pg_file_settings f left join pg_settings s on s.name = f.name
   where f.error is not null
  union all
  select 'pg_hba.conf', line_number, null, null, error, null, null, false from pg_hba_file_rules where error is not null
) problems;

-- name: public_create
-- what: schemas in which every role may create objects
select format('schema %I', n.nspname) as name, quote_ident(n.nspname) as schema_name
  from pg_namespace n, aclexplode(n.nspacl) a
 where a.grantee = 0 and a.privilege_type = 'CREATE' and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
 order by 1;

-- name: public_write
-- what: tables that every role may write to
with granted as (
  select c.oid, a.privilege_type from pg_class c, aclexplode(c.relacl) a
   where c.relacl is not null and c.relkind in ('r', 'p', 'v', 'f') and a.grantee = 0
     and a.privilege_type in ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')
  union
  select t.attrelid, a.privilege_type from pg_attribute t, aclexplode(t.attacl) a
   where t.attacl is not null and a.grantee = 0 and a.privilege_type in ('INSERT', 'UPDATE')
)
select format('%I.%I', n.nspname, c.relname) as name, array_agg(g.privilege_type order by g.privilege_type) as privileges
  from granted g join pg_class c on c.oid = g.oid join pg_namespace n on n.oid = c.relnamespace
 where n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
   and not (c.relispartition and exists (select from granted r where r.oid = pg_partition_root(c.oid)))
   and c.oid not in (select objid from pg_depend where refclassid = 'pg_extension'::regclass
                                                   and classid = 'pg_class'::regclass and deptype = 'e')
 group by 1 order by 1;

-- name: definer_functions
-- what: SECURITY DEFINER routines whose names are looked up in the caller's search path
-- (a body written as BEGIN ATOMIC was resolved when it was made, so the caller's path can't reach it)
select p.oid::regprocedure::text as name, p.prokind = 'p' as is_procedure
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace
 where p.prosecdef and p.prosqlbody is null
   and not exists (select from unnest(p.proconfig) setting where setting like 'search\_path=%')
   and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
   and p.oid not in (select objid from pg_depend where refclassid = 'pg_extension'::regclass
                                                   and classid = 'pg_proc'::regclass and deptype = 'e')
 order by 1;

-- name: row_security
-- what: tables with policies that are not enforced, and tables with row security on but no policy
select format('%I.%I', n.nspname, c.relname) as name, c.relrowsecurity as enabled, count(p.oid) as policies
  from pg_class c
  join pg_namespace n on n.oid = c.relnamespace
  left join pg_policy p on p.polrelid = c.oid
 where (c.relrowsecurity or c.oid in (select polrelid from pg_policy))
   and c.relkind in ('r', 'p') and n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
   and c.oid not in (select objid from pg_depend where refclassid = 'pg_extension'::regclass
                                                   and classid = 'pg_class'::regclass and deptype = 'e')
 group by 1, 2 having c.relrowsecurity <> (count(p.oid) > 0) order by 1;

-- name: superusers
-- what: roles that log in as superuser, or may become one, beside the one that the cluster was made with
select quote_ident(r.rolname) as name, r.rolsuper as is_superuser,
       (select min(quote_ident(s.rolname)) from pg_roles s
         where s.rolsuper and not r.rolsuper and pg_has_role(r.oid, s.oid, 'member')) as through
  from pg_roles r
 where r.rolcanlogin and r.oid <> 10
   and (r.rolsuper or exists (select from pg_roles s where s.rolsuper and pg_has_role(r.oid, s.oid, 'member')))
 order by 1;

-- name: untrusted_functions
-- what: routines in languages that may do all that the server's account may, made by hand
select p.oid::regprocedure::text as name, l.lanname::text as language
  from pg_proc p
  join pg_language l on l.oid = p.prolang and not l.lanpltrusted and l.lanname <> 'sql'
  join pg_namespace n on n.oid = p.pronamespace
 where n.nspname <> 'information_schema' and n.nspname !~ '^pg_'
   and p.oid not in (select objid from pg_depend where refclassid = 'pg_extension'::regclass
                                                   and classid = 'pg_proc'::regclass and deptype = 'e')
 order by 1;

-- name: trusted_addresses
-- what: lines of pg_hba.conf that let somebody in from another machine without any proof
select line_number as line, array_to_string(database, ',') as databases, array_to_string(user_name, ',') as users, address
  from pg_hba_file_rules
 where auth_method = 'trust' and type <> 'local' and error is null
   and not (coalesce(address, '') in ('localhost', 'samehost')
            or coalesce(address, '') ~ '^127\.' or coalesce(address, '') = '::1')
 order by 1;

-- name: md5_roles
-- what: roles that log in with a password kept as an MD5 hash
select quote_ident(rolname) as name from pg_authid where rolcanlogin and rolpassword like 'md5%' order by 1;

-- name: expiring_roles
-- what: roles that log in with a password that has an end
select quote_ident(rolname) as name,
       extract(epoch from rolvaliduntil - clock_timestamp())::float8 / 86400 as days
  from pg_roles where rolcanlogin and isfinite(rolvaliduntil) order by 1;

-- name: plain_sessions
-- what: sessions that came over the network without TLS
select coalesce(a.usename, '')::text as "user", count(*) as sessions, min(host(a.client_addr)) as address
  from pg_stat_activity a join pg_stat_ssl s on s.pid = a.pid
 where not s.ssl and a.client_addr is not null and a.backend_type in ('client backend', 'walsender')
   and not (a.client_addr <<= inet '127.0.0.0/8' or a.client_addr = inet '::1')
 group by 1 order by 1;

-- name: extensions
-- what: extensions for which the server has a newer version and a way to it
select quote_ident(e.extname) as name, e.extversion as installed, a.default_version as available
  from pg_extension e
  join pg_available_extensions a on a.name = e.extname
 where a.default_version <> e.extversion
   and exists (select from pg_extension_update_paths(e.extname) p
                where p.source = e.extversion and p.target = a.default_version and p.path is not null)
 order by 1;

-- name: collations
-- what: collations in use whose library has changed since, so that indexes may be in the wrong order
with used as (
  select a.attcollation as oid, count(*) as columns
    from pg_attribute a where a.attcollation <> 0 and not a.attisdropped and a.attrelid >= 16384 group by 1
)
select format('%I.%I', n.nspname, c.collname) as name, c.collversion as recorded,
       pg_collation_actual_version(c.oid) as actual, coalesce(u.columns, 0) as columns, false as is_database
  from pg_collation c
  join pg_namespace n on n.oid = c.collnamespace
  left join used u on u.oid = c.oid
 where c.collversion is not null and (u.oid is not null or c.oid >= 16384)
   and c.collversion <> pg_collation_actual_version(c.oid)
 order by 1;

-- name: collations
-- what: the same, with the database's own collation, whose version is recorded from 15 on
-- since: 15
with used as (
  select a.attcollation as oid, count(*) as columns
    from pg_attribute a where a.attcollation <> 0 and not a.attisdropped and a.attrelid >= 16384 group by 1
)
select format('%I.%I', n.nspname, c.collname) as name, c.collversion as recorded,
       pg_collation_actual_version(c.oid) as actual, coalesce(u.columns, 0) as columns, false as is_database
  from pg_collation c
  join pg_namespace n on n.oid = c.collnamespace
  left join used u on u.oid = c.oid
 where c.collversion is not null and (u.oid is not null or c.oid >= 16384)
   and c.collversion <> pg_collation_actual_version(c.oid)
union all
select format('database %I', d.datname), d.datcollversion, pg_database_collation_actual_version(d.oid), 0, true
  from pg_database d
 where d.datname = current_database() and d.datcollversion <> pg_database_collation_actual_version(d.oid);

-- name: checksum_failures
-- what: pages that were read with a wrong checksum, database by database
select coalesce(quote_ident(datname), 'shared catalogues') as name, checksum_failures as failures,
       checksum_last_failure as last_failure
  from pg_stat_database where checksum_failures > 0;
