"""One external program, run so that it always ends.

Each tool gets a process group of its own, a deadline, and (on Linux) the kernel's promise of a SIGTERM when this
process dies, even by SIGKILL: pg_dump's leader ends its workers on SIGTERM, and leaves them running on SIGKILL.
To stop one: TERM the group, wait, KILL the group.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from chanuka_ops import errors, interrupts
from chanuka_ops.logs import redact
from chanuka_ops.postgres import waiting

log = logging.getLogger(__name__)

STOP_GRACE_S = 10.0
KEPT_LINES = 200
MEANWHILE_S = 0.25
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
_INTERRUPTS = frozenset({signal.SIGINT, signal.SIGTERM})


@dataclass(frozen=True, slots=True)
class Account:
    """An operating-system account that a program is to run as."""

    uid: int
    gid: int
    name: str


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended; of its output the last 200 lines."""

    status: int
    stdout: str
    stderr: str


def die_with_parent(signal_number: int) -> Callable[[], None] | None:
    """Return what a child calls before it executes, so that it gets `signal_number` when this process dies."""
    libc = _libc
    if libc is None:
        return None
    parent = os.getpid()

    def ask_the_kernel() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background job inherits it ignored
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTS)
        libc.prctl(_PR_SET_PDEATHSIG, signal_number)
        if os.getppid() != parent:  # it died before we could ask
            os._exit(128 + signal_number)

    return ask_the_kernel


class Running:
    """A program under way. Use `started()`, which ends it however the block ends."""

    def __init__(
        self,
        process: subprocess.Popen[str],
        name: str,
        on_line: Callable[[str], None] | None,
        on_stderr: Callable[[str], None] | None,
    ) -> None:
        self._process = process
        self.name = name
        self._out: deque[str] = deque(maxlen=KEPT_LINES)
        self._err: deque[str] = deque(maxlen=KEPT_LINES)
        self._readers = [
            threading.Thread(target=_read, args=(process.stdout, self._out, on_line), daemon=True),
            threading.Thread(target=_read, args=(process.stderr, self._err, on_stderr), daemon=True),
        ]
        self._group_ended = False
        for reader in self._readers:
            reader.start()

    @property
    def pid(self) -> int:
        """The leader's process id, which is its group's id too."""
        return self._process.pid

    def ask(self, request: str) -> None:
        """Write what it is to read on its standard input, and that this is all of it."""
        with suppress(BrokenPipeError):  # it ended without reading; its status says why
            if self._process.stdin is not None:
                self._process.stdin.write(request)
        self._no_more()

    def ended(self) -> bool:
        """Tell whether it has ended; if so, nobody of its group is left."""
        if self._status() is None:
            return False
        self._end_group()
        return True

    def wait(self, *, deadline_s: float, check: bool = True, meanwhile: Callable[[], None] | None = None) -> Finished:
        """Wait for its end; call `meanwhile` four times a second until then.

        Errors: `ToolFailed` past the deadline (it's then stopped), and with `check` for an exit status other than 0.
        """
        deadline = time.monotonic() + deadline_s
        while meanwhile is not None and time.monotonic() < deadline and not self.ended():
            meanwhile()
            self._await(MEANWHILE_S)
        status = self._await(deadline - time.monotonic())
        if status is None:
            self.stop()
            late = f"{self.name} ran past its deadline of {deadline_s:.0f} s and was stopped"
            raise errors.ToolFailed(late)
        self._end_group()  # whoever is left would keep its output open, and us waiting
        for reader in self._readers:
            reader.join(timeout=STOP_GRACE_S)
        finished = Finished(status, "\n".join(self._out), "\n".join(self._err))
        if check and status != 0:
            raise errors.ToolFailed(_failure(self.name, finished), status=status)
        return finished

    def stop(self) -> None:
        """End the whole group: TERM, wait, KILL. Safe to call at any time, more than once."""
        if not self.ended():
            _signal_group(self.pid, signal.SIGTERM)
            self._await(STOP_GRACE_S)
        self._end_group()
        while self._await(STOP_GRACE_S) is None:
            pass
        self._no_more()  # nobody may have asked it anything

    def _no_more(self) -> None:
        with suppress(BrokenPipeError):
            if self._process.stdin is not None:
                self._process.stdin.close()

    def _status(self) -> int | None:
        """Return its exit status, None while it runs."""
        with interrupts.held():  # in the midst it could leave Popen's own lock taken for ever
            return self._process.poll()

    def _await(self, timeout_s: float) -> int | None:
        """Wait for its exit status, which is returned; None where the time is up."""
        deadline = time.monotonic() + timeout_s
        while (status := self._status()) is None and (left_s := deadline - time.monotonic()) > 0:
            waiting.until_ended(self.pid, left_s)
        return status

    def _end_group(self) -> None:
        """Kill, once, whoever of the group outlived its leader; later the number may be somebody else's."""
        if not self._group_ended:
            self._group_ended = True
            _signal_group(self.pid, signal.SIGKILL)


