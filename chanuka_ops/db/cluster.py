"""The servers of one database together: which takes writes, which may serve a read, and getting a connection there."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count

from chanuka_ops import errors
from chanuka_ops.config import RoutingSettings
from chanuka_ops.db import router
from chanuka_ops.db.lookout import Lookout
from chanuka_ops.db.node import Borrowed, Node
from chanuka_ops.db.retry import IN_PROCESS_S, Backoff
from chanuka_ops.db.router import ConsistencyToken, View

log = logging.getLogger(__name__)

CONNECT_AGAIN = Backoff(0.05, 0.5)
# Of several late standbys each is waited for by turns, twice as long each time: which one gets there first isn't known.
_MANY = 2
_TURN_S, _LONGEST_TURN_S = 0.01, 0.1
_TRANSIENT = (errors.TargetUnavailable, errors.TargetStarting, errors.TargetSaturated, errors.NotPrimary)

Take = Callable[[Node, float], Borrowed]


class Cluster:
    """One or more servers that hold the same data."""

    def __init__(self, nodes: Sequence[Node], routing: RoutingSettings, *, read_replicas: bool) -> None:
        self.nodes = list(nodes)
        self.single = len(self.nodes) == 1  # then it is asked, whatever it is
        self.reads_routed = read_replicas and any(node.is_replica for node in nodes)
        self.fallbacks = 0  # reads that the primary served for want of a fit replica
        self.failovers = 0
        self._routing = routing
        self._policy = router.Policy(routing.max_lag_bytes, routing.max_lag_s, routing.primary_fallback)
        self._writer: Node | None = None
        self._last_writer: Node | None = None
        self._lookout = Lookout(nodes, routing, self._compare)

    def forget_writer(self, node: Node) -> None:
        """Find the primary anew before the next write."""
        if self._writer is node:
            self._writer = None
            node.metrics.count("demoted")

    def on_writer(
        self, take: Take, ends: float, *, must_write: bool, patient: bool = True, underway: bool = False
    ) -> Borrowed:
        """Get a connection to the primary by `ends`; what is down or starting is tried again, for a while.

        A single server serves what need not write also while it is a standby. Who was `underway` when it broke waits
        for an open breaker's next try; who only begins is told at once.

        Errors: the `ConnectError` of the last server tried; `NotPrimary`; `PoolExhausted`.
        """
        failure = self._at_once(take, ends, must_write=must_write)
        give_up = min(ends, time.monotonic() + IN_PROCESS_S) if patient else 0.0
        told: errors.ConnectError | None = None
        for attempt in count(1):
            if isinstance(failure, Borrowed):
                return failure
            left_s = give_up - time.monotonic()
            wait_s: float | None = None
            if isinstance(failure, _TRANSIENT):
                told, wait_s = failure, CONNECT_AGAIN.within(attempt, random.random(), left_s)  # noqa: S311 - jitter
            elif underway and (failure.retry_after_s or 0.0) < left_s:  # the breaker is open: its try may be ours
                wait_s = failure.retry_after_s
            if wait_s is None:
                said = told or failure  # what we met ourselves says more than that the breaker is open
                said.retry_after_s = failure.retry_after_s
                raise said
            for node in self.nodes:
                node.metrics.count(f"retries.{type(failure).__name__}")
            time.sleep(wait_s)
            failure = self._one_round(take, ends, must_write=must_write)
        raise AssertionError("count() has no end")  # pragma: no cover

    def _at_once(self, take: Take, ends: float, *, must_write: bool) -> Borrowed | errors.ConnectError:
        if self.single and not must_write:  # the common case, without the cost of choosing
            try:
                return take(self.nodes[0], ends)
            except (*_TRANSIENT, errors.CircuitOpen) as error:
                return error
            except errors.ConnectionLost as error:
                return _ended(error)
        if not self.single:
            self._lookout.look(ends, within_s=self._lookout.blind_after_s if self._writer is None else float("inf"))
        return self._one_round(take, ends, must_write=must_write)

    def _one_round(self, take: Take, ends: float, *, must_write: bool) -> Borrowed | errors.ConnectError:
        failures: list[errors.ConnectError] = []
        candidates = self._candidates()
        for position, node in enumerate(candidates):
            left_s = max(0.0, ends - time.monotonic())
            try:
                borrowed = take(node, ends - left_s + left_s / (len(candidates) - position))
                unfit = self._unfit(node, borrowed, must_write=must_write)
            except (*_TRANSIENT, errors.CircuitOpen) as error:
                failures.append(error)
                continue
            except errors.ConnectionLost as error:  # it ended while we asked
                failures.append(_ended(error))
                continue
            if unfit is not None:
                failures.append(errors.NotPrimary(f"{node.name} {unfit}"))
                continue
            if self._writer is not node:
                self._found(node)
            return borrowed
        self._writer = None
        return _telling(failures, candidates)

    def _unfit(self, node: Node, borrowed: Borrowed, *, must_write: bool) -> str | None:
        """Say why a connection is not given out for writes, and give it back; None where it may be."""
        if self.single and not must_write:
            return None
        reason: str | None = "could not be asked"
        try:
            reason = "is a standby" if node.is_standby(borrowed) else None
            if reason is None and not self.single and self._writer is not node:
                seen = node.observation = node.look(borrowed)
                claims = seen.role == "primary"  # a pooler in between may still say what another server said
                reason = router.usurps(seen, [one.view() for one in self.nodes]) if claims else "is a standby"
        finally:
            if reason is not None:
                node.give_back(borrowed)
        return reason

    def _found(self, node: Node) -> None:
        if self._last_writer not in {None, node}:
            self.failovers += 1
            log.warning("%s takes the writes now", node.name, extra={"event": "db.failover", "node": node.name})
        self._writer = self._last_writer = node

    def _candidates(self) -> list[Node]:
        """Order the servers: who took the last write or was seen to be primary, then as the settings have them."""
        if self.single:
            return self.nodes
        seen = router.primary_of([node.view() for node in self.nodes])
        wanted = self._writer.name if self._writer else seen.name if seen else ""
        return sorted(self.nodes, key=lambda node: (node.name != wanted, node.is_replica))

    def on_reader(
        self, take: Take, ends: float, *, after: ConsistencyToken | None, without: frozenset[str]
    ) -> Borrowed:
        """Get a connection to a server that may serve a read by `ends`.

        Errors: `ReplicaTooStale`; the last `ConnectError`.
        """
        if not self.reads_routed:
            borrowed = self.on_writer(take, ends, must_write=False)
            return borrowed if after is None else self._proved(borrowed, after, ends, self._routing.token_wait_s)
        self._lookout.look(ends, within_s=self._lookout.blind_after_s)
        names = self._readers(after, without)
        if not names:  # as after an outage: what is known may be what it was like
            self._lookout.look(ends, within_s=self._routing.probe_every_s)
            names = self._readers(after, without)
        failures: dict[str, errors.DatabaseError] = {}
        for node, wait_s, final in self._turns(names, after, failures):
            left_s = max(0.0, ends - time.monotonic())
            try:
                borrowed = take(node, ends - left_s + left_s / max(1, len(names) - len(failures)))
                if after is not None:
                    borrowed = self._proved(borrowed, after, ends, wait_s, final=final)
            except (errors.ConnectError, errors.ConnectionLost, errors.ReplicaTooStale, errors.PoolExhausted) as error:
                failures[node.name] = error
                continue
            if node.observation is not None and node.observation.role == "primary":
                self.fallbacks += 1
            return borrowed
        last = list(failures.values())[-1:]
        if last and not isinstance(last[0], errors.ReplicaTooStale):
            raise last[0]
        if not any(node.reachable for node in self.nodes):
            raise errors.TargetUnavailable(f"no server can be reached: {self._why(failures)}")
        raise errors.ReplicaTooStale(f"no server may serve this read: {self._why(failures)}")

    def _turns(
        self, names: Sequence[str], after: ConsistencyToken | None, failures: Mapping[str, errors.DatabaseError]
    ) -> Iterator[tuple[Node, float, bool]]:
        """Yield whom to ask next, how long to wait there for the token's data, and whether it is asked for good.

        One replica whose replay stands still must not hold up what another has already or gets next: each is asked
        once, then those that are late are waited for by turns, the nearest first, and then the primary is asked.
        """
        by_name = {node.name: node for node in self.nodes}
        nodes = [by_name[name] for name in names]
        if after is None:
            yield from ((node, 0.0, True) for node in nodes)
            return
        primary = router.primary_of(self.views())
        replicas = [node for node in nodes if primary is None or node.name != primary.name]
        yield from ((node, 0.0, False) for node in replicas)
        patience_ends = time.monotonic() + self._routing.token_wait_s
        for turn in count():
            late = _late(replicas, after, failures)
            left_s = patience_ends - time.monotonic()
            slice_s = left_s if len(late) < _MANY else min(_TURN_S * 2**turn, _LONGEST_TURN_S)
            final = slice_s >= left_s
            yield from ((node, min(slice_s, patience_ends - time.monotonic()), final) for node in late)
            if final:
                break
        yield from ((node, 0.0, False) for node in nodes if node not in replicas)

    def _readers(self, after: ConsistencyToken | None, without: frozenset[str]) -> list[str]:
        return router.readers(self.views(), self._policy, roll=random.random(), after=after, without=without)  # noqa: S311

    def _why(self, failures: Mapping[str, errors.DatabaseError]) -> str:
        out = self.ejected(self.views())
        return "; ".join(f"{name}: {failures.get(name) or why or 'it was left out'}" for name, why in out.items())

    def ejected(self, views: Sequence[View]) -> dict[str, str | None]:
        """Say of each server, by name, why it gets no reads; None where it may have them."""
        system_id = router.system_of(views)
        return {view.name: router.ejected(view, self._policy, system_id) for view in views}

    def _proved(
        self, borrowed: Borrowed, after: ConsistencyToken, ends: float, wait_s: float, *, final: bool = True
    ) -> Borrowed:
        """Wait until the connection's own server holds the token's data, and give it back where that doesn't happen.

        It counts as refused where it is `final`, or where no wait would help.

        Errors: `ReplicaTooStale`, `DatabaseError`.
        """
        node = borrowed.node
        give_up = min(ends, time.monotonic() + wait_s)
        proved = False
        try:
            for attempt in count():
                seen = node.observation = node.look(borrowed)
                proved = router.proven(after, seen)
                # only a standby of the same history that is not there yet is worth waiting for
                hopeless = (
                    seen.role == "primary" or seen.timeline != after.timeline or seen.system_id != after.system_id
                )
                if proved or hopeless or time.monotonic() >= give_up:
                    break
                time.sleep(min(0.02, 0.001 * 2**attempt))
        finally:
            if not proved:
                node.give_back(borrowed)
        if not proved:
            if hopeless or final:
                node.metrics.count("reads_refused_as_stale")
            raise errors.ReplicaTooStale(
                f"it can't be proved to hold what {after} stands for, as it stands at"
                f" {ConsistencyToken(seen.system_id, seen.timeline or 0, seen.lsn)}"
            )
        return borrowed

    def look(self, ends: float) -> None:
        """Look at every server now. One that can't be reached is no error here."""
        self._lookout.look(ends, within_s=0.0)

    def views(self) -> list[View]:
        """Return all servers as the router sees them, the standbys with their lag."""
        return self._lookout.views()

    def stop(self) -> None:
        """Look no more."""
        self._lookout.stop()

    def _compare(self, views: Sequence[View]) -> None:
        """Leave a primary that goes on beside one that was promoted later: what it still takes would be lost."""
        newest, writer = router.primary_of(views), self._writer
        if newest is None or newest.observation is None or writer is None or writer.observation is None:
            return
        ours, theirs = writer.observation, newest.observation
        if ours.role == "primary" and (ours.timeline or 0) < (theirs.timeline or 0):
            log.error(
                "%s was promoted, and %s takes writes still: it gets no more of ours",
                *(newest.name, writer.name),
                extra={"event": "db.split", "node": writer.name},
            )
            self.forget_writer(writer)


def _late(
    replicas: Sequence[Node], after: ConsistencyToken, failures: Mapping[str, errors.DatabaseError]
) -> list[Node]:
    """Return those that may yet get what the token stands for, the nearest first."""
    seen = [
        (node.observation.lsn, node)
        for node in replicas
        if isinstance(failures[node.name], errors.ReplicaTooStale)
        and node.observation is not None
        and node.observation.timeline == after.timeline
    ]
    return [node for _, node in sorted(seen, key=lambda each: each[0], reverse=True)]


def _ended(error: errors.ConnectionLost) -> errors.TargetUnavailable:
    return errors.TargetUnavailable(str(error), sqlstate=error.sqlstate)


def _telling(failures: Sequence[errors.ConnectError], candidates: Sequence[Node]) -> errors.ConnectError:
    """Return the failure that says most: what a server did just now says more than that it is left alone."""
    if any(isinstance(failure, errors.NotPrimary) for failure in failures):
        names = ", ".join(node.name for node in candidates)
        return errors.NotPrimary(f"none of {names} takes writes: {'; '.join(str(failure) for failure in failures)}")
    met = [failure for failure in failures if not isinstance(failure, errors.CircuitOpen)]
    return (met or list(failures))[0]
