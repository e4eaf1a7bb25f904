"""Puts a restored database in its place: made beside it under another name (a sibling), then renamed in one step.

::

    <name>                   the one that is there, untouched until the swap
    <name>_restore_<random>  the sibling; its comment says what it is, and whether it is ready
    <name>_before_<UTC time>  the old one, after the swap, until a person drops it

Both renames and the sibling's own comment are one transaction on pg_database, which is shared by all databases: so
there is no state between the two. A rename locks the database it renames before it looks who is in it; from then on
nobody else gets in, and those who are there are ended. Who is killed leaves either the old state with a sibling (its
comment tells the next run), or the new one.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from pydantic import ValidationError
from sqlalchemy import text

from chanuka_ops import errors, interrupts
from chanuka_ops.backup.boundaries import reached
from chanuka_ops.backup.model import Document
from chanuka_ops.backup.restoring.restored import Ended
from chanuka_ops.backup.restoring.target import Existing, Target
from chanuka_ops.db import engines
from chanuka_ops.db.parameters import Profile
from chanuka_ops.sql.catalog import load

log = logging.getLogger(__name__)

LONGEST_NAME = 63  # bytes: the server cuts what is longer
LOCK_CLASS = 0x63687265  # "chre" in ASCII: a restore towards a name, in the database that is the seat
SWAP_TRIES = 3  # a rename waits five seconds for those who are in the database
LOCK_S = 5.0
_LOOK_S = 0.02
_MARK = "chanuka-ops restore: "
_DIGITS = 8
_RANDOM = re.compile(r"[0-9a-f]{8}")
_IN_USE, _DUPLICATE = "55006", "42P04"


class Mark(Document):
    """What a sibling's comment says of it."""

    backup_id: str
    into: str
    state: Literal["unfinished", "ready"]
    at: datetime
    comment: str | None = None


@dataclass(frozen=True, slots=True)
class Sibling:
    """A database that a restore left; without a mark where it was killed before it could leave one."""

    name: str
    mark: Mark | None


def beside(name: str, what: str, distinct: str) -> str:
    """Name a database after another: as much of that name as the server's limit leaves room for.

    >>> beside("main", "restore", "0a1b2c3d"), len(beside("é" * 31, "before", "20261122_170509").encode())
    ('main_restore_0a1b2c3d', 63)
    """
    tail = f"_{what}_{distinct}"
    return name.encode()[: LONGEST_NAME - len(tail.encode())].decode(errors="ignore") + tail


@contextmanager
def exclusively(target: Target) -> Iterator[None]:
    """Let no other restore work towards the same name in the block, whether the database is there or not.

    Errors: `LockHeld`.
    """
    with target.seat.autocommit(profile=Profile.MAINTENANCE) as connection:
        taken = connection.execute(
            text(load("chanuka_ops.backup").sql("restore_lock")), {"class": LOCK_CLASS, "name": target.name}
        ).scalar_one()
        if not taken:
            holders = target.ask("restore_lock_holder", **{"class": LOCK_CLASS, "name": target.name})
            who = ", ".join(
                f"{row['application']} (pid {row['pid']}, role {row['role']}, since {row['since']:%F %T%z})"
                for row in holders
            )
            raise errors.LockHeld(
                f"database {target.name!r} is being restored by another run: {who or 'one that has just ended'}."
                " Nothing was changed."
            )
        yield


def siblings(target: Target) -> list[Sibling]:
    """Return what earlier restores into that name left. Errors: `DatabaseError`."""
    prefix = beside(target.name, "restore", "x" * _DIGITS).removesuffix("x" * _DIGITS)
    found = []
    for row in target.ask("restore_siblings", prefix=prefix, mark=_MARK):
        mark = _mark(row["comment"])
        name = str(row["name"])
        unmarked = row["comment"] is None and name.startswith(prefix) and _RANDOM.fullmatch(name.removeprefix(prefix))
        if unmarked or (mark is not None and mark.into == target.name):
            found.append(Sibling(name, mark))
    return found


def sweep(target: Target) -> list[str]:
    """Drop what killed restores into that name left unfinished; return its names.

    Errors: `RefusedError` where one is finished, and only the swap is missing; `LockHeld` where somebody works in one;
    `DatabaseError`.
    """
    swept = []
    for left in siblings(target):
        if left.mark is not None and left.mark.state == "ready":
            raise errors.RefusedError(
                f"database {left.name!r} is a finished restore of backup {left.mark.backup_id} that was not put in the"
                f" place of {target.name!r}: do that with `chanuka-ops backup restore --finish --into …`, or drop it"
                f" ({_drop(target, left.name)}). Nothing was changed."
            )
        if left.mark is None and target.contents(left.name).number:
            continue  # it only has a name like that
        working = [who for who, _ in target.sessions(left.name)]
        if working:
            raise errors.LockHeld(
                f"database {left.name!r} is being restored at this moment, or its restore was killed just now: pid"
                f" {working[0].pid} ({working[0].application}) works in it. Try again when that has ended."
                " Nothing was changed."
            )
        target.run("restore_drop", name=left.name)
        log.info("dropped what a killed restore left: %s", left.name, extra={"event": "restore.swept"})
        swept.append(left.name)
    return swept


