"""What a proxy's wires are made of: two sockets each, what is on its way between them, and how far it has come."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from chanuka_ops_tests.plugins.nodes import LOCALHOST

CHUNK = 65536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, for no time at all: closing resets

Where = Literal["before", "sent", "answered"]


@dataclass(frozen=True)
class Trap:
    """What to watch for in a client's bytes, and when to cut then."""

    pattern: bytes
    where: Where
    delay_s: float
    reset: bool


class End:
    """One socket of a wire, and what is still to be written to it."""

    def __init__(self, sock: socket.socket, wire: Wire) -> None:
        sock.settimeout(0)  # it never blocks
        self.sock = sock
        self.wire = wire
        self.out = bytearray()

    def fileno(self) -> int:
        return self.sock.fileno()


class Wire:
    """One connection: the client's end, and the server's as soon as there is one."""

    def __init__(self, client: socket.socket) -> None:
        self.client = End(client, self)
        self.server: End | None = None
        self.seen = b""  # the end of what the client said last: a pattern may come in two pieces
        self.caught: Trap | None = None
        self.cut_at: float | None = None
        self.ending = False  # one side has hung up: the other gets what is still on the way
        self.draining = False  # cut off from its client; the server may finish what it has received

    def wants(self) -> tuple[list[End], list[End]]:
        """The ends to read from and those to write to."""
        if self.server is None:
            return [], []
        if self.draining:
            return [self.server], []
        reads = []
        if self.caught is None and not self.ending and len(self.server.out) < CHUNK:
            reads.append(self.client)
        if (
            (self.caught is None or self.caught.where == "answered")
            and not self.ending
            and len(self.client.out) < CHUNK
        ):
            reads.append(self.server)
        return reads, [end for end in (self.client, self.server) if end.out]

    def hang_up(self, *, reset: bool) -> None:
        """Close the client's end."""
        if reset:
            with suppress(OSError):  # it's closed already
                self.client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.client.sock.close()

    def close(self) -> None:
        self.client.sock.close()
        if self.server is not None:
            self.server.sock.close()


def bound(port: int) -> socket.socket:
    """A socket that has the port, and doesn't listen yet."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((LOCALHOST, port))
    return sock
