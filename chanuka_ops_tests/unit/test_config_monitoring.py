"""Limits by check, database and object, as they stand in chanuka.toml; what is wrong is one line that names the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from chanuka_ops import config
from chanuka_ops.config import MonitoringSettings, Threshold
from chanuka_ops.config.monitoring import object_threshold
from chanuka_ops.errors import ConfigurationError

STATED = """
[operations.monitoring]
budget = "10s"
disabled = ["index.unused"]
thresholds."table.bloat" = { warning = 60, objects = { "public.events" = 80, "archive.*" = { warning = 90 } } }
thresholds."index.bloat" = 55

[operations.monitoring.databases."analytics*"]
thresholds."table.bloat" = 75
disabled = ["query.slow"]
"""


def monitoring(tmp_path: Path, text: str) -> MonitoringSettings:
    (tmp_path / "chanuka.toml").write_text(text)
    return config.load({}, tmp_path).operations.monitoring


def test_limits_are_read_as_they_are_written(tmp_path: Path) -> None:
    found = monitoring(tmp_path, STATED)
    assert found.budget_s == 10.0
    assert found.thresholds["index.bloat"] == Threshold(warning=55)
    bloat = found.thresholds["table.bloat"]
    assert [bloat.warning, *(one.warning for one in bloat.objects.values())] == [60, 80, 90]
    assert found.named() == {"table.bloat", "index.bloat", "index.unused", "query.slow"}


def test_a_database_s_own_go_before_the_general_ones(tmp_path: Path) -> None:
    found = monitoring(tmp_path, STATED).of("analytics_eu")
    assert found.thresholds["table.bloat"].warning == 75
    exact = object_threshold(found.thresholds["table.bloat"], "public.events")
    assert exact is not None
    assert exact.warning == 80
    assert found.disabled == {"index.unused", "query.slow"}
    assert monitoring(tmp_path, STATED).of("shop").thresholds["table.bloat"].warning == 60


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('thresholds."table.bloat" = { warnin = 1 }', r"thresholds\.table\.bloat\.warnin: unknown key"),
        (
            'thresholds."table.bloat" = { objects = { "a.b" = { limit = 1 } } }',
            r"thresholds\.table\.bloat\.objects\.a\.b\.limit: unknown key",
        ),
        ('thresholds."table.bloat" = "much"', r"thresholds\.table\.bloat\.warning: should be a valid number"),
        ('thresholds."table.bloat" = nan', r"thresholds\.table\.bloat\.warning: "),
        ('budget = "soon"', r"budget: a duration is"),
        ("budget = 0", r"budget: "),
        ('databases."a*" = { threshold = {} }', r"databases\.a\*\.threshold: unknown key"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_key(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"operations\.monitoring\.{said}") as raised:
        monitoring(tmp_path, f"[operations.monitoring]\n{text}\n")
    assert len(str(raised.value).splitlines()) == 1
