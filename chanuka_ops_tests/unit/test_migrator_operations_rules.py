"""A backfill's decisions: how large a batch, when to rest; and the statements it is made of."""

from __future__ import annotations

import pytest

from chanuka_ops.migrator.operations import rules
from chanuka_ops.migrator.operations.model import Index, Key, Limits, Load, Walk

QUIET = Load(wal_bytes=0, lag_bytes=0, hidden=0, wraparound=False)
WALK = Walk("chanuka_ops.backfills", '"t"', Key(('"a"', '"b"'), ("bigint", "text")), '"n" = (1\n)', None, 7)


@pytest.mark.parametrize(
    ("size", "took_s", "expected"),
    [
        (1000, 0.5, 1000),
        (1000, 1.0, 500),
        (1000, 0.001, 2000),  # one fast batch is little evidence
        (1000, 0.0, 2000),
        (20, 60.0, rules.SMALLEST_BATCH),
        (40_000, 0.1, rules.LARGEST_BATCH),
    ],
)
def test_the_next_batch_is_as_large_as_fits_the_time(size: int, took_s: float, expected: int) -> None:
    assert rules.next_size(size, took_s, 0.5) == expected


@pytest.mark.parametrize(
    ("load", "limits", "words"),
    [
        (QUIET, Limits(0.5, 0, None), None),
        (Load(0, 101, 0, wraparound=False), Limits(0.5, 100, None), "101 bytes of WAL behind, over 100"),
        (Load(0, 101, 0, wraparound=False), Limits(0.5, None, None), None),
        (Load(0, 0, 0, wraparound=True), Limits(0.5, None, None), "wraparound"),
        (Load(0, 0, 3, wraparound=False), Limits(0.5, 100, None), None),  # told in the log; nobody is waited for
    ],
)
def test_when_it_rests(load: Load, limits: Limits, words: str | None) -> None:
    reason = rules.brake(load, limits)
    assert reason is None if words is None else words in (reason or "")


@pytest.mark.parametrize(
    ("wal_bytes", "took_s", "limit", "expected"),
    [(1000, 1.0, 500, 1.0), (1000, 2.0, 500, 0.0), (1000, 5.0, 500, 0.0), (1000, 1.0, None, 0.0), (0, 1.0, 500, 0.0)],
)
def test_how_long_it_rests_to_stay_under_a_rate(
    wal_bytes: int, took_s: float, limit: int | None, expected: float
) -> None:
    assert rules.rest_s(wal_bytes, took_s, Limits(0.5, None, limit)) == expected


def test_a_backfill_is_another_when_anything_of_it_is_another() -> None:
    key = Key(('"a"',), ("bigint",))
    names = {
        rules.fingerprint(1, key, "n = 1", None),
        rules.fingerprint(2, key, "n = 1", None),
        rules.fingerprint(1, WALK.key, "n = 1", None),
        rules.fingerprint(1, key, "n = 2", None),
        rules.fingerprint(1, key, "n = 1", "n > 0"),
    }
    assert len(names) == 5
    assert rules.fingerprint(1, key, "n = 1", None) in names


def test_only_the_first_batch_has_no_lower_bound() -> None:
    first, next_ = (rules.batch_sql(WALK, first=first, size=50) for first in (True, False))
    assert "last_key)[1]::bigint" not in first
    assert "(last_key)[1]::bigint" in next_
    assert first.count("limit 50") == next_.count("limit 50") == 1


def test_an_index_in_all_its_parts() -> None:
    index = Index("i", ('"a"', "lower(b)"), unique=True, using="gist", include=('"c"',), where="d")
    assert rules.create_index(index, '"t"', '"i"', how="only") == (
        'create unique index "i" on only "t" using gist ("a", lower(b)) include ("c") where (d)'
    )
