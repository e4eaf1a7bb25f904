"""Who follows which bill, and how they want to hear of it."""

from __future__ import annotations

from alembic import op

revision = "0006_follows"
down_revision = "0005_comments"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("create type channel as enum ('email', 'sms', 'push', 'whatsapp')")
    op.execute("""
        create table bill_follows (
            user_id bigint not null references users (id) on delete cascade,
            bill_id bigint not null references bills (id) on delete cascade,
            channels channel[] not null default '{email}',
            digest interval,
            followed_at timestamptz not null default now(),
            primary key (user_id, bill_id)
        )
    """)
    op.execute("create index bill_follows_bill_id_idx on bill_follows (bill_id)")


def downgrade() -> None:
    op.execute("drop table bill_follows")
    op.execute("drop type channel")
