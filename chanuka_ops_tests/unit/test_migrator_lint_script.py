"""Scripts as people write them: read as psql reads them, with the right lines, or refused with the line."""

from __future__ import annotations

import datetime as dt
import doctest
from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.migrator.lint import casts, dynamic, handbook, judge, script, waivers
from chanuka_ops.migrator.lint.catalogue import Type
from chanuka_ops.migrator.lint.checks import session
from chanuka_ops.migrator.lint.model import Report, Source
from chanuka_ops.migrator.lint.rulebook import RULES
from chanuka_ops.migrator.lint.service import Linter
from chanuka_ops.migrator.lint.world import World

TODAY = dt.date(2026, 11, 28)
HANDBOOK = Path(__file__).parents[2] / "docs" / "howto" / "lint-rules.md"


def lines(text: str) -> list[tuple[int, str]]:
    return [(statement.line, statement.sql) for statement in script.read(text, name="x.sql").statements]


def linted(text: str) -> Report:
    return Linter(TODAY).script(text.encode(), "x.sql")


def rules_of(report: Report) -> dict[str, bool]:
    """Each rule that spoke, and whether it was waived."""
    return {finding.rule.id: finding.waived is not None for _, finding in report.findings}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("-- nothing\n/* at /* all */ */ ;;\n", []),
        ("select 1;\n\n  select 2", [(1, "select 1"), (3, "select 2")]),
        ("select ';' as a, $x$ ; $x$, E'\\';', \"a;b\";\nselect 2;", [(1, "select ';' as a, $x$ ; $x$, E'\\';', \"a;b\""), (2, "select 2")]),  # noqa: E501 - a row of a table
        ("copy t from stdin;\n1\t;\nselect\n\\.\nselect 2;", [(1, "copy t from stdin"), (5, "select 2")]),
        ("-- a\n/* b\n*/ select /* c; */ 1; -- d;\nselect 2;", [(3, "select /* c; */ 1"), (4, "select 2")]),
        ("create rule r as on insert to t do also (select 1; select 2);\nselect 3;", [(1, "create rule r as on insert to t do also (select 1; select 2)"), (2, "select 3")]),  # noqa: E501 - a row of a table
    ],
)  # fmt: skip
def test_statements_and_their_lines(text: str, expected: list[tuple[int, str]]) -> None:
    assert lines(text) == expected


def test_a_body_that_is_no_string_is_one_statement() -> None:
    body = "create function f() returns int begin atomic select case when true then 1 end; select 2; end"
    assert lines(f"{body};\nselect 3;") == [(1, body), (2, "select 3")]


def test_carriage_returns_and_a_byte_order_mark_are_no_part_of_it() -> None:
    text = script.decode(b"\xef\xbb\xbfselect 1;\r\nselect 2;\r\n", name="x.sql")
    assert lines(text) == [(1, "select 1"), (2, "select 2")]


def test_what_is_no_utf8_is_refused_with_its_line() -> None:
    with pytest.raises(errors.ConfigurationError, match=r"x\.sql, line 2: byte 0xe9 is no UTF-8"):
        script.decode("select 1;\nselect 'é';".encode("latin-1"), name="x.sql")


def test_what_does_not_parse_is_refused_with_its_line() -> None:
    with pytest.raises(errors.ConfigurationError, match=r'x\.sql, line 4: syntax error at or near "tabel"'):
        script.read("select 1;\n\nalter\n  tabel t add a int;", name="x.sql")


def test_a_very_long_script_is_read() -> None:
    text = "".join(f"insert into t values ({n}, 'a;b');\n" for n in range(5000))
    assert lines(text)[-1][0] == 5000


def test_psql_commands_are_told_and_the_rest_is_judged() -> None:
    said = rules_of(linted("\\set ON_ERROR_STOP on\n\\i other.sql\ncreate index i on t (a);\n\\echo done"))
    assert {"psql-command", "psql-include", "index-build-blocks-writes"} <= said.keys()


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("\\set t books\nALTER TABLE :t ALTER COLUMN b TYPE bigint;", "column-type-rewrites"),
        ("\\set t 'my books'\nCREATE INDEX i ON :\"t\" (a);", "index-build-blocks-writes"),
        ("DROP TABLE :schema.notes;", "drop-table"),
        ("\\set who 'o''hara'\nUPDATE t SET a = :'who' WHERE 1 = 1;", "mass-update"),
    ],
)
def test_variables_of_psql_are_filled_in(text: str, rule: str) -> None:
    assert rule in rules_of(linted(text))


def test_what_only_looks_like_a_variable_is_left_alone() -> None:
    said = rules_of(linted("SELECT a[1:n], '12:30', b::text FROM t;"))
    assert "drop-table" not in said
    with pytest.raises(errors.ConfigurationError, match=r"x\.sql, line 2: syntax error"):
        script.read("SELECT 1;\nSELEKT :a;", name="x.sql")


