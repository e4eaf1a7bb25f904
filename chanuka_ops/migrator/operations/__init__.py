"""Operations for revisions: the safe form of what would otherwise block, each of them safe to run again.

::

    from chanuka_ops.migrator import operations as ops

    def upgrade() -> None:
        ops.concurrent_index("bills_title_idx", "bills", ["title"])

    def downgrade() -> None:
        ops.drop_concurrent_index("bills_title_idx", "bills")

Each works outside a transaction, statement by statement, and looks first what is there: after a SIGKILL at any point
the revision is run from its start, and what was finished is left alone. So a revision holds these alone, or after
statements that may be repeated (`… if not exists`): what stands before one of these is committed when it begins.

Names (tables, columns, indexes, constraints) are exact and quoted here; `text("lower(title)")` marks an expression.
Conditions and expressions are the author's own SQL, and are sent as they stand.
"""

from chanuka_ops.migrator.operations.backfills import backfill
from chanuka_ops.migrator.operations.constraints import (
    add_check,
    add_foreign_key,
    add_unique,
    drop_constraint,
    drop_not_null,
    set_not_null,
    validate,
)
from chanuka_ops.migrator.operations.indexes import concurrent_index, drop_concurrent_index

__all__ = [
    "add_check",
    "add_foreign_key",
    "add_unique",
    "backfill",
    "concurrent_index",
    "drop_concurrent_index",
    "drop_constraint",
    "drop_not_null",
    "set_not_null",
    "validate",
]
