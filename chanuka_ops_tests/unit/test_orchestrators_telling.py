"""What is told of backups: where it goes, whose heartbeat it is, how a failure is worded."""

from __future__ import annotations

from pathlib import Path

import pytest

from chanuka_ops import errors, notify
from chanuka_ops.backup.answers import Drilled
from chanuka_ops.backup.model import Tier
from chanuka_ops.config import (
    BackupSettings,
    DatabaseSettings,
    HeartbeatSettings,
    OperationSettings,
    SecretSource,
    Settings,
)
from chanuka_ops.orchestrators import nightly
from chanuka_ops.orchestrators.backups import Failed, Taken
from chanuka_ops.orchestrators.telling import Telling, configured, heartbeat_of

OWN, SHARED = "https://beat.example/{database}", "https://beat.example/one"


def settings(heartbeat: HeartbeatSettings | None = None) -> Settings:
    url = "postgresql://ops@db.internal/chanuka"
    return Settings(
        state_dir=Path("/nowhere"),
        source=None,
        databases={"main": DatabaseSettings.model_validate({"url": url})},
        operations=OperationSettings(backup=BackupSettings(heartbeat=heartbeat or HeartbeatSettings())),
    )


@pytest.mark.parametrize(
    ("name", "known"),
    [("main", "main"), ("main.other", "main"), ("main.my.db", "main"), ("mainother", None), ("b.other", None)],
)
def test_a_sibling_belongs_to_the_database_it_is_beside(name: str, known: str | None) -> None:
    assert configured(settings(), name) == known


@pytest.mark.parametrize(
    ("name", "url", "file", "touched"),
    [
        ("main", SHARED, "beat", (True, True)),
        ("main", None, None, (False, False)),
        ("main.other", SHARED, "beat", (False, False)),
        ("main.other", OWN, "beat-{database}", (True, True)),
        ("main.other", OWN, "beat", (True, False)),
        ("main.other", None, None, (False, False)),
    ],
)
def test_a_sibling_never_keeps_another_databases_heartbeat_going(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str | None, file: str | None, touched: tuple[bool, bool]
) -> None:
    if url:
        monkeypatch.setenv("BEAT", url)
    stated = HeartbeatSettings(url=SecretSource(env="BEAT") if url else None, file=Path(file) if file else None)
    found = heartbeat_of(settings(stated), name)
    assert (found.url is not None, found.file is not None) == touched


def test_a_heartbeat_whose_url_cannot_be_read_says_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BEAT", raising=False)
    stated = HeartbeatSettings(url=SecretSource(env="BEAT"))
    assert heartbeat_of(settings(stated), "main.other") == stated


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[notify.Notice]:
    found: list[notify.Notice] = []
    monkeypatch.setattr(notify, "send", lambda notice, *_, **__: found.append(notice))
    return found


@pytest.mark.parametrize(
    ("error", "asked_for", "told"),
    [
        (errors.StoreError("down"), None, ["backup.failed"]),
        (errors.BackupNotFound("none"), None, ["backup.failed"]),
        (errors.BackupNotFound("none"), "main-1", []),
        (errors.LockHeld("held"), None, []),
        (errors.ToolTooOld("old"), None, []),
        (errors.Interrupted("stopped"), None, []),
        (OSError("disk"), None, ["backup.failed"]),
        (KeyboardInterrupt(), None, []),
    ],
)
def test_what_counts_as_a_failure(
    sent: list[notify.Notice], error: BaseException, asked_for: str | None, told: list[str]
) -> None:
    with pytest.raises(type(error)), Telling(settings(), "main").failures("backup", asked_for=asked_for):
        raise error
    assert [notice.event for notice in sent] == told


def drilled(**held: bool | None) -> Drilled:
    return Drilled(
        backup_id="main-1", tier=Tier.VERIFIED, restore_seconds=None, tables_compared=0, rows_compared=0, coverage=0.0,
        mismatches=(), structure_problems=(), rto_seconds=None, rpo_seconds=3.0, ladder=held, warnings=(),
        scratch_version=None, problems=(), tables={},
    )  # fmt: skip


def test_a_drill_that_compared_nothing_says_what_it_did_not_compare(sent: list[notify.Notice]) -> None:
    answer = drilled(manifest=True, restores=True, structure=True, content=None)
    Telling(settings(), "main").drilled(answer)
    assert [(notice.event, notice.body) for notice in sent] == [("drill.failed", "not compared: content")]


def test_a_sibling_without_a_backup_ends_the_cycle_by_name() -> None:
    nightly.require_all(())
    with pytest.raises(errors.ChanukaError, match=r"no backup of main\.other: it is locked"):
        nightly.require_all((Failed("main.other", "LockTimeout", "it is locked"),))
    assert not Taken((), (Failed("main.other", "LockTimeout", "it is locked"),)).complete


def test_another_database_of_the_same_servers_is_on_its_replicas_too() -> None:
    """A replica's URL may name the database: a read that it serves must not come from another one."""
    stated = DatabaseSettings.model_validate(
        {
            "url": "postgresql://ops@a/chanuka",
            "replicas": [{"url": "postgresql://ops@b/chanuka"}, {"url": "postgresql://ops@c", "weight": 3}],
        }
    )
    there = stated.with_dbname("other")
    assert [address.sqlalchemy_url.database for address in (there, *there.replicas)] == ["other"] * 3
    assert [replica.weight for replica in there.replicas] == [1, 3]
    assert stated.replicas[0].sqlalchemy_url.database == "chanuka"
