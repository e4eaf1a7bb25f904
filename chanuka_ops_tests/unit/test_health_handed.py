"""What the stores say of backups, and what the checks make of it: by a table of catalogues."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from chanuka_ops.backup.answers import Catalogue, Listed
from chanuka_ops.config import BackupSettings, MonitoringSettings, Threshold
from chanuka_ops.health import disks, registry
from chanuka_ops.health.judging import case_of, result_of
from chanuka_ops.health.model import CheckResult, Facts, Rows
from chanuka_ops.orchestrators.health import AGE, DRIFT, DRILL, backup_rows

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
FACTS = Facts(now=NOW, server_version=180006, database="shop")
CONFIGURED = BackupSettings(store="/backups")
DEFAULTS = BackupSettings()


def backup(hours: float, tier: str = "proven", disproved: str | None = None) -> Listed:
    at = NOW - timedelta(hours=hours)
    return Listed(backup_id=f"b{hours:g}", database="shop", kind="dump", tier=tier, created_at=at, bytes=1,
                  server_version="18.6", disproved=disproved)  # fmt: skip


def judge(check: str, rows: Rows, limit: float | None = None) -> CheckResult:
    one = registry.find(check)
    monitoring = MonitoringSettings(thresholds={} if limit is None else {check: Threshold(critical=limit)})
    return result_of(one, case_of(one, monitoring, FACTS), rows, 0.0)


def judged(
    check: str, *backups: Listed, settings: BackupSettings = CONFIGURED, problems: Mapping[str, str] | None = None
) -> CheckResult:
    found = Catalogue(backups=backups, problems=dict(problems or {}))
    return judge(check, backup_rows(settings, found, NOW)[check])


@pytest.mark.parametrize(
    ("backups", "settings", "status"),
    [
        ([backup(3)], CONFIGURED, "ok"),
        ([backup(27)], CONFIGURED, "critical"),
        ([backup(27)], BackupSettings(store="/backups", proven_within_hours=48), "ok"),
        ([backup(1, "taken"), backup(27)], CONFIGURED, "critical"),  # a younger one that nobody proved
        ([backup(1, "verified")], DEFAULTS, "critical"),  # one exists, so somebody counts on it
        ([], CONFIGURED, "critical"),
        ([], DEFAULTS, "info"),  # a fresh database: said, and no alarm
        ([backup(-48)], CONFIGURED, "unknown"),  # dated in the future
    ],
)
def test_the_age_of_what_is_proven(backups: list[Listed], settings: BackupSettings, status: str) -> None:
    assert judged(AGE, *backups, settings=settings).status == status


def test_a_store_that_can_t_be_listed_is_unknown_and_never_ok() -> None:
    found = judged(AGE, backup(50), problems={"offsite": "connection refused"})
    assert found.status == "unknown"
    assert "offsite: connection refused" in (found.reason or "")


def test_a_limit_of_the_checks_goes_before_that_of_the_backups() -> None:
    rows = backup_rows(CONFIGURED, Catalogue(backups=(backup(10),), problems={}), NOW)[AGE]
    assert judge(AGE, rows).status == "ok"
    assert judge(AGE, rows, limit=8).status == "critical"


@pytest.mark.parametrize(
    ("backups", "found"),
    [
        ([backup(3)], []),
        ([backup(3, "taken", "drill")], ["b3"]),
        ([backup(3, "taken", "verify"), backup(30)], ["b3"]),
        ([backup(3), backup(30, "taken", "drill")], []),  # a newer one is proven
    ],
)
def test_drills_that_failed(backups: list[Listed], found: list[str]) -> None:
    result = judged(DRILL, *backups)
    assert [one.object for one in result.findings] == found
    assert result.status == ("critical" if found else "ok")


@pytest.mark.parametrize(("hours", "status"), [(5.9, "ok"), (6.1, "warning")])
def test_backups_that_don_t_end(hours: float, status: str) -> None:
    assert judge("backup.running_too_long", [{"pid": 7, "program": "pg_dump", "hours": hours}]).status == status


@pytest.mark.parametrize(
    ("row", "status"),
    [
        ({"differs": "table public.t changed"}, "warning"),
        ({"differs": None}, "ok"),
        ({"note": "no baseline yet"}, "info"),
        ({"unknown": "no pg_dump"}, "unknown"),
    ],
)
def test_drift(row: dict[str, str | None], status: str) -> None:
    assert judge(DRIFT, [{"note": None, "unknown": None, "differs": None, **row}]).status == status


# ── disks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("postgresql://u@/db?host=/var/run/postgresql", True),
        ("postgresql://u@localhost/db", False),  # a tunnel or a container's port may end anywhere
        ("postgresql://u@db.internal/db", False),
        ("postgresql://u@/db?host=/var/run/postgresql&host=db.internal", False),
        ("postgresql://u@/db", False),  # libpq's default, or PGHOST
    ],
)
def test_only_a_socket_can_be_of_this_host(url: str, local: bool) -> None:  # noqa: FBT001 - a table's column
    assert disks.is_local(make_url(url)) is local


def test_a_directory_must_be_of_the_very_start_that_the_server_tells(tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").write_text(f"1\n{tmp_path}\n1700000000\n5432\n")

    def seen(*, started: float = 1700000000.0, local: bool = True, directory: str | None = str(tmp_path)) -> str | None:
        (row,) = disks.looked_at([{"directory": directory, "started": started}], local=local)
        assert (row["total"] is None) == (row["why"] is not None)
        return None if row["why"] is None else str(row["why"])

    assert seen() is None
    assert "another server's" in (seen(started=1800000000.0) or "")
    assert "over the network" in (seen(local=False) or "")
    assert "grant pg_monitor" in (seen(directory=None) or "")
    assert "can't be looked at" in (seen(directory=str(tmp_path / "none")) or "")
