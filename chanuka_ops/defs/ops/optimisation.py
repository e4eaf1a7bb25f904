"""Optimisation: advice as metadata; VACUUM and ANALYZE carried out."""

import dagster as dg
from pydantic import Field

from chanuka_ops.defs.resources import DatabaseResource, readable
from chanuka_ops.defs.tables import markdown
from chanuka_ops.orchestrators.nightly import applied_said, require_applied


class OptimiseConfig(dg.Config):
    """What to do with the advice."""

    apply: bool = Field(default=True, description="Carry out what needs no approval: VACUUM and ANALYZE.")


@dg.op(ins={"after": dg.In(dg.Nothing)}, tags={"kind": "optimisation"})
def plan_and_apply(context: dg.OpExecutionContext, db: DatabaseResource, config: OptimiseConfig) -> None:
    """Plan, and apply what needs no approval."""
    with db.working():
        plan = db.orchestrator.optimise_plan()
        applied = db.orchestrator.optimise_apply(plan) if config.apply else []
    rows = [(a.kind, a.object, a.reason, a.sql) for a in plan.advice]
    context.add_output_metadata(
        {
            "advice": dg.MetadataValue.int(len(plan.advice)),
            "applied": dg.MetadataValue.int(sum(item.outcome == "applied" for item in applied)),
            "failed": dg.MetadataValue.int(sum(item.outcome == "failed" for item in applied)),
            "outcome": dg.MetadataValue.text(applied_said(applied)),
            "gained_bytes": dg.MetadataValue.int(sum(item.gained_bytes or 0 for item in applied)),
            "plan": markdown(("kind", "object", "reason", "statement"), rows),
            **db.connection_metadata(),
        }
    )
    with readable():
        require_applied(applied)
