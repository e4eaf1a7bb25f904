"""SARIF 2.1.0 as its schema wants it: the members that must be there, no others, and the values that they may have.

https://docs.oasis-open.org/sarif/sarif/v2.1.0/os/schemas/sarif-schema-2.1.0.json
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from chanuka_ops.migrator.lint import sarif
from chanuka_ops.migrator.lint.model import Finding, Report, Rule, Source
from chanuka_ops.migrator.lint.rulebook import RULES
from chanuka_ops.migrator.lint.service import Linter

Check = Callable[[Any], None]
SCRIPT = (
    "SELECT 1;\nDROP TABLE a;\n-- lint: allow cluster until 2027-01-01: night\nCLUSTER b USING i;\n"
    "CREATE TABLE n (id int);\nALTER TABLE t ADD COLUMN a int;"
)


def text(value: Any) -> None:
    assert isinstance(value, str)
    assert value.strip()


def url(value: Any) -> None:
    text(value)
    assert urlsplit(value).scheme == "https"


def reference(value: Any) -> None:
    """Of a file: no space, no backslash."""
    text(value)
    assert not set(value) & set(' \\"<>{}|^`')


def one_of(*values: str) -> Check:
    def check(value: Any) -> None:
        assert value in values

    return check


def number(least: int) -> Check:
    def check(value: Any) -> None:
        assert isinstance(value, int)
        assert value >= least

    return check


def many(check: Check) -> Check:
    def each(values: Any) -> None:
        assert isinstance(values, list)
        for value in values:
            check(value)

    return each


def shape(required: dict[str, Check], **optional: Check) -> Check:
    """An object of these members: the schema allows no others."""

    def check(value: Any) -> None:
        assert required.keys() <= value.keys() <= required.keys() | optional.keys()
        for name, member in value.items():
            (required | optional)[name](member)

    return check


MESSAGE = shape({"text": text}, markdown=text)
LEVEL = one_of("none", "note", "warning", "error")
RULE = shape(
    {"id": text},
    name=text,
    shortDescription=MESSAGE,
    fullDescription=MESSAGE,
    help=MESSAGE,
    helpUri=url,
    defaultConfiguration=shape({}, level=LEVEL),
)
DRIVER = shape({"name": text}, semanticVersion=text, version=text, informationUri=url, rules=many(RULE))
PLACE = shape({"artifactLocation": shape({}, uri=reference)}, region=shape({}, startLine=number(1)))
RESULT = shape(
    {"message": MESSAGE},
    ruleId=text,
    ruleIndex=number(0),
    level=LEVEL,
    locations=many(shape({}, physicalLocation=PLACE)),
    suppressions=many(shape({"kind": one_of("inSource", "external")}, justification=text)),
)
RUN = shape(
    {"tool": shape({"driver": DRIVER})},
    columnKind=one_of("utf16CodeUnits", "unicodeCodePoints"),
    results=many(RESULT),
)
DOCUMENT = shape({"version": one_of("2.1.0"), "runs": many(RUN)}, **{"$schema": url})


def reports() -> list[Report]:
    today = dt.date(2026, 11, 28)
    script = Linter(today).script(SCRIPT.encode(), "deploy scripts/2026 nov.sql")
    squawk = Rule("squawk:ban-x", "style", "no", "no", "yes", "https://squawkhq.com/docs/rules#ban-x")
    other = (Source("x.sql"), Finding(squawk, "style", "", 1, "", "no"))
    return [script, Report((*script.findings, other)), Linter(today).script(b"SELECT 1;", "-")]


@pytest.mark.parametrize("report", reports(), ids=["script", "second opinion", "nothing"])
def test_the_document_is_as_the_schema_wants_it(report: Report) -> None:
    document = json.loads(json.dumps(sarif.document(report, RULES, version="1.0.0")))
    DOCUMENT(document)
    [run] = document["runs"]
    assert len(run["results"]) == len(report.findings)
    names = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert len(set(names)) == len(names)
    assert all(names[result["ruleIndex"]] == result["ruleId"] for result in run["results"])


def test_this_test_sees_what_the_schema_would_not_take() -> None:
    document = sarif.document(reports()[0], RULES, version="1.0.0")
    document["runs"][0]["results"][0]["severity"] = "high"
    with pytest.raises(AssertionError):
        DOCUMENT(document)


def test_each_severity_has_its_level_and_a_waiver_suppresses() -> None:
    [run] = sarif.document(reports()[0], RULES, version="1.0.0")["runs"]
    levels = {result["ruleId"]: result["level"] for result in run["results"]}
    assert (levels["drop-table"], levels["lock-timeout-missing"], levels["no-primary-key"]) == (
        "error",
        "warning",
        "note",
    )
    suppressed = [result["ruleId"] for result in run["results"] if "suppressions" in result]
    assert suppressed == ["cluster"]
