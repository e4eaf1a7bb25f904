"""An index for the list of bills by stage, built without blocking writers."""

from __future__ import annotations

from alembic import op

revision = "0009_bills_by_status"
down_revision = "0008_analytics"
branch_labels = None
depends_on = None

INDEX = "bills_status_introduced_on_idx"
_INVALID = "select 1 from pg_index where indexrelid = to_regclass('{index}') and not indisvalid"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        # CONCURRENTLY waits for older transactions, which blocks nobody, so it may be patient.
        op.execute("set lock_timeout = '5min'")
        drop_invalid_leftover()
        op.execute(f"create index concurrently if not exists {INDEX} on bills (status, introduced_on desc)")
        op.execute("reset lock_timeout")


def downgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute("set lock_timeout = '5min'")
        op.execute(f"drop index concurrently if exists {INDEX}")
        op.execute("reset lock_timeout")


def drop_invalid_leftover() -> None:
    """A build that was broken off leaves an index that every write maintains and no query uses."""
    context = op.get_context()
    if context.as_sql or op.get_bind().exec_driver_sql(_INVALID.format(index=INDEX)).first():
        op.execute(f"drop index concurrently if exists {INDEX}")
