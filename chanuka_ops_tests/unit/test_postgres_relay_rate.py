"""How much may pass and when, and what a client is told about where to connect."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, ReplicaSettings
from chanuka_ops.db import parameters
from chanuka_ops.db.connecting import pq_params
from chanuka_ops.postgres import relay
from chanuka_ops.postgres.relay import BURST_S, Bucket, Throttle

STEPS = st.lists(st.tuples(st.floats(0, 5), st.integers(1, 200_000)), min_size=1, max_size=60)


@given(st.integers(1_000, 10_000_000), STEPS)
def test_over_no_time_does_more_pass_than_the_rate(rate: int, steps: list[tuple[float, int]]) -> None:
    """Between any two chunks that pass, whatever came when."""
    bucket = Bucket(rate, now_s=0)
    now, passed = 0.0, []
    for pause_s, count in steps:
        now += pause_s
        passed.append((now + bucket.take(count, now_s=now), count))
    for first in range(len(passed)):
        total = 0
        for last in range(first, len(passed)):
            total += passed[last][1]
            over_s = passed[last][0] - passed[first][0]
            assert total <= rate * (over_s + BURST_S) + passed[first][1] + 1


@given(st.integers(1_000, 10_000_000), st.lists(st.integers(1, 200_000), min_size=1, max_size=60))
def test_who_always_wants_more_gets_the_whole_rate(rate: int, counts: list[int]) -> None:
    bucket = Bucket(rate, now_s=100)
    now = 100.0
    for count in counts:
        now += bucket.take(count, now_s=now)
    assert now - 100 == pytest.approx(sum(counts) / rate)


@pytest.mark.parametrize(
    ("times_s", "waits_s"),
    [
        ((0, 0, 0), (1.0, 2.0, 3.0)),  # at once: each behind the other
        ((0, 1, 2), (1.0, 1.0, 1.0)),
        ((0, 60), (1.0, 1.0 - BURST_S)),  # a long rest is worth a tenth of a second, no more
        ((0, 0.5), (1.0, 1.5)),
        ((0, -50), (1.0, 52.0)),  # a monotonic clock doesn't, but then nobody gets more for it
    ],
)
def test_when_a_thousand_bytes_may_pass(times_s: tuple[float, ...], waits_s: tuple[float, ...]) -> None:
    bucket = Bucket(1_000, now_s=0)
    assert tuple(bucket.take(1_000, now_s=now) for now in times_s) == pytest.approx(waits_s)


@pytest.mark.parametrize("rate", [0, -1])
def test_a_limit_is_more_than_nothing(rate: int) -> None:
    with pytest.raises(ValueError, match="a limit is more than 0"):
        Throttle(rate)


@pytest.mark.parametrize(("rate", "chunk"), [(1, 512), (100_000, 5_000), (1_000_000, 50_000), (10**9, 65_536)])
def test_a_slow_limit_has_small_chunks(rate: int, chunk: int) -> None:
    assert Throttle(rate).chunk == chunk


def test_threads_share_a_throttle() -> None:
    throttle = Throttle(1_000_000)

    def work() -> None:
        for _ in range(10):
            throttle.take(10_000)

    threads = [threading.Thread(target=work) for _ in range(4)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert 0.39 <= time.monotonic() - start < 5


def test_who_waits_is_released_at_once() -> None:
    throttle = Throttle(1)
    waiting = threading.Thread(target=throttle.take, args=(10_000,))
    waiting.start()
    start = time.monotonic()
    throttle.release()
    waiting.join(timeout=20)
    throttle.take(10_000)
    assert time.monotonic() - start < 5


def at(url: str, **options: object) -> DatabaseSettings:
    return DatabaseSettings.model_validate({"url": SecretStr(url), **options})


def told(database: DatabaseSettings) -> dict[str, str]:
    """What libpq is told of where to connect, by way of the relay."""
    with relay.limited(database, bytes_per_s=1000) as through:
        return pq_params(parameters.conninfo(through))


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@db.example.org:6543/main",
        "postgresql://u@/main?host=db.example.org&port=6543",
        "postgresql://u@db.example.org:6543/main?hostaddr=192.0.2.7",
    ],
)
def test_a_server_keeps_its_name_so_that_its_certificate_is_checked(url: str) -> None:
    params = told(at(url))
    assert (params["host"], params["hostaddr"], params["sslmode"]) == ("db.example.org", "127.0.0.1", "verify-full")
    assert params["port"] not in {"6543", "5432"}
    assert (params["user"], params["dbname"]) == ("u", "main")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("postgresql://u@localhost/main?hostaddr=192.0.2.7", "localhost"),
        ("postgresql://u@/main?hostaddr=192.0.2.7", "192.0.2.7"),
    ],
)
def test_a_distant_address_does_not_pass_for_a_local_one(url: str, host: str) -> None:
    """The relay's own address is local, and to such a one libpq would fall back to clear text."""
    params = told(at(url))
    assert (params["host"], params["hostaddr"], params["sslmode"]) == (host, "127.0.0.1", "verify-full")


def test_what_the_url_says_of_tls_stays() -> None:
    params = told(at("postgresql://u@db.example.org/main?sslmode=require&sslrootcert=/ca.crt"))
    assert (params["sslmode"], params["sslrootcert"]) == ("require", "/ca.crt")


def test_a_socket_is_replaced_by_a_private_one(tmp_path: Path) -> None:
    database = at(f"postgresql://u:pass@/main?host={quote(str(tmp_path))}&port=5544")
    with relay.limited(database, bytes_per_s=1000) as through:
        params = pq_params(parameters.conninfo(through))
        directory = Path(params["host"])
        assert directory != tmp_path
        assert params["port"] == "5544"
        assert "sslmode" not in params
        assert directory.stat().st_mode & 0o777 == 0o700
        assert (directory / ".s.PGSQL.5544").is_socket()
        assert through.sqlalchemy_url.password == "pass"
    assert not directory.exists()


def test_no_replica_goes_past_it() -> None:
    replica = ReplicaSettings(url=SecretStr("postgresql://other.example.org"))
    with relay.limited(at("postgresql://db.example.org/main", replicas=(replica,)), bytes_per_s=1000) as through:
        assert through.replicas == ()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:s3cret@/main", "the URL must name the server"),
        ("postgresql://u:s3cret@one.example.org,two.example.org/main", "a rate limit is for one server"),
        ("postgresql://u:s3cret@/main?host=/run/postgresql&requirepeer=postgres", "drop requirepeer"),
    ],
)
def test_what_cannot_be_relayed_is_refused(url: str, said: str) -> None:
    with pytest.raises(errors.ConfigurationError, match=said) as failure, relay.limited(at(url), bytes_per_s=1000):
        pass
    assert "s3cret" not in str(failure.value)


def test_no_thread_is_left_of_a_relay_that_nobody_used() -> None:
    with relay.limited(at("postgresql://db.example.org/main"), bytes_per_s=1000):
        assert [thread for thread in threading.enumerate() if thread.name == "chanuka-relay"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("chanuka-relay")]
