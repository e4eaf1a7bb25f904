"""Looking at a session's locks from a second one, again and again, while a statement runs that no transaction holds.

What runs CONCURRENTLY, or locks a table by itself, waits for those who write to it. So the second session holds a
writer's lock on every table until the first is seen to wait: however short the statement is, its lock isn't missed.
What takes its strong lock only after that has to pass a second gate, held by a session of its own.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Self

from chanuka_ops.db import engines
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.db.parameters import Profile
from chanuka_ops.migrator.rehearsal import looking

EVERY_S = 0.0005
START_TIMEOUT_S = 30.0


class Sampler:
    """Watches one session's locks on a connection of its own. A context; `start` and `stop` around a statement."""

    def __init__(self, manager: ConnectionManager, major: int) -> None:
        self._manager = manager
        self._major = major
        self._opened = ExitStack()
        self._sessions: list[looking.Raw] = []
        self._stopping = threading.Event()
        self._looked = threading.Event()
        self._thread: threading.Thread | None = None
        self._seen: Counter[tuple[int, str]] = Counter()
        self._looks = 0
        self._failure: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is not None:
            self.stop()
        self._opened.close()

    def start(self, pid: int, gates: Sequence[Sequence[int]] = ((),)) -> None:
        """Begin to look at the locks of a session; returns when it was looked at once.

        `gates` are tables, by their oids, that are held until it waits; then those until it waits again.
        """
        while len(self._sessions) < len(gates):
            connection = self._opened.enter_context(self._manager.session(profile=Profile.MAINTENANCE))
            raw = engines.driver_connection(connection)
            raw.autocommit = True
            self._sessions.append(raw)
        self._seen, self._looks, self._failure = Counter(), 0, None
        self._stopping.clear()
        self._looked.clear()
        self._thread = threading.Thread(target=self._watch, args=(pid, gates), daemon=True, name="lock sampler")
        self._thread.start()
        self._looked.wait(START_TIMEOUT_S)

    def stop(self) -> dict[tuple[int, str], float]:
        """End it; return every lock that was seen, (oid, mode), and in which part of the looks.

        Errors: whatever kept it from looking.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return {}
        self._stopping.set()
        thread.join()
        if self._failure is not None:
            raise self._failure
        return {lock: count / self._looks for lock, count in self._seen.items()}

    def _watch(self, pid: int, gates: Sequence[Sequence[int]]) -> None:
        held: list[looking.Raw] = []
        raw = self._sessions[0]
        try:
            for session, oids in zip(self._sessions, gates, strict=False):
                # asked here: the other session may have a search path of its own
                names = looking.rows_of(session, "trace_names", self._major, oids=list(oids)) if oids else []
                if names:
                    session.execute("begin")
                    held.append(session)
                    session.execute(f"lock table {', '.join(name for (name,) in names)} in row exclusive mode")
            while not self._stopping.is_set():
                waits = held and looking.rows_of(raw, "trace_waits", self._major, pid=pid) == [(True,)]
                self._seen.update(set(looking.held(raw, self._major, pid)))
                self._looks += 1
                self._looked.set()
                if waits:
                    held.pop(0).execute("commit")
                self._stopping.wait(EVERY_S)
            for session in held:
                session.execute("commit")
        except BaseException as error:  # noqa: BLE001 - told to whoever stops it: this thread has nobody to tell
            self._failure = error
        finally:
            self._looked.set()
