"""A word count for each version of a bill: the column, and a trigger for new rows."""

from __future__ import annotations

from alembic import op

revision = "0010_word_count"
down_revision = "0009_bills_by_status"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A stored generated column would rewrite the table under ACCESS EXCLUSIVE. So: a nullable column (no rewrite), a
    # trigger that fills it for whatever is written from now on, then batches (0011), then the proof (0012).
    op.execute("alter table bill_versions add column word_count bigint")
    op.execute("""
        create function count_bill_version_words() returns trigger
        language plpgsql set search_path from current as $$
        begin
            new.word_count := cardinality(array_remove(string_to_array(translate(new.body, chr(10), ' '), ' '), ''));
            return new;
        end
        $$
    """)
    op.execute("""
        create trigger bill_versions_count_words before insert or update on bill_versions
        for each row execute function count_bill_version_words()
    """)
    op.execute("""
        alter table bill_versions add constraint bill_versions_word_count_known
        check (word_count is not null) not valid
    """)


def downgrade() -> None:
    op.execute("alter table bill_versions drop constraint bill_versions_word_count_known")
    op.execute("drop trigger bill_versions_count_words on bill_versions")
    op.execute("drop function count_bill_version_words()")
    op.execute("alter table bill_versions drop column word_count")
