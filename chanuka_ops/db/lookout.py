"""Looks at all servers of a database now and then: which is primary, and how far the others have come."""

from __future__ import annotations

import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace

from chanuka_ops.config import RoutingSettings
from chanuka_ops.db import router
from chanuka_ops.db.node import Node
from chanuka_ops.db.router import View
from chanuka_ops.db.watchdog import CLEAN_UP_S

HISTORY = 300  # of the primary's positions; at one look a second, five minutes


class Lookout:
    """Keeps what was last seen of the servers fresh. `on_seen` is called after each look, with what it saw.

    A look that is due is begun by whoever asks next, in threads of its own, and waited for only where what is known is
    too old to go by.
    """

    def __init__(
        self, nodes: Sequence[Node], routing: RoutingSettings, on_seen: Callable[[Sequence[View]], None]
    ) -> None:
        self._nodes = nodes
        self._every_s = routing.probe_every_s
        self._connect_s = max(node.settings.timeouts.connect_s for node in nodes)
        # a look that is older than the lag that is suffered says nothing of the lag any more
        self.blind_after_s = routing.max_lag_s + routing.probe_every_s + self._connect_s
        self._on_seen = on_seen
        self._history: deque[tuple[float, int]] = deque(maxlen=HISTORY)
        self._begun_s = float("-inf")  # the last look
        self._seen_s = float("-inf")  # the beginning of the last one that has ended
        self._looking = threading.Lock()
        self._stopped = False

    def look(self, ends: float, *, within_s: float) -> None:
        """Look at all servers again, if that is due, and wait for it, if the last look is older than `within_s`.

        That takes half of the time until `ends` at most: the rest is for what is wanted. A server that can't be reached
        is no error here.
        """
        now = time.monotonic()
        ends -= max(0.0, ends - now) / 2
        wait = now - self._seen_s > within_s
        if not wait and now - self._begun_s < self._every_s:
            return
        if not self._looking.acquire(timeout=max(0.0, ends - now) if wait else 0.0):
            return
        if self._stopped or self._seen_s >= now:  # another thread has just done it
            self._looking.release()
            return
        begun_s = self._begun_s = time.monotonic()
        look_ends = min(ends, begun_s + self._connect_s)
        threads = [
            threading.Thread(
                target=contextvars.copy_context().run, args=(node.observe, look_ends), daemon=True, name="chanuka-look"
            )
            for node in self._nodes
        ]
        for thread in threads:
            thread.start()
        if wait:
            self._settle(threads, begun_s)
        else:
            threading.Thread(target=self._settle, args=(threads, begun_s), daemon=True, name="chanuka-look").start()

    def _settle(self, threads: Sequence[threading.Thread], begun_s: float) -> None:
        try:
            for thread in threads:
                thread.join()
            views = [node.view() for node in self._nodes]
            primary = router.primary_of(views)
            seen = primary.observation if primary is not None else None
            if seen is not None:
                self._history.append((seen.at_s, seen.lsn if seen.flushed is None else seen.flushed))
            self._seen_s = begun_s
            self._on_seen(views)
        finally:
            self._looking.release()

    def views(self) -> list[View]:
        """Return all servers as the router sees them, the standbys with their lag."""
        history = list(self._history)
        views = []
        for view in (node.view() for node in self._nodes):
            seen = view.observation
            standby = seen is not None and seen.role == "standby"
            views.append(replace(view, lag=router.lag_of(seen, history)) if seen is not None and standby else view)
        return views

    def stop(self) -> None:
        """Look no more, and wait for the look that is under way: its connections are to be closed with the others."""
        self._stopped = True
        if self._looking.acquire(timeout=CLEAN_UP_S):
            self._looking.release()
