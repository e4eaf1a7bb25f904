"""Rules of constraints, domains and enums."""

from __future__ import annotations

from chanuka_ops.migrator.lint.model import Mode, Rule

_DOCS = "https://www.postgresql.org/docs/current/"
ALTER = _DOCS + "sql-altertable.html"
ADD = ALTER + "#SQL-ALTERTABLE-DESC-ADD-TABLE-CONSTRAINT"
DOMAIN = _DOCS + "sql-alterdomain.html"
ENUM = _DOCS + "sql-altertype.html"
_AEL = Mode.ACCESS_EXCLUSIVE

RULES = (
    Rule(
        "check-scans", "danger", "reads every row of {object} while all reads and writes of it wait",
        "ADD CONSTRAINT … CHECK checks every row under ACCESS EXCLUSIVE.",
        "ADD CONSTRAINT … NOT VALID, then VALIDATE CONSTRAINT in a transaction of its own.", ADD, _AEL, "scan",
    ),
    Rule(
        "foreign-key-scans", "danger", "looks up every row of {object} in {detail} while writes to both wait",
        "ADD FOREIGN KEY checks every row under SHARE ROW EXCLUSIVE on both tables.",
        "ADD CONSTRAINT … FOREIGN KEY … NOT VALID, then VALIDATE CONSTRAINT in a transaction of its own.",
        ADD, Mode.SHARE_ROW_EXCLUSIVE, "scan",
    ),
    Rule(
        "foreign-key-locks-both", "caution", "locks {detail} against writes as well as {object}",
        "A foreign key takes SHARE ROW EXCLUSIVE on the table that is referred to, even where no row is checked.",
        "A lock_timeout, and one foreign key in a transaction.", ADD, Mode.SHARE_ROW_EXCLUSIVE,
    ),
    Rule(
        "foreign-key-not-valid-partitioned", "danger", "fails before PostgreSQL 18: a foreign key of {object}, which is partitioned, can't be NOT VALID",
        "Partitioned tables take NOT VALID foreign keys from PostgreSQL 18 on.",
        "The foreign key NOT VALID on each partition, validated there, then on the parent.", ADD, Mode.NONE, "fails",
    ),
    Rule(
        "foreign-key-unindexed", "caution", "refers from {object} ({detail}) without an index",
        "Each DELETE and each change of a key in the table that is referred to then reads this whole table.",
        "CREATE INDEX CONCURRENTLY on the columns first.", _DOCS + "ddl-constraints.html#DDL-CONSTRAINTS-FK",
    ),
    Rule(
        "foreign-key-cascades", "style", "lets a DELETE elsewhere delete rows of {object}",
        "ON DELETE CASCADE deletes as many rows as there are, in the transaction of someone who named one.",
        "ON DELETE RESTRICT, and deletes in batches that are meant.", _DOCS + "ddl-constraints.html#DDL-CONSTRAINTS-FK",
    ),
    Rule(
        "unique-builds-index", "danger", "builds an index on {object} while all reads and writes of it wait",
        "ADD CONSTRAINT … UNIQUE builds its index under ACCESS EXCLUSIVE.",
        "CREATE UNIQUE INDEX CONCURRENTLY, then ADD CONSTRAINT … UNIQUE USING INDEX.", ADD, _AEL, "build",
    ),
    Rule(
        "primary-key-builds-index", "danger", "builds an index on {object} while all reads and writes of it wait",
        "ADD PRIMARY KEY builds its index, and looks for nulls, under ACCESS EXCLUSIVE.",
        "CREATE UNIQUE INDEX CONCURRENTLY; NOT NULL by a validated CHECK; ADD PRIMARY KEY USING INDEX.", ADD, _AEL, "build",
    ),
    Rule(
        "primary-key-nullable", "danger", "reads every row of {object} for nulls in {detail} while all reads and writes wait",
        "PRIMARY KEY USING INDEX sets its columns NOT NULL, which scans unless they are, or a validated CHECK proves it.",
        "ADD CONSTRAINT … CHECK (column IS NOT NULL) NOT VALID, VALIDATE, SET NOT NULL; then the key.", ADD, _AEL, "scan",
    ),
    Rule(
        "primary-key-maybe-nullable", "caution", "reads every row of {object} unless {detail} is NOT NULL already",
        "PRIMARY KEY USING INDEX sets its columns NOT NULL.",
        "Lint with the database at hand; SET NOT NULL by a validated CHECK first.", ADD, _AEL,
    ),
    Rule(
        "exclusion-builds-index", "danger", "builds an index on {object} while all reads and writes of it wait",
        "An exclusion constraint can't be added NOT VALID, nor from an index that is there.",
        "A new table with the constraint, filled in batches; or a trigger that checks new rows.", ADD, _AEL, "build",
    ),
    Rule(
        "not-null-constraint-scans", "danger", "reads every row of {object} while all reads and writes of it wait",
        "ADD CONSTRAINT … NOT NULL looks for nulls at once.",
        "ADD CONSTRAINT … NOT NULL … NOT VALID (PostgreSQL 18), then VALIDATE CONSTRAINT.", ADD, _AEL, "scan",
    ),
    Rule(
        "validate-in-same-transaction", "danger", "checks every row of {object} while the lock of ADD CONSTRAINT is still held",
        "VALIDATE needs a weak lock only, but ADD CONSTRAINT … NOT VALID took a strong one, kept until COMMIT.",
        "VALIDATE CONSTRAINT in a transaction of its own.", ALTER + "#SQL-ALTERTABLE-DESC-VALIDATE-CONSTRAINT", _AEL, "scan",
    ),
    Rule(
        "constraint-dropped", "caution", "drops constraint {detail} of {object}: what it kept out can come in",
        "Rows that break it may be written from then on, and putting it back means checking all.",
        "Add the constraint that replaces it first (NOT VALID, then VALIDATE).", ALTER, _AEL,
    ),
    Rule(
        "constraint-unnamed", "style", "lets the server choose the name of a constraint of {object}",
        "A later migration has to name it to drop it.", "ADD CONSTRAINT name ….", ADD,
    ),
    Rule(
        "constraint-not-validated", "style", "leaves constraint {object} NOT VALID",
        "The planner doesn't use it, and old rows may break it.", "VALIDATE CONSTRAINT in a later transaction.", ALTER,
    ),
    Rule(
        "domain-constraint-scans", "danger", "reads every table that uses domain {object} while writes to them wait",
        "A constraint of a domain is checked in all columns of it under SHARE.",
        "A CHECK on each table, NOT VALID and then validated.", DOMAIN, Mode.SHARE, "scan",
    ),
    Rule(
        "domain-validate-scans", "danger", "reads every table that uses domain {object} while writes to them wait",
        "ALTER DOMAIN … VALIDATE CONSTRAINT holds SHARE on the tables that use it, unlike VALIDATE of a table.",
        "A CHECK on each table, NOT VALID and then validated.", DOMAIN, Mode.SHARE, "scan",
    ),
    Rule(
        "domain-constraint-added", "caution", "lets new values of domain {object} be checked, everywhere it is used",
        "NOT VALID checks no old row; each later VALIDATE scans under SHARE.",
        "A CHECK on the one table that needs it.", DOMAIN,
    ),
    Rule(
        "domain-with-constraint", "style", "makes {object} a domain with a constraint",
        "To change it later means to scan every table that uses it; adding a column of it rewrites the table.",
        "A CHECK on the table, which can be added NOT VALID.", _DOCS + "sql-createdomain.html",
    ),
    Rule(
        "enum-value-used", "danger", "fails: the value {detail} of {object} was added in this transaction",
        "A new enum value can't be used before the transaction that added it has committed.",
        "ALTER TYPE … ADD VALUE in a transaction of its own, before.", ENUM, Mode.NONE, "fails",
    ),
    Rule(
        "enum-value-renamed", "caution", "renames the value {detail} of {object}: old clients still write and compare it",
        "The name changes for all at once, in the middle of a deployment.",
        "ADD VALUE the new one, change rows in batches, and leave the old one be.", ENUM,
    ),
    Rule(
        "enum-value-order", "style", "puts {detail} at the end of {object} without saying so",
        "The order of an enum is its sort order, and can't be changed later.", "ADD VALUE … BEFORE or AFTER.", ENUM,
    ),
    Rule(
        "enum-type", "style", "makes {object} an enum",
        "A value of an enum can't be taken away, nor its order changed, without rewriting each table.",
        "A lookup table with a foreign key, or text with a CHECK.", _DOCS + "datatype-enum.html",
    ),
)  # fmt: skip
