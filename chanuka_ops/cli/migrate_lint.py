"""`chanuka-ops migrate lint`: what a script or the revisions would do to a server full of data."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from chanuka_ops import errors
from chanuka_ops.cli.face import Face, common
from chanuka_ops.migrator.lint import sarif
from chanuka_ops.migrator.lint.model import SEVERITIES, Report, Rule
from chanuka_ops.migrator.lint.rulebook import RULES
from chanuka_ops.orchestrators import linting
from chanuka_ops.sql.catalog import NEWEST_MAJOR, OLDEST_MAJOR

FORMATS = ("text", "json", "sarif")


@click.command("lint")
@click.option("--sql", metavar="FILE", help="A script instead of the revisions; - is standard input.")
@click.option("--all", "every", is_flag=True, help="All revisions, not only the pending ones.")
@click.option(
    "--pg-version",
    type=click.IntRange(OLDEST_MAJOR, NEWEST_MAJOR),
    help="The server's major version (default: the database's).",
)
@click.option("--offline", is_flag=True, help="Don't ask the database.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="text", show_default=True)
@click.option("--fail-on", type=click.Choice([*SEVERITIES, "never"]), default="danger", show_default=True)
@click.option("--second-opinion", is_flag=True, help="List what squawk says of the script as well.")
@click.option("--rules", "listing", is_flag=True, help="List the rules.")
@click.option("--explain", metavar="RULE", help="Say what a rule is about.")
@common
def lint(face: Face, *, form: str, fail_on: str, listing: bool, explain: str | None, **wanted: Any) -> int:
    """Tell what blocks, rewrites, fails or is lost, before it runs."""
    if face.as_json and form == "text":
        form = "json"
    if listing or explain is not None:
        _explained(face, explain, as_json=form == "json")
        return 0
    path = wanted.pop("sql")
    script = None if path is None else Path(path)
    content = None if script is None else _read(script)
    report = linting.lint(face.settings(), face.database, linting.Wanted(sql=script, **wanted), content=content)
    if form == "json":
        face.answer(report.to_json())
    elif form == "sarif":
        face.answer(sarif.document(report, RULES, version=metadata.version("chanuka-ops")))
    else:
        _print(face, report)
    for note in report.notes:
        face.warn(note)
    return int(_fails(report, fail_on))


def _read(path: Path) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read()
    try:
        return path.read_bytes()
    except OSError as error:
        raise errors.ConfigurationError(f"{path} can't be read: {error.strerror}") from None


def _fails(report: Report, fail_on: str) -> bool:
    worst = report.worst()
    if worst is None or fail_on == "never":
        return False
    order: list[str] = list(SEVERITIES)
    return order.index(worst) <= order.index(fail_on)


def _print(face: Face, report: Report) -> None:
    several = len({source.path for source, _ in report.findings}) > 1
    for source, finding in report.findings:
        place = f"{Path(source.path).name}:{finding.line}" if several or source.revision else f"line {finding.line}"
        way = " (downgrade)" if source.direction == "down" else ""
        waived = f" [waived until {finding.waived.until}: {finding.waived.reason}]" if finding.waived else ""
        face.say(f"{finding.severity}: {place}{way}: {finding.message} [{finding.rule.id}]{waived}")
        if finding.severity != "style" and not finding.waived:
            face.say(f"    safer: {finding.rule.safer}")
    counts = report.counts()
    said = ", ".join(f"{number} {severity}" for severity, number in counts.items() if number)
    face.say(f"{said or 'nothing to say'} · {report.against}")


def _explained(face: Face, name: str | None, *, as_json: bool) -> None:
    if name is not None and name not in RULES:
        near = ", ".join(rule for rule in RULES if name.split("-")[0] in rule) or "see --rules"
        raise errors.ConfigurationError(f"there is no rule {name!r}: {near}")
    rules = list(RULES.values()) if name is None else [RULES[name]]
    if as_json:
        face.answer({"rules": [_rule(rule) for rule in rules]})
    elif name is None:
        face.table("Rules", ("rule", "severity", "why"), [(rule.id, rule.severity, rule.why) for rule in rules])
    else:
        rule = rules[0]
        lock = f"\nlock: {rule.lock.words}" if rule.lock else ""
        face.say(f"{rule.id} ({rule.severity}){lock}\nwhy: {rule.why}\nsafer: {rule.safer}\nread: {rule.docs}")


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "rule": rule.id,
        "severity": rule.severity,
        "why": rule.why,
        "safer": rule.safer,
        "docs": rule.docs,
        "lock": rule.lock.words if rule.lock else None,
        "work": rule.work or None,
    }
