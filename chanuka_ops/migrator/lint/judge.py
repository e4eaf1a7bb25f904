"""The rules over a whole script: transactions, locks that are held, code within code. Pure.

A statement is judged against the world before it, then the world takes it in: so a table that the script made is
nobody else's, a lock that is held makes the next statement dear, and a validated CHECK makes SET NOT NULL cheap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from chanuka_ops.migrator.lint import changes, code, dynamic, leftovers
from chanuka_ops.migrator.lint.checks import CHECKS
from chanuka_ops.migrator.lint.checks.bounds import of_keys
from chanuka_ops.migrator.lint.checks.session import duration_ms
from chanuka_ops.migrator.lint.checks.usertypes import enum_values_used
from chanuka_ops.migrator.lint.model import Direction, Finding, Mode, Statement
from chanuka_ops.migrator.lint.rulebook import RULES
from chanuka_ops.migrator.lint.tree import Node
from chanuka_ops.migrator.lint.world import Effects, Hit, World

LOSSES = frozenset({"drop-table", "drop-column", "drop-schema", "truncate", "truncate-cascade", "mass-delete"})
LONG_LOCK_TIMEOUT_MS = 10_000
DEPTH = 4  # of functions that call functions
_BEGIN = {"TRANS_STMT_BEGIN", "TRANS_STMT_START"}
_REPEATABLE = {"CreateStmt": "if_not_exists", "DropStmt": "missing_ok", "CreateTableAsStmt": "if_not_exists",
               "CreateSchemaStmt": "if_not_exists", "CreateExtensionStmt": "if_not_exists"}  # fmt: skip

_NAMING = frozenset({"AlterTableStmt", "IndexStmt", "UpdateStmt", "DeleteStmt", "RefreshMatViewStmt", "CreateTrigStmt"})


def judge(statements: Sequence[Statement], world: World, *, direction: Direction = "up") -> list[Finding]:
    """Return what the rules find. The world ends as the script leaves it."""
    return _Judge(statements, world, direction).run()


class _Judge:
    """One script's run through the rules."""

    def __init__(self, statements: Sequence[Statement], world: World, direction: Direction) -> None:
        self._statements = statements
        self._world = world
        self._direction = direction
        self._findings: list[Finding] = []
        self._section: int | None = None
        self._opened: Statement | None = None
        self._unmarked = False
        self._made = leftovers.Made(world)

    def run(self) -> list[Finding]:
        for statement in self._statements:
            self._enter(statement)
            if statement.node is None:
                hits = _command(statement)
            elif statement.node.tag == "TransactionStmt":
                hits = self._transaction(statement, statement.node)
            else:
                hits = []
                if self._world.transaction.alone:
                    self._world.end()
                self._one(statement.node, hits, statement.sql, 0)
                self._made.look(statement, self._world)
            self._note(statement, hits)
        self._leave()
        for statement, hit in self._made.left(self._world):
            self._note(statement, [hit])
        longest = max((n for n, f in enumerate(self._findings) if f.rule.id == "lock-timeout-long"), default=-1)
        return [
            self._softened(finding)
            for number, finding in enumerate(self._findings)
            if finding.rule.id != "lock-timeout-long" or number == longest
        ]

    def _softened(self, finding: Finding) -> Finding:
        """A table that was renamed and has a view of its old name breaks hardly anybody."""
        if finding.rule.id != "rename-table" or finding.object not in self._world.covered:
            return finding
        rule = RULES["rename-with-view"]
        return replace(finding, rule=rule, severity=rule.severity, message=rule.says.format(object=finding.object))

    def _enter(self, statement: Statement) -> None:
        if statement.section == self._section:
            return
        self._leave()
        if self._unmarked:
            self._world.age()  # what stood before the first mark was there when the tool began
        self._section = statement.section
        self._unmarked = statement.section == 0 and not statement.managed
        if statement.managed:
            self._world.begin(managed=True, line=statement.line)

    def _leave(self) -> None:
        if self._opened is not None:
            self._note(self._opened, [Hit("transaction-left-open", "", str(self._opened.line))])
            self._opened = None
        self._world.end()

    def _note(self, statement: Statement, hits: list[Hit]) -> None:
        for hit in hits:
            rule = RULES[hit.rule]
            if self._direction == "down" and rule.work != "fails":
                if rule.id not in LOSSES:
                    continue
                rule, hit = RULES["downgrade-loses-data"], _loss(hit)  # noqa: PLW2901 - said in its own words
            message = rule.says.format(object=hit.object, detail=hit.detail)
            found = Finding(rule, rule.severity, statement.sql, statement.line, hit.object, message)
            if found not in self._findings:
                self._findings.append(found)

    def _transaction(self, statement: Statement, node: Node) -> list[Hit]:
        kind, now = node.parts.get("kind") or "", self._world.transaction
        if kind in _BEGIN:
            if not now.alone:
                return [Hit("nested-begin", "")]
            self._world.begin(line=statement.line)
            self._opened = statement
            return []
        if kind == "TRANS_STMT_SAVEPOINT":
            now.savepoints[node.savepoint_name] = dict(now.locks)
        elif kind == "TRANS_STMT_ROLLBACK_TO" and node.savepoint_name in now.savepoints:
            now.locks = dict(now.savepoints[node.savepoint_name])
        if kind == "TRANS_STMT_PREPARE":
            self._opened = None
            self._world.end()
            return [Hit("prepared-transaction", "")]
        if kind not in ("TRANS_STMT_COMMIT", "TRANS_STMT_ROLLBACK"):
            return []
        hits = [Hit("rollback", "")] if kind == "TRANS_STMT_ROLLBACK" else []
        if now.managed:
            hits.append(Hit("commit-in-managed-transaction", ""))
        elif now.alone:
            hits.append(Hit("commit-without-begin", ""))
        self._opened = None
        self._world.end()
        if node.chain:
            self._world.begin(line=statement.line)
            self._opened = statement
        return hits

    def _one(self, node: Node, hits: list[Hit], sql: str, depth: int) -> None:
        world, fx = self._world, Effects()
        check = CHECKS.get(node.tag)
        if check is not None:
            check(node, world, fx)
        enum_values_used(node, world, fx)
        _together(node, world, fx)
        _repeatable(node, world, fx)
        _there(node, world, fx)
        hits += [hit for hit in fx.hits if hit not in hits]
        for relation, mode in fx.locks.items():
            world.transaction.locks[relation] = max(mode, world.transaction.locks.get(relation, Mode.NONE))
        code.look(node, world, hits)
        changes.apply(node, world, sql)
        if node.tag == "CreateSchemaStmt":
            self._elements(node, hits, sql, depth)
        if depth < DEPTH:
            self._within(node, hits, sql, depth)

    def _elements(self, node: Node, hits: list[Hit], sql: str, depth: int) -> None:
        """Judge what CREATE SCHEMA makes within the schema."""
        settings = self._world.transaction.settings
        before = settings.get("search_path")
        settings["search_path"] = node.schemaname or (node.authrole.rolename if node.authrole is not None else "")
        for element in node.schema_elts or ():
            self._one(element, hits, sql, depth + 1)
        settings.pop("search_path")
        if before is not None:
            settings["search_path"] = before

    def _within(self, node: Node, hits: list[Hit], sql: str, depth: int) -> None:
        steps = code.steps(node, sql, self._world, hits)
        if not steps:
            return
        alone = self._world.transaction.alone
        if alone:
            self._world.begin()
        for step in steps:
            if step.commits:
                if alone:
                    self._world.begin()
            elif step.node is not None:
                hit = code.unseen(step, self._world)
                hits += [hit] if hit is not None else []
                self._one(step.node, hits, step.sql, depth + 1)
        if alone:
            self._world.end()


