"""Very large tables are compared part by part: each drill reads one, and all of them together read everything."""

from __future__ import annotations

import pytest

from chanuka_ops import errors
from chanuka_ops.backup.answers import Comparison
from chanuka_ops.backup.model import Fingerprint
from chanuka_ops.backup.proving import comparing
from chanuka_ops.backup.taking.fingerprint import Sample
from chanuka_ops.config import DatabaseSettings
from chanuka_ops_tests.integration.fingerprint_cases import retaken, taken
from chanuka_ops_tests.plugins.backup import execute

pytestmark = pytest.mark.postgres

PARTS = 5
EVERY = Sample(above_bytes=0, parts=PARTS)
BIG = (
    "create table big(id bigint primary key, v text)",
    "insert into big select g, 'v' || g from generate_series(1, 5000) g",
    "create table few(v text)",
    "insert into few values ('x')",
)


def drilled(database: DatabaseSettings, source: Fingerprint, seen: list[int]) -> Comparison:
    """One drill's comparison, its part chosen after those that were seen, and added to them."""
    part = comparing.next_part(seen, PARTS)
    found = comparing.compare(source, retaken(database, source, part=part), same_major=True, part=part)
    assert found.part == part
    seen.append(part)
    return found


def test_the_parts_make_up_the_whole(database: DatabaseSettings) -> None:
    execute(database, *BIG)
    whole, parts = taken(database), taken(database, sample=EVERY)
    big = parts.tables["public.big"]
    assert len(big.parts) == PARTS
    assert sum(part.rows for part in big.parts) == 5000
    assert min(part.rows for part in big.parts) > 700, "they are of about one size"
    assert (big.rows, big.hash) == (whole.tables["public.big"].rows, whole.tables["public.big"].hash)
    assert parts.tables["public.few"] == whole.tables["public.few"], "without a key it is compared whole"


def test_as_many_drills_as_parts_compare_every_row(database: DatabaseSettings) -> None:
    execute(database, *BIG)
    source = taken(database, sample=EVERY)
    seen: list[int] = []
    drills = [drilled(database, source, seen) for _ in range(PARTS)]
    assert all(drill.equal for drill in drills)
    assert sorted(seen) == list(range(PARTS))
    assert sum(drill.rows_compared - 1 for drill in drills) == 5000  # the small table is compared each time
    assert all(0.1 < drill.coverage < 0.3 for drill in drills)
    assert drilled(database, source, seen).part == seen[0], "then from the beginning"


def test_a_changed_row_is_found_by_the_drill_of_its_part(database: DatabaseSettings) -> None:
    execute(database, *BIG)
    source = taken(database, sample=EVERY)
    execute(database, "update big set v = 'other' where id = 4711")
    seen: list[int] = []
    drills = [drilled(database, source, seen) for _ in range(PARTS)]
    (found,) = [mismatch for drill in drills for mismatch in drill.mismatches]
    assert found.object == "public.big"
    assert found.source.startswith("part ")
    assert f" of {PARTS}: content hash" in found.source


def test_a_lost_row_is_found_by_every_drill(database: DatabaseSettings) -> None:
    execute(database, *BIG)
    source = taken(database, sample=EVERY)
    execute(database, "delete from big where id = 4711")
    seen: list[int] = []
    for _ in range(PARTS):
        assert [m.restored for m in drilled(database, source, seen).mismatches] == ["4999 rows"]


def test_a_row_that_another_part_lost_and_this_one_has_twice(database: DatabaseSettings) -> None:
    execute(database, *BIG)
    source = taken(database, sample=EVERY)
    execute(database, "update big set id = id + 5000 where id <= 100")
    seen: list[int] = []
    assert not all(drilled(database, source, seen).equal for _ in range(PARTS))


def test_a_copy_without_the_key_is_compared_whole(database: DatabaseSettings) -> None:
    execute(database, *BIG)
    source = taken(database, sample=EVERY)
    execute(database, "alter table big drop constraint big_pkey")
    found = drilled(database, source, [])
    assert found.mismatches == ()
    assert "index public.big_pkey" in {problem.object for problem in found.structure_problems}
    execute(database, "update big set v = 'other' where id = 4711")
    assert [mismatch.object for mismatch in drilled(database, source, []).mismatches] == ["public.big"]


KEYS = {
    "create table t(id int primary key, v text)": True,
    "create table t(a int not null, b timestamptz not null, unique (b, a) include (c), c int)": True,
    "create table t(a int unique, b int)": False,
    "create table t(a int not null, b int); create unique index on t(a) where b > 0": False,
    "create table t(a int not null); create unique index on t((a + 1))": False,
    "create table t(a int not null); create index on t(a)": False,
    "create table t()": False,
}


@pytest.mark.parametrize("table", KEYS)
def test_a_key_is_of_columns_that_every_row_has(database: DatabaseSettings, table: str) -> None:
    execute(database, *table.split("; "))
    assert bool(taken(database, sample=Sample(above_bytes=-1, parts=PARTS)).tables["public.t"].parts) is KEYS[table]


def test_a_table_below_the_limit_has_no_parts(database: DatabaseSettings) -> None:
    execute(database, *BIG)
    assert not taken(database, sample=Sample(above_bytes=100 * 2**20, parts=PARTS)).tables["public.big"].parts


def test_only_the_rows_of_the_part_are_hashed(database: DatabaseSettings) -> None:
    """Whoever reads a row of another part's column fails here: an enum's label that its type has lost."""
    execute(database, *BIG, "create type mood as enum ('sad', 'ok')", "alter table big add m mood default 'ok'")
    source = taken(database, sample=EVERY)
    table = source.tables["public.big"]
    execute(
        database,
        f"update big t set m = 'sad' where pg_catalog.abs(({table.key}) % {PARTS}) <> 3",
        "delete from pg_enum where enumlabel = 'sad'",
    )
    copy = retaken(database, source, part=3)
    assert copy.tables["public.big"].parts == (table.parts[3],)
    with pytest.raises(errors.DatabaseError, match="invalid internal value for enum"):
        retaken(database, source, part=2)
