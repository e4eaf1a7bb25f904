"""The file of past health: whole after a kill, shared by processes, set aside when damaged, thinned out with time."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from chanuka_ops.errors import KeepingError
from chanuka_ops.health import keeping
from chanuka_ops.health.keeping import BY_HAND, DAEMON, FILE, Keeper, opened
from chanuka_ops.health.model import Status
from chanuka_ops.health.sampling.model import Measurement, Sample

NOW = datetime.now(UTC)
PAGE_BYTES = 4096
LONG_AGO = NOW - timedelta(days=400)


def measured(
    ago: timedelta = timedelta(0), value: float = 1.0, object_: str | None = None, **other: str
) -> Measurement:
    status = Status(other.get("status", "ok"))
    return Measurement(NOW - ago, other.get("database", "main"), "table.bloat", object_, value, "%", status)


def counted(count: int) -> Sample:
    return Sample(NOW, "cluster/5/1", ({"key": "a", "count": count},))


def damage(path: Path) -> None:
    """Overwrite pages beyond the header, as a broken disk does: it's still a database to who only opens it."""
    with sqlite3.connect(path) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
    connection.close()
    content = bytearray(path.read_bytes())
    content[8 * PAGE_BYTES : 60 * PAGE_BYTES] = b"\xa5" * (52 * PAGE_BYTES)
    path.write_bytes(content)


def test_a_first_look_finds_nothing(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "not" / "there" / "yet")
    assert keeper.samples("main") == {}
    assert list(keeper.history("main", LONG_AGO)) == []


def test_what_is_kept_is_found_again(tmp_path: Path) -> None:
    Keeper(tmp_path).keep("main", {"q": counted(7)}, [measured(value=3.5, object_="public.t", status="warning")])
    assert Keeper(tmp_path).samples("main") == {"q": counted(7)}
    assert Keeper(tmp_path).samples("other") == {}
    (found,) = Keeper(tmp_path).history("main", LONG_AGO)
    assert (found.object, found.value, found.status) == ("public.t", 3.5, "warning")
    assert abs(found.at - NOW) < timedelta(milliseconds=1)


def test_a_look_by_hand_takes_nothing_from_the_daemon(tmp_path: Path) -> None:
    daemon, by_hand = Keeper(tmp_path, reader=DAEMON), Keeper(tmp_path, reader=BY_HAND)
    daemon.keep("main", {"q": counted(0)}, [measured()])
    by_hand.keep("main", {"q": counted(3)}, [measured(timedelta(seconds=1))])
    assert daemon.samples("main") == {"q": counted(0)}
    assert len(daemon.history("main", LONG_AGO)) == 2


def test_nobody_else_reads_it(tmp_path: Path) -> None:
    Keeper(tmp_path).keep("main", {}, [measured()])
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


def test_what_is_no_database_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / FILE).write_bytes(b"not a database" * 1000)
    Keeper(tmp_path).keep("main", {"q": counted(1)}, [])
    assert (tmp_path / f"{FILE}.damaged").read_bytes().startswith(b"not a database")
    assert "set aside" in caplog.text
    ((_, reason),) = Keeper(tmp_path).losses(LONG_AGO)
    assert "not a database" in reason
    assert Keeper(tmp_path).samples("main") == {"q": counted(1)}