def _together(node: Node, world: World, fx: Effects) -> None:
    """Speak of what the statement costs beside the locks that the transaction holds."""
    held = world.held()
    strong = [name for name, mode in fx.locks.items() if mode.blocks and world.used(name)]
    read = [name for name in fx.scans if world.used(name)]
    if held and read and not any(hit.rule == "validate-in-same-transaction" for hit in fx.hits):
        rule = "statement-while-locked" if _one_row(node) else "scan-while-locked"
        fx.hit(rule, read[0], ", ".join(sorted(held)))
    others = sorted(set(held) - set(strong))
    new = [name for name in strong if name not in held]
    if new and others:
        fx.hit("several-tables-locked", new[0], ", ".join(others))
    if strong and not world.runner_timeouts:
        for setting, rule in (
            ("lock_timeout", "lock-timeout-missing"),
            ("statement_timeout", "statement-timeout-missing"),
        ):
            if world.setting(setting) in (None, "", "0"):
                fx.hit(rule, strong[0])
    if strong:
        _patience(strong[0], world, fx)


def _patience(relation: str, world: World, fx: Effects) -> None:
    """Speak of a long wait for a lock that holds others up: of the script's longest one only, see `_Judge.run`."""
    setting = world.setting("lock_timeout") or ""
    wait_ms = duration_ms(setting) or 0.0
    if wait_ms > max(LONG_LOCK_TIMEOUT_MS, world.longest_wait_ms):
        world.longest_wait_ms = wait_ms
        fx.hit("lock-timeout-long", relation, setting)


def _there(node: Node, world: World, fx: Effects) -> None:
    """Speak of a relation that isn't there, where that is known."""
    if world.catalogue is None or node.missing_ok or node.tag not in _NAMING:
        return
    if node.tag == "AlterTableStmt" and node.objtype != "OBJECT_TABLE":
        return
    name = world.name(node.relation)
    if world.used(name) and world.exists(name) is False and dynamic.PLACEHOLDER not in name:
        fx.hit("relation-missing", name)


def _one_row(node: Node) -> bool:
    """Tell whether a write is of the rows of a few keys."""
    return node.tag in ("UpdateStmt", "DeleteStmt") and of_keys(node.where_clause)


def _repeatable(node: Node, world: World, fx: Effects) -> None:
    flag = _REPEATABLE.get(node.tag)
    if flag is not None and not world.in_transaction and not node.parts.get(flag):
        fx.hit("not-repeatable", node.tag.removesuffix("Stmt"))
    if node.tag == "AlterTableStmt" and not world.in_transaction:
        for cmd in node.cmds or ():
            if cmd.subtype in ("AT_AddColumn", "AT_DropColumn", "AT_DropConstraint") and not cmd.missing_ok:
                fx.hit("not-repeatable", world.name(node.relation))


def _command(statement: Statement) -> list[Hit]:
    words = statement.sql.split(maxsplit=1)
    command, rest = words[0], words[1] if len(words) > 1 else ""
    if command in ("\\i", "\\ir", "\\include", "\\include_relative"):
        return [Hit("psql-include", rest, rest)]
    if command == "\\gexec":
        return [Hit("generated-sql-run", "", command)]
    return [Hit("psql-command", command, command)]


def _loss(hit: Hit) -> Hit:
    what = RULES[hit.rule].says.format(object=hit.object, detail=hit.detail)
    return Hit("downgrade-loses-data", hit.object, what)
