-- The data set is a function of row numbers: no random(), no now(). It comes in units that refer only to themselves, so
-- loading scale 2 after scale 1 gives what loading scale 2 gives. In a unit there are 10,000 users, 400 sponsors, 600
-- bills, 20,000 comments and 60,000 events (service.py knows the same numbers). In each statement
--   i     is the row's number, :first to :last;   l  is its number within its unit, from 1;   unit  counts from 0
--   a…f   are 20 bits of hash each; x / 1048576 is even in [0, 1), and its fourth power makes few bills popular:
--         about a third of everything happens on one bill in a hundred
-- Times lie before 2026-01-01.

-- name: missing_tables
-- what: tables of the data set that the schema doesn't have
select name from unnest(cast(:names as text[])) as name where to_regclass(name) is null;

-- name: tables_present
-- what: tables of anybody in the database; Alembic's own, which an empty plan may leave, is nobody's
select format('%I.%I', n.nspname, c.relname) as name
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't'
    and n.nspname not in ('pg_catalog', 'information_schema') and c.relname <> 'alembic_version'
    and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
order by name;

-- name: foreign_rows
-- what: rows that this data set didn't make, by table
with units as (select ceil(coalesce(max(id), 0) / 10000.0)::bigint as n from users)
select 'users' as name, count(*) as rows from users where email <> 'citizen-' || id || '@example.org'
union all
select 'bills', count(*) from bills where metadata ->> 'dataset' is distinct from 'chanuka-demo'
union all
select 'sponsors', count(*) from sponsors where contact ->> 'dataset' is distinct from 'chanuka-demo'
union all
select 'bill_versions', count(*) from bill_versions, units where id > 2400 * n
union all
select 'bill_status_changes', count(*) from bill_status_changes, units where id > 4800 * n
union all
select 'comments', count(*) from comments, units where id > 20000 * n
union all
select 'engagement_events', count(*) from engagement_events, units where id > 60000 * n;

-- name: counts
-- what: rows of each table, how many roll-up rows the events call for, and comments that are yet to be edited
select
    (select count(*) from users) as users,
    (select count(*) from user_profiles) as user_profiles,
    (select count(*) from sponsors) as sponsors,
    (select count(*) from bills) as bills,
    (select count(*) from bill_versions) as bill_versions,
    (select count(*) from sponsorships) as sponsorships,
    (select count(*) from bill_status_changes) as bill_status_changes,
    (select count(*) from comments) as comments,
    (select count(*) from comment_votes) as comment_votes,
    (select count(*) from bill_follows) as bill_follows,
    (select count(*) from engagement_events) as engagement_events,
    (select count(*) from bill_daily_engagement) as bill_daily_engagement,
    (select count(*) from comments where id % 5 in (2, 4) and edited_at is null) as unedited_comments,
    (
        select count(*)
        from (select distinct bill_id, (occurred_at at time zone 'UTC')::date from engagement_events) as days
    ) as days_with_events;

-- name: fill_users
-- what: accounts; one in a hundred is a representative, a journalist or of the staff
insert into users (id, email, display_name, role, password_hash, is_active, last_seen_at, created_at)
select
    i,
    'citizen-' || i || '@example.org',
    (array['Wanjikũ', 'Achieng''', 'Kamau', 'Nyokabi', 'Otieno', 'Zawadi', 'Chebet', 'Mũthoni', 'José', 'Amélie', 'නිමල්',
        'සඳුනි', 'Halima', 'Baraka', 'Ngũgĩ', 'Ayşe'])[1 + a % 16] || ' '
    || (array['Odhiambo', 'Mwangi', 'Kiptoo', 'Hassan', 'Njoroge', 'පෙරේරා', 'O''Brien', 'Müller', 'Barasa', 'Wekesa',
        'Kariũki', 'Çelik', 'Ndung''u'])[1 + b % 13] || case when c % 40 = 0 then ' 🇰🇪' else '' end,
    (case
        when c % 1000 < 2 then 'admin' when c % 1000 < 6 then 'moderator' when c % 1000 < 10 then 'representative'
        when c % 1000 < 25 then 'journalist' when c % 1000 < 70 then 'expert' else 'citizen'
    end)::user_role,
    case when d % 9 > 0 then decode(md5('salt' || i) || md5('pepper' || i), 'hex') end,
    d % 50 > 0,
    case when d % 5 > 0 then timestamptz '2026-01-01T00:00Z' - make_interval(secs => e * 14) end,
    timestamptz '2025-01-01T00:00Z' - make_interval(secs => f * 60)
