"""Policies, old clients, lost data and habits: each bad form raises a rule that its safe form doesn't raise."""

from __future__ import annotations

import pytest

from chanuka_ops.migrator.lint import judge, script
from chanuka_ops.migrator.lint.model import Finding
from chanuka_ops.migrator.lint.rulebook import RULES
from chanuka_ops.migrator.lint.world import World
from chanuka_ops_tests.integration.lint_cases import auto, tx

# rule, bad, safe
PAIRS = (
    ("lock-timeout-missing", tx("ALTER TABLE t ADD COLUMN a int;"), tx("SET LOCAL lock_timeout = '2s';\nALTER TABLE t ADD COLUMN a int;")),
    ("statement-timeout-missing", tx("SET LOCAL lock_timeout = '2s';\nALTER TABLE t ADD COLUMN a int;"), tx("SET LOCAL lock_timeout = '2s';\nSET LOCAL statement_timeout = '9s';\nALTER TABLE t ADD COLUMN a int;")),
    ("timeout-off", tx("SET LOCAL lock_timeout = 0;"), tx("SET LOCAL lock_timeout = '1s';")),
    ("lock-timeout-long", tx("SET LOCAL lock_timeout = '5min';\nALTER TABLE t ADD COLUMN a int;"), tx("SET LOCAL lock_timeout = '1s';\nALTER TABLE t ADD COLUMN a int;")),
    ("lock-timeout-long", tx("SET LOCAL lock_timeout = '5min';\nALTER TABLE t ADD COLUMN a int;"), "SET lock_timeout = '5min';\nCREATE INDEX CONCURRENTLY i ON t (a);"),
    ("sleep-while-locked", tx("ALTER TABLE t ADD COLUMN a int;\nSELECT pg_sleep(60);"), tx("SELECT pg_sleep(60);\nALTER TABLE t ADD COLUMN a int;")),
    ("mass-update", auto("UPDATE t SET a = 1 WHERE true;"), auto("UPDATE t SET a = 1 WHERE id = 7;")),
    ("mass-delete", auto("DELETE FROM t WHERE 1 = 1;"), auto("DELETE FROM t WHERE id = 7;")),
    ("mass-delete", auto("WITH gone AS (DELETE FROM t RETURNING *) INSERT INTO u SELECT * FROM gone;"), auto("WITH gone AS (DELETE FROM t WHERE id IN (1, 2) RETURNING *) INSERT INTO u SELECT * FROM gone;")),
    ("mass-update", auto("PREPARE q AS UPDATE t SET a = 1;\nEXECUTE q;"), auto("PREPARE q AS UPDATE t SET a = 1;")),
    ("partition-alone-refused", tx("CREATE TABLE p PARTITION OF t FOR VALUES IN (1);\nALTER TABLE p ADD COLUMN a int;"), tx("CREATE TABLE p PARTITION OF t FOR VALUES IN (1);\nALTER TABLE t ADD COLUMN a int;")),
    ("concurrently-on-partitioned", auto("CREATE TABLE p PARTITION OF t FOR VALUES IN (1);\nCREATE INDEX CONCURRENTLY i ON t (a);"), auto("CREATE TABLE p PARTITION OF t FOR VALUES IN (1);\nCREATE INDEX i ON ONLY t (a);")),
    ("matview-refresh-refused", auto("CREATE MATERIALIZED VIEW m AS SELECT a FROM t WITH NO DATA;\nREFRESH MATERIALIZED VIEW CONCURRENTLY m;"), auto("CREATE MATERIALIZED VIEW m AS SELECT a FROM t WITH NO DATA;\nREFRESH MATERIALIZED VIEW m;")),
    ("column-type-in-utc", tx("SET LOCAL timezone = 'UTC';\nALTER TABLE t ALTER COLUMN a TYPE timestamptz;"), tx("ALTER TABLE t ADD COLUMN a timestamptz;")),
    ("column-type-unknown", tx("ALTER TABLE t ALTER COLUMN a TYPE varchar(50);"), tx("CREATE TABLE n (a varchar(20));\nALTER TABLE n ALTER COLUMN a TYPE varchar(50);")),
    ("session-setting", tx("SET work_mem = '1GB';"), tx("SET LOCAL work_mem = '1GB';")),
    ("session-setting", tx("SELECT set_config('role', 'x', false);"), tx("SELECT set_config('role', 'x', true);")),
    ("local-outside-transaction", "SET LOCAL lock_timeout = '1s';", "BEGIN;\nSET LOCAL lock_timeout = '1s';\nCOMMIT;"),
    ("session-replication-role", tx("SET LOCAL session_replication_role = replica;"), tx("SET LOCAL session_replication_role = origin;")),
    ("commit-in-managed-transaction", tx("ALTER TABLE t ADD COLUMN a int;\nCOMMIT;"), tx("ALTER TABLE t ADD COLUMN a int;")),
    ("commit-without-begin", "BEGIN;\nSELECT 1;\nCOMMIT;\nCOMMIT;", "BEGIN;\nSELECT 1;\nCOMMIT;"),
    ("nested-begin", tx("BEGIN;\nSELECT 1;"), "BEGIN;\nSELECT 1;\nCOMMIT;"),
    ("transaction-left-open", "BEGIN;\nSELECT 1;", "BEGIN;\nSELECT 1;\nCOMMIT;"),
    ("rollback", "BEGIN;\nSELECT 1;\nROLLBACK;", "BEGIN;\nSELECT 1;\nCOMMIT;"),
    ("prepared-transaction", "BEGIN;\nSELECT 1;\nPREPARE TRANSACTION 'x';", "BEGIN;\nSELECT 1;\nCOMMIT;"),
    ("several-tables-locked", tx("ALTER TABLE t ADD COLUMN a int;\nALTER TABLE u ADD COLUMN a int;"), tx("ALTER TABLE t ADD COLUMN a int;") + "\n" + tx("ALTER TABLE u ADD COLUMN a int;")),
    ("alter-separately", tx("ALTER TABLE t ADD COLUMN a int;\nALTER TABLE t ADD COLUMN b int;"), tx("ALTER TABLE t ADD COLUMN a int, ADD COLUMN b int;")),
    ("not-repeatable", auto("DROP VIEW v;"), auto("DROP VIEW IF EXISTS v;")),
    ("not-repeatable", auto("ALTER TABLE t ADD COLUMN a text;"), auto("ALTER TABLE t ADD COLUMN IF NOT EXISTS a text;")),
    ("concurrent-index-unnamed", auto("CREATE INDEX CONCURRENTLY ON t (a);"), auto("CREATE INDEX CONCURRENTLY i ON t (a);")),
    ("concurrent-index-if-not-exists", auto("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON t (a);"), auto("DROP INDEX CONCURRENTLY IF EXISTS i;\nCREATE INDEX CONCURRENTLY i ON t (a);")),
    ("concurrent-index-leftover", auto("CREATE INDEX CONCURRENTLY i ON t (a);"), auto("DROP INDEX CONCURRENTLY IF EXISTS i;\nCREATE INDEX CONCURRENTLY i ON t (a);")),
    ("index-drop-blocks", tx("DROP INDEX i;"), auto("DROP INDEX CONCURRENTLY IF EXISTS i;")),
    ("index-many-columns", auto("CREATE INDEX CONCURRENTLY i ON t (a, b, c, d);"), auto("CREATE INDEX CONCURRENTLY i ON t (a, b, c);")),
    ("index-hash", auto("CREATE INDEX CONCURRENTLY i ON t USING hash (a);"), auto("CREATE INDEX CONCURRENTLY i ON t (a);")),
    ("partition-of-locks-parent", tx("CREATE TABLE p PARTITION OF t FOR VALUES IN (1);"), tx("CREATE TABLE p (LIKE t);\nALTER TABLE t ATTACH PARTITION p FOR VALUES IN (1);")),
    ("detach-locks-parent", tx("ALTER TABLE t DETACH PARTITION p;"), auto("ALTER TABLE t DETACH PARTITION p CONCURRENTLY;")),
    ("mass-update", auto("UPDATE t SET a = 1;"), auto("UPDATE t SET a = 1 WHERE id BETWEEN 1 AND 1000;")),
    ("mass-update", auto("UPDATE t SET a = 1 WHERE a IS NULL;"), auto("UPDATE t SET a = 1 WHERE id IN (SELECT id FROM t WHERE a IS NULL LIMIT 500);")),
    ("mass-delete", auto("DELETE FROM t;"), auto("DELETE FROM t WHERE id > 5 AND id <= 500;")),
    ("unbounded-write", auto("UPDATE t SET a = 1 WHERE kind = 'x';"), auto("UPDATE t SET a = 1 WHERE id = 7;")),
    ("insert-select", auto("INSERT INTO t SELECT * FROM u;"), auto("INSERT INTO t SELECT * FROM u WHERE id BETWEEN 1 AND 100;")),
    ("truncate", tx("TRUNCATE t;"), tx("CREATE TABLE public.t (id bigint);\nTRUNCATE t;")),
    ("truncate-cascade", tx("TRUNCATE t CASCADE;"), tx("TRUNCATE t;")),
    ("drop-table", tx("DROP TABLE t;"), tx("ALTER TABLE t RENAME TO t_retired;")),
    ("drop-column", tx("ALTER TABLE t DROP COLUMN a;"), tx("ALTER TABLE t ALTER COLUMN a DROP NOT NULL;")),
    ("drop-cascade", tx("DROP VIEW v CASCADE;"), tx("DROP VIEW v;")),
    ("drop-schema", tx("DROP SCHEMA s;"), tx("CREATE SCHEMA s;")),
    ("rename-table", tx("ALTER TABLE t RENAME TO u;"), tx("ALTER TABLE t RENAME TO u;\nCREATE VIEW t AS SELECT a FROM u;")),
    ("rename-column", tx("ALTER TABLE t RENAME COLUMN a TO b;"), tx("ALTER TABLE t ADD COLUMN b int;")),
    ("rename-schema", tx("ALTER SCHEMA a RENAME TO b;"), tx("CREATE SCHEMA b;")),
    ("rename-object", tx("ALTER TYPE a RENAME TO b;"), tx("SELECT 1;")),
    ("set-schema", tx("ALTER TABLE t SET SCHEMA s;"), tx("CREATE SCHEMA s;")),
    ("enum-value-renamed", tx("ALTER TYPE k RENAME VALUE 'a' TO 'b';"), tx("ALTER TYPE k ADD VALUE 'b' AFTER 'a';")),
    ("enum-value-order", tx("ALTER TYPE k ADD VALUE 'b';"), tx("ALTER TYPE k ADD VALUE 'b' AFTER 'a';")),
    ("enum-type", tx("CREATE TYPE k AS ENUM ('a');"), tx("CREATE TABLE k (name text PRIMARY KEY);")),
    ("drop-refused", tx("CREATE TABLE n (id bigint PRIMARY KEY, a bigint REFERENCES t (id));\nDROP TABLE t;"), tx("CREATE TABLE n (id bigint PRIMARY KEY, a bigint REFERENCES t (id));\nALTER TABLE n DROP COLUMN a;\nDROP TABLE t;")),
    ("domain-with-constraint", tx("CREATE DOMAIN d AS int CHECK (VALUE > 0);"), tx("CREATE DOMAIN d AS int;")),
    ("drop-not-null", tx("ALTER TABLE t ALTER COLUMN a DROP NOT NULL;"), tx("ALTER TABLE t ALTER COLUMN a SET DEFAULT 1;")),
    ("drop-default", tx("ALTER TABLE t ALTER COLUMN a DROP DEFAULT;"), tx("ALTER TABLE t ALTER COLUMN a SET DEFAULT 1;")),
    ("constraint-dropped", tx("ALTER TABLE t DROP CONSTRAINT c;"), tx("ALTER TABLE t RENAME CONSTRAINT c TO d;")),
    ("constraint-unnamed", tx("ALTER TABLE t ADD CHECK (a > 0) NOT VALID;"), tx("ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0) NOT VALID;")),
    ("constraint-not-validated", tx("ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0) NOT VALID;"), tx("ALTER TABLE t ADD CONSTRAINT c CHECK (a > 0) NOT VALID;") + "\n" + tx("ALTER TABLE t VALIDATE CONSTRAINT c;")),
    ("foreign-key-unindexed", tx("CREATE TABLE n (id bigint PRIMARY KEY, a bigint REFERENCES t (id));"), tx("CREATE TABLE n (id bigint PRIMARY KEY, a bigint REFERENCES t (id));\nCREATE INDEX i ON n (a);")),
    ("foreign-key-cascades", tx("ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES u (id) ON DELETE CASCADE NOT VALID;"), tx("ALTER TABLE t ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES u (id) NOT VALID;")),
    ("trigger-created", tx("CREATE TRIGGER g AFTER INSERT ON t FOR EACH ROW EXECUTE FUNCTION f();"), tx("SELECT 1;")),
    ("trigger-disabled", tx("ALTER TABLE t DISABLE TRIGGER ALL;"), tx("ALTER TABLE t ENABLE TRIGGER ALL;")),
    ("rule-created", tx("CREATE RULE r AS ON INSERT TO t DO INSTEAD NOTHING;"), tx("SELECT 1;")),
    ("row-security-without-policy", tx("ALTER TABLE t ENABLE ROW LEVEL SECURITY;"), tx("CREATE POLICY p ON t USING (true);\nALTER TABLE t ENABLE ROW LEVEL SECURITY;")),
    ("row-security-disabled", tx("ALTER TABLE t DISABLE ROW LEVEL SECURITY;"), tx("SELECT 1;")),
    ("replica-identity", tx("ALTER TABLE t REPLICA IDENTITY NOTHING;"), tx("SELECT 1;")),
    ("sequence-changed", tx("ALTER SEQUENCE s RESTART WITH 1;"), tx("ALTER SEQUENCE s OWNED BY NONE;")),
    ("grant-public", tx("GRANT ALL ON t TO PUBLIC;"), tx("GRANT SELECT ON t TO reader;")),
    ("security-definer-path", tx("CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1';"), tx("CREATE FUNCTION f() RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = '' AS 'SELECT 1';")),
    ("password-in-script", tx("CREATE ROLE r PASSWORD 'open';"), tx("CREATE ROLE r;")),
    ("alter-system", auto("ALTER SYSTEM SET work_mem = '1GB';"), auto("SELECT 1;")),
    ("routine-changes-schema", tx("CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS 'BEGIN DROP TABLE x; END';"), tx("CREATE FUNCTION f() RETURNS void LANGUAGE plpgsql AS 'BEGIN END';")),
    ("dynamic-sql-unseen", tx("DO $$ DECLARE q text := 'x'; BEGIN EXECUTE q; END $$;"), tx("DO $$ BEGIN NULL; END $$;")),
    ("dynamic-sql-unseen", tx("DO $$ DECLARE t text := 'x'; BEGIN SELECT name INTO t FROM s; EXECUTE format('ALTER TABLE u ADD COLUMN a %s', t); END $$;"), tx("DO $$ DECLARE t text; BEGIN SELECT name INTO t FROM s; EXECUTE format('ALTER TABLE %I ADD COLUMN a int', t); END $$;")),
    ("body-unreadable", tx("DO LANGUAGE plperl $$ spi_exec_query('x'); $$;"), tx("DO $$ BEGIN NULL; END $$;")),
    ("routine-unseen", tx("CALL tidy();"), tx("SELECT now();")),
    ("generated-sql-run", "SELECT 'DROP TABLE t' \\gexec", "SELECT 1;"),
    ("psql-include", "\\i other.sql\nSELECT 1;", "SELECT 1;"),
    ("psql-command", "\\set x 1\nSELECT 1;", "SELECT 1;"),
    ("char-type", tx("CREATE TABLE n (a char(3) PRIMARY KEY);"), tx("CREATE TABLE n (a text PRIMARY KEY);")),
    ("varchar-length", tx("CREATE TABLE n (a varchar(3) PRIMARY KEY);"), tx("CREATE TABLE n (a text PRIMARY KEY);")),
    ("timestamp-without-zone", tx("CREATE TABLE n (a timestamp PRIMARY KEY);"), tx("CREATE TABLE n (a timestamptz PRIMARY KEY);")),
    ("timetz", tx("CREATE TABLE n (a timetz PRIMARY KEY);"), tx("CREATE TABLE n (a time PRIMARY KEY);")),
    ("integer-key", tx("CREATE TABLE n (id int PRIMARY KEY);"), tx("CREATE TABLE n (id bigint PRIMARY KEY);")),
    ("integer-key", tx("CREATE TABLE n (a int, PRIMARY KEY (a));"), tx("CREATE TABLE n (a bigint, PRIMARY KEY (a));")),
    ("integer-counter", tx("CREATE TABLE n (a text PRIMARY KEY, hits int);"), tx("CREATE TABLE n (a text PRIMARY KEY, hits bigint);")),
    ("smallint", tx("CREATE TABLE n (a text PRIMARY KEY, b smallint);"), tx("CREATE TABLE n (a text PRIMARY KEY, b bigint);")),
    ("serial", tx("CREATE TABLE n (id bigserial PRIMARY KEY);"), tx("CREATE TABLE n (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY);")),
    ("json-type", tx("ALTER TABLE t ADD COLUMN a json;"), tx("ALTER TABLE t ADD COLUMN a jsonb;")),
    ("money-type", tx("ALTER TABLE t ADD COLUMN a money;"), tx("ALTER TABLE t ADD COLUMN a numeric;")),
    ("float-money", tx("ALTER TABLE t ADD COLUMN price float;"), tx("ALTER TABLE t ADD COLUMN price numeric;")),
    ("nullable-boolean", tx("ALTER TABLE t ADD COLUMN a boolean;"), tx("ALTER TABLE t ADD COLUMN a boolean NOT NULL DEFAULT false;")),
    ("default-now-literal", tx("ALTER TABLE t ADD COLUMN a timestamptz DEFAULT 'now';"), tx("ALTER TABLE t ADD COLUMN a timestamptz DEFAULT now();")),
    ("no-primary-key", tx("CREATE TABLE n (a text);"), tx("CREATE TABLE n (a text PRIMARY KEY);")),
    ("table-as-select", tx("CREATE TABLE n AS SELECT 1 AS a;"), tx("CREATE TABLE n (LIKE t);")),
    ("table-if-not-exists", tx("CREATE TABLE IF NOT EXISTS n (a text PRIMARY KEY);"), tx("CREATE TABLE n (a text PRIMARY KEY);")),
    ("table-unlogged", tx("CREATE UNLOGGED TABLE n (a text PRIMARY KEY);"), tx("CREATE TABLE n (a text PRIMARY KEY);")),
    ("name-needs-quotes", tx('CREATE TABLE "Order" (a text PRIMARY KEY);'), tx("CREATE TABLE purchase (a text PRIMARY KEY);")),
    ("name-too-long", tx(f"ALTER TABLE t ADD COLUMN {'a' * 70} int;"), tx("ALTER TABLE t ADD COLUMN a int;")),
    ("view-select-star", tx("CREATE VIEW v AS SELECT * FROM t;"), tx("CREATE VIEW v AS SELECT a FROM t;")),
    ("schema-unqualified", tx("CREATE TABLE n (a text PRIMARY KEY);"), tx("CREATE TABLE app.n (a text PRIMARY KEY);")),
)  # fmt: skip


