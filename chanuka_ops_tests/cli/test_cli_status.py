"""`db status` and `db breaker reset`, as a person and a script see them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chanuka_ops.config import DatabaseSettings
from chanuka_ops_tests.plugins.processes import Cli, url_of
from chanuka_ops_tests.plugins.replicas import Cluster

DEAD = "postgresql://ops:hunter2@127.0.0.1:1/chanuka"


def toml_of(cluster: Cluster) -> str:
    urls = {node.name: url_of(node.settings()) for node in cluster.nodes}
    replicas = ", ".join(f'{{ url = "{urls[name]}" }}' for name in ("sync", "asynchronous"))
    return f'[databases.main]\nurl = "{urls["primary"]}"\nreplicas = [{replicas}]\n'


@pytest.mark.postgres
def test_a_primary_with_two_replicas(here: Cli, replicas: Cluster, tmp_path: Path) -> None:
    (tmp_path / "chanuka.toml").write_text(toml_of(replicas), encoding="utf-8")
    replicas.caught_up()
    ran = here("db", "status", "--json")
    assert ran.status == 0, ran.output
    document = ran.json
    assert document["database"] == "main"
    assert [node["role"] for node in document["nodes"]] == ["primary", "standby", "standby"]
    for node in document["nodes"]:
        assert node["breaker"] == "closed"
        assert node["pool"]["open"] == 1
        assert node["pool"]["limit"] == 3
        assert node["counts"]["connects"] == 1
        assert node["ejected"] is None
    lags = [node["lag_bytes"] for node in document["nodes"]]
    assert lags[0] is None
    assert all(lag < 1_000_000 for lag in lags[1:])
    assert document["budget"]["needed"] == 30
    table = here("db", "status").stdout
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    assert table.splitlines()[1].split() == readme.split("Servers of main\n")[1].splitlines()[0].split()
    assert table.count("standby") == 2
    assert "connection budget: all runs together may open 30" in table


@pytest.mark.postgres
def test_one_server(here: Cli, database: DatabaseSettings) -> None:
    ran = here("db", "status", "--json", env={"DATABASE_URL": url_of(database)})
    (node,) = ran.json["nodes"]
    assert (node["role"], node["lag_bytes"], node["breaker"]) == ("primary", None, "closed")


def test_a_server_that_is_down_is_unknown_and_left_alone(here: Cli) -> None:
    env = {"DATABASE_URL": DEAD}
    first = here("db", "status", "--json", env=env)
    assert first.status == 1
    (node,) = first.json["nodes"]
    assert node["role"] == "unknown"
    assert node["lag_bytes"] is None
    assert "unknown, as no server could be asked" in here("db", "status", env=env).stdout
    for _ in range(3):
        here("db", "ping", env=env)
    assert here("db", "status", "--json", env=env).json["nodes"][0]["breaker"] in {"open", "half-open"}
    assert "hunter2" not in here("--verbose", "db", "status", env=env).output


@pytest.mark.slow
def test_a_breaker_is_reset_for_all_processes(here: Cli, cli: Cli) -> None:
    env = {"DATABASE_URL": DEAD}
    for _ in range(3):
        assert cli("db", "ping", env=env).status == 1
    assert here("db", "status", "--json", env=env).json["nodes"][0]["breaker"] in {"open", "half-open"}
    reset = here("db", "breaker", "reset", "--json", env=env)
    assert reset.status == 0
    assert reset.json == {"database": "main", "closed": [{"node": "127.0.0.1:1", "class": "availability"}]}
    assert here("db", "breaker", "reset", "--json", env=env).json["closed"] == []


def test_without_breakers_there_are_none(here: Cli, state_dir: Path) -> None:
    env = {"DATABASE_URL": DEAD, "CHANUKA__FEATURES__CIRCUIT_BREAKER": "false"}
    for _ in range(4):
        here("db", "ping", env=env)
    document = json.loads(here("db", "status", "--json", env=env).stdout)
    assert document["nodes"][0]["breaker"] == "off"
    assert list(state_dir.iterdir()) == []
