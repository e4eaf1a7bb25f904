"""Fills the report from what a run found, made and proved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from chanuka_ops import context
from chanuka_ops.health.model import HealthReport, Status
from chanuka_ops.orchestrators.nightly import Cycle
from chanuka_ops.orchestrators.steps import Step
from chanuka_ops.report import model
from chanuka_ops.report import service as reports


def write(path: Path, *, title: str, cycle: Cycle, steps: Sequence[Step], server_version: str) -> None:
    """Write the run's report as one HTML file. Errors: `StoreError`."""
    reports.write(
        model.Report(
            title=title,
            generated_at=datetime.now(UTC),
            database=context.current().database,
            server_version=server_version,
            status=str(cycle.health.status) if cycle.health else "ok",
            steps=tuple(model.Step(s.name, s.status, s.seconds, s.detail, s.started_s) for s in steps),
            health=_health(cycle.health) if cycle.health else None,
            proof=_proof(cycle),
            advice=_advice(cycle),
            run_id=context.current().run_id,
        ),
        path,
    )


def _health(report: HealthReport) -> model.Health:
    unknown = sum(result.status == Status.UNKNOWN for result in report.checks)
    return model.Health(
        status=str(report.status),
        findings=tuple(
            model.FindingRow(
                finding.check,
                str(finding.status),
                finding.object,
                finding.value,
                finding.unit,
                finding.threshold,
                finding.summary,
                finding.remedy,
            )
            for finding in report.findings
            if finding.status != Status.OK
        ),
        counts=Counter(str(result.status) for result in report.checks),
        checks_judged=len(report.checks) - unknown,
        checks_unknown=unknown,
    )


def _proof(cycle: Cycle) -> model.Proof:
    drill = cycle.drill
    differing = (*drill.mismatches, *drill.structure_problems)
    return model.Proof(
        backup_id=drill.backup_id,
        tier=str(drill.tier),
        files=cycle.verified.files,
        bytes=cycle.backup.bytes,
        source_bytes=cycle.backup.source_bytes,
        tables_compared=drill.tables_compared,
        rows_compared=drill.rows_compared,
        coverage=drill.coverage,
        restore_seconds=drill.restore_seconds,
        mismatches=tuple(f"{item.object}: {item.source}; in the copy {item.restored}" for item in differing),
        tables=tuple(
            model.TableProof(name, source, restored, equal) for name, (source, restored, equal) in drill.tables.items()
        ),
    )


def _advice(cycle: Cycle) -> tuple[model.AdviceRow, ...]:
    outcomes = {item.id: item for item in cycle.applied}
    rows = []
    for advice in cycle.plan.advice:
        done = outcomes.get(advice.id)
        rows.append(
            model.AdviceRow(
                advice.kind,
                advice.object,
                advice.reason,
                advice.sql,
                advice.gain_bytes,
                advice.risk,
                advice.lock,
                done.outcome if done else None,
                done.reason if done else None,
                done.gained_bytes if done else None,
                done.seconds if done else None,
            )
        )
    return tuple(rows)
