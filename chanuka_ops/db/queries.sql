-- name: probe
-- what: the role and version of a server
select pg_is_in_recovery() as standby, current_setting('server_version_num')::int as server_version

-- name: observe
-- what: role, identity and WAL position of a node
-- The WAL receiver's timeline shows to roles with pg_read_all_stats only: null then, which proves nothing to anybody.
-- At a page's end the next record's place is behind the next page's header, which no standby has replayed: taken off.
-- What is inserted and not flushed is on no standby yet: lag is measured against what was flushed.
select
    standby,
    (select system_identifier from pg_control_system()) as system_id,
    case
        when standby then (select received_tli from pg_stat_wal_receiver)
        else ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int
    end as timeline,
    case
        when standby then lsn
        when lsn % pg_size_bytes(current_setting('wal_segment_size')) = 40 then lsn - 40
        when lsn % current_setting('wal_block_size')::int = 24 then lsn - 24
        else lsn
    end as lsn,
    case when not standby then pg_wal_lsn_diff(pg_current_wal_flush_lsn(), '0/0')::bigint end as flushed,
    extract(epoch from clock_timestamp() - pg_last_xact_replay_timestamp())::float8 as behind_s,
    coalesce(pg_last_wal_receive_lsn() > pg_last_wal_replay_lsn(), false) as waits
from (select pg_is_in_recovery() as standby offset 0) as role
cross join lateral (
    select
        pg_wal_lsn_diff(
            case when standby then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end, '0/0'
        )::bigint as lsn
    offset 0
) as position

-- name: room
-- what: the server's connection slots, and the limits of this role and database
select
    current_setting('max_connections')::int as max_connections,
    current_setting('superuser_reserved_connections')::int
        + coalesce(nullif(current_setting('reserved_connections', true), ''), '0')::int as reserved,
    (select rolconnlimit from pg_roles where rolname = current_user) as role_limit,
    (select datconnlimit from pg_database where datname = current_database()) as database_limit

-- name: transaction_identity
-- what: what it takes to ask later whether this transaction was committed; xid is null where nothing was written
-- A crash can have an xid given out twice, if its first use never reached the disk. It also resets the statistics, so
-- their reset tells that there was one; a restart in good order keeps both.
select
    pg_current_xact_id_if_assigned()::text as xid,
    pg_backend_pid() as pid,
    (select system_identifier from pg_control_system()) as system_id,
    ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int as timeline,
    (select stats_reset::text from pg_stat_wal) as crash_mark

-- name: transaction_outcome
-- what: whether a transaction was committed, and whether its session still waits for a statement
select
    pg_xact_status(cast(:xid as xid8)) as status,
    exists (
        select from pg_stat_activity
        where pid = :pid and backend_xid::text = (cast(:xid as text)::numeric % 4294967296)::text
            and state like 'idle in transaction%'
    ) as abandoned

-- name: end_abandoned
-- what: ends the session whose client lost it before COMMIT arrived, so that its transaction is settled
select pg_terminate_backend(pid)
from pg_stat_activity
where pid = :pid and backend_xid::text = (cast(:xid as text)::numeric % 4294967296)::text
    and state like 'idle in transaction%'
