"""The connection budget: what all runs may open together, against what the server has. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Room:
    """A server's slots: `max_connections`, those reserved for superusers and their like, a role's or database's limit.

    https://www.postgresql.org/docs/current/runtime-config-connection.html#GUC-MAX-CONNECTIONS
    """

    max_connections: int
    reserved: int
    limits: tuple[int, ...] = ()  # of the role and of the database; PostgreSQL's -1, no limit, left out

    @property
    def available(self) -> int:
        """What ordinary roles can open at most."""
        return min([self.max_connections - self.reserved, *self.limits])


@dataclass(frozen=True, slots=True)
class Budget:
    """`needed` connections for so many `runs`, and what is `available` for everybody."""

    runs: int
    size: int
    overflow: int
    available: int

    @property
    def needed(self) -> int:
        """What all runs may open at once in their pools."""
        return self.runs * (self.size + self.overflow)

    @property
    def fits(self) -> bool:
        """Whether the server has room for that, before anybody else has opened one."""
        return self.needed <= self.available

    def __str__(self) -> str:
        verdict = "fits" if self.fits else "does not fit"
        return (
            f"{self.runs} runs x ({self.size} + {self.overflow}) = {self.needed} connections; the server has"
            f" {self.available} for ordinary roles: it {verdict}"
        )
