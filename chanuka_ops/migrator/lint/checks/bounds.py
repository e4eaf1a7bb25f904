"""How many rows a statement touches, as far as its text tells: a key's few, a range, or all of them. Pure."""

from __future__ import annotations

from typing import Any

from chanuka_ops.migrator.lint.tree import Node, column_of, conjuncts, found, literal

FEW = 100  # rows that a LIMIT may let through and still be a moment's work
_RANGES = frozenset({"=", "<", "<=", ">", ">="})
_ENDS = frozenset({"min", "max"})
_AGGREGATES = frozenset({"count", "sum", "avg", "array_agg", "string_agg", "bool_and", "bool_or", "every", "jsonb_agg"})


def bounded(node: Node) -> str:
    """Tell whether a WHERE keeps the number of rows small: "yes", "no" (it doesn't try), or "unknown".

    A range or a list of constants is a bound; an equality with a constant is one of a key (`id = 7`) or of a few rows
    in many; a LIMIT in a subquery is one.
    """
    where = node.where_clause
    if where is None:
        return "no"
    if any(select.limit_count is not None for select in found(node, "SelectStmt")):
        return "yes"
    ranges: dict[str, set[str]] = {}
    verdict = "no"
    for part in conjuncts(where):
        operator = (part.parts.get("name") or ("",))[-1] if part.tag == "A_Expr" else ""
        kind = part.parts.get("kind") if part.tag == "A_Expr" else ""
        column = column_of(part.lexpr) if part.tag == "A_Expr" else None
        if not found(part, "ColumnRef") and not found(part, "SubLink"):
            continue  # true, 1 = 1: of no row in particular
        if column is None:
            verdict = verdict if part.tag == "NullTest" else "unknown"
        elif kind in ("AEXPR_BETWEEN", "AEXPR_IN") and operator != "<>":
            return "yes" if is_key(column) or kind == "AEXPR_BETWEEN" else "unknown"
        elif operator == "=" and is_key(column) and not found(part.rexpr, "ColumnRef"):
            return "yes"
        elif operator in _RANGES:
            ranges.setdefault(column, set()).add(operator[0])
            verdict = "unknown"
        elif operator not in ("<>", "!=") or kind == "AEXPR_NOT_DISTINCT":
            verdict = "unknown"
    return "yes" if any({"<", ">"} <= operators for operators in ranges.values()) else verdict


def is_key(column: str) -> bool:
    """Tell whether a column's name is one that keys have."""
    return column in ("id", "uuid", "ctid", "key", "code") or column.endswith(("_id", "_uuid", "_key"))


def of_keys(where: Any) -> bool:
    """Tell whether a WHERE names a few rows by their key: `id = 7`, `id IN (1, 2)`, `id BETWEEN 1 AND 9`."""
    return any(
        part.tag == "A_Expr"
        and is_key(column_of(part.lexpr) or "")
        and not found(part.rexpr, "ColumnRef")
        and not found(part.rexpr, "SubLink")
        and (_named(part) or _narrow(part))
        for part in conjuncts(where)
    )


def _named(part: Node) -> bool:
    several = part.parts.get("kind") in ("AEXPR_OP", "AEXPR_IN", "AEXPR_OP_ANY")
    return several and (part.parts.get("name") or ("",))[-1] == "="


def _narrow(part: Node) -> bool:
    if part.parts.get("kind") != "AEXPR_BETWEEN":
        return False
    low, high = (literal(edge) for edge in part.rexpr)
    return isinstance(low, int) and isinstance(high, int) and high - low < FEW


def few(select: Node) -> bool:
    """Tell whether a SELECT reads a few rows of its relations, however large they are.

    By a key, by a LIMIT with nothing before it that reads more, or as the least and greatest of an indexed key.
    """
    if of_keys(select.where_clause):
        return True
    if select.where_clause is not None or select.group_clause or select.having_clause or select.sort_clause:
        return False
    calls = found(select.target_list, "FuncCall")
    limit = literal(select.limit_count)
    if isinstance(limit, int) and limit <= FEW:
        return not calls and not select.distinct_clause and _one_source(select)
    ends = [call for call in calls if (call.funcname or ("",))[-1] in _ENDS]
    others = any((call.funcname or ("",))[-1] in _AGGREGATES for call in calls)
    return bool(ends) and not others and _one_source(select) and all(map(_end_of_key, ends))


def _one_source(select: Node) -> bool:
    sources: tuple[Node, ...] = select.from_clause or ()
    return len(sources) <= 1 and not any(source.tag == "JoinExpr" for source in sources)


def _end_of_key(call: Node) -> bool:
    columns = [column_of(argument) for argument in call.args or ()]
    return len(columns) == 1 and is_key(columns[0] or "")
