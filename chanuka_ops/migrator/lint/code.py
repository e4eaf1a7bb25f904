"""Code within a statement: DO blocks, and the bodies of functions that are called. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chanuka_ops.migrator.lint import dynamic, grammar
from chanuka_ops.migrator.lint.catalogue import Routine, calls
from chanuka_ops.migrator.lint.functions import STABLE, VOLATILE
from chanuka_ops.migrator.lint.tree import Node, found
from chanuka_ops.migrator.lint.world import Hit, World

_DDL = re.compile(r"\b(alter|create|drop|truncate|reindex|cluster|vacuum)\s+\w", re.IGNORECASE)
_HARMLESS = frozenset(
    {"CreateStmt", "GrantStmt", "CommentStmt", "VariableSetStmt", "CreateSchemaStmt", "CreateRoleStmt", "NotifyStmt",
     "SelectStmt", "CreateSeqStmt", "ViewStmt", "CreateFunctionStmt", "CreateEnumStmt", "CreateExtensionStmt"}
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Step:
    """What a body sends: a statement, or a COMMIT. `guessed`: the expression of which not all was a constant."""

    sql: str
    node: Node | None = None
    commits: bool = False
    guessed: str = ""


def look(node: Node, world: World, hits: list[Hit]) -> None:
    """Speak of a function that is made."""
    if node.tag != "CreateFunctionStmt":
        return
    name = world.joined(node.funcname)
    options = {option.defname: option.arg for option in node.options or ()}
    paths = [
        option.arg.name for option in node.options or () if option.defname == "set" and isinstance(option.arg, Node)
    ]
    if options.get("security") is True and "search_path" not in paths:
        hits.append(Hit("security-definer-path", name))
    if node.replace and world.routine(name) is not None:
        hits.append(Hit("function-replaced", name))
    body = options.get("as") or ("",)
    text = body if isinstance(body, str) else str(body[0])
    if _DDL.search(re.sub(r"--[^\n]*|\bcreate\s+temp\w*", "", text, flags=re.IGNORECASE)):
        hits.append(Hit("routine-changes-schema", name))


def steps(node: Node, sql: str, world: World, hits: list[Hit]) -> list[Step]:
    """Return what the code that a statement runs sends, in its order."""
    if node.tag == "DoStmt":
        return _do(node, sql, hits)
    if node.tag == "CallStmt":
        name = world.joined((node.funccall or node).funcname)
        routine = world.routine(name)
        if routine is None:
            hits.append(Hit("routine-unseen", name))
            return []
        return _of_routine(routine, hits)
    if node.tag == "ExecuteStmt" and node.name in world.prepared:
        return [Step(sql, world.prepared[node.name])]
    if node.tag not in ("SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt"):
        return []
    found_steps: list[Step] = []
    for name in dict.fromkeys(calls(node)):
        routine = world.routine(world.joined(tuple(name.split(".")))) or world.routine(name)
        if routine is not None and routine.volatility == "v":
            found_steps += _of_routine(routine, hits)
        elif routine is None and world.catalogue is None and _strange(name) and not found(node, "RangeVar"):
            hits.append(Hit("routine-unseen", name))
    return found_steps


def _strange(name: str) -> bool:
    bare = name.rpartition(".")[2].lower()
    return bare not in STABLE | VOLATILE and not bare.startswith(("pg_", "json", "array", "txid", "lo_", "set_config"))


def _do(node: Node, sql: str, hits: list[Hit]) -> list[Step]:
    hits.append(Hit("do-block", ""))
    options = {option.defname: option.arg for option in node.args or ()}
    if str(options.get("language") or "plpgsql").lower() != "plpgsql":
        hits.append(Hit("body-unreadable", "", f"language {options['language']}"))
        return []
    return _of_body(grammar.routine(sql), str(options.get("as") or ""), "this DO block", hits)


def _of_routine(routine: Routine, hits: list[Hit]) -> list[Step]:
    if routine.language == "sql" and not routine.body.strip():
        return [Step(routine.definition, node) for node in _atomic(routine.definition)]
    if routine.language == "sql":
        return [Step(routine.body, node) for node in _parsed(routine.body) or ()]
    if routine.language != "plpgsql":
        return []
    return _of_body(grammar.routine(routine.definition), routine.body, f"function {routine.name}", hits)


def _atomic(definition: str) -> list[Node]:
    """Return the statements of a body that is no string: BEGIN ATOMIC … END, or RETURN."""
    statements: list[Node] = []
    waiting: list[Any] = [node.sql_body for node in _parsed(definition) or ()]
    while waiting:
        item = waiting.pop(0)
        if isinstance(item, tuple):
            waiting = [*item, *waiting]
        elif isinstance(item, Node) and item.tag == "ReturnStmt":
            statements.append(Node("SelectStmt", {"target_list": (Node("ResTarget", {"val": item.returnval}),)}))
        elif isinstance(item, Node):
            statements.append(item)
    return statements


def _of_body(body: grammar.Routine | None, text: str, what: str, hits: list[Hit]) -> list[Step]:
    if body is None:
        if _DDL.search(text) or re.search(r"\b(execute|update|delete|insert)\b", text, re.IGNORECASE):
            hits.append(Hit("body-unreadable", "", what))
        return []
    found_steps: list[Step] = []
    for kind, sql, _ in body.steps:
        if kind == "commit":
            found_steps.append(Step("", commits=True))
        elif kind == "dynamic":
            found_steps += _dynamic(sql, body.constants, hits)
        elif kind == "static":
            found_steps += [Step(sql, node) for node in _parsed(sql) or ()]
        else:
            found_steps += [Step(sql, node) for node in _parsed(f"SELECT {sql.rpartition(':=')[2]}") or ()]
    return found_steps


def _dynamic(expression: str, constants: Mapping[str, str], hits: list[Hit]) -> list[Step]:
    built = dynamic.built(expression, constants)
    nodes = _parsed(built.sql) if built is not None else None
    if built is None or not nodes:
        hits.append(Hit("dynamic-sql-unseen", "", f": {expression}"))
        return []
    hits.append(Hit("dynamic-sql", "", built.sql))
    return [Step(built.sql, node, guessed="" if built.whole else expression) for node in nodes]


def unseen(step: Step, world: World) -> Hit | None:
    """Return what is to be said of a statement whose doing nobody can name here.

    Of a relation, a column or a constraint whose name isn't seen the rules speak as of one that isn't known; what is
    dropped, or of which type or by which function, has to be seen.
    """
    if not step.guessed or step.node is None or step.node.tag in _HARMLESS:
        return None
    named = {world.name(relation) for relation in found(step.node, "RangeVar")}
    told = (found(step.node, "TypeName"), found(step.node, "FuncCall"))
    words = [word for nodes in told for node in nodes for word in (node.names or node.funcname or ())]
    hidden = any(dynamic.PLACEHOLDER in str(word) for word in words)
    if not hidden and (step.node.tag != "DropStmt" or (named and not any(map(world.used, named)))):
        return None
    return Hit("dynamic-sql-unseen", "", f": {step.guessed}")


def _parsed(sql: str) -> tuple[Node, ...] | None:
    try:
        return grammar.parse(sql)
    except grammar.SyntaxFault:
        return None
