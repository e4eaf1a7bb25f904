"""A database that holds one of everything that dumps and restores have stumbled over.

`NASTY` runs statement by statement, in a database of its own on a server of its own: it makes roles too. Where a
statement needs a newer server, `SINCE` says from which major version on.
"""

from __future__ import annotations

ROLES = (
    'create role "Odd ""Role%"',
    "create role app_owner",
    "create role app_reader",
    "create role app_admin createrole",
    "grant app_reader to app_owner with admin option",
    'grant app_owner to "Odd ""Role%"',
    "set role app_owner",
    "grant app_reader to app_admin",  # its grantor is not the bootstrap superuser
    "reset role",
    "alter role app_reader set search_path = nowhere",
)

TYPES = (
    "create schema app authorization app_owner",
    'create schema "S p%a:ce"',
    "create type app.mood as enum ('sad', 'ok')",
    "alter type app.mood add value 'worst' before 'sad'",
    "alter type app.mood add value 'so-so' after 'sad'",
    "create type app.point3 as (x float8, y float8, note text)",
    "create domain app.positive as int check (value > 0)",
    "create domain app.email as text collate \"C\" not null default 'a@b' check (value like '%@%')",
    "create type app.floats as range (subtype = float8, subtype_diff = float8mi)",
)

VALUES = (
    """create table app.everything(
         id bigint generated always as identity primary key, m app.mood, ms app.mood[], a int[], aa text[],
         j json, jb jsonb, f float8, r real, n numeric, c money, i interval, ts timestamp, tz timestamptz, d date,
         t time with time zone, b bytea, v tsvector, q tsquery, u uuid, ip inet, mac macaddr, bits bit varying(9),
         rng int4range, mr nummultirange, fr app.floats, p app.point3, ps app.point3[], pos app.positive,
         e app.email, ch char(5), g point, jp jsonpath, x xml, cls regclass,
         doubled float8 generated always as (f * 2) stored)""",
    """insert into app.everything(m, ms, a, aa, j, jb, f, r, n, c, i, ts, tz, d, t, b, v, q, u, ip, mac, bits, rng,
    mr, fr, p,
         ps, pos, e, ch, g, jp, cls) values
       ('worst', '{so-so,NULL,sad}', '[-2:0]={1,NULL,3}', array['', 'null', null, 'a"b', 'c\\d', '{}'], '{"b":1,
        "a":[ ]}',
        '{"b":1,"a":[]}', 'NaN', '-0', 'NaN', -1234.56, '-1 year 2 mons -3 days 04:05:06.789', '4713-01-01 BC',
        '294276-12-31 23:59:59.999999+00', 'infinity', '23:59:60+14:59', '\\x00ff27', 'a:1A,2 b''c:3', 'a & !b:*',
        'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '::1/64', '08:00:2b:01:02:03', b'101', '(,5]', '{[1.5,2),(3,)}',
        '[0.1,0.3)',
        row('-0', 1e-300, null), array[row(1, 2, 'x,"y')::app.point3, null], 7, 'x@y', 'ab', '(1e-7,-0)',
        '$.a[*] ? (@ > 1)',
        'app.everything')""",
    (
        "insert into app.everything(f, r, n, tz, d, i, c) values ('-0', 'NaN', '1e-300', '-infinity', "
        "'-infinity', '178000000 years', 0)"
    ),
    "insert into app.everything(f, r, n, ts) values ('-Infinity', 'Infinity', 0.10, 'infinity')",
    "insert into app.everything(f, r, n, tz) values (1e-300, 1e-40, 1e400::numeric, '4714-11-24 00:00:00+00 BC')",
    "insert into app.everything(f, r) values (0.1::float8 + 0.2, 16777217)",
    (
        "insert into app.everything(jb, aa) select jsonb_build_object('n', g, 'ü', repeat('x', 3000)), "
        "array['é', E'\\t\\n\\\\N'] from generate_series(1, 50) g"
    ),
)

NAMES = (
    'create table "S p%a:ce"."T:""1%"("select" int, "Ü %s :id" text, t text, "a""b" int)',
    """insert into "S p%a:ce"."T:""1%" values (1, '100%', 't', 2), (null, ':x', null, 3)""",
    "create table app.t(t text)",
    "insert into app.t values ('one'), (null), ('')",
    "create table app.nothing()",
    "insert into app.nothing default values",
    "insert into app.nothing default values",
    "create table app.empty(id int)",
    "create table app.dropped(a int, gone text, b int)",
    "insert into app.dropped values (1, 'x', 2)",
    "alter table app.dropped drop column gone",
    "insert into app.dropped values (3, 4)",
    "alter table app.dropped add column later int not null default 7",
    "create unlogged table app.unlogged as select g as id from generate_series(1, 10) g",
    "create table app.wide as select g as id, repeat(md5(g::text), 2000) as v from generate_series(1, 20) g",
)

