-- What a backup records of its source, and a drill of its restored copy.
-- All of it runs with an empty search_path, so that every name comes out schema-qualified.

-- name: settings
-- what: fix everything that changes how a value looks as text, or which rows are seen
select set_config('search_path', '', true), set_config('DateStyle', 'ISO, YMD', true),
       set_config('IntervalStyle', 'postgres', true), set_config('TimeZone', 'UTC', true),
       set_config('extra_float_digits', '3', true), set_config('bytea_output', 'hex', true),
       set_config('xmlbinary', 'base64', true), set_config('xmloption', 'content', true),
       set_config('lc_monetary', 'C', true), set_config('lc_numeric', 'C', true), set_config('lc_time', 'C', true),
       set_config('quote_all_identifiers', 'off', true), set_config('row_security', 'off', true),
       set_config('synchronize_seqscans', 'off', true), set_config('jit', 'off', true),
       set_config('max_parallel_workers_per_gather', '0', true), -- it may be a busy server: one core is enough
       set_config('statement_timeout', cast(:deadline_ms as text), true),
       -- from 17 on a role or a database may have one, and a snapshot must outlive it
       (select set_config(name, '0', true) from pg_catalog.pg_settings where name = 'transaction_timeout')

-- name: statement_timeout
-- what: limit the statements of this transaction
select set_config('statement_timeout', cast(:timeout_ms as text), true)

-- name: source
-- what: the facts of the source that the manifest states
select current_database() as dbname, current_setting('server_version') as server_version,
       current_setting('server_version_num')::int as server_version_num,
       pg_catalog.pg_encoding_to_char(d.encoding) as encoding, d.datcollate as collate, d.datctype as ctype,
       pg_catalog.pg_database_size(d.oid) as source_bytes,
       (select system_identifier::text from pg_catalog.pg_control_system()) as system_identifier, pg_catalog.now() as snapshot_at
  from pg_catalog.pg_database d where d.datname = current_database()

-- ---------------------------------------------------------------------------------------------------------------------
-- What a dump is told and watched by.

-- name: schemas
-- what: every schema that a filter picks from, as it is stored and as it is quoted
select n.nspname as name, pg_catalog.quote_ident(n.nspname) as quoted from pg_catalog.pg_namespace n
 where n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)' order by 1

-- name: relations
-- what: every relation that a filter picks from, and the one that it goes along with: a partition with its parent, an
-- index with its table, a sequence with the table that owns it; an extension's own are the extension's
select pg_catalog.format('%I.%I', n.nspname, c.relname) as quoted, n.nspname as schema, c.relname as name,
       c.relkind::text as kind, case when f.oid is not null then pg_catalog.format('%I.%I', fn.nspname, f.relname) end as follows
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  left join lateral (
    select case when c.relkind in ('i', 'I') then (select i.indrelid from pg_catalog.pg_index i where i.indexrelid = c.oid)
                when c.relispartition then (select i.inhparent from pg_catalog.pg_inherits i where i.inhrelid = c.oid)
                when c.relkind = 'S' then (select d.refobjid from pg_catalog.pg_depend d
                      where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype in ('a', 'i')
                        and d.refclassid = 'pg_catalog.pg_class'::regclass and d.refobjsubid > 0 limit 1) end as oid
  ) whose on true
  left join pg_catalog.pg_class f on f.oid = whose.oid
  left join pg_catalog.pg_namespace fn on fn.oid = f.relnamespace
 where c.relkind in ('r', 'p', 'v', 'm', 'f', 'S', 'c', 'i', 'I') and c.relpersistence <> 't'
   and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)'
   and not exists (select from pg_catalog.pg_depend d
                    where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by 1

-- name: extension_schemas
-- what: the schema that each extension is installed in
select e.extname as name, n.nspname as schema from pg_catalog.pg_extension e
  join pg_catalog.pg_namespace n on n.oid = e.extnamespace order by 1

-- name: sibling_databases
-- what: every database of the server that one can connect to, templates aside
select d.datname as name, d.datname = current_database() as own from pg_catalog.pg_database d where d.datallowconn and not d.datistemplate order by 1

-- name: may_read_role_passwords
-- what: whether this role may read the passwords' hashes
select pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'select')

-- name: has_tablespaces
-- what: whether the server has tablespaces of its own
select exists (select 1 from pg_catalog.pg_tablespace where spcname !~ '^pg_')

-- name: server_settings
-- what: what the server's configuration says other than its defaults; file locations are the machine's own
select s.name, pg_catalog.current_setting(s.name, true) as value, s.source from pg_catalog.pg_settings s
 where s.source in ('configuration file', 'command line', 'environment variable', 'global')
   and s.context <> 'internal' and s.category not like 'File Locations%' order by 1

-- name: expected_rows
-- what: about how many rows each table has: as last analysed, or as counted where it never was; no lock is waited for
select c.oid::bigint as oid, pg_catalog.format('%I.%I', n.nspname, c.relname) as name,
       case when c.reltuples > 0 then c.reltuples else pg_catalog.pg_stat_get_live_tuples(c.oid) end::bigint as rows
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and c.relpersistence <> 't'
   and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)'

-- name: table_bytes
-- what: how large tables are that were never analysed
select c.oid::bigint as oid, pg_catalog.pg_relation_size(c.oid) as bytes from pg_catalog.pg_class c
 where c.oid::bigint = any(cast(:oids as bigint[]))

-- name: copying
-- what: how many rows of which table each session of that name has read out by now
select p.pid, p.relid::bigint as oid, p.tuples_processed as rows
  from pg_catalog.pg_stat_progress_copy p join pg_catalog.pg_stat_activity a on a.pid = p.pid
 where a.application_name = :application_name and p.datname = current_database() and p.tuples_processed is not null

-- ---------------------------------------------------------------------------------------------------------------------

-- name: database_size
-- what: how large a database is by now; 0 before it's there
select coalesce((select pg_catalog.pg_database_size(oid) from pg_catalog.pg_database where datname = :name), 0)

