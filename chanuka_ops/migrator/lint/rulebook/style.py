"""Rules of habits that are regretted later."""

from __future__ import annotations

from chanuka_ops.migrator.lint.model import Rule

_DOCS = "https://www.postgresql.org/docs/current/"
CHARACTER = _DOCS + "datatype-character.html"
NUMERIC = _DOCS + "datatype-numeric.html"
CREATE = _DOCS + "sql-createtable.html"
NAMES = _DOCS + "sql-syntax-lexical.html#SQL-SYNTAX-IDENTIFIERS"

RULES = (
    Rule("char-type", "style", "makes {object} char(n)", "It is padded with blanks, which compare and count in surprising ways.",
         "text, with a CHECK of the length.", CHARACTER),
    Rule("varchar-length", "style", "limits {object} by its type", "To shorten it later rewrites the table; text costs the same.",
         "text, with a CHECK of the length.", CHARACTER),
    Rule("timestamp-without-zone", "style", "makes {object} timestamp without time zone",
         "It is no moment: what it means depends on who reads it.", "timestamptz.", _DOCS + "datatype-datetime.html"),
    Rule("timetz", "style", "makes {object} time with time zone", "A time of day in a zone without a date has no defined moment.",
         "timestamptz, or time.", _DOCS + "datatype-datetime.html"),
    Rule("timestamp-precision", "style", "rounds {object} to {detail} digits", "It rounds, also up into the future.",
         "timestamptz, and date_trunc() when it is shown.", _DOCS + "datatype-datetime.html"),
    Rule("integer-key", "style", "makes the key {object} a 32-bit number", "It ends at 2,147,483,647, and to widen it rewrites the table.",
         "bigint.", NUMERIC),
    Rule("integer-counter", "style", "makes {object}, which counts or sums, a 32-bit number",
         "It ends at 2,147,483,647, and to widen it rewrites the table.", "bigint.", NUMERIC),
    Rule("smallint", "style", "makes {object} a 16-bit number", "It ends at 32,767, and alignment eats what it saves.", "integer or bigint.", NUMERIC),
    Rule("serial", "style", "makes {object} serial", "Its sequence has rights and an owner of its own, and INSERT may set any number.",
         "bigint GENERATED ALWAYS AS IDENTITY.", NUMERIC + "#DATATYPE-SERIAL"),
    Rule("json-type", "style", "makes {object} json", "json has no equality: DISTINCT and GROUP BY fail on it; and it is parsed at each use.",
         "jsonb.", _DOCS + "datatype-json.html"),
    Rule("money-type", "style", "makes {object} money", "Its currency and its scale depend on a setting of the server.", "numeric.",
         _DOCS + "datatype-money.html"),
    Rule("float-money", "style", "keeps the amount {object} in binary floating point", "0.1 has no exact form there: sums drift.", "numeric, or a bigint of cents.",
         NUMERIC + "#DATATYPE-FLOAT"),
    Rule("nullable-boolean", "style", "gives {object} three values: true, false and null", "NOT of unknown is unknown: rows vanish from both lists.",
         "boolean NOT NULL DEFAULT false.", _DOCS + "datatype-boolean.html"),
    Rule("default-now-literal", "caution", "gives {object} the moment of this statement as a default, for ever",
         "'now' in quotes is evaluated once, when the table is made.", "now(), without quotes.", _DOCS + "functions-datetime.html"),
    Rule("no-primary-key", "style", "makes table {object} without a primary key",
         "Its rows can't be named: no batches, no logical replication of UPDATE and DELETE, duplicates stay.",
         "id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY.", CREATE),
    Rule("table-as-select", "style", "makes {object} from a query: without keys, defaults and NOT NULL", "The query's types are all it gets.",
         "CREATE TABLE, then INSERT … SELECT in batches.", _DOCS + "sql-createtableas.html"),
    Rule("table-if-not-exists", "style", "takes any table that is called {object} for this one", "IF NOT EXISTS doesn't compare columns.",
         "CREATE TABLE, in a transaction.", CREATE),
    Rule("table-unlogged", "caution", "makes {object} a table that is empty after a crash", "Unlogged tables are truncated by recovery, and not replicated.",
         "An ordinary table.", CREATE + "#SQL-CREATETABLE-UNLOGGED"),
    Rule("table-inherits", "style", "makes {object} inherit: keys and foreign keys don't span it", "Uniqueness and references see one table only.",
         "Declarative partitioning.", _DOCS + "ddl-inherit.html"),
    Rule("schema-unqualified", "style", "leaves it to search_path where {object} is made", "With another path, or another role, it lands elsewhere.",
         "Write the schema.", _DOCS + "ddl-schemas.html#DDL-SCHEMAS-PATH"),
    Rule("name-needs-quotes", "style", "makes {object}, which has to be written in quotes for ever", "Unquoted, it becomes lower case, or a key word.",
         "lower_case_with_underscores.", NAMES),
    Rule("name-too-long", "style", "makes {object}, which is cut to 63 bytes", "PostgreSQL cuts longer names off, and two may become one.", "A shorter name.", NAMES),
    Rule("view-select-star", "style", "makes view {object} of SELECT *", "The columns are fixed when it is made; new ones don't appear.",
         "Name the columns.", _DOCS + "sql-createview.html"),
)  # fmt: skip