def test_repack_is_read_though_the_parser_does_not_know_it() -> None:
    assert "repack-blocks" in rules_of(linted("REPACK books;"))
    assert "repack-blocks" not in rules_of(linted("REPACK (CONCURRENTLY) books;"))
    old = Linter(TODAY, version=15).script(b"REPACK (CONCURRENTLY) books;", "x.sql")
    assert "needs-newer-server" in rules_of(old)


def test_the_version_of_the_server_counts() -> None:
    text = b"ALTER TABLE t ADD COLUMN a int GENERATED ALWAYS AS (b + 1) VIRTUAL;"
    assert "needs-newer-server" in rules_of(Linter(TODAY, version=17).script(text, "x.sql"))
    assert Linter(TODAY, version=18).script(text, "x.sql").worst() != "danger"
    assert "may-need-newer-server" in rules_of(linted(text.decode()))


def test_a_waiver_answers_for_one_rule_of_the_statement_behind_it() -> None:
    report = linted(
        "-- lint: allow drop-table until 2027-03-01: nobody has read it since May\nDROP TABLE a;\nDROP TABLE b;"
    )
    drops = [(f.object, f.waived is not None) for _, f in report.findings if f.rule.id == "drop-table"]
    assert drops == [("a", True), ("b", False)]
    assert report.worst() == "danger"
    shown = report.to_json()["findings"][0]
    assert (shown["waived_until"], shown["waiver_reason"]) == ("2027-03-01", "nobody has read it since May")
    assert "waiver-unused" not in rules_of(report)


@pytest.mark.parametrize(
    ("waiver", "fault"),
    [
        ("allow drop-table until 2026-11-27: late", "it ended on 2026-11-27"),
        ("allow drop-table: for ever", "it has no day"),
        ("allow drop-table until 2027-01-01", "it has no reason"),
        ("allow drop-table until 2027-01-01:  ", "it has no reason"),
        ("allow drop-table until soon: x", "'soon' is no day"),
        ("allow drop-tabel until 2027-01-01: x", "there is no rule 'drop-tabel'"),
        ("ignore everything", "it isn't understood"),
    ],
)
def test_a_waiver_that_is_none_is_a_finding_and_the_danger_stays(waiver: str, fault: str) -> None:
    report = linted(f"-- lint: {waiver}\nDROP TABLE a;")
    assert rules_of(report)["drop-table"] is False
    [said] = [finding for _, finding in report.findings if finding.rule.id == "waiver-faulty"]
    assert fault in said.message
    assert said.line == 1


def test_a_waiver_that_nothing_needs_is_told() -> None:
    assert "waiver-unused" in rules_of(linted("-- lint: allow cluster until 2027-01-01: x\nSELECT 1;"))
    assert "waiver-unused" in rules_of(linted("SELECT 1;\n-- lint: allow cluster until 2027-01-01: at the end"))


def test_on_its_last_day_a_waiver_holds() -> None:
    [waiver] = waivers.in_python("x = 1\n    # lint: allow truncate until 2026-11-28: seed data\n")
    assert waivers.judged(waiver, today=TODAY, known=RULES).fault == ""
    assert waivers.judged(waiver, today=TODAY + dt.timedelta(days=1), known=RULES).fault


def test_a_long_wait_for_a_lock_is_told_once_and_where_it_holds_others_up() -> None:
    waits = [
        (f.object, f.message)
        for _, f in linted(
            "SET lock_timeout = '5min';\nCREATE INDEX CONCURRENTLY i ON quiet (a);\n"
            "SET lock_timeout = '20s';\nALTER TABLE a ADD COLUMN x int;\n"
            "SET lock_timeout = '1min';\nALTER TABLE b ADD COLUMN x int;\nALTER TABLE c ADD COLUMN x int;\n"
            "SET lock_timeout = '30s';\nALTER TABLE d ADD COLUMN x int;"
        ).findings
        if f.rule.id == "lock-timeout-long"
    ]
    assert waits == [("b", "waits up to 1min for a lock, and everybody else behind it")]


def test_what_stands_before_the_first_mark_was_there_before() -> None:
    setup = "CREATE TABLE t (id bigint PRIMARY KEY, a varchar(20));\nINSERT INTO t SELECT 1, 'x';\n"
    assert "index-build-blocks-writes" not in rules_of(linted(f"{setup}CREATE INDEX i ON t (a);"))
    assert "index-build-blocks-writes" in rules_of(linted(f"{setup}-- @tx\nCREATE INDEX i ON t (a);"))
    wider = linted(f"{setup}-- @tx\nALTER TABLE t ALTER COLUMN a TYPE varchar(40);")
    assert wider.worst() != "danger", "its type is known from what stands before"


