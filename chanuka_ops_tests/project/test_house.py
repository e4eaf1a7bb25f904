"""The house stands as drawn: rooms, sizes, what may not be there."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "chanuka_ops"
MODULES = sorted(PACKAGE.rglob("*.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOP_LEVEL = {
    "pyproject.toml", "chanuka_ops", "chanuka_ops_tests", "workspace.yaml", "migrations", "dagster.yaml", "README.md",
    "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "Makefile", "docs", "benchmarks", ".ci", ".gitignore",
}  # fmt: skip
FORBIDDEN_NAMES = {"utils", "helpers", "types", "constants", "interfaces"}


def test_the_top_level_holds_what_was_agreed() -> None:
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8")
    found = {path.name for path in ROOT.iterdir() if path.name != ".git"}
    unknown = {name for name in found - TOP_LEVEL if f"{name}/" not in ignored and name not in ignored}
    assert not {name for name in unknown if not name.startswith((".tmp_dagster", "chanuka_ops.egg"))}


def test_the_readme_has_a_caption_for_each_room() -> None:
    rooms = {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    block = README.split("## The house", 1)[1]
    captioned = set(re.findall(r"^(\w+)/ ", block, flags=re.MULTILINE))
    assert rooms == captioned


def test_no_room_is_named_for_leftovers() -> None:
    assert not [path for path in MODULES if path.stem in FORBIDDEN_NAMES]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 320
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 62, f"{node.name} has {length} lines"


def test_dagster_modules_keep_their_annotations() -> None:
    """`from __future__ import annotations` breaks `@op` and resources."""
    faces = [*(PACKAGE / "defs").rglob("*.py"), PACKAGE / "definitions.py"]
    assert not [path for path in faces if "from __future__ import annotations" in path.read_text(encoding="utf-8")]


def test_definitions_fit_on_a_screen() -> None:
    assert (PACKAGE / "definitions.py").read_text(encoding="utf-8").count("\n") <= 40


def test_nothing_names_a_package_index_or_swallows_everything() -> None:
    lock = (ROOT / ".ci" / "requirements.lock").read_text(encoding="utf-8")
    assert "http" not in re.sub(r"^(\S+)==", "", lock, flags=re.MULTILINE)
    assert "--hash=sha256:" in lock


def test_each_dependency_is_in_the_lock() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    wanted = [re.split(r"[\[<>=]", line)[0] for line in (*project["dependencies"], *extras["embedded"], *extras["dev"])]
    lock = (ROOT / ".ci" / "requirements.lock").read_text(encoding="utf-8")
    pinned = set(re.findall(r"^([A-Za-z0-9_.-]+)(?:\[.*\])?==", lock, re.MULTILINE))
    missing = set(wanted) - pinned
    assert not missing


def test_no_driver_error_is_caught_outside_the_rooms_that_may() -> None:
    allowed = {"db/engines.py", "db/watchdog.py"}
    found = {
        str(path.relative_to(PACKAGE))
        for path in MODULES
        if re.search(r"except \(?[^:\n]*(psycopg\.|DBAPIError|OperationalError)", path.read_text(encoding="utf-8"))
    }
    assert found <= allowed


def test_no_connection_is_made_outside_db() -> None:
    makes = re.compile(r"create_engine\(|psycopg\.connect\(|^\s*(?:import|from) psycopg\b", re.MULTILINE)
    found = {str(path.relative_to(PACKAGE)) for path in MODULES if makes.search(path.read_text(encoding="utf-8"))}
    assert found
    assert {name.split("/")[0] for name in found} == {"db"}
