"""Whether a default has another value in each row: what makes ADD COLUMN rewrite a table."""

from __future__ import annotations

import re
from typing import Any, Literal

from chanuka_ops.migrator.lint import grammar
from chanuka_ops.migrator.lint.catalogue import Routine, calls
from chanuka_ops.migrator.lint.world import World

Verdict = Literal["stable", "volatile", "unknown"]

# pg_proc says 'v' of these; those that write or administer are left out of a default anyway.
VOLATILE = frozenset(
    {
        "random", "random_normal", "gen_random_uuid", "uuidv4", "uuidv7", "clock_timestamp", "timeofday", "nextval",
        "setval", "currval", "lastval", "setseed", "pg_sleep", "pg_sleep_for", "pg_sleep_until", "gen_random_bytes",
        "uuid_generate_v1", "uuid_generate_v1mc", "uuid_generate_v4", "gen_salt", "pgp_sym_encrypt", "crypt",
        "set_config", "txid_current_if_assigned", "pg_notify", "pg_advisory_lock", "pg_try_advisory_lock",
        "lo_create", "lo_creat", "pg_stat_file", "pg_read_file", "query_to_xml", "pg_logical_emit_message",
    }
)  # fmt: skip
# Built in, and the same for each row of a statement: enough of them to know without a database.
STABLE = frozenset(
    {
        "now",
        "transaction_timestamp", "statement_timestamp", "current_setting", "pg_backend_pid", "version", "timezone",
        "current_database", "current_schema", "current_schemas", "txid_current", "pg_current_xact_id", "to_timestamp",
        "to_char", "to_date", "to_number", "date_trunc", "date_part", "extract", "age", "make_date", "make_interval",
        "make_timestamp", "make_timestamptz", "lower", "upper", "initcap", "btrim", "trim", "ltrim", "rtrim", "replace",
        "translate", "substr", "substring", "left", "right",
        "lpad", "rpad", "repeat", "reverse", "split_part", "strpos",
        "position", "overlay", "length", "char_length", "octet_length",
        "concat", "concat_ws", "format", "md5", "sha256",
        "sha512", "encode", "decode", "convert_to", "convert_from", "digest", "hashtext", "ascii", "chr", "to_hex",
        "regexp_replace", "regexp_match", "quote_ident", "quote_literal", "abs", "ceil", "ceiling", "floor", "round",
        "trunc", "mod", "power", "sqrt", "exp", "ln", "log", "sign", "greatest", "least", "coalesce", "nullif", "pi",
        "array_append", "array_fill", "array_length", "array_to_string", "string_to_array", "cardinality", "to_json",
        "to_jsonb", "json_build_object", "json_build_array", "jsonb_build_object", "jsonb_build_array", "row_to_json",
        "jsonb_set", "jsonb_strip_nulls", "to_tsvector", "to_tsquery", "plainto_tsquery", "setweight", "int4range",
        "int8range", "numrange", "tsrange", "tstzrange", "daterange", "inet_client_addr", "host", "masklen", "point",
        "uuid_nil", "uuid_ns_dns", "int4", "int8", "text", "date", "interval", "numeric", "float8", "bool", "varchar",
        "enum_first", "enum_last", "width_bucket", "isfinite", "justify_days", "similar_to_escape", "like_escape",
    }
)  # fmt: skip
_READS = re.compile(r"\b(from|with|union|insert|update|delete|limit|order)\b", re.IGNORECASE)


def of(default: Any, world: World, depth: int = 0) -> tuple[Verdict, str]:
    """Return the verdict on an expression, and the function that it hangs on."""
    doubt: tuple[Verdict, str] = ("stable", "")
    for name in calls(default):
        verdict = _of_function(name, world, depth)
        if verdict == "volatile":
            return verdict, name
        if verdict == "unknown":
            doubt = (verdict, name)
    return doubt


def _of_function(name: str, world: World, depth: int) -> Verdict:
    bare = name.rpartition(".")[2].lower()
    known = world.routine(world.joined(tuple(name.split(".")))) or world.routine(bare)
    if known is not None:
        return _of_routine(known, world, depth)
    if bare in VOLATILE:
        return "volatile"
    if world.catalogue is not None:
        return "volatile" if bare in world.catalogue.builtin_volatile else "stable"
    return "stable" if bare in STABLE else "unknown"


def _of_routine(routine: Routine, world: World, depth: int) -> Verdict:
    """A function that isn't volatile; or SQL so plain that the planner puts it in the place of the call."""
    if routine.volatility != "v":
        return "stable"
    body = routine.body.strip().rstrip(";")
    plain = routine.language == "sql" and body.lower().startswith("select") and not _READS.search(body)
    if not plain or ";" in body or depth > 5 or routine.guarded:  # noqa: PLR2004 - calls within calls
        return "volatile"
    try:
        inner = grammar.expression(body[len("select") :])
    except grammar.SyntaxFault:
        return "volatile"
    return of(inner, world, depth + 1)[0]