def findings(sql: str, **world: object) -> list[Finding]:
    return judge.judge(script.read(sql, name="pair").statements, World(14, **world))  # type: ignore[arg-type]  # by name


@pytest.mark.parametrize(("rule", "bad", "safe"), PAIRS, ids=[f"{rule}-{n}" for n, (rule, _, _) in enumerate(PAIRS)])
def test_the_bad_form_raises_what_the_safe_form_does_not(rule: str, bad: str, safe: str) -> None:
    assert rule in {finding.rule.id for finding in findings(bad)}
    assert rule not in {finding.rule.id for finding in findings(safe)}


def test_every_message_is_filled_in_and_every_rule_leads_somewhere() -> None:
    for _, bad, _ in PAIRS:
        for finding in findings(bad):
            assert "{" not in finding.message
            assert finding.message.strip()
    for name, rule in RULES.items():
        assert name == rule.id
        assert rule.docs.startswith("https://")
        assert all((rule.says, rule.why, rule.safer))


def test_who_sets_timeouts_is_not_told_to() -> None:
    said = {finding.rule.id for finding in findings(tx("ALTER TABLE t ADD COLUMN a int;"), runner_timeouts=True)}
    assert not said & {"lock-timeout-missing", "statement-timeout-missing"}


def test_of_a_downgrade_only_losses_and_failures_are_told() -> None:
    sql = tx("DROP TABLE t;\nCREATE INDEX i ON u (a);\nDROP INDEX CONCURRENTLY j;")
    found = judge.judge(script.read(sql, name="down").statements, World(14), direction="down")
    assert [(f.rule.id, f.severity) for f in found] == [
        ("downgrade-loses-data", "caution"),
        ("concurrently-in-transaction", "danger"),
    ]