-- name: create_admin_database
-- what: the statement that makes a scratch server's own database; quoted by the server
select pg_catalog.format('create database %I template template0', cast(:name as text))

-- name: drop_database
-- what: the statement that drops a scratch server's database of the copy's name; quoted by the server
select pg_catalog.format('drop database if exists %I', cast(:name as text))

-- name: schema_revision_table
-- what: whether Alembic's version table is there, and where
select pg_catalog.format('%I.%I', n.nspname, c.relname)
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
 where c.relname = 'alembic_version' and c.relkind = 'r'
   and pg_catalog.has_table_privilege(c.oid, 'select') order by n.nspname = 'public' desc limit 1

-- name: tables
-- what: every table whose rows pg_dump writes, leaf partitions one by one, with the expressions that hash a row of it
-- An extension's own tables are the extension's. Columns are numbered by their names: a table that inherits may have them
-- in another order after a restore, parents' first. `row_text` is `(t.*)`, the whole row even where a column is called t.
--
-- A column's own hash function is used where equal hashes mean equal text and the hash depends on nothing else: 64 bits
-- of an int8 go in as the seed, as hashint8extended would fold them into 32; what two floats share is 0 and -0; interval,
-- date and times as they are stored. Everything else goes as its output function writes it, which is what COPY writes. Of
-- a domain, or a type of an extension, that function can't be named: its row of one does. What isn't stored isn't read.
with recursive base as (
  select t.oid, t.oid as base from pg_catalog.pg_type t where t.typtype <> 'd'
  union all
  select d.oid, b.base from pg_catalog.pg_type d join base b on b.oid = d.typbasetype where d.typtype = 'd'
), held as (
  select c.oid, pg_catalog.format('%I.%I', n.nspname, c.relname) as name, c.relpages, c.reltuples,
         c.relispartition or not exists (select from pg_catalog.pg_inherits i where i.inhrelid = c.oid) as keeps_order
    from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
   where c.relkind = 'r' and c.relpersistence <> 't'
     and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)'
     and not exists (select from pg_catalog.pg_depend d
                      where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
), attribute as (
  select a.attrelid, a.attnum, b.base, a.atttypmod > 0 as limited, pg_catalog.format('t.%I', a.attname) as it,
         pg_catalog.row_number() over (partition by a.attrelid order by a.attname::text collate "C") as i,
         case when t.typtype <> 'd' and t.typoutput < 16384 then t.typoutput end as output
    from held c join pg_catalog.pg_attribute a on a.attrelid = c.oid
    join pg_catalog.pg_type t on t.oid = a.atttypid join base b on b.oid = t.oid
   where a.attnum > 0 and not a.attisdropped and a.attgenerated <> 'v'
), hashed as (
  select a.*, 'coalesce(' || case
      when base = 'int2'::regtype then pg_catalog.format('pg_catalog.hashint2extended(%s, %s)', it, i)
      when base = 'int4'::regtype then pg_catalog.format('pg_catalog.hashint4extended(%s, %s)', it, i)
      when base = 'int8'::regtype then pg_catalog.format('pg_catalog.hashint4extended(%2$s, %1$s)', it, i)
      when base = 'oid'::regtype then pg_catalog.format('pg_catalog.hashoidextended(%s, %s)', it, i)
      when base = 'bool'::regtype then pg_catalog.format('pg_catalog.hashint4extended(%s::int4, %s)', it, i)
      when base = 'uuid'::regtype then pg_catalog.format('pg_catalog.uuid_hash_extended(%s, %s)', it, i)
      when base in ('text'::regtype, 'varchar'::regtype) then pg_catalog.format('pg_catalog.hashtextextended(%s collate "C", %s)', it, i)
      -- with a length, it is always padded to it: the blanks that its hash leaves out say nothing
      when base = 'bpchar'::regtype and limited then pg_catalog.format('pg_catalog.hashbpcharextended(%s collate "C", %s)', it, i)
      when base in ('date'::regtype, 'time'::regtype, 'timetz'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype, 'interval'::regtype, 'bytea'::regtype) then null
      when output = 'pg_catalog.float4out'::regproc then pg_catalog.format('case when %1$s = 0 then pg_catalog.hashtextextended(pg_catalog.textin(%3$s(%1$s)) collate "C", %2$s) else pg_catalog.hashfloat4extended(%1$s, %2$s) end', it, i, output)
      when output = 'pg_catalog.float8out'::regproc then pg_catalog.format('case when %1$s = 0 then pg_catalog.hashtextextended(pg_catalog.textin(%3$s(%1$s)) collate "C", %2$s) else pg_catalog.hashfloat8extended(%1$s, %2$s) end', it, i, output)
      when output is not null then pg_catalog.format('pg_catalog.hashtextextended(pg_catalog.textin(%s(%s)) collate "C", %s)', output, it, i)
      else pg_catalog.format('pg_catalog.hashtextextended(row(%s)::text collate "C", %s)', it, i)
    end || ', ' || i || ')' as hash, case
      when base in ('date'::regtype, 'bytea'::regtype) then it
      when base = 'time'::regtype then pg_catalog.format('pg_catalog.time_send(%s)', it)
      when base = 'timetz'::regtype then pg_catalog.format('pg_catalog.timetz_send(%s)', it)
      when base = 'timestamp'::regtype then pg_catalog.format('pg_catalog.timestamp_send(%s)', it)
      when base = 'timestamptz'::regtype then pg_catalog.format('pg_catalog.timestamptz_send(%s)', it)
      when base = 'interval'::regtype then pg_catalog.format('pg_catalog.interval_send(%s)', it)
    end as element
    from attribute a
), chosen as (
  select distinct on (x.indrelid) x.indrelid, (x.indkey::int2[])[0\:x.indnkeyatts - 1] as columns
    from held c join pg_catalog.pg_index x on x.indrelid = c.oid join pg_catalog.pg_class n on n.oid = x.indexrelid
   where x.indisunique and x.indisvalid and x.indpred is null and x.indexprs is null
     and not exists (select from pg_catalog.pg_attribute a where a.attrelid = x.indrelid and not a.attnotnull
                        and a.attnum = any((x.indkey::int2[])[0\:x.indnkeyatts - 1]))
   order by x.indrelid, x.indisprimary desc, n.relname::text collate "C"
), mixed as (
  select h.attrelid,
         pg_catalog.concat_ws(' # ', pg_catalog.string_agg(h.hash, ' # ' order by h.i),
           'pg_catalog.hash_record_extended(row(' || pg_catalog.string_agg(h.element, ', ' order by h.i) || '), 0)') as whole,
         nullif(pg_catalog.concat_ws(' # ', pg_catalog.string_agg(h.hash, ' # ' order by h.i) filter (where h.attnum = any(k.columns)),
           'pg_catalog.hash_record_extended(row(' || pg_catalog.string_agg(h.element, ', ' order by h.i) filter (where h.attnum = any(k.columns)) || '), 0)'), '') as key
    from hashed h left join chosen k on k.indrelid = h.attrelid
   group by h.attrelid
)
select c.name, greatest(c.reltuples, 0)::bigint as estimated_rows,
       case when c.keeps_order then '(t.*)'
            else (select 'row(' || pg_catalog.string_agg(pg_catalog.format('t.%I', a.attname), ', ' order by a.attname::text collate "C") || ')'
                    from pg_catalog.pg_attribute a where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped) end as row_text,
       -- 31 times one hash plus the next, and a sum: without the outermost hash two rows might swap values unseen
       'pg_catalog.hashint4extended(0, ' || coalesce(m.whole, '0') || ')' as row_hash,
       'pg_catalog.hashint4extended(1, ' || m.key || ')' as key
  from held c left join mixed m on m.attrelid = c.oid
 order by c.relpages desc, 1 -- the largest first; its size on disk can't be asked for without waiting for its lock

