"""SARIF 2.1.0: findings for code hosts and editors. Pure.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/sarif-v2.1.0.html
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from chanuka_ops.migrator.lint.model import Finding, Report, Rule, Source

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_LEVELS = {"danger": "error", "caution": "warning", "style": "note"}


def document(report: Report, rules: Mapping[str, Rule], *, version: str) -> dict[str, Any]:
    """Return the report as SARIF; a waived finding is a suppressed result."""
    used = sorted({finding.rule.id for _, finding in report.findings})
    numbers = {rule: number for number, rule in enumerate(used)}
    known = {finding.rule.id: finding.rule for _, finding in report.findings} | dict(rules)
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "chanuka-ops migrate lint",
                        "semanticVersion": version,
                        "rules": [_rule(known[rule]) for rule in used],
                    }
                },
                "columnKind": "unicodeCodePoints",
                "results": [_result(source, finding, numbers) for source, finding in report.findings],
            }
        ],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "shortDescription": {"text": rule.why},
        "fullDescription": {"text": rule.why},
        "help": {"text": f"{rule.why} Safer: {rule.safer}"},
        "helpUri": rule.docs,
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _result(source: Source, finding: Finding, numbers: Mapping[str, int]) -> dict[str, Any]:
    place = {
        "artifactLocation": {"uri": quote(source.path.replace("\\", "/"))},
        "region": {"startLine": max(1, finding.line)},
    }
    result: dict[str, Any] = {
        "ruleId": finding.rule.id,
        "ruleIndex": numbers[finding.rule.id],
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.message}. Safer: {finding.rule.safer}"},
        "locations": [{"physicalLocation": place}],
    }
    if finding.waived is not None:
        result["suppressions"] = [{"kind": "inSource", "justification": finding.waived.reason}]
    return result