@pytest.mark.parametrize(
    ("script", "rule"),
    [
        (
            "BEGIN;\nDROP VIEW v;\nCOMMIT AND CHAIN;\nCREATE INDEX CONCURRENTLY i ON a (x);\nCOMMIT;",
            "concurrently-in-transaction",
        ),
        ("START TRANSACTION;\nLOCK TABLE a;\nCOPY (SELECT count(*) FROM b) TO STDOUT;\nEND;", "scan-while-locked"),
        ("BEGIN;\nLOCK TABLE a;\nDECLARE c CURSOR FOR SELECT * FROM b;\nCOMMIT;", "scan-while-locked"),
        ("CREATE INDEX ON ONLY t (a);\nSELECT archive_everything();", "routine-unseen"),
    ],
)
def test_ways_to_say_it(script: str, rule: str) -> None:
    assert rule in rules_of(linted(script))


@pytest.mark.parametrize(
    ("old", "new", "utc", "cost"),
    [
        (Type("int4"), Type("int8"), True, "rewrite"),
        (Type("varchar", (9,)), Type("text"), False, "none"),
        (Type("text"), Type("varchar"), False, "none"),
        (Type("text"), Type("varchar", (9,)), False, "rewrite"),
        (Type("bpchar", (2,)), Type("text"), False, "rewrite"),
        (Type("bpchar", (2,)), Type("bpchar", (4,)), False, "rewrite"),
        (Type("numeric", (8, 2)), Type("numeric", (10, 2)), False, "none"),
        (Type("numeric", (8, 2)), Type("numeric", (10, 3)), False, "rewrite"),
        (Type("numeric"), Type("numeric", (10, 3)), False, "rewrite"),
        (Type("timestamp"), Type("timestamptz"), True, "reindex"),
        (Type("timestamp"), Type("timestamptz"), False, "rewrite"),
        (Type("timestamp"), Type("timestamp", (0,)), True, "rewrite"),
        (Type("cidr"), Type("inet"), False, "none"),
        (Type("citext"), Type("text"), False, "reindex"),
        (None, Type("text"), False, "unknown"),
        (None, Type("int8"), False, "rewrite"),
        (None, Type("timestamptz"), True, "likely"),
    ],
)
def test_what_a_change_of_type_costs(old: Type | None, new: Type, utc: bool, cost: str) -> None:  # noqa: FBT001 - a table's column  # noqa: E501 - a row of a table
    assert casts.cost(old, new, utc=utc) == cost


@pytest.mark.parametrize(
    ("expression", "sql", "whole"),
    [
        ("'drop table ' || quote_ident('a')", "drop table a", True),
        ("format('alter table %I.%I add %s', 's', 'T x', 'c int')", 'alter table s."T x" add c int', True),
        ("format('insert into t values (%L, %2$L, 5%%)', 'a', 'b')", "insert into t values ('a', 'b', 5%)", True),
        ("concat('drop table ', name)", f"drop table {dynamic.PLACEHOLDER}", False),
    ],
)
def test_constants_that_are_put_together_are_read(expression: str, sql: str, whole: bool) -> None:  # noqa: FBT001 - a table's column  # noqa: E501 - a row of a table
    assert dynamic.built(expression) == dynamic.Built(sql, whole)


@pytest.mark.parametrize("expression", ["query", "build(1)", "format(pattern, 'a')", "not sql ("])
def test_what_no_constant_tells_is_unseen(expression: str) -> None:
    assert dynamic.built(expression) is None


@pytest.mark.parametrize("module", [casts, dynamic, session])
def test_the_examples_in_the_docstrings(module: object) -> None:
    assert doctest.testmod(module).failed == 0  # type: ignore[arg-type]  # a module


def test_the_handbook_is_that_of_the_rules() -> None:
    assert HANDBOOK.read_text(encoding="utf-8") == handbook.handbook() + "\n", (
        "python -m chanuka_ops.migrator.lint.handbook > docs/howto/lint-rules.md"
    )


def test_every_rule_is_spoken_somewhere() -> None:
    package = Path(judge.__file__).parent
    text = "".join(path.read_text("utf-8") for path in package.rglob("*.py") if "rulebook" not in path.parts)
    assert not [rule for rule in RULES if f'"{rule}"' not in text]


def test_a_report_counts_and_knows_its_worst() -> None:
    report = Report(
        tuple((Source("x"), f) for f in judge.judge(script.read("SELECT 1;", name="x").statements, World(14)))
    )
    assert report.worst() is None
    assert report.counts() == {"danger": 0, "caution": 0, "style": 0, "waived": 0}