-- name: table_size
-- what: how large a table is, with what is kept outside of its rows; waits for its lock
select pg_catalog.pg_table_size(cast(:name as regclass))

-- name: sequences
-- what: every sequence that pg_dump writes, with its direction and whether it may start again
select pg_catalog.format('%I.%I', n.nspname, c.relname) as name, s.seqincrement as increment, s.seqcycle as cycle
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
  join pg_catalog.pg_sequence s on s.seqrelid = c.oid
 where c.relkind = 'S' and c.relpersistence <> 't'
   and not exists (select from pg_catalog.pg_depend d
                    where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
 order by 1

-- name: large_objects
-- what: how many large objects there are, and a hash of their bytes that no order changes, read in chunks that fit memory
select pg_catalog.count(*) filter (where chunk.number = 0) as rows,
       coalesce(sum(pg_catalog.hashtextextended(m.oid || case when chunk.number > 0 then '/' || chunk.number else '' end
         || pg_catalog.encode(pg_catalog.sha256(pg_catalog.lo_get(m.oid, chunk.number * cast(:chunk_bytes as bigint), cast(:chunk_bytes as int))), 'hex'), 0)), 0)::text as hash
  from pg_catalog.pg_largeobject_metadata m
  cross join lateral (select pg_catalog.lo_open(m.oid, 262144) as number offset 0) descriptor -- 262144: to read
  cross join lateral (select pg_catalog.lo_lseek64(descriptor.number, 0, 2) as bytes, pg_catalog.lo_close(descriptor.number) as closed, m.oid offset 0) size
  cross join lateral pg_catalog.generate_series(0::bigint, greatest(size.bytes - 1, 0) / cast(:chunk_bytes as bigint)) chunk(number)
 where size.closed = 0 and size.oid = m.oid -- each is opened under the same number: without its OID, the first one's size is remembered

-- name: extensions
-- what: installed extensions, their versions and schemas
select e.extname as name, e.extversion as version, pg_catalog.quote_ident(n.nspname) as schema
  from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace order by 1

-- name: collations
-- what: the versions of the collations that columns and indexes use, as this server's libraries have them; none for C
select pg_catalog.quote_ident(c.collname) as name, pg_catalog.concat_ws(' ', c.collprovider, pg_catalog.pg_collation_actual_version(c.oid)) as version
  from pg_catalog.pg_collation c
 where c.collprovider in ('c', 'i', 'b') and pg_catalog.pg_collation_actual_version(c.oid) is not null
   and c.oid in (select a.attcollation from pg_catalog.pg_attribute a join pg_catalog.pg_class r on r.oid = a.attrelid
                  where a.attnum > 0 and r.relnamespace <> 'pg_catalog'::regnamespace and r.relnamespace <> 'information_schema'::regnamespace)
union all -- the version of the database's own can't be asked for: its library's is that of any of its collations
select 'default', pg_catalog.concat_ws(' ', c.collprovider, pg_catalog.pg_collation_actual_version(c.oid))
  from pg_catalog.pg_database d join pg_catalog.pg_collation c on c.collprovider = 'c' and c.collcollate = d.datcollate
 where d.datname = current_database() and pg_catalog.pg_collation_actual_version(c.oid) is not null
 order by 1

-- name: collations
-- what: the versions of the collations that columns and indexes use, as this server's libraries have them; none for C
-- since: 15
select pg_catalog.quote_ident(c.collname) as name, pg_catalog.concat_ws(' ', c.collprovider, pg_catalog.pg_collation_actual_version(c.oid)) as version
  from pg_catalog.pg_collation c
 where c.collprovider in ('c', 'i', 'b') and pg_catalog.pg_collation_actual_version(c.oid) is not null
   and c.oid in (select a.attcollation from pg_catalog.pg_attribute a join pg_catalog.pg_class r on r.oid = a.attrelid
                  where a.attnum > 0 and r.relnamespace <> 'pg_catalog'::regnamespace and r.relnamespace <> 'information_schema'::regnamespace)
union all
select 'default', pg_catalog.concat_ws(' ', d.datlocprovider, pg_catalog.pg_database_collation_actual_version(d.oid))
  from pg_catalog.pg_database d
 where d.datname = current_database() and pg_catalog.pg_database_collation_actual_version(d.oid) is not null
 order by 1

-- name: objects
-- what: every object of the schema, with its definition and who may do what with it: what the schema hash is made of
-- `schema` and `relation` are what it belongs to; `rights` are its owner's and grantees', null where it has none.
with ours as (
  select n.oid, n.nspname, pg_catalog.quote_ident(n.nspname) as schema, n.nspowner, n.nspacl from pg_catalog.pg_namespace n
   where n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)'
), member as (
  select classid, objid from pg_catalog.pg_depend where deptype = 'e'
), relation as (
  select c.*, n.schema, pg_catalog.format('%I.%I', n.nspname, c.relname) as name from pg_catalog.pg_class c join ours n on n.oid = c.relnamespace
   where c.relpersistence <> 't'
     and not exists (select from member m where m.classid = 'pg_catalog.pg_class'::regclass and m.objid = c.oid)
), granted(class, object, owner, acl) as (
  select 'n', n.oid, n.nspowner, n.nspacl from ours n
  union all select case when r.relkind = 'S' then 's' else 'r' end, r.oid, r.relowner, r.relacl from relation r
  union all select 'f', f.oid, f.proowner, f.proacl from pg_catalog.pg_proc f join ours n on n.oid = f.pronamespace
  union all select 'T', t.oid, t.typowner, t.typacl from pg_catalog.pg_type t join ours n on n.oid = t.typnamespace
  union all select 'F', w.oid, w.fdwowner, w.fdwacl from pg_catalog.pg_foreign_data_wrapper w
  union all select 'S', v.oid, v.srvowner, v.srvacl from pg_catalog.pg_foreign_server v
), rights as (
  select g.class, g.object, pg_catalog.concat_ws(E'\n', pg_catalog.pg_get_userbyid(g.owner),
         (select pg_catalog.string_agg(a::text, ',' order by a::text collate "C")
            from pg_catalog.unnest(coalesce(g.acl, pg_catalog.acldefault(g.class::"char", g.owner))) a)) as rights
    from granted g
)
select 'schema' as kind, n.schema as object, n.schema, null as relation, '' as definition, g.rights
  from ours n join rights g on g.class = 'n' and g.object = n.oid
