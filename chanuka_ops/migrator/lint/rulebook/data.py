"""Rules of rows: what is written, lost, or read under a lock; and of SQL that can't be seen."""

from __future__ import annotations

from chanuka_ops.migrator.lint.model import Mode, Rule

_DOCS = "https://www.postgresql.org/docs/current/"
LOCKS = _DOCS + "explicit-locking.html"
_BATCHES = "Batches by key (WHERE id BETWEEN … AND …), each committed, as the backfill helper of revisions does."
_RETIRE = "Rename it, wait until nobody misses it, and drop it in a later migration, after a proven backup."

RULES = (
    Rule(
        "scan-while-locked", "danger", "reads or writes rows of {object} while {detail} is locked by an earlier statement of the transaction",
        "A strong lock is kept until COMMIT: everything that follows in the transaction makes others wait longer.",
        "Commit first; the statement that takes long in a transaction of its own.", LOCKS, Mode.ACCESS_EXCLUSIVE, "scan",
    ),
    Rule(
        "statement-while-locked", "caution", "runs while {detail} is locked by an earlier statement of the transaction",
        "Others wait for the lock until COMMIT, however long what follows takes.",
        "A transaction for each change that locks.", LOCKS,
    ),
    Rule(
        "sleep-while-locked", "danger", "sleeps while {object} is locked by an earlier statement of the transaction",
        "Everybody waits for the lock until COMMIT, the sleep included.",
        "Commit first.", LOCKS, Mode.ACCESS_EXCLUSIVE, "scan",
    ),
    Rule(
        "several-tables-locked", "caution", "locks {object} while {detail} is locked too",
        "Whoever locks them in another order deadlocks with this; and the first waits for the second.",
        "One table in a transaction.", LOCKS + "#LOCKING-DEADLOCKS",
    ),
    Rule(
        "lock-table", "caution", "locks {object} in {detail} mode until COMMIT",
        "An explicit lock is held for as long as the transaction takes.",
        "Leave the lock to the statements; or NOWAIT, with lock_timeout, and a COMMIT right after.", _DOCS + "sql-lock.html",
    ),
    Rule(
        "mass-update", "danger", "updates all rows of {object} in one transaction",
        "Each row stays locked until COMMIT, each is written anew, and vacuum can't clean up meanwhile.",
        _BATCHES, _DOCS + "sql-update.html", Mode.ROW_EXCLUSIVE, "rewrite",
    ),
    Rule(
        "mass-delete", "danger", "deletes rows of {object} without a bound, in one transaction",
        "Each row stays locked until COMMIT, and what is deleted by mistake is gone.",
        _BATCHES, _DOCS + "sql-delete.html", Mode.ROW_EXCLUSIVE, "rewrite",
    ),
    Rule(
        "unbounded-write", "caution", "writes as many rows of {object} as happen to fit its WHERE",
        "How many that are isn't seen here; their locks are held until COMMIT.",
        _BATCHES, _DOCS + "sql-update.html", Mode.ROW_EXCLUSIVE,
    ),
    Rule(
        "insert-select", "caution", "copies as many rows into {object} as there are in {detail}",
        "One long transaction holds back vacuum and replication.", _BATCHES, _DOCS + "sql-insert.html",
    ),
    Rule(
        "delete-rows", "caution", "deletes rows of {object}", "What is deleted is gone; a downgrade can't bring it back.",
        "A backup that was proven before, and a bounded WHERE.", _DOCS + "sql-delete.html",
    ),
    Rule(
        "merge-rows", "caution", "merges as many rows into {object} as there are in {detail}",
        "One long transaction holds the locks of all.", _BATCHES, _DOCS + "sql-merge.html",
    ),
    Rule(
        "bulk-load", "style", "loads rows into {object}",
        "A load in a migration takes as long as the data is large, under every lock taken before.",
        "Load outside the migration, in a transaction of its own.", _DOCS + "sql-copy.html",
    ),
    Rule(
        "copy-program", "caution", "runs a program on the server's machine, or reads a file there",
        "COPY with a file or a PROGRAM needs a superuser's rights, and works on the server's own disk.",
        "COPY … FROM STDIN.", _DOCS + "sql-copy.html",
    ),
    Rule(
        "truncate", "danger", "throws away every row of {object}",
        "TRUNCATE is instant, takes ACCESS EXCLUSIVE, and its rows are gone with COMMIT.",
        "DELETE in batches where rows may go; keep the table by RENAME where they may be wanted.",
        _DOCS + "sql-truncate.html", Mode.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "truncate-cascade", "danger", "throws away every row of {object}, and of every table that refers to it",
        "CASCADE empties tables that the statement doesn't name.",
        "Name each table, without CASCADE.", _DOCS + "sql-truncate.html", Mode.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "drop-table", "danger", "drops table {object} with its rows", "It can't be undone, and old clients fail at once.",
        _RETIRE, _DOCS + "sql-droptable.html", Mode.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "drop-column", "caution", "drops column {detail} of {object} with its values",
        "It can't be undone, and old clients that name the column, or read SELECT *, fail at once.",
        "First a release that doesn't use it; then drop it, after a proven backup.",
        _DOCS + "sql-altertable.html", Mode.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "drop-schema", "danger", "drops schema {object}", "Everything in it goes with it when CASCADE is said.",
        _RETIRE, _DOCS + "sql-dropschema.html", Mode.ACCESS_EXCLUSIVE,
    ),
    Rule(
        "drop-database", "danger", "drops database {object}", "Everything in it is gone, at once.",
        "Rename it, and drop it when nobody misses it.", _DOCS + "sql-dropdatabase.html",
    ),
    Rule(
        "drop-cascade", "danger", "drops {object} and whatever depends on it, which isn't named here",
        "CASCADE takes views, foreign keys, columns and functions with it that nobody thought of.",
        "Drop each dependent by name, without CASCADE.", _DOCS + "ddl-depend.html",
    ),
    Rule(
        "relation-missing", "caution", "fails where there is no {object}: neither this database nor the script has it",
        "The database that was asked may be another one than the script is for, or its search_path another.",
        "Lint against the database that the script is for.", _DOCS + "ddl-schemas.html#DDL-SCHEMAS-PATH",
    ),
    Rule(
        "drop-refused", "danger", "fails: {detail} depends on {object}",
        "Without CASCADE PostgreSQL drops nothing that something else depends on.",
        "Drop what depends on it first, by name.", _DOCS + "ddl-depend.html", Mode.NONE, "fails",
    ),
    Rule(
        "drop-owned", "danger", "drops or moves everything that belongs to {object}",
        "Nothing is named: what is lost depends on the day.", "Drop each object by its name.", _DOCS + "sql-drop-owned.html",
    ),
    Rule(
        "downgrade-loses-data", "caution", "the downgrade loses data: {detail}",
        "What was written since the upgrade is gone after a downgrade.",
        "A downgrade that keeps the data, or an upgrade that is only ever followed by another.", _DOCS + "ddl-alter.html",
    ),
    Rule(
        "dynamic-sql-unseen", "danger", "executes SQL that is made up when it runs{detail}",
        "Nobody can see here what it does: no lock, no rewrite and no loss is excluded.",
        "Write the statements out; or rehearse it, which shows what it does.",
        _DOCS + "plpgsql-statements.html#PLPGSQL-STATEMENTS-EXECUTING-DYN",
    ),
    Rule(
        "dynamic-sql", "caution", "executes SQL that is put together when it runs; it was read as: {detail}",
        "What is read here may differ from what is sent.", "Write the statements out.",
        _DOCS + "plpgsql-statements.html#PLPGSQL-STATEMENTS-EXECUTING-DYN",
    ),
    Rule(
        "do-block", "style", "runs a DO block", "Its statements share one transaction and one set of locks, and are hard to review.",
        "Plain statements.", _DOCS + "sql-do.html",
    ),
    Rule(
        "body-unreadable", "danger", "runs code in {detail} that can't be read here",
        "Nobody can see here what it does.", "Plain statements, or a rehearsal, which shows what it does.", _DOCS + "sql-do.html",
    ),
    Rule(
        "routine-unseen", "danger", "calls {object}, whose body isn't known here",
        "Nobody can see here what it does: no lock, no rewrite and no loss is excluded.", "Lint with the database at hand; or rehearse.", _DOCS + "sql-call.html",
    ),
    Rule(
        "routine-changes-schema", "caution", "makes {object} a function that changes the schema when it is called",
        "Each call takes the locks of its DDL, in the transaction of whoever calls.",
        "DDL in migrations, not in functions.", _DOCS + "sql-createfunction.html",
    ),
    Rule(
        "generated-sql-run", "danger", "has psql run what a query returns ({detail})",
        "The statements aren't in the script: nobody can see here what they do.", "Write the statements out.",
        _DOCS + "app-psql.html",
    ),
    Rule(
        "not-renderable", "caution", "the revision asks the database what to do ({detail}): it was read as for a database that is empty, and one that has its tables",
        "What a revision does that inspects its connection can't all be known without that connection; where it can't be rendered at all, the SQL in its text is read.",
        "Only a rehearsal shows what it does.", "https://alembic.sqlalchemy.org/en/latest/offline.html",
    ),
)  # fmt: skip
