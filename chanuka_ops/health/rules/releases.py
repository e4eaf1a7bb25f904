"""PostgreSQL's releases as known on one day: shipped with the package, because a check must not ask the web.

Dates: https://www.postgresql.org/support/versioning/ and the release announcements.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

AS_OF = date(2026, 8, 31)


@dataclass(frozen=True, slots=True)
class Release:
    """A major version: the newest minor release known, when it came out, and when support ends."""

    minor: int
    released: date
    end_of_life: date


RELEASES = {
    13: Release(23, date(2025, 11, 13), date(2025, 11, 13)),
    14: Release(24, date(2026, 8, 13), date(2026, 11, 12)),
    15: Release(19, date(2026, 8, 13), date(2027, 11, 11)),
    16: Release(15, date(2026, 8, 13), date(2028, 11, 9)),
    17: Release(11, date(2026, 8, 13), date(2029, 11, 8)),
    18: Release(7, date(2026, 11, 12), date(2030, 11, 14)),  # came out after that day
    19: Release(0, date(2026, 11, 19), date(2031, 11, 13)),  # came out after that day
}