from generate_series(cast(:first as bigint), cast(:last as bigint)) as i
cross join lateral (
    select
        hashint8extended(i, 11) & 1048575 as a, hashint8extended(i, 12) & 1048575 as b,
        hashint8extended(i, 13) & 1048575 as c, hashint8extended(i, 14) & 1048575 as d,
        hashint8extended(i, 15) & 1048575 as e, hashint8extended(i, 16) & 1048575 as f
) as dice
on conflict do nothing;

-- name: fill_user_profiles
-- what: four users in five have one; the model's score has every odd value that a float can have
insert into user_profiles (
    user_id, county, bio, born_on, interests, languages, preferences, reputation, trust, avatar, updated_at
)
select
    i,
    case when a % 7 > 0 then (array['Nairobi', 'Mombasa', 'Kisumu', 'Nakuru', 'Murang''a', 'Tharaka-Nithi', 'Homa Bay',
        'Elgeyo/Marakwet', 'කොළඹ', 'São Tomé'])[1 + b % 10] end,
    case when c % 3 > 0 then (array[
        'Mwananchi anayefuatilia bajeti ya kaunti yangu.', 'Ninapenda uwazi. ✊🏾 Haki iwe ngao na mlinzi.',
        'Civil engineer; reads the annexes so that you don''t have to.', 'නීතිය සැමට එකයි.',
        'Étudiante en droit — “la loi est l’expression de la volonté générale”.',
        E'Two lines:\n\tone with a tab, one with a back\\slash.', ''])[1 + c % 7] end,
    case when d % 4 > 0 then date '2007-12-31' - (d % 22000)::integer end,
    (array['water', 'health', 'budget', 'land', 'elimu', 'katiba', 'roads', 'ව්‍යවස්ථාව'])[1 : (a % 6)::integer],
    case when b % 3 = 0 then array['sw', 'en'] when b % 3 = 1 then array['en'] else array['si', 'en', null] end,
    jsonb_build_object(
        'theme', case when a % 2 = 0 then 'dark' else 'light' end, 'digest', jsonb_build_object('hour', b % 24,
        'days', jsonb_build_array(1 + c % 7, 'siku', null, d % 2 = 0)), 'ratio', (a / 1048576.0)::numeric(10, 8)
    ),
    (1000 * (a / 1048576.0) * (b / 1048576.0))::numeric(12, 4),
    case l % 97
        when 1 then 'NaN' when 2 then 'Infinity' when 3 then '-Infinity' when 4 then '-0' when 5 then 0.1
        when 6 then 5e-324 when 7 then 1.7976931348623157e308 when 8 then null else (e / 1048576.0)::float8
    end,
    case when l % 20 = 1 then (
        select string_agg(sha256(int8send(i * 1000 + piece)), '' order by piece) from generate_series(1, 60 + e % 80) as piece
    ) end,
    timestamptz '2026-01-01T00:00Z' - make_interval(secs => f * 20)
from generate_series(cast(:first as bigint), cast(:last as bigint)) as i
cross join lateral (
    select
        (i - 1) % 10000 + 1 as l,
        hashint8extended(i, 21) & 1048575 as a, hashint8extended(i, 22) & 1048575 as b,
        hashint8extended(i, 23) & 1048575 as c, hashint8extended(i, 24) & 1048575 as d,
        hashint8extended(i, 25) & 1048575 as e, hashint8extended(i, 26) & 1048575 as f
) as dice
where l % 5 > 0
on conflict do nothing;

-- name: fill_sponsors
-- what: members of the houses
insert into sponsors (id, name, chamber, party, constituency, contact, in_office, created_at)
select
    i,
    'Hon. ' || (array['Esther', 'Daudi', 'Ruth', 'Peter', 'Fatuma', 'Gathoni', 'රුවන්', 'Zoë'])[1 + a % 8] || ' '
    || (array['Nyambura', 'Kiprono', 'Achola', 'Abdi', 'ද සිල්වා', 'Muriũki', 'Wafula'])[1 + b % 7] || ' ' || i,
    (enum_range(null::chamber))[1 + c % 3],
    case when a % 6 > 0 then (array['Umoja', 'Maendeleo', 'Green', 'Independent', 'Haki na Uwazi'])[1 + a % 5] end,
    case when b % 8 > 0 then 'Ward ' || b % 290 end,
    jsonb_build_object('dataset', 'chanuka-demo', 'phone', '+254 7' || lpad((c % 100000000)::text, 8, '0'), 'twitter',
        case when a % 3 = 0 then '@mheshimiwa' || i end),
    case
        when b % 10 = 0 then null when b % 10 < 4 then daterange('2022-09-08', null)
        else daterange(date '2013-03-28' + (c % 2000)::integer, date '2019-01-01' + (c % 2500)::integer)
    end,
    timestamptz '2023-01-01T00:00Z' + make_interval(secs => a)
