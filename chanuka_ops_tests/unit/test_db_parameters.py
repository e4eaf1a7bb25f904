"""Which servers a database's settings name, and what a connection to one is asked for with."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict
from pydantic import ValidationError

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings
from chanuka_ops.db import parameters
from chanuka_ops.db.parameters import Profile


def database(url: str, **more: Any) -> DatabaseSettings:
    return DatabaseSettings.model_validate({"url": url, **more})


def names(settings: DatabaseSettings) -> list[str]:
    return [spec.name for spec in parameters.nodes_of(settings)]


def asked(settings: DatabaseSettings) -> dict[str, Any]:
    return conninfo_to_dict(parameters.conninfo(settings))


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("postgresql://u@a/d", ["a:5432"]),
        ("postgresql://u@a:6543/d", ["a:6543"]),
        ("postgresql://u@/d?host=a,b&port=1,2", ["a:1", "b:2"]),
        ("postgresql://u@/d?host=a,b&port=7", ["a:7", "b:7"]),
        ("postgresql://u@/d?host=a:1&host=b:2", ["a:1", "b:2"]),
        ("postgresql://u@/d?host=a:1&host=b", ["a:1", "b:5432"]),
        ("postgresql://u@/d?host=/run/pg&port=5433", ["/run/pg:5433"]),
        ("postgresql://u@/d", ["local:5432"]),
        ("postgresql://u@[::1]:5433/d", ["::1:5433"]),
    ],
)
def test_the_servers_a_url_names(url: str, found: list[str]) -> None:
    assert names(database(url)) == found


def test_each_server_is_asked_for_by_itself() -> None:
    specs = parameters.nodes_of(database("postgresql://u@/d?host=a:1&host=b:2&sslmode=require"))
    assert [(asked(one.settings)["host"], asked(one.settings)["port"]) for one in specs] == [("a", "1"), ("b", "2")]
    assert {asked(one.settings)["sslmode"] for one in specs} == {"require"}


def test_a_replica_inherits_what_its_url_leaves_out() -> None:
    settings = database(
        "postgresql://ops:s3cret@a/shop?sslmode=require",
        replicas=[{"url": "postgresql://b:1", "weight": 3}, {"url": "postgresql://other:own@c/shop"}],
    )
    _, b, c = parameters.nodes_of(settings)
    assert (b.name, b.weight, b.is_replica) == ("b:1", 3, True)
    assert b.settings.sqlalchemy_url.username == "ops"
    assert b.settings.sqlalchemy_url.password == "s3cret"
    assert b.settings.sqlalchemy_url.database == "shop"
    assert asked(b.settings)["sslmode"] == "require"
    assert c.settings.sqlalchemy_url.username == "other"
    assert c.settings.sqlalchemy_url.password == "own"
    shown = repr(settings) + repr(b) + repr(c) + str(settings.model_dump(mode="json"))
    assert "s3cret" not in shown
    assert ":own@" not in shown


def test_a_replicas_own_password_comes_before_the_databases_source() -> None:
    settings = database(
        "postgresql://ops@a/shop",
        password={"env": "SECRET"},
        replicas=[{"url": "postgresql://b"}, {"url": "postgresql://ops:own@c"}],
    )
    a, b, c = (spec.settings.password for spec in parameters.nodes_of(settings))
    assert a is not None
    assert b is not None
    assert c is None


def test_another_database_of_the_same_servers() -> None:
    settings = database("postgresql://u@a/shop", replicas=[{"url": "postgresql://b/shop"}]).with_dbname("postgres")
    assert {spec.settings.sqlalchemy_url.database for spec in parameters.nodes_of(settings)} == {"postgres"}


def test_a_server_that_stands_twice_is_refused() -> None:
    twice = database("postgresql://u@a/d", replicas=[{"url": "postgresql://a:5432"}])
    with pytest.raises(errors.ConfigurationError, match="a:5432 stands twice"):
        names(twice)


def test_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(errors.ConfigurationError, match="port 'x' of host 'a' is no number"):
        names(database("postgresql://u@/d?host=a:x"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"replicas": [{"url": "postgresql://b/other"}]},
        {"replicas": [{"url": "mysql://b"}]},
        {"replicas": [{"url": "postgresql://b", "weight": -1}]},
        {"replicas": [{"url": "postgresql://b?password=x"}]},
        {"pooler": "statement"},
        {"pool": {"runs": 0}},
        {"routing": {"max_lag_bytes": -1}},
        {"breaker": {"failures": 0}},
    ],
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        database("postgresql://u@a/d", **wrong)


@pytest.mark.parametrize("host", ["db.internal", "10.0.0.1", "203.0.113.7", "2001:db8::1", "localhost.example"])
def test_tls_is_verified_in_full_beyond_this_machine(host: str) -> None:
    url = f"postgresql://u@[{host}]/d" if ":" in host else f"postgresql://u@{host}/d"
    assert asked(database(url))["sslmode"] == "verify-full"


@pytest.mark.parametrize("mode", ["disable", "require", "verify-ca"])
def test_weaker_is_what_one_writes_down(mode: str) -> None:
    assert asked(database(f"postgresql://u@db.internal/d?sslmode={mode}"))["sslmode"] == mode


@pytest.mark.parametrize(
    "url",
    ["postgresql://u@/d", "postgresql://u@localhost/d", "postgresql://u@127.0.0.1/d", "postgresql://u@/d?host=/run/pg"],
)
def test_what_stays_on_this_machine_is_left_to_libpq(url: str) -> None:
    assert "sslmode" not in asked(database(url))


def test_an_address_behind_a_local_name_is_not_local() -> None:
    assert asked(database("postgresql://u@localhost/d?hostaddr=10.0.0.1"))["sslmode"] == "verify-full"


@given(profile=st.sampled_from(Profile), lock_s=st.one_of(st.none(), st.floats(0.001, 2_000_000)))
def test_a_lock_timeout_is_always_set(profile: Profile, lock_s: float | None) -> None:
    settings = parameters.session_settings(database("postgresql://u@a/d"), profile, lock_timeout_s=lock_s)
    assert int(settings["lock_timeout"]) > 0, "0 is no limit"


def test_the_password_is_in_no_connection_string() -> None:
    assert "s3cret" not in parameters.conninfo(database("postgresql://u:s3cret@a/d"))
