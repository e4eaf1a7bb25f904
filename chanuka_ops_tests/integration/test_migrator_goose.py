"""Many at once on one database: exactly one does the work, the others find nothing to do, and nobody fails."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops_tests.integration.test_migrator_trouble import migrator, scripts_in
from chanuka_ops_tests.plugins.pooler import Pooler
from chanuka_ops_tests.plugins.processes import PROGRAM, url_of

pytestmark = pytest.mark.postgres

MANY = 8
CONCURRENT = """
op.execute('create table big (id int)')
op.execute('insert into big select generate_series(1, 20000)')
with op.get_context().autocommit_block():
    op.execute('create index concurrently big_idx on big (id)')
op.execute('select pg_sleep(0.3)')
"""


@pytest.mark.slow
def test_of_eight_exactly_one_does_the_work(
    database: DatabaseSettings, base_environment: dict[str, str], tmp_path: Path
) -> None:
    where = scripts_in(tmp_path, a1="op.execute('create table a1 (id int)')", b2=CONCURRENT)
    env = {
        **base_environment,
        "DATABASE_URL": url_of(database),
        "CHANUKA__OPERATIONS__MIGRATION__SCRIPT_LOCATION": str(where),
        "CHANUKA__OPERATIONS__MIGRATION__LOCK_TIMEOUT": "0.2",
        "CHANUKA__OPERATIONS__MIGRATION__WAIT": "100",
    }
    argv = [*PROGRAM, "migrate", "up", "--json"]
    own = [{**env, "CHANUKA_STATE_DIR": str(tmp_path / f"state{n}")} for n in range(MANY)]  # as on a host each
    running = [
        subprocess.Popen(argv, env=each, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for each in own
    ]
    ended = [(process.communicate(timeout=110), process.returncode) for process in running]
    assert [status for _, status in ended] == [0] * MANY, [said for (_, said), _ in ended]
    documents = [json.loads(out) for (out, _), _ in ended]
    assert sorted(len(document["applied"]) for document in documents) == [0] * (MANY - 1) + [2]
    assert {document["to"] for document in documents} == {"b2"}
    assert not any("40P01" in out + said for (out, said), _ in ended)


def test_behind_a_transaction_pooler_it_is_refused_with_the_reason(
    pgbouncer: Pooler, manager: ConnectionManager, tmp_path: Path
) -> None:
    where = scripts_in(tmp_path, a1="op.execute('create table a1 (id int)')")
    settings = manager.settings.model_copy(update={"pooler": "transaction"})
    with (
        ConnectionManager("main", settings) as pooled,
        pytest.raises(errors.PoolerUnfit, match=r"another server session.*Nothing was changed"),
    ):
        migrator(pooled, where).up()