@contextmanager
def sibling(target: Target, backup_id: str, make: Callable[[str], None]) -> Iterator[str]:
    """Have a database made under another name for the block; it is dropped again unless the block swapped it in.

    `make` creates the database of that name. One that is ready stays: its data is whole, only its place isn't taken.
    """
    name = beside(target.name, "restore", secrets.token_hex(_DIGITS // 2))
    mark = Mark(backup_id=backup_id, into=target.name, state="unfinished", at=datetime.now(UTC))
    try:
        make(name)
        reached("restore: created")
        set_mark(target, name, mark)
        yield name
    except BaseException:
        _drop_failed(target, name)
        raise


def set_mark(target: Target, name: str, mark: Mark) -> None:
    """Write a sibling's mark. Errors: `DatabaseError`."""
    target.run("restore_comment", name=name, comment=f"{_MARK}{json.dumps(mark.model_dump(mode='json'))}")


def swap(
    target: Target, ready: str, comment: str | None, *, instead_of: Existing | None, let_go: Callable[[], None]
) -> tuple[str | None, list[Ended]]:
    """Give a sibling its name, and the database that has it another; return that, and who was in it and was ended.

    `instead_of` is the database that may be replaced, None where there was none of that name. `let_go` gives the
    operation's lock on it back: it's called when nobody else can get in any more.
    Errors: `RefusedError` where somebody stays in the old one, or took the name: nothing is changed then.
    """
    existing = target.existing()
    if (existing and existing.oid) != (instead_of and instead_of.oid):
        raise _taken(target, ready)
    old = _free_name(target) if existing else None
    ended: list[Ended] = []
    for tries_left in reversed(range(SWAP_TRIES)):
        try:
            with _ending(target, existing, let_go, ended):
                _rename(target, ready, old, comment)
        except errors.DatabaseError as error:
            if error.sqlstate == _DUPLICATE:
                raise _taken(target, ready) from None
            if error.sqlstate != _IN_USE and not isinstance(error, errors.LockTimeout):
                raise
            if not tries_left:
                raise errors.RefusedError(
                    f"database {target.name!r} could not be renamed: {error}. It is as it was. {_kept(target, ready)}"
                ) from None
        else:
            break
    log.info("database %s was put in place", target.name, extra={"event": "restore.swapped", "old": old})
    return old, ended


def _taken(target: Target, ready: str) -> errors.RefusedError:
    return errors.RefusedError(f"somebody else made a database {target.name!r} meanwhile. {_kept(target, ready)}")


def _free_name(target: Target) -> str:
    """Name the old database by the second of its end; two in one second differ."""
    moment = f"{datetime.now(UTC):%Y%m%d_%H%M%S}"
    name = beside(target.name, "before", moment)
    return name if target.existing(name) is None else beside(target.name, "before", f"{moment}_{secrets.token_hex(2)}")


def _rename(target: Target, ready: str, old: str | None, comment: str | None) -> None:
    catalog = load("chanuka_ops.backup")
    with target.seat.transaction(profile=Profile.MAINTENANCE, lock_timeout_s=LOCK_S) as connection:

        def run(block: str, **names: object) -> None:
            engines.execute_verbatim(connection, connection.execute(text(catalog.sql(block)), names).scalar_one())

        reached("swap: begun")
        if old is not None:
            run("restore_rename", name=target.name, other=old)
            reached("swap: old renamed")
        run("restore_rename", name=ready, other=target.name)
        run("restore_comment", name=target.name, comment=comment)
        reached("swap: renamed")
    reached("swap: committed")


@contextmanager
def _ending(
    target: Target, existing: Existing | None, let_go: Callable[[], None], ended: list[Ended]
) -> Iterator[None]:
    """End, while the block renames a database, whoever is in it: as soon as its door is closed, and not before."""
    if existing is None:
        yield
        return
    done = threading.Event()
    oid = existing.oid

    def end_them() -> None:
        with suppress(errors.DatabaseError):  # then the rename says that it's in use
            while not done.wait(_LOOK_S):
                if not target.ask("restore_door_closed", oid=oid)[0]["exists"]:
                    continue
                let_go()
                for who, endable in target.sessions():
                    if endable and target.ask("restore_end_session", pid=who.pid)[0]["pg_terminate_backend"]:
                        ended.append(who)
                time.sleep(_LOOK_S)

    ender = threading.Thread(target=end_them, name="chanuka-swap")
    try:
        with interrupts.held():  # a thread that started and was forgotten would look for ever
            ender.start()
        yield
    finally:
        done.set()
        if ender.is_alive():
            ender.join()


def _kept(target: Target, ready: str) -> str:
    return (
        f"The restored data is whole, in database {ready!r}: put it in place with `chanuka-ops backup restore --finish"
        f" --into …`, or drop it ({_drop(target, ready)})."
    )


def _drop(target: Target, name: str) -> str:
    return f"drop database {target.quoted(name)}"


def _drop_failed(target: Target, name: str) -> None:
    """Drop a sibling after a failure, unless it's ready; if that fails too, the next run does it."""
    try:
        mark = next((left.mark for left in siblings(target) if left.name == name), None)
        if mark is None or mark.state != "ready":
            target.run("restore_drop", name=name)
    except errors.ChanukaError as failure:
        log.warning(
            "database %s of the failed restore can't be dropped (%s): the next restore into %s does it",
            name, failure, target.name, extra={"event": "restore.left"},
        )  # fmt: skip


def _mark(comment: str | None) -> Mark | None:
    if comment is None or not comment.startswith(_MARK):
        return None
    try:
        return Mark.model_validate_json(comment.removeprefix(_MARK))
    except ValidationError:
        return None
