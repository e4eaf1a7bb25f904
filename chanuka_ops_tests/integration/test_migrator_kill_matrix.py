"""Killed at every boundary of every statement, and run again: nothing is lost, nothing is done twice."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops_tests.integration.resume_cases import CASES, location_of, state_of
from chanuka_ops_tests.plugins.migrating import Kind, Migrations
from chanuka_ops_tests.plugins.nodes import Node, cluster_template, opened

pytestmark = [pytest.mark.postgres, pytest.mark.slow]


@pytest.fixture(scope="module")
def node(pg: Binaries, session_dir: Path) -> Iterator[Node]:
    """A server to stop at once, and start again."""
    with (
        cluster_template(session_dir / "matrix-template", pg, {}) as (data, programs),
        opened(Node, session_dir / "matrix", data, programs) as running,
    ):
        running.start()
        yield running


def fresh(node: Node) -> DatabaseSettings:
    name = f"matrix_{uuid.uuid4().hex[:8]}"
    node.query(f"create database {name} template template0")
    return node.settings(name)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["client", "backend", "server"])
@pytest.mark.parametrize("case", list(CASES))
def test_every_boundary(case: str, kind: Kind, node: Node, migrations: Migrations, tmp_path: Path) -> None:
    location = location_of(tmp_path, CASES[case])
    undisturbed = fresh(node)
    passed = [name for name in migrations.run(undisturbed, location)["boundaries"] if name.startswith("b2 ")]
    expected = state_of(undisturbed)
    assert len(passed) >= 10
    unexplained = []
    for boundary in passed:
        database = fresh(node)
        struck = migrations.run(database, location, boundary=boundary, kind=kind, postmaster=node.pid)
        if kind == "server":
            node.start()
        rerun = migrations.run(database, location)
        if "error" in rerun or state_of(database) != expected:
            unexplained.append((boundary, struck.get("error"), rerun.get("error") or state_of(database)))
        node.query(f"drop database {database.sqlalchemy_url.database} with (force)")
    assert not unexplained
