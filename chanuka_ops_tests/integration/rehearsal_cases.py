"""Scripts, and what each does to everybody else, found out once by hand on PostgreSQL 15 and 18: the tables are lint's.

2,000 rows stand in each of `authors` (an index), `books` (four indexes), `loans` (one), `reviews` (one) and `tokens`;
`visits` is partitioned.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chanuka_ops_tests.integration.lint_cases import auto, tx

AE, EX, SRE, SH, SUE = (
    "AccessExclusiveLock", "ExclusiveLock", "ShareRowExclusiveLock", "ShareLock", "ShareUpdateExclusiveLock",
)  # fmt: skip
BOOKS = ("books", "books_author_idx", "books_pkey", "books_printed_idx", "books_slug_idx")
ROWS = 2000


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a script; `sql` as a person writes it."""

    id: str
    sql: str
    impact: str
    locks: dict[str, str] = field(default_factory=dict)
    rewritten: tuple[str, ...] = ()
    scanned: int = 0
    error: str = ""
    setup: str = ""
    skipped: int = 0
    statements: int = 1


KNOWN = (
    Known("add-column", tx("ALTER TABLE books ADD COLUMN z int;"), "brief-lock-rw", {"books": AE}),
    Known("index", tx("CREATE INDEX i ON books (shelf);"), "scan-under-blocking-lock", {"books": SH}, scanned=ROWS),
    Known("index-begin-commit", "BEGIN;\nCREATE INDEX i ON books (shelf);\nCOMMIT;", "scan-under-blocking-lock", {"books": SH}, scanned=ROWS),
    Known("index-concurrently", "CREATE INDEX CONCURRENTLY i ON books (shelf);", "no-blocking-lock", {"books": SUE}),
    Known("index-concurrently-tx", tx("CREATE INDEX CONCURRENTLY i ON books (shelf);"), "error",
          error="CREATE INDEX CONCURRENTLY cannot run inside a transaction block"),
    Known("reindex-table", tx("REINDEX TABLE loans;"), "rewrite-under-blocking-lock", {"loans": SH, "loans_pkey": AE}, ("loans_pkey",), ROWS),
    Known("reindex-concurrently", auto("REINDEX TABLE CONCURRENTLY loans;"), "no-blocking-lock", {"loans": SUE}),
    Known("type", "ALTER TABLE reviews ALTER COLUMN score TYPE bigint;", "rewrite-under-blocking-lock",
          {"reviews": AE, "reviews_pkey": AE}, ("reviews", "reviews_pkey"), 2 * ROWS),
    Known("type-within-do", tx("DO $do$ BEGIN EXECUTE format('ALTER TABLE %I ALTER COLUMN score TYPE bigint', 'reviews'); END $do$;"),
          "rewrite-under-blocking-lock", {"reviews": AE, "reviews_pkey": AE}, ("reviews", "reviews_pkey"), 2 * ROWS),
    Known("not-null", tx("ALTER TABLE authors ALTER COLUMN rank SET NOT NULL;"), "scan-under-blocking-lock", {"authors": AE}, scanned=ROWS),
    Known("not-null-proven", tx("ALTER TABLE authors ALTER COLUMN rank SET NOT NULL;"), "brief-lock-rw", {"authors": AE},
          setup="ALTER TABLE authors ADD CONSTRAINT r CHECK (rank IS NOT NULL)"),
    Known("update-under-lock", tx("ALTER TABLE tokens ADD COLUMN z int;\nUPDATE tokens SET agent = agent;").replace("agent", "token"),
          "scan-under-blocking-lock", {"tokens": AE}, scanned=ROWS, statements=2),
    Known("update-alone", auto("UPDATE tokens SET opened = now();"), "no-blocking-lock"),
    Known("partition-of", tx("CREATE TABLE visits_2029 PARTITION OF visits FOR VALUES FROM ('2029-01-01 00:00+00') TO ('2030-01-01 00:00+00');"),
          "brief-lock-rw", {"visits": AE}),
    Known("refresh", tx("REFRESH MATERIALIZED VIEW shelf_totals;"), "rewrite-under-blocking-lock",
          {"shelf_totals": AE, "shelf_totals_key": AE}, ("shelf_totals", "shelf_totals_key"), ROWS + 9),
    Known("refresh-concurrently", auto("REFRESH MATERIALIZED VIEW CONCURRENTLY shelf_totals;"), "brief-lock-w", {"shelf_totals": EX}),
    Known("tablespace", tx("ALTER TABLE tokens SET TABLESPACE side;"), "rewrite-under-blocking-lock", {"tokens": AE}, ("tokens",)),
    Known("vacuum-full", auto("VACUUM FULL loans;"), "rewrite-under-blocking-lock", {"loans": AE}, ("loans", "loans_pkey")),
    Known("drop", tx("DROP TABLE reviews;"), "brief-lock-rw", {"reviews": AE, "reviews_pkey": AE}),
    Known("enum", tx("ALTER TYPE loan_state ADD VALUE 'damaged';"), "no-blocking-lock"),
    Known("enum-used", tx("ALTER TYPE loan_state ADD VALUE 'damaged';\nUPDATE loans SET state = 'damaged';\nSELECT 1;"), "error",
          error='unsafe use of new value "damaged" of enum type loan_state', skipped=1, statements=2),
    Known("commit-within", tx("ALTER TABLE books ADD COLUMN z int;\nCOMMIT;\nALTER TABLE loans ADD COLUMN z int;"), "brief-lock-rw",
          {"books": AE, "loans": AE}, statements=2),
    Known("rolled-back", "BEGIN;\nALTER TABLE books ADD COLUMN z int;\nROLLBACK;\nALTER TABLE books ADD COLUMN z int;", "brief-lock-rw", {"books": AE}, statements=2),
    Known("procedure-that-commits", "CREATE PROCEDURE p() LANGUAGE plpgsql AS $$ BEGIN UPDATE tokens SET opened = now(); COMMIT; END $$;\nCALL p();",
          "no-blocking-lock", statements=2),
    Known("new-table", tx("CREATE TABLE n (id bigint PRIMARY KEY);\nINSERT INTO n SELECT id FROM books;\nCREATE INDEX ON n (id);"), "no-blocking-lock", statements=3),
    Known("deferred", "ALTER TABLE loans ALTER CONSTRAINT loans_book_id_fkey DEFERRABLE INITIALLY DEFERRED;\nBEGIN;\nINSERT INTO loans VALUES (0, -1);\nCOMMIT;\nSELECT 1;",
          "error", {"loans": AE},
          error='insert or update on table "loans" violates foreign key constraint "loans_book_id_fkey"', skipped=1, statements=3),
    Known("lock-alone", "LOCK TABLE books;", "error", error="LOCK TABLE can only be used in transaction blocks"),
)  # fmt: skip

_FAST = {
    "index-begin-commit", "index-concurrently", "index-concurrently-tx", "type-within-do", "not-null-proven",
    "update-under-lock", "refresh", "refresh-concurrently", "tablespace", "commit-within", "deferred",
}  # fmt: skip
FAST = tuple(known for known in KNOWN if known.id in _FAST)
MORE = tuple(known for known in KNOWN if known.id not in _FAST)
