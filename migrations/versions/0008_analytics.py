"""Roll-ups: engagement by bill and day, and a ranking of bills."""

from __future__ import annotations

from alembic import op

revision = "0008_analytics"
down_revision = "0007_engagement"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""
        create table bill_daily_engagement (
            bill_id bigint not null,
            day date not null,
            events bigint not null,
            people bigint not null,
            supports bigint not null default 0,
            opposes bigint not null default 0,
            mean_duration_s double precision,
            by_kind jsonb not null default '{}',
            primary key (bill_id, day)
        )
    """)
    # Whole numbers and numeric only: a restored copy computes this view anew, and a sum of floats depends on the
    # order of the rows.
    op.execute("""
        create materialized view bill_ranking as
        select
            b.id as bill_id,
            b.status,
            coalesce(sum(d.events), 0)::bigint as events,
            coalesce(sum(d.people), 0)::bigint as people,
            round(coalesce(sum(d.supports)::numeric / nullif(sum(d.supports + d.opposes), 0), 0), 4) as support_share
        from bills b
        left join bill_daily_engagement d on d.bill_id = b.id
        group by b.id, b.status
    """)
    op.execute("create unique index bill_ranking_bill_id_key on bill_ranking (bill_id)")  # REFRESH … CONCURRENTLY
    # Last, since it locks bills against writes until the end: the view is computed before. The table has no rows yet.
    op.execute("""
        alter table bill_daily_engagement add constraint bill_daily_engagement_bill_id_fkey
        foreign key (bill_id) references bills (id) on delete cascade
    """)


def downgrade() -> None:
    op.execute("drop materialized view bill_ranking")
    op.execute("drop table bill_daily_engagement")
