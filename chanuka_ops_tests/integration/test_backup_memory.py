"""The program's own memory doesn't grow with the database."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from chanuka_ops_tests.plugins.backup import execute
from chanuka_ops_tests.plugins.site import Site, only

pytestmark = [pytest.mark.postgres, pytest.mark.slow]

MOST_KB = 150 * 1024
ROWS = 600_000
# of this process alone, since it began: ru_maxrss would count the one it was forked from
PROGRAM = """
import sys
from pathlib import Path
from chanuka_ops.cli import main
status = main.run(sys.argv[1:])
(peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(peak.split()[1], file=sys.stderr)
sys.exit(status)
"""


def peak_kb(site: Site, *args: str) -> tuple[dict[str, object], int]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, "--json", *args],
        capture_output=True, text=True, check=False, timeout=110, env=site.env, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout), int(done.stderr.split()[-1])


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", ["plain", "encrypted"])
def test_a_backup_and_a_drill_of_300_mb(sealed: Site, kind: str) -> None:
    site = only(sealed, "first")
    if kind == "plain":
        del site.options["recipients"]
    execute(
        site.database,
        f"create table big as select g as id, repeat(md5(g::text), 15) as v from generate_series(1, {ROWS}) g",
    )
    created, creating_kb = peak_kb(site, "backup", "create")
    assert int(str(created["source_bytes"])) > 300_000_000
    drilled, drilling_kb = peak_kb(site, "backup", "drill", str(created["backup_id"]))
    assert drilled["tier"] == "proven"
    assert creating_kb < MOST_KB, f"{creating_kb} kB"
    assert drilling_kb < MOST_KB, f"{drilling_kb} kB"