RELATIVES = (
    "create table app.parts(id int, at date not null, v text) partition by range (at)",
    "create table app.parts_1 partition of app.parts for values from ('2026-01-01') to ('2026-02-01')",
    (
        "create table app.parts_h partition of app.parts for values from ('2026-02-01') to ('2026-03-01') "
        "partition by hash (id)"
    ),
    "create table app.parts_h0 partition of app.parts_h for values with (modulus 2, remainder 0)",
    "create table app.parts_h1 partition of app.parts_h for values with (modulus 2, remainder 1)",
    "create table app.parts_rest partition of app.parts default",
    "create table app.parts_late(v text, at date not null, id int)",
    "alter table app.parts attach partition app.parts_late for values from ('2027-01-01') to ('2028-01-01')",
    "insert into app.parts select g, '2026-01-01'::date + g, 'v' || g from generate_series(0, 500) g",
    "create index on app.parts(id)",
    "create table app.parent(a int, b text)",
    "create table app.child(local int) inherits (app.parent)",
    "alter table app.parent add column added int default 5",  # comes after `local` here, before it in the copy
    "create table app.turned(b text, a int, added int)",
    "alter table app.turned inherit app.parent",
    "insert into app.parent values (1, 'p')",
    "insert into app.child values (2, 'c', 3)",
    "insert into app.turned values ('t', 4, 6)",
)

BEHAVIOUR = (
    "create function app.touch() returns trigger language plpgsql as $$ begin new.v := 'touched %'; return new; end $$",
    "create procedure app.noop(inout x int default 1) language sql as $$ select x $$",
    (
        "create function app.total(int[]) returns bigint immutable strict language sql as $$ select sum(x) "
        "from unnest($1) x $$"
    ),
    "create aggregate app.longest(text) (sfunc = textcat, stype = text, initcond = '')",
    "create table app.triggered(id int, v text)",
    "insert into app.triggered values (1, 'as it was')",
    "create trigger touch before insert or update on app.triggered for each row execute function app.touch()",
    "create trigger off before insert on app.triggered for each row execute function app.touch()",
    "alter table app.triggered disable trigger off",
    "create rule quiet as on delete to app.triggered do instead nothing",
    "create table app.secret(owner name, v text)",
    "insert into app.secret values ('app_owner', 'mine'), ('other', 'theirs')",
    "alter table app.secret owner to app_owner",
    "alter table app.secret enable row level security",
    "alter table app.secret force row level security",
    "create policy own on app.secret for select to app_reader, app_owner using (owner = current_user)",
    "create view app.shown with (security_barrier) as select id, v from app.parts where v <> ''",
    "create materialized view app.counted as select count(*) as n from app.parts",
    "create unique index on app.counted(n)",
    "create materialized view app.not_counted as select 1 as one with no data",
    "create statistics app.corr (dependencies, ndistinct) on a, b from app.dropped",
    "alter table app.parent add constraint nn check (a is not null) not valid",
    "alter table app.dropped add constraint apart exclude using btree (a with =)",
    "create index expr on app.everything (lower(e), (f + 1)) where pos > 0",
    "create publication everything for table app.parts, app.t",
    "comment on table app.t is 'a table''s %comment'",
    "comment on column app.t.t is 'its column'",
    "comment on function app.total(int[]) is 'total'",
)

SEQUENCES = (
    "create sequence app.up",
    "select nextval('app.up') from generate_series(1, 10)",
    "create sequence app.down increment -3 start -5",
    "select nextval('app.down') from generate_series(1, 4)",
    "create sequence app.around minvalue 1 maxvalue 5 cycle",
    "select nextval('app.around') from generate_series(1, 7)",
    "create sequence app.unused as smallint start 5",
    "create sequence app.unlucky",
    "select setval('app.unlucky', 42, false)",
    'create sequence "S p%a:ce"."Seq %"',
)

RIGHTS = (
    "grant usage on schema app to app_reader",
    "grant select on all tables in schema app to app_reader",
    "grant update (b) on app.dropped to app_reader with grant option",
    "alter default privileges for role app_owner in schema app grant select on tables to app_reader",
    "alter default privileges revoke execute on functions from public",
    "revoke all on function app.total(int[]) from public",
    'grant select on app.t to "Odd ""Role%"',
    "alter sequence app.up owner to app_owner",
)

EXTENSIONS = (
    "create schema ext",
    "create extension hstore schema ext",
    "create extension pg_trgm schema ext",
    "create table app.tagged(h ext.hstore, v text)",
    "insert into app.tagged values ('a=>1, \"b c\"=>NULL', 'trigram')",
    "create index on app.tagged using gin (v ext.gin_trgm_ops)",
)

LARGE = (
    "select lo_from_bytea(0, decode(repeat('00ff', 5000), 'hex'))",
    "select lo_from_bytea(777, 'seven')",
    "select lo_create(778)",
)

NASTY = (*ROLES, *TYPES, *VALUES, *NAMES, *RELATIVES, *BEHAVIOUR, *SEQUENCES, *RIGHTS, *EXTENSIONS, *LARGE)

# what changes how values and names look, where somebody set it for a whole database
ODD_SETTINGS = (
    "DateStyle to 'SQL, DMY'",
    "TimeZone to 'Asia/Kathmandu'",
    "IntervalStyle to 'sql_standard'",
    "extra_float_digits to -15",
    "bytea_output to 'escape'",
    'search_path to app, "S p%a:ce", ext',
    "quote_all_identifiers to on",
    "lc_monetary to 'C'",
    "default_transaction_read_only to on",
    "statement_timeout to '1min'",
    "standard_conforming_strings to off",
)