@contextmanager
def started(
    argv: Sequence[str | Path],
    *,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    asked_later: bool = False,
    cwd: Path | None = None,
    account: Account | None = None,
    pass_fds: Sequence[int] = (),
    on_line: Callable[[str], None] | None = None,
    on_stderr: Callable[[str], None] | None = None,
) -> Iterator[Running]:
    """Start a program for the block; at the block's end it has ended, by itself or by `stop()`.

    `on_line` is called, from a thread, for each line of its standard output, `on_stderr` likewise.
    `env` is added to this environment. With `asked_later` its standard input is what `Running.ask` writes.
    Errors: `ToolFailed` where it can't be started.
    """
    words = [str(word) for word in argv]
    name = Path(words[0]).name
    with ExitStack() as stack:
        # what Python runs around a fork ignores an interrupt that comes just then: it waits until the program is ours
        with interrupts.held():
            try:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.PIPE if stdin is not None or asked_later else subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    errors="replace",
                    env={**os.environ, "LC_MESSAGES": "C", **(env or {})},
                    cwd=cwd,
                    start_new_session=True,
                    pass_fds=pass_fds,
                    preexec_fn=die_with_parent(signal.SIGTERM),  # noqa: PLW1509 - system calls, no lock: safe after fork
                    user=account.uid if account else None,
                    group=account.gid if account else None,
                    extra_groups=[] if account else None,
                )
            except OSError as error:
                raise errors.ToolFailed(f"{words[0]} can't be started: {error.strerror}") from None
            running = Running(process, name, on_line, on_stderr)
            stack.callback(running.stop)
        log.debug("started %s as pid %d", name, process.pid, extra={"event": "tool.started"})
        if stdin is not None:
            running.ask(stdin)
        yield running


def run(
    argv: Sequence[str | Path],
    *,
    deadline_s: float,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    cwd: Path | None = None,
    account: Account | None = None,
    pass_fds: Sequence[int] = (),
    on_line: Callable[[str], None] | None = None,
    check: bool = True,
) -> Finished:
    """Run a program to its end.

    Errors: `ToolFailed` where it can't be started, runs past `deadline_s`, or (with `check`) exits with another
    status than 0; the message ends with the last lines of its standard error.
    """
    with started(argv, env=env, stdin=stdin, cwd=cwd, account=account, pass_fds=pass_fds, on_line=on_line) as running:
        return running.wait(deadline_s=deadline_s, check=check)


@contextmanager
def password_file(password: str | None) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """Hand a password to a libpq program without argument list, environment or disk: (env, pass_fds).

    A file in memory, named by its descriptor; it's gone when the last process that holds it is. Where the system has
    none, PGPASSWORD is used, which other accounts can't read either.
    Errors: `ConfigurationError` for a password with a line break, which libpq can't be told this way.
    """
    if password is None:
        yield {}, ()
    elif {"\n", "\r", "\0"} & set(password):
        raise errors.ConfigurationError("the password holds a line break, which PostgreSQL's programs can't be told")
    elif not hasattr(os, "memfd_create"):
        yield {"PGPASSWORD": password}, ()
    else:
        descriptor = os.memfd_create("pgpass")
        try:
            os.fchmod(descriptor, 0o600)  # libpq ignores a password file that others may read
            escaped = password.replace("\\", "\\\\").replace(":", "\\:")
            os.write(descriptor, f"*:*:*:*:{escaped}\n".encode())
            yield {"PGPASSFILE": f"/proc/self/fd/{descriptor}"}, (descriptor,)
        finally:
            os.close(descriptor)


def _read(stream: IO[str] | None, kept: deque[str], on_line: Callable[[str], None] | None) -> None:
    if stream is None:
        return
    with stream:
        for line in stream:
            text = line.rstrip("\n")
            kept.append(text)
            if on_line is not None:
                on_line(text)


def _signal_group(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def _failure(name: str, finished: Finished) -> str:
    how = f"was killed by signal {-finished.status}" if finished.status < 0 else f"exited with {finished.status}"
    said = [line for line in finished.stderr.splitlines() if line.strip()][-8:]
    return redact(f"{name} {how}" + (": " + " | ".join(said) if said else ""))


def wait_until(ready: Callable[[], bool], *, timeout_s: float, poll_s: float = 0.05) -> bool:
    """Poll `ready` until it holds; False when the time is up."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() >= deadline:
            return False
        time.sleep(poll_s)
    return True