union all
select 'relation', r.name, r.schema, r.name, pg_catalog.concat_ws(E'\n', r.relkind, r.relpersistence, r.reloptions::text,
       r.relrowsecurity, r.relforcerowsecurity, r.relreplident, r.relispopulated, (select amname from pg_catalog.pg_am where oid = r.relam),
       pg_catalog.pg_get_expr(r.relpartbound, r.oid), case when r.relkind = 'p' then pg_catalog.pg_get_partkeydef(r.oid) end,
       (select pg_catalog.string_agg(pg_catalog.format('%I.%I', pn.nspname, p.relname), ',' order by i.inhseqno) from pg_catalog.pg_inherits i
          join pg_catalog.pg_class p on p.oid = i.inhparent join pg_catalog.pg_namespace pn on pn.oid = p.relnamespace where i.inhrelid = r.oid),
       (select pg_catalog.concat_ws(' ', pg_catalog.quote_ident(v.srvname), t.ftoptions::text) from pg_catalog.pg_foreign_table t
          join pg_catalog.pg_foreign_server v on v.oid = t.ftserver where t.ftrelid = r.oid)), g.rights
  from relation r join rights g on g.object = r.oid and g.class in ('r', 's') where r.relkind in ('r', 'p', 'v', 'm', 'f', 'S', 'c')
union all
select 'column', pg_catalog.format('%s.%I', r.name, a.attname), r.schema, r.name, pg_catalog.concat_ws(E'\n',
       case when r.relispartition or not exists (select from pg_catalog.pg_inherits i where i.inhrelid = r.oid)
            then pg_catalog.row_number() over (partition by r.oid order by a.attnum) end, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
       a.attidentity, a.attgenerated, a.attstorage, a.attcompression, pg_catalog.pg_get_expr(d.adbin, d.adrelid),
       (select pg_catalog.quote_ident(collname) from pg_catalog.pg_collation where oid = a.attcollation), a.attoptions::text, a.attfdwoptions::text),
       (select pg_catalog.string_agg(x::text, ',' order by x::text collate "C") from pg_catalog.unnest(a.attacl) x)
  from relation r join pg_catalog.pg_attribute a on a.attrelid = r.oid and a.attnum > 0 and not a.attisdropped
  left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
 where r.relkind in ('r', 'p', 'v', 'm', 'f', 'c')
union all
select 'view', r.name, r.schema, r.name, pg_catalog.pg_get_viewdef(r.oid), null from relation r where r.relkind in ('v', 'm')
union all
select 'index', r.name, r.schema, r.name, pg_catalog.concat_ws(E'\n', pg_catalog.pg_get_indexdef(i.indexrelid), i.indisvalid, i.indisclustered, i.indisreplident), null
  from pg_catalog.pg_index i join relation r on r.oid = i.indexrelid
union all
select 'constraint', pg_catalog.format('%s on %s', pg_catalog.quote_ident(c.conname), coalesce(r.name, pg_catalog.format_type(c.contypid, null))),
       n.schema, r.name, pg_catalog.concat_ws(E'\n', pg_catalog.pg_get_constraintdef(c.oid), c.convalidated), null
  from pg_catalog.pg_constraint c left join relation r on r.oid = c.conrelid join ours n on n.oid = c.connamespace
 where c.contype <> 'n' and (r.oid is not null or (c.conrelid = 0
   and not exists (select from member m where m.classid = 'pg_catalog.pg_type'::regclass and m.objid = c.contypid)))
