"""`chanuka-ops db …`."""

from __future__ import annotations

from typing import Any

import click

from chanuka_ops import errors
from chanuka_ops.cli.face import Face, common
from chanuka_ops.orchestrators import applying


@click.group()
def db() -> None:
    """Look at databases and set them up."""


@db.command("ping")
@common
def ping(face: Face) -> None:
    """Ask the server what it is."""
    with face.opened() as orchestrator:
        probe = orchestrator.probe()
    document = {
        "database": face.database,
        "role": probe.role,
        "server_version": f"{probe.major}.{probe.server_version % 10000}",
        "latency_ms": probe.latency_ms,
    }
    if face.as_json:
        face.answer(document)
    else:
        face.table(f"Database {face.database}", tuple(document), [tuple(document.values())])


@db.command("status")
@common
def status(face: Face) -> int:
    """Show each server of the database: role, lag, breaker, connections. 1 if none could be reached."""
    with face.opened() as orchestrator:
        document = orchestrator.status()
    nodes = document["nodes"]
    if face.as_json:
        face.answer(document)
    else:
        columns = ("server", "role", "lag", "breaker", "in use", "open", "limit", "reads")
        face.table(f"Servers of {face.database}", columns, [_row(node, alone=len(nodes) == 1) for node in nodes])
        face.say(_budget(document["budget"]))
    return 0 if any(node["role"] != "unknown" for node in nodes) else errors.ChanukaError.exit_code


def _row(node: dict[str, Any], *, alone: bool) -> tuple[object, ...]:
    pool = node["pool"]
    lag = "" if node["lag_bytes"] is None else f"{node['lag_bytes']:,} B, {node['lag_s']:.1f} s"
    weight = "all" if alone else f"weight {node['weight']}" if node["role"] == "standby" else ""
    breaker = node["breaker"]
    if breaker == "open":
        wait_s = max(one["retry_after_s"] for one in node["breakers"].values())
        breaker = f"open for {wait_s:.1f} s"
    reads = f"none: {node['ejected']}" if node["ejected"] else weight
    return node["name"], node["role"], lag, breaker, pool["in_use"], pool["open"], pool["limit"], reads


def _budget(budget: dict[str, Any] | None) -> str:
    if budget is None:
        return "connection budget: unknown, as no server could be asked"
    verdict = "fits" if budget["fits"] else "does NOT fit: lower pool.size or pool.runs, or raise max_connections"
    return (
        f"connection budget: all runs together may open {budget['needed']}; the server has {budget['available']}"
        f" for ordinary roles: it {verdict}"
    )


@db.group("breaker")
def breaker() -> None:
    """Look after the circuit breakers."""


@breaker.command("reset")
@common
def reset_breakers(face: Face) -> None:
    """Close every circuit breaker of the database, for all processes of this host: the next may try at once."""
    with face.opened() as orchestrator:
        closed = orchestrator.manager.reset_breakers()
    if face.as_json:
        face.answer({"database": face.database, "closed": closed})
    else:
        face.table("Breakers closed", ("server", "class"), [(one["node"], one["class"]) for one in closed])


@db.command("setup")
@common
def setup(face: Face) -> None:
    """Make the database if it isn't there, and migrate it to the newest revision."""
    with face.opened() as orchestrator:
        created, run = applying.set_up(orchestrator)
    if face.as_json:
        face.answer({"created": created, **run.to_json()})
    else:
        face.say(f"database {face.database}: {'made' if created else 'was there'}, at revision {run.migrated.after}")
