"""What the command line's tests share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from chanuka_ops.config import DatabaseSettings
from chanuka_ops.postgres.server import Server
from chanuka_ops_tests.plugins.backup import execute


@pytest.fixture
def server_database(server: Server) -> Iterator[DatabaseSettings]:
    """A database that isn't there yet on a server that is."""
    name = f"missing_{uuid.uuid4().hex[:12]}"
    yield server.settings(name)
    execute(server.settings("postgres"), f"drop database if exists {name} with (force)")