from generate_series(cast(:first as bigint), cast(:last as bigint)) as i
cross join lateral (
    select
        hashint8extended(i, 31) & 1048575 as a, hashint8extended(i, 32) & 1048575 as b,
        hashint8extended(i, 33) & 1048575 as c
) as dice
on conflict do nothing;

-- name: fill_bills
-- what: bills; the status is where the history that fill_bill_status_changes writes ends
insert into bills (
    id, number, title, summary, chamber, status, introduced_on, tags, metadata, estimated_cost, relevance, created_at,
    updated_at
)
select
    i,
    1000 + i,
    'The ' || (array['Public Finance', 'Water', 'Climate Change', 'Data Protection', 'Universal Health Coverage', 'Land',
        'County Roads', 'Basic Education', 'Coffee', 'Miraa', 'Affordable Housing', 'Elections', 'Uwazi wa Umma',
        'Access to Information', 'Fisheries'])[1 + a % 15]
    || (array[' ', ' (Amendment) ', ' (Repeal) ', ' Management ', ' (Miscellaneous Provisions) '])[1 + b % 5]
    || 'Bill, ' || 2015 + c % 11 || ' — No. ' || i,
    case when d % 8 > 0 then (
        select string_agg((array[
            'A bill to make provision for the transparent use of public money.',
            'Mswada wa kuimarisha ushiriki wa umma katika maamuzi ya serikali.',
            'මහජන මුදල් විනිවිදභාවයෙන් භාවිතා කිරීම සඳහා පනතකි.',
            'It establishes an authority, defines offences, and repeals the earlier Act.',
            'Counties shall publish their procurement within fourteen days. 📢',
            'Connected purposes: “accountability”, oversight & naïve arithmetic.'
        ])[1 + (hashint8extended(i * 8 + part, 46) & 1048575) % 6], ' ' order by part)
        from generate_series(1, 1 + d % 5) as part
    ) end,
    (enum_range(null::chamber))[1 + a % 3],
    (array['draft', 'published', 'first_reading', 'second_reading', 'committee', 'third_reading', 'assent',
        case l % 3 when 0 then 'enacted' when 1 then 'withdrawn' else 'lapsed' end])[1 + l % 8]::bill_status,
    case when l % 8 > 1 then date '2025-12-01' - (e % 1500)::integer end,
    (array['bajeti', 'water', 'health', 'land', 'climate', 'ardhi', 'devolution'])[1 + a % 4 : 1 + a % 4 + b % 4],
    jsonb_build_object('dataset', 'chanuka-demo', 'gazette', jsonb_build_object('volume', 100 + c % 27, 'pages',
        jsonb_build_array(a % 900, b % 900)), 'kichwa', 'Mswada № ' || i, 'urgent', d % 17 = 0, 'fiscal_note',
        case when b % 3 = 0 then jsonb_build_object('low', (d * 1000)::numeric, 'high', (d * 1000.25)::numeric) end),
    case when c % 4 > 0 then (d::numeric * e::numeric / 100)::numeric(18, 2) end,
    case l % 101 when 1 then 'NaN' when 2 then 'Infinity' when 3 then '-0' when 4 then 0.1 else (e / 1048576.0)::float8 end,
    timestamptz '2025-12-01T00:00Z' - make_interval(secs => e * 100),
    timestamptz '2025-12-31T00:00Z' - make_interval(secs => f)
from generate_series(cast(:first as bigint), cast(:last as bigint)) as i
cross join lateral (
    select
        (i - 1) % 600 + 1 as l,
        hashint8extended(i, 41) & 1048575 as a, hashint8extended(i, 42) & 1048575 as b,
        hashint8extended(i, 43) & 1048575 as c, hashint8extended(i, 44) & 1048575 as d,
        hashint8extended(i, 45) & 1048575 as e, hashint8extended(i, 47) & 1048575 as f
) as dice
on conflict do nothing;

