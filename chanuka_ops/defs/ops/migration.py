"""Migrations and the set-up of a database."""

import dagster as dg
from pydantic import Field

from chanuka_ops.defs.assets import schema_key
from chanuka_ops.defs.resources import DatabaseResource
from chanuka_ops.migrator.model import Migrated
from chanuka_ops.orchestrators import applying


class MigrateConfig(dg.Config):
    """How far to migrate."""

    to: str = Field("head", description="The revision to be at afterwards.")


@dg.op(tags={"kind": "migration"})
def apply_migrations(context: dg.OpExecutionContext, db: DatabaseResource, config: MigrateConfig) -> None:
    """Migrate up."""
    with db.working():
        run = applying.migrate(db.orchestrator, "up", config.to)
    _report(context, db, run.migrated)


@dg.op(tags={"kind": "migration"})
def set_up_database(context: dg.OpExecutionContext, db: DatabaseResource) -> None:
    """Make the database if it isn't there, and migrate it to the newest revision."""
    with db.working():
        created, run = applying.set_up(db.orchestrator)
    context.log.info("the database was made" if created else "the database was there")
    _report(context, db, run.migrated)


def _report(context: dg.OpExecutionContext, db: DatabaseResource, migrated: Migrated) -> None:
    metadata: dict[str, dg.MetadataValue] = {
        "from": dg.MetadataValue.text(migrated.before or "empty"),
        "to": dg.MetadataValue.text(migrated.after or "empty"),
        "revisions_applied": dg.MetadataValue.int(len(migrated.applied)),
        "migration_seconds": dg.MetadataValue.float(float(sum(step.seconds for step in migrated.applied))),
        "attempts": dg.MetadataValue.int(sum(step.attempts for step in migrated.applied)),
    }
    context.log_event(dg.AssetMaterialization(schema_key(db.database), metadata=metadata))
    context.add_output_metadata({**metadata, **db.connection_metadata()})
