-- name: blockers
-- what: who keeps a waiting session waiting (nobody: no row); pid 0 is a prepared transaction
select
    blocking.pid,
    coalesce(b.application_name, '') as application_name,
    coalesce(b.usename, '') as role,
    coalesce(b.state, 'prepared transaction') as state,
    coalesce(extract(epoch from clock_timestamp() - b.xact_start), 0)::float8 as transaction_age_s,
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