union all
select 'trigger', pg_catalog.format('%s on %s', pg_catalog.quote_ident(t.tgname), r.name), r.schema, r.name,
       pg_catalog.concat_ws(E'\n', pg_catalog.pg_get_triggerdef(t.oid), t.tgenabled), null
  from pg_catalog.pg_trigger t join relation r on r.oid = t.tgrelid where not t.tgisinternal
union all
select 'rule', pg_catalog.format('%s on %s', pg_catalog.quote_ident(u.rulename), r.name), r.schema, r.name,
       pg_catalog.concat_ws(E'\n', pg_catalog.pg_get_ruledef(u.oid), u.ev_enabled), null
  from pg_catalog.pg_rewrite u join relation r on r.oid = u.ev_class where u.rulename <> '_RETURN'
union all
select 'policy', pg_catalog.format('%s on %s', pg_catalog.quote_ident(p.polname), r.name), r.schema, r.name, pg_catalog.concat_ws(E'\n', p.polcmd, p.polpermissive,
       (select pg_catalog.string_agg(o.name, ',' order by o.name collate "C") from
          (select case when role = 0 then 'public' else pg_catalog.pg_get_userbyid(role)::text end as name from pg_catalog.unnest(p.polroles) role) o),
       pg_catalog.pg_get_expr(p.polqual, p.polrelid), pg_catalog.pg_get_expr(p.polwithcheck, p.polrelid)), null
  from pg_catalog.pg_policy p join relation r on r.oid = p.polrelid
union all
select 'sequence', r.name, r.schema, r.name, pg_catalog.concat_ws(E'\n', pg_catalog.format_type(s.seqtypid, null), s.seqstart, s.seqincrement, s.seqmin, s.seqmax,
       s.seqcache, s.seqcycle, (select pg_catalog.pg_describe_object(d.refclassid, d.refobjid, d.refobjsubid) from pg_catalog.pg_depend d
         where d.classid = 'pg_catalog.pg_class'::regclass and d.objid = r.oid and d.deptype in ('a', 'i') and d.refobjsubid > 0 limit 1)), null
  from pg_catalog.pg_sequence s join relation r on r.oid = s.seqrelid
union all
select 'routine', pg_catalog.format('%I.%I(%s)', n.nspname, f.proname, pg_catalog.pg_get_function_identity_arguments(f.oid)), n.schema, null,
       case when f.prokind = 'a' then (select pg_catalog.concat_ws(E'\n', pg_catalog.pg_get_function_result(f.oid), a.aggtransfn::text, a.aggfinalfn::text,
         a.aggcombinefn::text, a.aggtranstype::regtype, a.agginitval, a.aggsortop::regoperator, a.aggmtransfn::text) from pg_catalog.pg_aggregate a where a.aggfnoid = f.oid)
         else pg_catalog.pg_get_functiondef(f.oid) end, g.rights
  from pg_catalog.pg_proc f join ours n on n.oid = f.pronamespace join rights g on g.class = 'f' and g.object = f.oid
 where not exists (select from member m where m.classid = 'pg_catalog.pg_proc'::regclass and m.objid = f.oid)
   -- a range type's constructors: made with the type, and owned by whoever restores it
   and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_proc'::regclass and d.objid = f.oid and d.deptype = 'i')
union all
select 'type', pg_catalog.format('%I.%I', n.nspname, t.typname), n.schema, null, pg_catalog.concat_ws(E'\n', t.typtype, t.typnotnull,
       coalesce(pg_catalog.pg_get_expr(t.typdefaultbin, 0), t.typdefault), pg_catalog.format_type(nullif(t.typbasetype, 0), t.typtypmod),
       (select pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel), ',' order by e.enumsortorder) from pg_catalog.pg_enum e where e.enumtypid = t.oid),
       (select pg_catalog.format_type(g.rngsubtype, null) from pg_catalog.pg_range g where g.rngtypid = t.oid)), g.rights
  from pg_catalog.pg_type t join ours n on n.oid = t.typnamespace join rights g on g.class = 'T' and g.object = t.oid
 where t.typtype in ('e', 'd', 'r')
   and not exists (select from member m where m.classid = 'pg_catalog.pg_type'::regclass and m.objid = t.oid)
union all
select 'statistics', pg_catalog.format('%I.%I', n.nspname, s.stxname), n.schema, null, pg_catalog.pg_get_statisticsobjdef(s.oid), pg_catalog.pg_get_userbyid(s.stxowner)
  from pg_catalog.pg_statistic_ext s join ours n on n.oid = s.stxnamespace
union all
select 'collation', pg_catalog.format('%I.%I', n.nspname, c.collname), n.schema, null, -- its columns' names differ between versions
       (pg_catalog.to_jsonb(c) - array['oid', 'collname', 'collnamespace', 'collowner', 'collversion', 'collencoding'])::text, pg_catalog.pg_get_userbyid(c.collowner)
  from pg_catalog.pg_collation c join ours n on n.oid = c.collnamespace
 where not exists (select from member m where m.classid = 'pg_catalog.pg_collation'::regclass and m.objid = c.oid)
union all
select 'operator', o.oid::regoperator::text, n.schema, null, pg_catalog.concat_ws(E'\n', o.oprcode::regprocedure, o.oprrest::regproc, o.oprjoin::regproc,
       o.oprcom::regoperator, o.oprnegate::regoperator, o.oprcanmerge, o.oprcanhash), pg_catalog.pg_get_userbyid(o.oprowner)
  from pg_catalog.pg_operator o join ours n on n.oid = o.oprnamespace
 where o.oprcode <> 0 and not exists (select from member m where m.classid = 'pg_catalog.pg_operator'::regclass and m.objid = o.oid)
