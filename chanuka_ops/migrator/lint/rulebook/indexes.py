"""Rules of indexes and materialized views."""

from __future__ import annotations

from chanuka_ops.migrator.lint.model import Mode, Rule

_DOCS = "https://www.postgresql.org/docs/current/"
CREATE = _DOCS + "sql-createindex.html"
CONCURRENT = CREATE + "#SQL-CREATEINDEX-CONCURRENTLY"
REINDEX = _DOCS + "sql-reindex.html"
DROP = _DOCS + "sql-dropindex.html"
REFRESH = _DOCS + "sql-refreshmaterializedview.html"

RULES = (
    Rule(
        "index-build-blocks-writes", "danger", "builds an index on {object} while every write to it waits",
        "A plain CREATE INDEX holds SHARE on the table until the whole index is built.",
        "CREATE INDEX CONCURRENTLY, outside a transaction.", CONCURRENT, Mode.SHARE, "build",
    ),
    Rule(
        "index-on-partitioned-blocks", "danger",
        "builds an index on every partition of {object} while every write to them waits",
        "An index of a partitioned table is built on all partitions in one transaction.",
        "CREATE INDEX ON ONLY the parent, CREATE INDEX CONCURRENTLY on each partition, then ALTER INDEX … ATTACH PARTITION.",
        CREATE, Mode.SHARE, "build",
    ),
    Rule(
        "concurrently-on-partitioned", "danger", "fails: an index can't be built or dropped concurrently on {object}, which is partitioned",
        "PostgreSQL refuses CONCURRENTLY on a partitioned table.",
        "CREATE INDEX ON ONLY the parent, CREATE INDEX CONCURRENTLY on each partition, then ALTER INDEX … ATTACH PARTITION.",
        CONCURRENT, Mode.NONE, "fails",
    ),
    Rule(
        "concurrently-in-transaction", "danger", "fails: {detail} can't run inside a transaction",
        "CONCURRENTLY commits several times of its own, so PostgreSQL refuses it inside a transaction block.",
        "Run it by itself: in a revision, within op.get_context().autocommit_block().", CONCURRENT, Mode.NONE, "fails",
    ),
    Rule(
        "index-drop-blocks", "caution", "drops index {object} under a lock that blocks reads and writes of its table",
        "A plain DROP INDEX needs ACCESS EXCLUSIVE on the table: it waits for every query, and all others wait behind it.",
        "DROP INDEX CONCURRENTLY IF EXISTS, outside a transaction.", DROP, Mode.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "concurrent-drop-refused", "danger", "fails: {detail}",
        "DROP INDEX CONCURRENTLY takes one index, and no CASCADE.",
        "One DROP INDEX CONCURRENTLY for each index; the constraint of an index is dropped with ALTER TABLE.",
        DROP, Mode.NONE, "fails",
    ),
    Rule(
        "index-dropped", "caution", "drops index {object}: queries that used it become sequential scans",
        "Whether an index is still used is seen in pg_stat_user_indexes, on every replica.",
        "Look at idx_scan on the primary and the replicas first; keep the CREATE INDEX CONCURRENTLY in the downgrade.",
        DROP,
    ),
    Rule(
        "concurrent-index-unnamed", "caution", "builds an index on {object} without a name",
        "When a concurrent build fails, an INVALID index stays; without a name each new try leaves one more.",
        "Name it, and DROP INDEX CONCURRENTLY IF EXISTS that name before.", CONCURRENT,
    ),
    Rule(
        "concurrent-index-if-not-exists", "caution",
        "IF NOT EXISTS takes an INVALID leftover of {object} for the finished index",
        "After a failed concurrent build the name exists, and the index serves no query while it costs every write.",
        "DROP INDEX CONCURRENTLY IF EXISTS, then CREATE INDEX CONCURRENTLY without IF NOT EXISTS.", CONCURRENT,
    ),
    Rule(
        "concurrent-index-leftover", "style", "doesn't clear what a failed try of index {object} would leave",
        "A concurrent build that fails leaves an INVALID index of that name, on which the next try fails.",
        "DROP INDEX CONCURRENTLY IF EXISTS the same name before it.", CONCURRENT,
    ),
    Rule(
        "index-unnamed", "style", "lets the server choose the name of an index on {object}",
        "A name that is chosen can differ between databases, and a later migration has to name it.",
        "Give the index a name.", CREATE,
    ),
    Rule(
        "unique-index-may-fail", "caution", "fails where {object} holds duplicates, after it has read everything",
        "Nothing tells beforehand whether the rows there are unique; a concurrent build then leaves an INVALID index.",
        "Look for duplicates before (GROUP BY … HAVING count(*) > 1), and keep new ones out.", CREATE,
    ),
    Rule(
        "index-many-columns", "style", "has an index of {detail} columns on {object}",
        "An index of more than three columns is large, and seldom serves more than its first columns.",
        "Keep non-unique indexes to three columns; INCLUDE what is only to be returned.",
        _DOCS + "indexes-multicolumn.html",
    ),
    Rule(
        "index-hash", "style", "builds a hash index on {object}",
        "A hash index serves equality only: no order, no range, no uniqueness, no several columns.",
        "A B-tree, unless the keys are long and only compared for equality.", _DOCS + "indexes-types.html",
    ),
    Rule(
        "index-invalid-on-only", "caution", "index {object} stays INVALID until every partition has its own attached",
        "ON ONLY makes the parent's index alone, and no query uses it before all partitions are attached.",
        "CREATE INDEX CONCURRENTLY on each partition, then ALTER INDEX … ATTACH PARTITION.", CREATE,
    ),
    Rule(
        "reindex-blocks", "danger", "rebuilds {object} while every write to the table waits, and every query that plans with the index",
        "REINDEX holds SHARE on the table and ACCESS EXCLUSIVE on each index while it builds.",
        "REINDEX … CONCURRENTLY, outside a transaction.", REINDEX, Mode.ACCESS_EXCLUSIVE, "build",
    ),
    Rule(
        "reindex-refused", "danger", "fails: {detail}",
        "REINDEX of a schema, a database, the system or a partitioned table commits of its own; the system catalogues can't be rebuilt concurrently.",
        "Run it by itself, outside a transaction; REINDEX INDEX CONCURRENTLY for one index.", REINDEX, Mode.NONE, "fails",
    ),
    Rule(
        "matview-refresh-blocks", "danger", "recomputes {object} while every reader of it waits",
        "REFRESH MATERIALIZED VIEW holds ACCESS EXCLUSIVE until the query is done.",
        "REFRESH MATERIALIZED VIEW CONCURRENTLY, which needs a unique index on the view.",
        REFRESH, Mode.ACCESS_EXCLUSIVE, "rewrite",
    ),
    Rule(
        "matview-emptied", "danger", "empties {object}: every query of it fails until the next REFRESH is done",
        'WITH NO DATA leaves the view unreadable ("has not been populated").',
        "REFRESH MATERIALIZED VIEW CONCURRENTLY.", REFRESH, Mode.ACCESS_EXCLUSIVE, "rewrite",
    ),
    Rule(
        "matview-refresh-needs-unique", "danger", "fails: {object} has no unique index without a WHERE and on columns only",
        "REFRESH … CONCURRENTLY compares old rows and new by a unique index.",
        "CREATE UNIQUE INDEX on the view first (CONCURRENTLY where it is large).", REFRESH, Mode.NONE, "fails",
    ),
    Rule(
        "matview-refresh-refused", "danger", "fails: {object} can't be refreshed CONCURRENTLY with {detail}",
        "CONCURRENTLY compares the rows there are with new ones: it needs both.",
        "The first REFRESH without CONCURRENTLY, when nobody reads the view yet.", REFRESH, Mode.NONE, "fails",
    ),
    Rule(
        "matview-created", "style", "computes {object} within the migration",
        "CREATE MATERIALIZED VIEW runs its whole query, and the migration takes as long.",
        "CREATE MATERIALIZED VIEW … WITH NO DATA, and the first REFRESH afterwards.",
        _DOCS + "sql-creatematerializedview.html",
    ),
)  # fmt: skip
