"""Migrations and the set-up of a database."""

import dagster as dg
from pydantic import Field

from chanuka_ops.defs.assets import schema_key
from chanuka_ops.defs.resources import DatabaseResource
from chanuka_ops.defs.tables import markdown
from chanuka_ops.orchestrators import applying
from chanuka_ops.orchestrators.applying import Run


class MigrateConfig(dg.Config):
    """How far to migrate."""

    to: str = Field("head", description="The revision to be at afterwards.")


class RollBackConfig(dg.Config):
    """How far to go back."""

    to: str = Field(description="The revision to be at afterwards, or base: what came later is dropped with its data.")


@dg.op(tags={"kind": "migration"})
def apply_migrations(context: dg.OpExecutionContext, db: DatabaseResource, config: MigrateConfig) -> None:
    """Migrate up, if the gate lets it."""
    with db.working():
        run = applying.migrate(db.orchestrator, "up", config.to)
    _report(context, db, run)


@dg.op(tags={"kind": "migration"})
def roll_back_migrations(context: dg.OpExecutionContext, db: DatabaseResource, config: RollBackConfig) -> None:
    """Migrate down to a revision, if the gate lets it."""
    with db.working():
        run = applying.migrate(db.orchestrator, "down", config.to)
    _report(context, db, run)


@dg.op(tags={"kind": "migration"})
def set_up_database(context: dg.OpExecutionContext, db: DatabaseResource) -> None:
    """Make the database if it isn't there, and migrate it to the newest revision."""
    with db.working():
        created, run = applying.set_up(db.orchestrator)
    context.log.info("the database was made" if created else "the database was there")
    _report(context, db, run)


def _report(context: dg.OpExecutionContext, db: DatabaseResource, run: Run) -> None:
    migrated, document = run.migrated, run.to_json()
    metadata: dict[str, dg.MetadataValue] = {
        "from": dg.MetadataValue.text(migrated.before or "empty"),
        "to": dg.MetadataValue.text(migrated.after or "empty"),
        "revisions_applied": dg.MetadataValue.int(len(migrated.applied)),
        "migration_seconds": dg.MetadataValue.float(float(sum(step.seconds for step in migrated.applied))),
        "attempts": dg.MetadataValue.int(sum(step.attempts for step in migrated.applied)),
        "left_unfinished": dg.MetadataValue.int(len(run.left)),
        "applied": markdown(
            ("revision", "seconds", "attempts"), [(s.revision, s.seconds, s.attempts) for s in migrated.applied]
        ),
        "left": markdown(("object", "what"), [(item.object, item.words()) for item in run.left]),
        "gate": dg.MetadataValue.text("; ".join(run.seen.verdict.notes) or "passed" if run.seen else "not asked"),
        **({"report": dg.MetadataValue.path(str(document["report"]))} if document.get("report") else {}),
    }
    context.log_event(dg.AssetMaterialization(schema_key(db.database), metadata=metadata))
    context.add_output_metadata({**metadata, **db.connection_metadata()})
