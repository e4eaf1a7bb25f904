"""Every version has its word count: the constraint is validated."""

from __future__ import annotations

from alembic import op

revision = "0012_word_count_proved"
down_revision = "0011_word_count_backfill"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A transaction of its own: the scan holds SHARE UPDATE EXCLUSIVE, under which readers and writers go on.
    op.execute("alter table bill_versions validate constraint bill_versions_word_count_known")


def downgrade() -> None:
    op.execute("alter table bill_versions drop constraint bill_versions_word_count_known")
    op.execute("""
        alter table bill_versions add constraint bill_versions_word_count_known
        check (word_count is not null) not valid
    """)