def test_damage_that_shows_in_mid_work_is_set_aside_too(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    keeper.keep("main", {}, [measured(timedelta(minutes=i), object_=f"public.t{i}") for i in range(1400)])
    damage(tmp_path / FILE)
    with pytest.raises(KeepingError, match="malformed"):
        keeper.history("main", LONG_AGO)
    assert list(keeper.history("main", LONG_AGO)) == []  # a new file: the next look works
    assert len(keeper.losses(LONG_AGO)) == 1


def test_several_that_meet_the_damage_at_once_lose_nothing(tmp_path: Path) -> None:
    for trial in range(12):
        place = tmp_path / str(trial)
        place.mkdir()
        (place / FILE).write_bytes(b"not a database" * 1000)
        assert _all_at_once(place, 4) == []
        assert len(Keeper(place).history("main", LONG_AGO)) == 4
        assert len(Keeper(place).losses(LONG_AGO)) == 1


def _all_at_once(place: Path, count: int) -> list[str]:
    """Let so many keep something at the same moment; return what failed."""
    gate, failures = threading.Barrier(count), list[str]()

    def look(number: int) -> None:
        gate.wait(10)
        try:
            Keeper(place).keep("main", {}, [measured(value=float(number))])
        except KeepingError as error:
            failures.append(str(error))

    threads = [threading.Thread(target=look, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failures


def test_a_locked_file_is_an_error_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper(tmp_path)
    keeper.keep("main", {"q": counted(1)}, [])
    monkeypatch.setattr(keeping, "BUSY_TIMEOUT_S", 0.05)
    with opened(tmp_path) as other:
        other.execute("begin immediate")
        with pytest.raises(KeepingError, match="locked"):
            keeper.keep("main", {"q": counted(2)}, [])
        other.execute("rollback")
    assert keeper.samples("main") == {"q": counted(1)}
    assert keeper.losses(LONG_AGO) == []  # it wasn't damaged


def test_a_place_that_can_t_be_written_is_an_error_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(KeepingError, match=FILE):
        Keeper(tmp_path / "file").samples("main")


def test_a_mistake_in_a_statement_is_not_taken_for_damage(tmp_path: Path) -> None:
    with pytest.raises(sqlite3.ProgrammingError), opened(tmp_path) as connection:
        connection.execute("select ?", ())
    assert not (tmp_path / f"{FILE}.damaged").exists()


_WRITES = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from chanuka_ops.health.keeping import Keeper
from chanuka_ops.health.model import Status
from chanuka_ops.health.sampling.model import Measurement, Sample
keeper, number = Keeper(Path(sys.argv[1])), 0
while True:
    number += 1
    now = datetime.now(UTC)
    rows = tuple({"key": str(i), "count": number} for i in range(200))
    keeper.keep("main", {"a": Sample(now, "i", rows), "b": Sample(now, "i", rows)},
                [Measurement(now, "main", "a.b", str(i), float(number), "", Status.OK) for i in range(50)])
    print(number, flush=True)
"""


def test_a_writer_that_is_killed_leaves_all_of_a_look_or_nothing(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _WRITES, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        for _ in range(5):
            writer.stdout.readline()
        time.sleep(0.01)
        writer.send_signal(signal.SIGKILL)
    kept = Keeper(tmp_path).samples("main")
    numbers = {row["count"] for sample in kept.values() for row in sample.rows}
    assert len(numbers) == 1
    (number,) = numbers
    assert len(Keeper(tmp_path).history("main", LONG_AGO)) == 50 * number
    assert Keeper(tmp_path).losses(LONG_AGO) == []


def test_a_day_is_kept_whole_and_then_the_worst_of_each_hour(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path)
    hour = timedelta(days=3, minutes=NOW.minute, seconds=NOW.second)  # when an hour began
    old = [
        measured(hour - timedelta(minutes=i), value=float(i), status="critical" if i == 20 else "ok")
        for i in range(1, 60)
    ]
    keeper.keep("main", {}, [measured(timedelta(minutes=i)) for i in range(60)])
    with opened(tmp_path) as connection:
        connection.execute("delete from cleaned")
    keeper.keep("main", {}, [*old, measured(timedelta(days=91))])
    found = keeper.history("main", LONG_AGO)
    assert [one.value for one in found if one.at < NOW - timedelta(days=1)] == [20.0]  # its status was the worst
    assert len([one for one in found if one.at > NOW - timedelta(days=1)]) == 60


def test_cleaning_looks_at_a_bounded_piece_and_the_next_look_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "_PRUNE_MOST", 100)
    keeper = Keeper(tmp_path)
    keeper.keep("main", {}, [measured(timedelta(days=2, minutes=i)) for i in range(600)])
    left = [len(keeper.history("main", LONG_AGO))]
    for _ in range(8):
        keeper.keep("main", {}, [])
        left.append(len(keeper.history("main", LONG_AGO)))
    assert left == sorted(left, reverse=True)
    assert all(before - after <= 100 for before, after in pairwise(left))
    assert left[-1] <= 20


def test_a_sample_holds_only_what_json_gives_back(tmp_path: Path) -> None:
    with pytest.raises(TypeError):  # silently turned into text, a time would never equal itself again
        Keeper(tmp_path).keep("main", {"q": Sample(NOW, "i", ({"key": "a", "reset": NOW},))}, [])
    assert json.dumps(counted(1).rows)
