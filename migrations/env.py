"""Alembic's environment: runs on the connection that chanuka-ops hands over, and on no other.

Alembic has no protection against two upgrades at once. The lock, the lock timeout and the retries stand around this
file, in chanuka_ops.migrator; so `alembic upgrade` by itself is refused, and `--sql` (which touches no database) works.
"""

from __future__ import annotations

from alembic import context
from alembic.util import CommandError


def run_offline() -> None:
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},  # the drivers' own style would write each % twice
        literal_binds=True,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()


def run_online() -> None:
    connection = context.config.attributes.get("connection")
    if connection is None:
        raise CommandError(
            "migrations run through `chanuka-ops migrate up` (or `migrate down --to REVISION`), which holds the"
            " operation lock and sets a lock timeout; alembic by itself does neither. Nothing was changed."
        )
    context.configure(connection=connection, transaction_per_migration=True)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    run_offline()
else:
    run_online()
