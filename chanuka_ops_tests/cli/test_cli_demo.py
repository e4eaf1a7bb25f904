"""The demonstration, from nothing to a proven backup, and once more on what it left."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from chanuka_ops.config import DatabaseSettings
from chanuka_ops_tests.cli.test_cli_terminal import on_terminal
from chanuka_ops_tests.plugins.backup import execute
from chanuka_ops_tests.plugins.desk import Desk, cloud_store, two_stores
from chanuka_ops_tests.plugins.processes import Cli, Ran, left_of, url_of
from chanuka_ops_tests.plugins.s3 import Bucket

pytestmark = [pytest.mark.postgres, pytest.mark.slow, pytest.mark.timeout(300)]


class References(HTMLParser):
    """Everything a page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - html.parser calls it
        kept = [value for name, value in attrs if name in {"src", "href", "srcset", "data", "action", "xlink:href"}]
        self.found += [value for value in kept if value and not value.startswith(("#", "data:"))]


def proved(ran: Ran) -> dict[str, object]:
    """Assert that every step was done and the copy held the data."""
    assert ran.status == 0, ran.output
    answer: dict[str, object] = ran.json
    steps = answer["steps"]
    assert isinstance(steps, list)
    assert all(step.keys() >= {"name", "status", "seconds"} for step in steps)
    assert {step["status"] for step in steps} == {"done"}
    assert (answer["status"], answer["tier"], answer["mismatches"]) == ("done", "proven", [])
    assert int(str(answer["tables_compared"])) > 10
    assert int(str(answer["rows_compared"])) > 100_000
    return answer


def test_from_nothing_and_again(cli: Cli, state_dir: Path, tmp_path: Path, base_environment: dict[str, str]) -> None:
    first = proved(cli("demo", "--json"))
    assert left_of(state_dir) == []  # no keeper, no server

    page = Path(str(first["report"])).read_text(encoding="utf-8")
    references = References()
    references.feed(page)
    assert references.found == []
    assert not re.search(r"url\(\s*['\"]?(?:https?:)?//|@import", page)
    assert "bill_versions" in page
    assert f"{first['rows_compared']:,}" in page

    # as a person keeps it in a file: the bars are on the terminal, and each step in the file
    second = on_terminal(["demo"], base_environment, tmp_path)
    assert second.status == 0, second.output
    assert "nothing to migrate" in second.stdout
    assert "already there" in second.stdout
    assert max(map(len, second.stdout.splitlines())) > 80  # in a pipe nothing is folded
    listed = cli("backup", "list", "--json").json["backups"]
    assert [backup["tier"] for backup in listed] == ["proven", "proven"]
    assert listed[0]["backup_id"] in second.stdout
    assert left_of(state_dir) == []


def test_on_a_server_of_ones_own_nothing_is_embedded(cli: Cli, database: DatabaseSettings, state_dir: Path) -> None:
    answer = proved(cli("demo", "--json", env={"DATABASE_URL": url_of(database)}))
    assert not (state_dir / "postgres").exists()
    assert left_of(state_dir) == []
    assert answer["health"]


def test_without_health_monitoring_it_works_too(cli: Cli, database: DatabaseSettings) -> None:
    env = {"DATABASE_URL": url_of(database), "CHANUKA__FEATURES__HEALTH_MONITORING": "false"}
    answer = proved(cli("demo", "--json", env=env))
    assert answer["health"] is None
    assert "health" not in {step["name"] for step in json.loads(json.dumps(answer["steps"]))}


def test_with_a_bucket_configured_the_second_backup_is_proved_from_there(desk: Desk, cloud: Bucket) -> None:
    execute(desk.database, "drop table bills")
    desk.write(two_stores("near") + cloud_store(cloud))
    answer = proved(desk("demo", "--json"))
    steps = answer["steps"]
    assert isinstance(steps, list)
    said = {step["name"]: step["detail"] for step in steps}
    names = list(said)
    assert names.index("optimise apply") < names.index("backup 2") < names.index("drill 2") < names.index("report")
    assert said["drill 2"].endswith(f"tier proven; fetched from {cloud.url}")
    second, first = desk.answer("backup", "list")["backups"]
    assert (second["stores"], second["tier"], first["tier"]) == (["near", "cloud"], "proven", "proven")
    assert second["backup_id"] in said["backup 2"]
    assert b'"proven"' in cloud.read(f"main/{second['backup_id']}/status.json"), "that copy was drilled"