-- name: fill_bill_versions
-- what: one to four full texts a bill, 5 to 400 kB; one in three with an annex that doesn't compress
insert into bill_versions (id, bill_id, version_no, label, body, body_sha256, attachments, published_at)
select
    (i - 1) * 4 + v, i, v, (array['As introduced', 'Committee stage', 'As amended', 'As passed'])[v],
    body,
    sha256(convert_to(body, 'UTF8')),
    case when l % 4 = 0 then '[]' else jsonb_build_array(jsonb_build_object('name', 'Kiambatisho ' || v || '.pdf', 'bytes',
        length(body) * 3, 'pages', null)) end,
    timestamptz '2025-06-01T00:00Z' - make_interval(days => (l % 700)::integer) + make_interval(days => 30 * v)
from generate_series(cast(:first as bigint), cast(:last as bigint)) as i
cross join lateral (select (i - 1) % 600 + 1 as l) as numbers
cross join lateral generate_series(1, (1 + l % 4)::integer) as v
cross join lateral (
    select string_agg(part || '. ' || (array[
            'Every public body shall publish its budget, its contracts and its payments',
            'Kila mwananchi ana haki ya kupata habari iliyoko mikononi mwa serikali',
            'The Cabinet Secretary may, by notice in the Gazette, make regulations',
            'රාජ්‍ය ආයතන සියල්ල තොරතුරු ප්‍රසිද්ධ කළ යුතුය',
            'A person who contravenes this section commits an offence'
        ])[1 + h % 5] || ', ' || (array[
            'within ' || h % 90 || ' days of the end of each quarter',
            'subject to section ' || h % 60 || '(' || h % 9 || ')',
            'notwithstanding any other written law', 'na kwa lugha ambayo wananchi wanaielewa',
            'at a cost not exceeding KSh ' || h
        ])[1 + h / 5 % 5] || ', ' || (array[
            'and shall be liable to a fine — or to imprisonment for a term not exceeding two years',
            'unless the National Assembly resolves otherwise', 'as set out in the Schedule',
            'without prejudice to the powers of the county assembly'
        ])[1 + h / 25 % 4] || '.', chr(10) order by part)
        || case when l % 3 = 0 then chr(10) || 'ANNEX' || chr(10) || (
            select string_agg(md5(((i * 8 + v) * 100000 + line)::text), chr(10) order by line)
            from generate_series(1, 150 + 20000 / (l + 5)) as line
        ) else '' end as body
    from generate_series(1, 30 + 20000 / (l + 10)) as part
    cross join lateral (select hashint8extended((i * 8 + v) * 100000 + part, 51) & 1048575 as h) as dice
) as written
on conflict do nothing;

-- name: fill_sponsorships
-- what: one to six sponsors a bill; 101 and 400 have no common divisor, so no pair comes twice
insert into sponsorships (bill_id, sponsor_id, role, signed_on)
select
    i,
    unit * 400 + 1 + (l * 37 + n * 101) % 400,
    (case when n = 0 then 'primary' when n = 5 then 'committee_chair' else 'co_sponsor' end)::sponsor_role,
    case when (l + n) % 9 > 0 then date '2025-01-01' - (l % 400)::integer + n end
from generate_series(cast(:first as bigint), cast(:last as bigint)) as i
cross join lateral (select (i - 1) % 600 + 1 as l, (i - 1) / 600 as unit) as numbers
cross join lateral generate_series(0, (l % 6)::integer) as n
on conflict do nothing;

-- name: fill_bill_status_changes
-- what: the way of each bill to its status
insert into bill_status_changes (id, bill_id, from_status, to_status, changed_by, changed_at, note)
select
    (i - 1) * 8 + n, i, way[n - 1]::bill_status, way[n]::bill_status,
    case when n > 1 then unit * 10000 + 1 + (l * 41 + n) % 10000 end,
    timestamptz '2025-12-01T00:00Z' - make_interval(days => (9 - n) * (3 + l % 40)::integer),
    case when (l + n) % 3 = 0 then 'Tume imeridhia — hatua ya ' || n end
from generate_series(cast(:first as bigint), cast(:last as bigint)) as i
cross join lateral (
    select
        (i - 1) % 600 + 1 as l,
        (i - 1) / 600 as unit,
        array['draft', 'published', 'first_reading', 'second_reading', 'committee', 'third_reading', 'assent',
            case ((i - 1) % 600 + 1) % 3 when 0 then 'enacted' when 1 then 'withdrawn' else 'lapsed' end] as way
) as numbers
cross join lateral generate_series(1, (1 + l % 8)::integer) as n
on conflict do nothing;

