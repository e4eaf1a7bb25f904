"""Ctrl-C and SIGTERM: raised at once wherever the main thread is, and never lost on the way.

Python runs a signal's handler in the main thread, between any two instructions. What the handler raises is lost in some
places: in what runs around a fork, in a destructor, in a callback of a weak reference or of the collector it's printed
("Exception ignored in …") and forgotten, and the run goes on as if nobody had cancelled it. In others it comes between
what has begun and whoever would end it: a thread that has started, a block that has been entered.

A signal mask doesn't keep it out: the kernel then gives the signal to a thread that doesn't block it, and the handler
runs in the main thread all the same.
"""

from __future__ import annotations

import _thread
import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
AGAIN_S = 0.01

_Handler = Callable[[int, FrameType | None], object]

# within these, what has begun is nobody's yet; none of them waits for long
_BEGINNING = frozenset({threading.Thread.start.__code__, subprocess.Popen.__init__.__code__})


@contextmanager
def held() -> Iterator[None]:
    """Let an interrupt wait until the block is over: for what is short, and would lose it."""
    before = _handlers()
    arrived: list[int] = []
    over = False

    def note(number: int, frame: FrameType | None) -> None:
        if over:  # it came while the handlers were put back
            before[number](number, frame)
        else:
            arrived.append(number)

    try:
        for number in before:
            signal.signal(number, note)
        yield
    finally:
        over = True
        for number, handler in before.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])


@contextmanager
def kept() -> Iterator[None]:
    """Let no interrupt be lost in the block.

    Where it would come between what has begun and whoever ends it, it comes a moment later; and where Python ignored
    what the handler raised, the handler is called again.
    """
    before = _handlers()
    raised: set[type[BaseException]] = set()
    ignored = sys.unraisablehook

    def handle(number: int, frame: FrameType | None) -> None:
        if _comes_amiss(frame) and _again(number):
            return
        try:
            before[number](number, frame)
        except BaseException as interrupt:
            raised.add(type(interrupt))
            raise

    def hear(lost: sys.UnraisableHookArgs) -> None:
        ours = lost.exc_type in raised and threading.current_thread() is threading.main_thread()
        if not (ours and _again(next(iter(before)))):
            ignored(lost)

    try:
        for number in before:
            signal.signal(number, handle)
        sys.unraisablehook = hear
        yield
    finally:
        sys.unraisablehook = ignored
        for number, handler in before.items():
            signal.signal(number, handler)


def _handlers() -> dict[int, _Handler]:
    """Return what is called for each interrupt. None is in another thread than the main one."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    found = {number: signal.getsignal(number) for number in INTERRUPTS}
    return {number: handler for number, handler in found.items() if callable(handler)}


def _comes_amiss(frame: FrameType | None) -> bool:
    """Tell whether a frame is where an exception would leave something begun that nobody ends."""
    if frame is not None and frame.f_code.co_filename == contextlib.__file__:  # between a block and its manager
        return True
    while frame is not None:
        if frame.f_code in _BEGINNING:
            return True
        frame = frame.f_back
    return False


def _again(number: int) -> bool:
    """Have a signal come once more in a moment; false where the system has no thread left to send it."""
    try:  # not threading.Thread: whoever was interrupted may hold its locks
        _thread.start_new_thread(_send, (number,))
    except RuntimeError:
        return False
    return True


def _send(number: int) -> None:
    time.sleep(AGAIN_S)
    signal.pthread_kill(threading.main_thread().ident or 0, number)