union all
select 'operator class', pg_catalog.format('%I.%I using %I', n.nspname, k.opcname, m.amname), n.schema, null, pg_catalog.concat_ws(E'\n',
       k.opcintype::regtype, k.opcdefault, nullif(k.opckeytype, 0)::regtype, pg_catalog.format('%I.%I', fn.nspname, f.opfname),
       (select pg_catalog.string_agg(pg_catalog.format('%s %s', a.amopstrategy, a.amopopr::regoperator), ',' order by a.amopstrategy, a.amopopr::regoperator::text collate "C")
          from pg_catalog.pg_amop a where a.amopfamily = f.oid),
       (select pg_catalog.string_agg(pg_catalog.format('%s %s', a.amprocnum, a.amproc::regprocedure), ',' order by a.amprocnum, a.amproc::regprocedure::text collate "C")
          from pg_catalog.pg_amproc a where a.amprocfamily = f.oid)), pg_catalog.pg_get_userbyid(k.opcowner)
  from pg_catalog.pg_opclass k join ours n on n.oid = k.opcnamespace join pg_catalog.pg_am m on m.oid = k.opcmethod
  join pg_catalog.pg_opfamily f on f.oid = k.opcfamily join pg_catalog.pg_namespace fn on fn.oid = f.opfnamespace
 where not exists (select from member e where e.classid = 'pg_catalog.pg_opclass'::regclass and e.objid = k.oid)
union all
select 'cast', pg_catalog.format('%s as %s', c.castsource::regtype, c.casttarget::regtype), (select n.schema from pg_catalog.pg_proc f join ours n on n.oid = f.pronamespace
         where f.oid = c.castfunc), null, pg_catalog.concat_ws(E'\n', c.castcontext, c.castmethod, nullif(c.castfunc, 0)::regprocedure), null
  from pg_catalog.pg_cast c
 where c.oid >= 16384 and not exists (select from member m where m.classid = 'pg_catalog.pg_cast'::regclass and m.objid = c.oid)
   and not exists (select from pg_catalog.pg_depend d where d.classid = 'pg_catalog.pg_cast'::regclass and d.objid = c.oid and d.deptype = 'i') -- a range's own
union all
select 'text search configuration', pg_catalog.format('%I.%I', n.nspname, c.cfgname), n.schema, null,
       (select pg_catalog.string_agg(m.maptokentype || '>' || d.dictname, ',' order by m.maptokentype, m.mapseqno)
          from pg_catalog.pg_ts_config_map m join pg_catalog.pg_ts_dict d on d.oid = m.mapdict where m.mapcfg = c.oid), pg_catalog.pg_get_userbyid(c.cfgowner)
  from pg_catalog.pg_ts_config c join ours n on n.oid = c.cfgnamespace
 where not exists (select from member m where m.classid = 'pg_catalog.pg_ts_config'::regclass and m.objid = c.oid)
union all
select 'text search dictionary', pg_catalog.format('%I.%I', n.nspname, d.dictname), n.schema, null,
       pg_catalog.concat_ws(E'\n', (select tmplname from pg_catalog.pg_ts_template where oid = d.dicttemplate), d.dictinitoption), pg_catalog.pg_get_userbyid(d.dictowner)
  from pg_catalog.pg_ts_dict d join ours n on n.oid = d.dictnamespace
 where not exists (select from member m where m.classid = 'pg_catalog.pg_ts_dict'::regclass and m.objid = d.oid)
union all
select 'publication', pg_catalog.quote_ident(p.pubname), null, null, pg_catalog.concat_ws(E'\n', p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate,
       (select pg_catalog.string_agg(r.name, ',' order by r.name collate "C") from pg_catalog.pg_publication_rel pr join relation r on r.oid = pr.prrelid where pr.prpubid = p.oid)),
       pg_catalog.pg_get_userbyid(p.pubowner)
  from pg_catalog.pg_publication p
union all
select 'event trigger', pg_catalog.quote_ident(e.evtname), null, null,
       pg_catalog.concat_ws(E'\n', e.evtevent, e.evtfoid::regprocedure, e.evtenabled, e.evttags::text), pg_catalog.pg_get_userbyid(e.evtowner)
  from pg_catalog.pg_event_trigger e
 where not exists (select from member m where m.classid = 'pg_catalog.pg_event_trigger'::regclass and m.objid = e.oid)
union all
select 'foreign data wrapper', pg_catalog.quote_ident(w.fdwname), null, null,
       pg_catalog.concat_ws(E'\n', nullif(w.fdwhandler, 0)::regprocedure, nullif(w.fdwvalidator, 0)::regprocedure, w.fdwoptions::text), g.rights
  from pg_catalog.pg_foreign_data_wrapper w join rights g on g.class = 'F' and g.object = w.oid
 where not exists (select from member m where m.classid = 'pg_catalog.pg_foreign_data_wrapper'::regclass and m.objid = w.oid)
union all
select 'foreign server', pg_catalog.quote_ident(v.srvname), null, null,
       pg_catalog.concat_ws(E'\n', w.fdwname, v.srvtype, v.srvversion, v.srvoptions::text), g.rights
  from pg_catalog.pg_foreign_server v join pg_catalog.pg_foreign_data_wrapper w on w.oid = v.srvfdw join rights g on g.class = 'S' and g.object = v.oid
 where not exists (select from member m where m.classid = 'pg_catalog.pg_foreign_server'::regclass and m.objid = v.oid)
