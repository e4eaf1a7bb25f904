"""Count the words of the versions that were there before, in batches."""

from __future__ import annotations

from alembic import op

from chanuka_ops.migrator.running.repeating import repeatable

revision = "0011_word_count_backfill"
down_revision = "0010_word_count"
branch_labels = None
depends_on = None

BATCH = 200
_LAST = "select coalesce(max(id), 0) from bill_versions where word_count is null"
# The trigger of 0010 counts; the update only has to touch the row. Keyset: each batch begins after the last one's end.
_BATCH = """
    with batch as (
        select id from bill_versions
        where id > {after} and id <= {last} and word_count is null
        order by id limit {size}
    ), touched as (
        update bill_versions v set word_count = 0 from batch where v.id = batch.id
    )
    select max(id) from batch
"""
# The same for a script: psql runs it outside a transaction, so that it commits after each batch.
_PREVIEW = f"""
    do $$
    declare
        after bigint := 0;
        last bigint := ({_LAST});
    begin
        while after is not null loop
            with batch as (
                select id from bill_versions
                where id > after and id <= last and word_count is null
                order by id limit {BATCH}
            ), touched as (
                update bill_versions v set word_count = 0 from batch where v.id = batch.id
            )
            select max(id) into after from batch;
            commit;
        end loop;
    end
    $$
"""


def upgrade() -> None:
    # Each batch commits by itself: its row locks are short, and a rerun goes on where this one stopped.
    with op.get_context().autocommit_block(), repeatable():
        if op.get_context().as_sql:
            op.execute(_PREVIEW)
            return
        bind = op.get_bind()
        # The end is fixed at the start. Rows that come later were counted by the trigger, so this can't run for ever.
        last = bind.exec_driver_sql(_LAST).scalar_one()
        after = 0
        while after is not None:
            after = bind.exec_driver_sql(_BATCH.format(after=after, last=last, size=BATCH)).scalar_one()


def downgrade() -> None:
    """The counts go with their column, in 0010."""