-- name: fill_comments
-- what: threads of five on one bill: a first comment, then answers to it or to the one before
insert into comments (id, bill_id, author_id, parent_id, state, body, mentions, sentiment, created_at)
select
    i,
    unit * 600 + 1 + floor(600 * u * u * u * u)::bigint,
    case when a % 25 > 0 then unit * 10000 + 1 + floor(10000 * w * w * w)::bigint end,
    case when i = root then null when b % 2 = 0 then root else i - 1 end,
    (case when c % 60 = 0 then 'removed' when c % 30 = 1 then 'hidden' else 'visible' end)::comment_state,
    (
        select string_agg((array[
            'This clause hides the cost: read section ' || (i * part) % 80 || '.', 'Naunga mkono mswada huu. 👏🏿',
            'Who will audit it, and when?', 'මෙය හොඳ පනතක්, නමුත් ප්‍රමාද වැඩියි.', 'Sikubaliani kabisa!!! 😡',
            'Source: https://example.org/gazette?no=' || i, '“Public participation” was one afternoon…',
            E'First line\nsecond line\twith a tab', 'C''est déjà ça — mieux vaut tard que jamais.',
            'KSh ' || (i * 37) % 1000000 || ' million for what exactly?'
        ])[1 + (hashint8extended(i * 16 + part, 66) & 1048575) % 10], ' ' order by part)
        from generate_series(1, 1 + floor(12 * (d / 1048576.0) * (d / 1048576.0))::integer) as part
    ),
    case when e % 12 = 0 then array['@wanjikũ', null, 'a,b "c" \d', ''] else '{}' end,
    case when e % 10 = 1 then null when e % 500 = 2 then 'NaN' else (e / 524288.0 - 1)::real end,
    timestamptz '2025-12-20T00:00Z' - make_interval(secs => f * 30) + make_interval(mins => 7 * (i - root)::integer)
from generate_series(cast(:first as bigint), cast(:last as bigint)) as i
cross join lateral (select (i - 1) / 20000 as unit, i - (i - 1) % 5 as root) as numbers
cross join lateral (
    select
        (hashint8extended(root, 61) & 1048575) / 1048576.0::float8 as u,
        (hashint8extended(i, 62) & 1048575) / 1048576.0::float8 as w,
        hashint8extended(i, 63) & 1048575 as a, hashint8extended(i, 64) & 1048575 as b,
        hashint8extended(i, 65) & 1048575 as c, hashint8extended(i, 67) & 1048575 as d,
        hashint8extended(i, 68) & 1048575 as e, hashint8extended(root, 69) & 1048575 as f
) as dice
on conflict do nothing;

-- name: edit_comments
-- what: two comments in five were edited: the old rows stay behind, as in life
update comments set edited_at = created_at + make_interval(mins => 1 + (id % 90)::integer)
where id between cast(:first as bigint) and cast(:last as bigint) and id % 5 in (2, 4) and edited_at is null;

-- name: fill_comment_votes
-- what: one comment in six has up to fifteen votes
insert into comment_votes (comment_id, user_id, value, voted_at)
select
    i,
    unit * 10000 + 1 + (l * 31 + n * 7) % 10000,
    case when (l + n * 3) % 4 = 0 then -1 else 1 end,
    timestamptz '2025-12-31T00:00Z' - make_interval(mins => (l % 3000 + n)::integer)
from generate_series(cast(:first as bigint), cast(:last as bigint)) as i
cross join lateral (select (i - 1) % 20000 + 1 as l, (i - 1) / 20000 as unit) as numbers
cross join lateral generate_series(0, (l / 6 % 15)::integer) as n
where l % 6 = 0
on conflict do nothing;

-- name: fill_bill_follows
-- what: a bill's followers fall with its rank, as 1/rank
insert into bill_follows (user_id, bill_id, channels, digest, followed_at)
select
    unit * 10000 + 1 + (l * 53 + n * 7) % 10000,
    i,
    (case (l + n) % 5
        when 0 then '{email}' when 1 then '{sms,push}' when 2 then '{}' when 3 then '{whatsapp}' else '{push,email,sms}'
    end)::channel[],
    case n % 4 when 0 then null when 1 then interval '1 day' when 2 then interval '1 mon 2 days' else interval '90 min' end,
    timestamptz '2025-12-31T00:00Z' - make_interval(mins => n * 11 + (l % 900)::integer)