union all
select 'comment', pg_catalog.pg_describe_object(d.classoid, d.objoid, d.objsubid), coalesce(r.schema, (select n.schema from ours n where n.oid in (
         select oid from pg_catalog.pg_namespace where d.classoid = 'pg_catalog.pg_namespace'::regclass and oid = d.objoid
         union all select pronamespace from pg_catalog.pg_proc where d.classoid = 'pg_catalog.pg_proc'::regclass and oid = d.objoid
         union all select typnamespace from pg_catalog.pg_type where d.classoid = 'pg_catalog.pg_type'::regclass and oid = d.objoid
         union all select connamespace from pg_catalog.pg_constraint where d.classoid = 'pg_catalog.pg_constraint'::regclass and oid = d.objoid))),
       r.name, pg_catalog.string_agg(d.description, E'\n'), null
  from pg_catalog.pg_description d
  left join relation r on r.oid = case d.classoid when 'pg_catalog.pg_class'::regclass then d.objoid
         when 'pg_catalog.pg_constraint'::regclass then (select conrelid from pg_catalog.pg_constraint where oid = d.objoid)
         when 'pg_catalog.pg_trigger'::regclass then (select tgrelid from pg_catalog.pg_trigger where oid = d.objoid) end
 where d.objoid >= 16384 and not exists (select from member m where m.classid = d.classoid and m.objid = d.objoid)
   and d.classoid in ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_proc'::regclass, 'pg_catalog.pg_type'::regclass,
                      'pg_catalog.pg_namespace'::regclass, 'pg_catalog.pg_constraint'::regclass, 'pg_catalog.pg_trigger'::regclass)
 group by 2, 3, 4
union all
select 'default privileges', pg_catalog.concat_ws(' ', pg_catalog.pg_get_userbyid(a.defaclrole), a.defaclnamespace::regnamespace, a.defaclobjtype),
       (select n.schema from ours n where n.oid = a.defaclnamespace), null, '',
       (select pg_catalog.string_agg(x::text, ',' order by x::text collate "C") from pg_catalog.unnest(a.defaclacl) x)
  from pg_catalog.pg_default_acl a
order by 1, 2

-- name: create_schema
-- what: the statement that makes a schema; quoted by the server
select pg_catalog.format('create schema %I', cast(:name as text))

-- name: amcheck_home
-- what: the schema that holds amcheck, or null, and whether it could be created
select (select pg_catalog.quote_ident(n.nspname) from pg_catalog.pg_extension e join pg_catalog.pg_namespace n on n.oid = e.extnamespace
         where e.extname = 'amcheck') as schema,
       exists (select from pg_catalog.pg_available_extensions where name = 'amcheck') as available

-- name: checkable
-- what: every index that amcheck can compare with its table, and every table it can read; the largest first
select pg_catalog.format('%I.%I', n.nspname, c.relname) as name, c.oid::bigint as oid, m.amname::text as method
  from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace join pg_catalog.pg_am m on m.oid = c.relam
  left join pg_catalog.pg_index i on i.indexrelid = c.oid
 where c.relpersistence <> 't' and n.nspname not in ('pg_catalog', 'information_schema') and n.nspname !~ '^pg_(toast|temp)'
   and (c.relkind = 'i' and m.amname in ('btree', 'gin') and i.indisvalid and i.indisready or c.relkind in ('r', 'm') and m.amname = 'heap')
 order by c.relpages desc, 1

-- name: left_drills
-- what: the databases of drills on this server, also of those under way
select d.datname from pg_catalog.pg_database d where d.datname ~ '^chanuka_drill_[0-9]{8}t[0-9]{6}z_[0-9a-f]{8}$'

-- name: system_identifier
-- what: the number by which a cluster and its copies are known
select system_identifier::text from pg_catalog.pg_control_system()

-- ---------------------------------------------------------------------------------------------------------------
-- Restore: what the target server is and has, what a target database holds, and the swap by rename.
-- ---------------------------------------------------------------------------------------------------------------

-- name: restore_server
-- what: the target server and what the role may do there; where its data lies, if the role may know
select current_setting('server_version_num')::int as version_num, current_setting('server_version') as version,
       pg_catalog.pg_is_in_recovery() as in_recovery, r.rolsuper as superuser, r.rolsuper or r.rolcreatedb as may_create,
       pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time())::bigint as started_at,
       case when pg_catalog.pg_has_role(current_user, 'pg_read_all_settings', 'usage') then current_setting('data_directory') end as data_directory
  from pg_catalog.pg_roles r where r.rolname = current_user

-- name: restore_database
-- what: a database by name: whose it is, where it lies, who is in it
select d.oid::bigint as oid, pg_catalog.pg_get_userbyid(d.datdba) as owner, pg_catalog.pg_has_role(current_user, d.datdba, 'usage') as owned,
       d.datallowconn as connectable, nullif(pg_catalog.pg_tablespace_location(d.dattablespace), '') as location,
       (select pg_catalog.count(*) from pg_catalog.pg_prepared_xacts p where p.database = d.datname) as prepared
  from pg_catalog.pg_database d where d.datname = :name

-- name: restore_contents
-- what: the first objects of this database that no template brings and no extension, and how many there are
with found as (
  select 'pg_catalog.pg_namespace'::regclass::oid as class, oid from pg_catalog.pg_namespace where nspname !~ '^pg_(toast|temp)'
  union all select 'pg_catalog.pg_class'::regclass, oid from pg_catalog.pg_class where relkind not in ('i', 'I', 't') and relpersistence <> 't'
  union all select 'pg_catalog.pg_proc'::regclass, oid from pg_catalog.pg_proc
  union all select 'pg_catalog.pg_type'::regclass, oid from pg_catalog.pg_type where typrelid = 0
  union all select 'pg_catalog.pg_operator'::regclass, oid from pg_catalog.pg_operator
  union all select 'pg_catalog.pg_opfamily'::regclass, oid from pg_catalog.pg_opfamily
  union all select 'pg_catalog.pg_collation'::regclass, oid from pg_catalog.pg_collation where collnamespace <> 'pg_catalog'::regnamespace
  union all select 'pg_catalog.pg_conversion'::regclass, oid from pg_catalog.pg_conversion
  union all select 'pg_catalog.pg_cast'::regclass, oid from pg_catalog.pg_cast
  union all select 'pg_catalog.pg_am'::regclass, oid from pg_catalog.pg_am
  union all select 'pg_catalog.pg_language'::regclass, oid from pg_catalog.pg_language
  union all select 'pg_catalog.pg_transform'::regclass, oid from pg_catalog.pg_transform
  union all select 'pg_catalog.pg_ts_config'::regclass, oid from pg_catalog.pg_ts_config
  union all select 'pg_catalog.pg_ts_dict'::regclass, oid from pg_catalog.pg_ts_dict
  union all select 'pg_catalog.pg_foreign_data_wrapper'::regclass, oid from pg_catalog.pg_foreign_data_wrapper
  union all select 'pg_catalog.pg_foreign_server'::regclass, oid from pg_catalog.pg_foreign_server
  union all select 'pg_catalog.pg_event_trigger'::regclass, oid from pg_catalog.pg_event_trigger
  union all select 'pg_catalog.pg_publication'::regclass, oid from pg_catalog.pg_publication
  union all select 'pg_catalog.pg_default_acl'::regclass, oid from pg_catalog.pg_default_acl
  union all select 'pg_catalog.pg_largeobject'::regclass, oid from pg_catalog.pg_largeobject_metadata
), own as (
  select f.class, f.oid from found f
   where (f.oid >= 16384 or f.class = 'pg_catalog.pg_largeobject'::regclass) -- what initdb made is below; who makes a large object picks
     and not exists (select from pg_catalog.pg_depend d where d.classid = f.class and d.objid = f.oid and d.deptype in ('e', 'i'))
), described as (
  select pg_catalog.pg_describe_object(class, oid, 0) as object, class = 'pg_catalog.pg_class'::regclass as relation from own
)
select object, pg_catalog.count(*) over () as objects from described order by relation desc, object limit 3

