"""What a revision's source tells without running it: whether it can lose data, and runs in one transaction.

A guard errs on the safe side: SQL that can't be seen in the source counts as destructive. What only running shows is
the rehearsal's work.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import re
from collections.abc import Iterator

from chanuka_ops.migrator.model import Nature, Phase

_LOSING_CALLS = frozenset({"drop_table", "drop_column", "drop_all", "drop", "delete"})
_EXECUTING_CALLS = frozenset({"execute", "exec_driver_sql", "scalar", "scalars"})
_BUILDERS = frozenset({"insert", "update", "select", "values", "where"})  # SQLAlchemy's own statements
_OWN_COMMITS = frozenset({"autocommit_block", "commit"})
_OPERATIONS = "chanuka_ops.migrator.operations"  # they work outside a transaction, and can be run again
_PHASES: dict[object, Phase] = {"expand": "expand", "contract": "contract"}

_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)
_LITERAL = re.compile(r"'(?:[^']|'')*'")
_SQL_BEGINS = re.compile(
    r"^\s*(?:alter|analy[sz]e|begin|call|cluster|comment|commit|copy|create|delete|do|drop|grant|insert|lock|merge|refresh"
    r"|reindex|reset|revoke|select|set|table|truncate|update|vacuum|values|with)\s|^\s*$",
    re.IGNORECASE,
)
_ROUTINE = re.compile(r"^\s*create\s+(?:or\s+replace\s+)?(?:function|procedure)\b", re.IGNORECASE)
_BODY = re.compile(r"\$(\w*)\$.*?\$\1\$", re.DOTALL)
_LOSING_SQL = tuple(
    re.compile(pattern, re.IGNORECASE | re.DOTALL)
    for pattern in (
        r"\bdrop\s+(?:table|foreign\s+table|schema|database|sequence|owned)\b",
        r"\bdrop\b[^;]*\bcascade\b",  # of a type: the columns that use it
        r"^\s*truncate\b",
        r"\bdelete\s+from\b",
        r"\bthen\s+delete\b",  # MERGE
        r"\balter\s+(?:foreign\s+)?table\b[^;]*\bdrop\s+(?!constraint\b|default\b|not\b|identity\b|expression\b)",
        r"\balter\s+type\b[^;]*\bdrop\s+attribute\b",
        r"\balter\s+(?:foreign\s+)?table\b[^;]*\balter\b[^;]*\btype\b",
    )
)


def sha256(content: bytes) -> str:
    r"""Return a file's hash, the same for any line endings: a checkout on another system is no edit.

    >>> sha256(b"a\r\nb") == sha256(b"a\nb")
    True
    """
    return hashlib.sha256(content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")).hexdigest()


def natures(source: str) -> tuple[Nature, Nature]:
    """Return what `upgrade()` and `downgrade()` do, each with the functions of the file that it calls.

    Errors: `SyntaxError`.
    """
    module = _Module(_parsed(source))
    return module.nature("upgrade"), module.nature("downgrade")


def phase(source: str) -> tuple[Phase | None, str | None]:
    """Return the half of a change that a file says to be (`phase`), and the revision that it completes (`completes`).

    Errors: `SyntaxError`; `ValueError` for a phase of another name, or something completed by no contract.

    >>> phase('phase = "contract"; completes = "0010_word_count"')
    ('contract', '0010_word_count')
    """
    stated = {
        name: node.value
        for name, node in _assignments(_parsed(source).body)
        if name in {"phase", "completes"} and isinstance(node, ast.Constant)
    }
    named, completes = stated.get("phase"), stated.get("completes")
    if named is not None and named not in _PHASES:
        raise ValueError(f'phase is {named!r}: it is "expand" (what old code works with too) or "contract"')
    if completes is not None and (named != "contract" or not isinstance(completes, str)):
        raise ValueError('completes names the revision of the expand half, in one whose phase is "contract"')
    return _PHASES.get(named), completes if isinstance(completes, str) else None


def loses_data(sql: str) -> bool:
    """Tell whether a statement can lose data.

    >>> loses_data("alter table t drop constraint c"), loses_data("ALTER TABLE t DROP c")
    (False, True)
    """
    bare = _LITERAL.sub("''", _COMMENT.sub(" ", sql))
    if _ROUTINE.match(bare):
        bare = _BODY.sub("''", bare)  # it is defined here, not run
    return any(pattern.search(statement) for statement in bare.split(";") for pattern in _LOSING_SQL)


@functools.lru_cache(maxsize=1)  # each question about a file
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


class _Module:
    """A revision file's functions and constants."""

    def __init__(self, tree: ast.Module) -> None:
        self.functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        self.constants = dict(_assignments(tree.body))
        self.operations = _imported(tree)

    def nature(self, entry: str) -> Nature:
        reached = self._reached(entry)
        calls = [node for function in reached for node in ast.walk(function) if isinstance(node, ast.Call)]
        names = {_name_of(call) for call in calls}
        isolation = any(word.arg == "isolation_level" for call in calls for word in call.keywords)
        losing = (
            bool(names & _LOSING_CALLS)
            or any(word.arg == "type_" for call in calls if _name_of(call) == "alter_column" for word in call.keywords)
            or any(loses_data(text) for function in reached for text in self._texts(function))
            or any(self._unseen(call, reached) for call in calls if _name_of(call) in _EXECUTING_CALLS)
        )
        operated = any(self._is_operation(call.func) for call in calls)
        return Nature(destructive=losing, transactional=not (names & _OWN_COMMITS or isolation or operated))

    def _is_operation(self, function: ast.expr) -> bool:
        """Tell whether it's one of this package's operations, by the names under which the file imports them."""
        return ast.unparse(function) in self.operations or (
            isinstance(function, ast.Attribute) and ast.unparse(function.value) in self.operations
        )

    def _reached(self, entry: str) -> list[ast.FunctionDef]:
        reached: dict[str, ast.FunctionDef] = {}
        waiting = [entry]
        while waiting:
            name = waiting.pop()
            function = self.functions.get(name)
            if function is None or name in reached:
                continue
            reached[name] = function
            waiting += [node.id for node in ast.walk(function) if isinstance(node, ast.Name)]
        return list(reached.values())

    def _texts(self, function: ast.FunctionDef) -> Iterator[str]:
        body = function.body[1:] if ast.get_docstring(function) is not None else function.body
        for statement in body:
            yield from _strings(statement)
            for node in ast.walk(statement):
                if isinstance(node, ast.Name) and node.id in self.constants:
                    yield from _strings(self.constants[node.id])

    def _unseen(self, call: ast.Call, reached: list[ast.FunctionDef]) -> bool:
        """Tell whether nothing of the SQL that this call executes stands in the file."""
        if not call.args:
            return False
        known = dict(self.constants)
        for function in reached:
            known.update(_assignments(ast.walk(function)))
        argument = call.args[0]
        names = [node.id for node in ast.walk(argument) if isinstance(node, ast.Name)]
        built = any(isinstance(node, ast.Call) and _name_of(node) in _BUILDERS for node in ast.walk(argument))
        sources = [argument, *(known[name] for name in names if name in known)]
        texts = [_COMMENT.sub(" ", text) for source in sources for text in _strings(source)]
        return not (built or any(_SQL_BEGINS.match(text) for text in texts))  # the name of a file isn't SQL


def _imported(tree: ast.Module) -> set[str]:
    """Return the names by which a file calls the module of operations, or one of them."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.asname or alias.name for alias in node.names if alias.name == _OPERATIONS}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            found |= {
                alias.asname or alias.name
                for alias in node.names
                if _OPERATIONS in {node.module, f"{node.module}.{alias.name}"}
            }
    return found


def _assignments(nodes: Iterator[ast.AST] | list[ast.stmt]) -> Iterator[tuple[str, ast.expr]]:
    for node in nodes:
        if isinstance(node, ast.Assign):
            yield from ((target.id, node.value) for target in node.targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            yield node.target.id, node.value
        elif isinstance(node, ast.For) and isinstance(node.target, ast.Name):
            yield node.target.id, node.iter


def _strings(node: ast.AST) -> Iterator[str]:
    """Yield each string of an expression; an f-string as one, with a name where a value goes."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(str(part.value) if isinstance(part, ast.Constant) else "x" for part in node.values)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield node.value
    else:
        for child in ast.iter_child_nodes(node):
            yield from _strings(child)


def _name_of(call: ast.Call) -> str:
    function = call.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""