from generate_series(cast(:first as bigint), cast(:last as bigint)) as i
cross join lateral (select (i - 1) % 600 + 1 as l, (i - 1) / 600 as unit) as numbers
cross join lateral generate_series(1, (5 + 5000 / (l + 2))::integer) as n
on conflict do nothing;

-- name: fill_engagement_events
-- what: what people did in 2025, more of it from month to month, a third of it without an account
insert into engagement_events (id, bill_id, user_id, kind, occurred_at, duration_s, session_hash, payload)
select
    i,
    unit * 600 + 1 + floor(600 * u * u * u * u)::bigint,
    case when a % 3 > 0 then unit * 10000 + 1 + floor(10000 * w * w * w)::bigint end,
    (case
        when b % 100 < 70 then 'view' when b % 100 < 80 then 'share' when b % 100 < 85 then 'download'
        when b % 100 < 90 then 'comment' when b % 100 < 94 then 'follow' when b % 100 < 98 then 'support' else 'oppose'
    end)::engagement_kind,
    timestamptz '2025-01-01T00:00Z' + make_interval(secs => floor(31536000 * sqrt(c / 1048576.0::float8))),
    case when b % 100 < 70 then (d / 4096.0)::float8 end,
    case when a % 4 > 0 then decode(md5('session' || i / 3), 'hex') end,
    case when e % 5 = 0 then jsonb_build_object('ref', (array['whatsapp', 'radio', 'x', null])[1 + e / 5 % 4], 'mobile',
        e % 2 = 0, 'scroll', round((d / 1048576.0)::numeric, 3)) end
from generate_series(cast(:first as bigint), cast(:last as bigint)) as i
cross join lateral (select (i - 1) / 60000 as unit) as numbers
cross join lateral (
    select
        (hashint8extended(i, 71) & 1048575) / 1048576.0::float8 as u,
        (hashint8extended(i, 72) & 1048575) / 1048576.0::float8 as w,
        hashint8extended(i, 73) & 1048575 as a, hashint8extended(i, 74) & 1048575 as b,
        hashint8extended(i, 75) & 1048575 as c, hashint8extended(i, 76) & 1048575 as d,
        hashint8extended(i, 77) & 1048575 as e
) as dice
on conflict do nothing;

-- name: fill_bill_daily_engagement
-- what: the roll-up of the events of some bills; means by numeric, for a sum of floats depends on the order of the rows
insert into bill_daily_engagement (bill_id, day, events, people, supports, opposes, mean_duration_s, by_kind)
select
    bill_id, day, sum(n), sum(people),
    coalesce(sum(n) filter (where kind = 'support'), 0), coalesce(sum(n) filter (where kind = 'oppose'), 0),
    (sum(duration_s) / nullif(sum(timed), 0))::float8, jsonb_object_agg(kind, n)
from (
    select
        bill_id, (occurred_at at time zone 'UTC')::date as day, kind, count(*) as n, count(distinct user_id) as people,
        sum(duration_s::numeric) as duration_s, count(duration_s) as timed
    from engagement_events
    where bill_id between cast(:first as bigint) and cast(:last as bigint)
    group by bill_id, (occurred_at at time zone 'UTC')::date, kind
) as by_kind
group by bill_id, day
on conflict do nothing;

-- name: advance_sequences
-- what: the next row that anybody inserts gets a number past ours
select
    setval('users_id_seq', greatest((select max(id) from users), (select last_value from users_id_seq))),
    setval('sponsors_id_seq', greatest((select max(id) from sponsors), (select last_value from sponsors_id_seq))),
    setval('bills_id_seq', greatest((select max(id) from bills), (select last_value from bills_id_seq))),
    setval('bill_number_seq', greatest((select max(number) from bills), (select last_value from bill_number_seq))),
    setval('bill_versions_id_seq',
        greatest((select max(id) from bill_versions), (select last_value from bill_versions_id_seq))),
    setval('bill_status_changes_id_seq',
        greatest((select max(id) from bill_status_changes), (select last_value from bill_status_changes_id_seq))),
    setval('comments_id_seq', greatest((select max(id) from comments), (select last_value from comments_id_seq))),
    setval('engagement_events_id_seq',
        greatest((select max(id) from engagement_events), (select last_value from engagement_events_id_seq)));
