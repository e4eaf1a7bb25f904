"""Rules of whole tables, columns, and partitions: what rewrites, scans and fails."""

from __future__ import annotations

from chanuka_ops.migrator.lint.model import Mode, Rule

_DOCS = "https://www.postgresql.org/docs/current/"
ALTER = _DOCS + "sql-altertable.html"
NOTES = ALTER + "#SQL-ALTERTABLE-NOTES"
PARTITIONS = _DOCS + "ddl-partitioning.html"
_AEL = Mode.ACCESS_EXCLUSIVE
_BACKFILL = (
    "ADD COLUMN without it (a SET DEFAULT afterwards is for new rows), then fill old rows in batches that commit."
)

RULES = (
    Rule(
        "vacuum-full", "danger", "rewrites {object} while all reads and writes of it wait",
        "VACUUM FULL copies the table and all its indexes under ACCESS EXCLUSIVE.",
        "Plain VACUUM; pg_repack or pg_squeeze, or REPACK (CONCURRENTLY) from PostgreSQL 19, where space must be given back.",
        _DOCS + "sql-vacuum.html", _AEL, "rewrite",
    ),
    Rule(
        "cluster", "danger", "rewrites {object} in an index's order while all reads and writes of it wait",
        "CLUSTER copies the table and all its indexes under ACCESS EXCLUSIVE.",
        "pg_repack with an order, or REPACK (CONCURRENTLY) from PostgreSQL 19.", _DOCS + "sql-cluster.html", _AEL, "rewrite",
    ),
    Rule(
        "repack-blocks", "danger", "rewrites {object} while all reads and writes of it wait",
        "REPACK without CONCURRENTLY copies the table under ACCESS EXCLUSIVE; before PostgreSQL 19 there is no REPACK.",
        "REPACK (CONCURRENTLY), outside a transaction, on PostgreSQL 19.", _DOCS + "sql-vacuum.html", _AEL, "rewrite",
    ),
    Rule(
        "vacuum-in-transaction", "danger", "fails: VACUUM can't run inside a transaction",
        "VACUUM commits of its own.", "Run it by itself: in a revision, within autocommit_block().",
        _DOCS + "sql-vacuum.html", Mode.NONE, "fails",
    ),
    Rule(
        "set-logged-rewrites", "danger", "rewrites {object} and its indexes while all reads and writes of it wait",
        "SET LOGGED and SET UNLOGGED copy the table; what is unlogged is also empty after a crash, and not on replicas.",
        "Make a new table with the persistence that is wanted, fill it in batches, and switch by rename.",
        ALTER + "#SQL-ALTERTABLE-DESC-SET-LOGGED-UNLOGGED", _AEL, "rewrite",
    ),
    Rule(
        "set-tablespace-copies", "danger", "copies {object} to another tablespace while all reads and writes of it wait",
        "SET TABLESPACE copies the files under ACCESS EXCLUSIVE.",
        "REINDEX (CONCURRENTLY, TABLESPACE …) for indexes; pg_repack with a tablespace for tables.",
        ALTER + "#SQL-ALTERTABLE-DESC-SET-TABLESPACE", _AEL, "rewrite",
    ),
    Rule(
        "set-access-method-rewrites", "danger", "rewrites {object} while all reads and writes of it wait",
        "Another access method means another format: every row is copied.",
        "A new table with the access method, filled in batches, and a switch by rename.", ALTER, _AEL, "rewrite",
    ),
    Rule(
        "column-volatile-default", "danger", "writes every row of {object} anew: {detail}",
        "A volatile default has another value in each row, so ADD COLUMN rewrites the table. (A constant or now() doesn't.)",
        _BACKFILL, NOTES, _AEL, "rewrite",
    ),
    Rule(
        "column-unknown-default", "danger", "may write every row of {object} anew: nobody here knows whether {detail} is volatile",
        "A function is volatile unless it was declared otherwise, and a volatile default rewrites the table.",
        "Lint with the database at hand, or: " + _BACKFILL, NOTES, _AEL, "rewrite",
    ),
    Rule(
        "column-serial", "danger", "writes every row of {object} anew: {detail}",
        "A serial or identity column gets a number in each row, so ADD COLUMN rewrites the table.",
        "ADD COLUMN as plain bigint, fill it in batches, then ADD GENERATED … AS IDENTITY once it is NOT NULL.", NOTES, _AEL, "rewrite",
    ),
    Rule(
        "column-generated-stored", "danger", "computes {detail} for every row of {object} while all reads and writes wait",
        "A stored generated column is written into each row at once.",
        "A plain column, a trigger for new rows and a backfill in batches; or a VIRTUAL column from PostgreSQL 18.",
        _DOCS + "ddl-generated-columns.html", _AEL, "rewrite",
    ),
    Rule(
        "column-constrained-domain", "danger", "writes every row of {object} anew: {detail} is a domain with constraints",
        "The constraints of a domain are checked for the new column in each row.",
        "A column of the base type, with a CHECK added NOT VALID and validated afterwards.", NOTES, _AEL, "rewrite",
    ),
    Rule(
        "column-inline-unique", "danger", "builds an index on {object} while all reads and writes of it wait",
        "UNIQUE or PRIMARY KEY within ADD COLUMN builds its index under ACCESS EXCLUSIVE.",
        "ADD COLUMN alone; CREATE UNIQUE INDEX CONCURRENTLY; ADD CONSTRAINT … USING INDEX.", ALTER, _AEL, "build",
    ),
    Rule(
        "column-inline-check", "danger", "reads every row of {object} while all reads and writes of it wait",
        "A CHECK within ADD COLUMN is checked on every row at once.",
        "ADD COLUMN alone; ADD CONSTRAINT … CHECK … NOT VALID; VALIDATE CONSTRAINT in a transaction of its own.",
        ALTER, _AEL, "scan",
    ),
    Rule(
        "column-inline-references", "danger", "looks up every row of {object} in {detail} while writes to both wait",
        "A foreign key within ADD COLUMN with a default is checked on every row at once.",
        "ADD COLUMN alone; ADD CONSTRAINT … FOREIGN KEY … NOT VALID; VALIDATE CONSTRAINT in a transaction of its own.",
        ALTER, _AEL, "scan",
    ),
    Rule(
        "column-references-locks", "caution", "locks {detail} against writes as well as {object}",
        "REFERENCES takes SHARE ROW EXCLUSIVE on the table that is referred to; without a default no row is looked at.",
        "ADD COLUMN alone, then the foreign key NOT VALID with a lock_timeout.", ALTER, Mode.SHARE_ROW_EXCLUSIVE,
    ),
    Rule(
        "column-not-null-fails", "danger", "fails as soon as {object} has a row: {detail} has no default",
        "A new column is null in the rows there are.",
        "ADD COLUMN with a constant default, or nullable, filled in batches, and SET NOT NULL by a validated CHECK.",
        ALTER, _AEL, "fails",
    ),
    Rule(
        "column-type-rewrites", "danger", "writes every row of {object} anew: {detail}",
        "Another type is another form on disk: the table and its indexes are copied under ACCESS EXCLUSIVE.",
        "A new column of the new type, kept equal by a trigger, filled in batches, then switched to; drop the old one later.",
        NOTES, _AEL, "rewrite",
    ),
    Rule(
        "column-type-reindexes", "danger", "builds the indexes of {object} anew while all reads and writes wait: {detail}",
        "The rows stay as they are, but an index sorts by another type or collation.",
        "A new column with its own index, built CONCURRENTLY, and a switch.", NOTES, _AEL, "build",
    ),
    Rule(
        "column-type-rechecks", "danger", "reads every row of {object} while all reads and writes wait: {detail}",
        "The rows stay as they are, but each constraint on the column is made and checked again.",
        "Drop the constraint, change the type, add it NOT VALID, and VALIDATE it in a transaction of its own.", NOTES, _AEL, "scan",
    ),
    Rule(
        "column-type-refused", "danger", "fails: {detail}",
        "PostgreSQL doesn't change the type of a column that a view, a policy, a generated column or a partition key uses.",
        "Drop what depends on it and make it again in the same transaction; for a partition key, a new table.", ALTER, _AEL, "fails",
    ),
    Rule(
        "column-type-unknown", "danger", "may write every row of {object} anew: {detail}",
        "Widening a varchar or numeric, or going from varchar to text, is a change of the catalogue only; any other change is a rewrite.",
        "Lint with the database at hand, which knows the old type; or a new column, filled in batches, and a switch.", NOTES, _AEL, "rewrite",
    ),
    Rule(
        "column-type-in-utc", "caution", "writes no row of {object}, if it is a timestamp already: {detail}",
        "Between timestamp and timestamptz, in a session whose time zone is UTC, the bytes stay; an index of the column is built anew.",
        "Lint with the database at hand, which knows the old type and the indexes.", NOTES, _AEL,
    ),
    Rule(
        "partition-alone-refused", "danger", "fails: {detail}",
        "A partitioned table and its partitions have the same columns and checks.",
        "Change the parent, without ONLY: its partitions follow.", PARTITIONS, Mode.NONE, "fails",
    ),
    Rule(
        "set-not-null-scans", "danger", "reads every row of {object} while all reads and writes of it wait",
        "SET NOT NULL looks for nulls, unless a validated CHECK (column IS NOT NULL) proves that there are none.",
        "ADD CONSTRAINT … CHECK (column IS NOT NULL) NOT VALID; VALIDATE CONSTRAINT; SET NOT NULL; drop the CHECK.",
        ALTER + "#SQL-ALTERTABLE-DESC-SET-DROP-NOT-NULL", _AEL, "scan",
    ),
    Rule(
        "set-expression-rewrites", "danger", "computes {detail} anew for every row of {object}",
        "The stored values of a generated column are written again.",
        "A new column with the new expression, and a switch.", ALTER, _AEL, "rewrite",
    ),
    Rule(
        "attach-scans", "danger", "reads every row of {object} to see whether it belongs there, while all wait for it",
        "ATTACH PARTITION checks the partition's rows under ACCESS EXCLUSIVE, unless a validated CHECK proves its bounds.",
        "Before it: ADD CONSTRAINT … CHECK (the bounds, and the key IS NOT NULL) NOT VALID, and VALIDATE it.",
        PARTITIONS + "#DDL-PARTITIONING-DECLARATIVE-MAINTENANCE", _AEL, "scan",
    ),
    Rule(
        "attach-builds-index", "danger", "builds an index on {object} as {detail} has it, while all reads and writes of it wait",
        "A partition gets every index of its parent: ATTACH PARTITION builds what isn't there yet.",
        "CREATE INDEX CONCURRENTLY on the partition before, on the same columns.", PARTITIONS, _AEL, "build",
    ),
    Rule(
        "attach-refused", "danger", "fails: {object} has no {detail}, which its parent has",
        "A partition needs each CHECK and each NOT NULL of its parent before it is attached.",
        "ADD CONSTRAINT with the same name NOT VALID, and VALIDATE it; CREATE TABLE (LIKE parent INCLUDING ALL).", PARTITIONS, Mode.NONE, "fails",
    ),
    Rule(
        "attach-maybe-proven", "caution", "may read every row of {object}: its CHECK is not recognised as proof of the bounds",
        "ATTACH PARTITION needs a CHECK that implies the bounds, and that the key is not null.",
        "A CHECK in the very words of the bounds: key >= lower AND key < upper AND key IS NOT NULL.", PARTITIONS, _AEL,
    ),
    Rule(
        "default-partition-scanned", "danger", "reads every row of the default partition {object} while all wait for it",
        "A new partition takes rows from the default one's range, so PostgreSQL looks whether it holds any.",
        "A validated CHECK on the default partition that excludes the new bounds.", PARTITIONS, _AEL, "scan",
    ),
    Rule(
        "partition-of-locks-parent", "caution", "locks the whole partitioned table {object}, against reads too",
        "CREATE TABLE … PARTITION OF takes ACCESS EXCLUSIVE on the parent; ATTACH PARTITION doesn't.",
        "CREATE TABLE (LIKE parent INCLUDING ALL), then ALTER TABLE … ATTACH PARTITION.", PARTITIONS, _AEL,
    ),
    Rule(
        "detach-locks-parent", "caution", "locks the whole partitioned table {object}, against reads too",
        "DETACH PARTITION takes ACCESS EXCLUSIVE on the parent.",
        "DETACH PARTITION … CONCURRENTLY, outside a transaction.", PARTITIONS, _AEL,
    ),
    Rule(
        "detach-with-default", "danger", "fails: {object} has a default partition",
        "DETACH PARTITION CONCURRENTLY is refused where there is a default partition.",
        "Detach the default partition first, or DETACH without CONCURRENTLY and with a lock_timeout.", PARTITIONS, Mode.NONE, "fails",
    ),
    Rule(
        "inherit-checks", "caution", "locks {object} and changes what its parent's queries read",
        "INHERIT and OF take ACCESS EXCLUSIVE for a moment; INHERIT compares columns and constraints, not rows.",
        "A lock_timeout, and a time when nobody reads the parent.", ALTER, _AEL,
    ),
    Rule(
        "needs-newer-server", "danger", "fails on this server: {detail}",
        "The statement needs a later version of PostgreSQL than the one it is for.",
        "The form that the oldest server of yours knows.", _DOCS + "release.html", Mode.NONE, "fails",
    ),
    Rule(
        "may-need-newer-server", "caution", "fails on an older server: {detail}",
        "The server's version isn't known here.", "Say it with --pg-version, or lint with the database at hand.", _DOCS + "release.html",
    ),
)  # fmt: skip
