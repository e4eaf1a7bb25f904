"""What a database's servers are doing, for people and machines; and their end."""

from __future__ import annotations

import logging
import time
from typing import Any

from chanuka_ops.db import engines, router
from chanuka_ops.db.cluster import Cluster

log = logging.getLogger(__name__)

DRAIN_POLL_S = 0.02


def snapshot(cluster: Cluster) -> dict[str, Any]:
    """Return the numbers: each server's role, lag, pool, breaker, counts and times; failovers; reads that fell back.

    `lag_bytes` and `lag_s` are None where they are not known; `ejected` says why a replica gets no reads.
    """
    for node in cluster.nodes:
        node.slots.warn_of_leaks()
    return {
        "nodes": _nodes(cluster),
        "reads_on_primary": cluster.fallbacks,
        "failovers": cluster.failovers,
        "breaker_shared": next((node.gate.shared for node in cluster.nodes if node.gate is not None), None),
    }


def _nodes(cluster: Cluster) -> list[dict[str, Any]]:
    views = cluster.views()
    out = cluster.ejected(views) if cluster.reads_routed else {}
    primary = router.primary_of(views)
    shown = []
    for node, view in zip(cluster.nodes, views, strict=True):
        seen = view.observation if view.reachable else None
        shown.append(
            {
                "name": node.name,
                "role": seen.role if seen else "unknown",
                "weight": node.weight,
                "lag_bytes": view.lag.bytes if seen and view.lag else None,
                "lag_s": round(view.lag.seconds, 3) if seen and view.lag else None,
                "timeline": seen.timeline if seen else None,
                "ejected": None if view is primary else out.get(node.name),
                **node.to_json(),
            }
        )
    return shown


def reset_breakers(cluster: Cluster) -> list[dict[str, str]]:
    """Close every breaker; return which were not closed: [{node, class}]."""
    return [
        {"node": node.name, "class": name}
        for node in cluster.nodes
        if node.gate is not None
        for name in node.gate.reset()
    ]


def shut(cluster: Cluster, *, drain_s: float) -> None:
    """Wait for what is in use, cancel and close what is left then, and say which line had it."""
    cluster.stop()
    give_up = time.monotonic() + drain_s
    slots = [one for node in cluster.nodes for one in (node.slots, node.dedicated_slots)]
    for one in slots:
        one.closed = True
    while any(one.in_use for one in slots) and time.monotonic() < give_up:
        time.sleep(DRAIN_POLL_S)
    for holder in [holder for one in slots for holder in one.holders()]:
        log.error(
            "a connection was never given back by %s: closed now",
            holder,
            extra={"event": "db.leak", "file": holder.file, "line": holder.line},
        )
        engines.abandon(holder.connection)
    for node in cluster.nodes:
        node.close()