-- name: restore_roles
-- what: which of some roles there are, and whether this one may hand objects over to them
select rolname as name, pg_catalog.pg_has_role(current_user, oid, 'member') as assignable
  from pg_catalog.pg_roles where rolname = any(cast(:names as text[]))

-- name: restore_roles
-- what: which of some roles there are, and whether this one may hand objects over to them
-- since: 16
select rolname as name, pg_catalog.pg_has_role(current_user, oid, 'set') as assignable
  from pg_catalog.pg_roles where rolname = any(cast(:names as text[]))

-- name: restore_extensions
-- what: which of some extensions the server has, and whether only a superuser may create them
select e.name, v.superuser and not v.trusted as for_superusers
  from pg_catalog.pg_available_extensions e
  join pg_catalog.pg_available_extension_versions v on v.name = e.name and v.version = e.default_version
 where e.name = any(cast(:names as text[]))

-- name: restore_tablespaces
-- what: which of some tablespaces there are and may be used
select spcname from pg_catalog.pg_tablespace
 where spcname = any(cast(:names as text[])) and pg_catalog.has_tablespace_privilege(oid, 'create')

-- name: restore_siblings
-- what: databases that a restore into that name made and left, by their comment or by their name
select d.datname as name, pg_catalog.shobj_description(d.oid, 'pg_database') as comment
  from pg_catalog.pg_database d
 where pg_catalog.starts_with(d.datname, cast(:prefix as text)) or pg_catalog.starts_with(pg_catalog.shobj_description(d.oid, 'pg_database'), cast(:mark as text))
 order by d.datname

-- name: restore_lock
-- what: let one restore at a time work towards a database's name, whether it's there or not
select pg_catalog.pg_try_advisory_lock(cast(:class as int), pg_catalog.hashtext(:name))

-- name: restore_lock_holder
-- what: who works towards that name
select a.pid, a.application_name as application, a.usename as role, a.backend_start as since
  from pg_catalog.pg_locks l join pg_catalog.pg_stat_activity a using (pid)
 where l.locktype = 'advisory' and l.granted and l.classid::bigint = cast(:class as int)
   and l.objid::bigint = (pg_catalog.hashtext(:name)::bigint & 4294967295)
   and l.database = (select oid from pg_catalog.pg_database where datname = pg_catalog.current_database())

-- name: restore_sessions
-- what: who is connected to a database, and whether this role may end that session
select a.pid, coalesce(a.usename, '') as role, coalesce(a.application_name, '') as application,
       coalesce(a.client_addr::text, 'local') as address,
       me.rolsuper or (not coalesce(r.rolsuper, true) and (pg_catalog.pg_has_role(me.oid, a.usesysid, 'usage')
         or pg_catalog.pg_has_role(me.oid, 'pg_signal_backend', 'usage'))) as endable
  from pg_catalog.pg_stat_activity a join pg_catalog.pg_roles me on me.rolname = current_user left join pg_catalog.pg_roles r on r.oid = a.usesysid
 where a.datname = :name and a.pid <> pg_catalog.pg_backend_pid() and a.backend_type is distinct from 'autovacuum worker' -- a rename ends those
 order by a.pid

-- name: restore_end_session
-- what: end one session
select pg_catalog.pg_terminate_backend(cast(:pid as int))

-- name: restore_door_closed
-- what: whether a database is locked by a rename, so that no new session gets in
select exists (select from pg_catalog.pg_locks l
                where l.locktype = 'object' and l.classid = 'pg_catalog.pg_database'::regclass and l.objid = cast(:oid as bigint)::oid
                  and l.mode = 'AccessExclusiveLock' and l.granted)

-- name: restore_quoted
-- what: a name as the server quotes it
select pg_catalog.quote_ident(:name)

-- name: restore_rename
-- what: the statement that renames a database
select pg_catalog.format('alter database %I rename to %I', cast(:name as text), cast(:other as text))

-- name: restore_comment
-- what: the statement that sets a database's comment; null takes it away
select pg_catalog.format('comment on database %I is %L', cast(:name as text), cast(:comment as text))

-- name: restore_owner
-- what: the statement that gives a database an owner
select pg_catalog.format('alter database %I owner to %I', cast(:name as text), cast(:owner as text))

-- name: restore_drop
-- what: the statement that drops a database, ending the sessions in it
select pg_catalog.format('drop database if exists %I with (force)', cast(:name as text))

-- name: restore_drop_role
-- what: the statement that drops a role
select pg_catalog.format('drop role if exists %I', cast(:name as text))
