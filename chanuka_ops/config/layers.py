"""The layers of the settings: read, merged, validated, and what is wrong with them in words.

A problem names the key and where it came from, and never its value, which may be a secret.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from chanuka_ops.config.model import ENVIRONMENTS, Settings
from chanuka_ops.errors import ConfigurationError


def load(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Settings:
    """Read and validate every layer.

    Errors: `ConfigurationError`, one line a problem, each naming the key and the file or variable it came from.
    """
    environ = os.environ if environ is None else environ
    cwd = cwd or Path.cwd()
    path = _config_path(environ, cwd)
    from_file = _read_toml(path) if path else {}
    from_environ, variables = _environment_layer(environ)
    overlays, problems = _overlays(from_file.pop("environments", {}), path)
    own = {
        "state_dir": (cwd / (environ.get("CHANUKA_STATE_DIR") or ".chanuka")).resolve(),
        "source": path,
    }
    for key in sorted(own.keys() & (from_file.keys() | from_environ.keys())):
        problems.append(f"{variables.get((key,), path)}: {key}: unknown key (CHANUKA_STATE_DIR, CHANUKA_CONFIG)")
    chosen = str(from_environ.get("environment", from_file.get("environment", "development")))
    settings: Settings | None = None
    for name in dict.fromkeys([chosen, *overlays]):
        overlay = overlays.get(name, {})
        document = _deep_merge(_deep_merge(from_file, overlay), from_environ)
        try:
            validated = Settings(**{**document, **own})
        except ValidationError as error:
            origins = _Origins(variables, name, overlay, path)
            problems += _problems(error, origins, only_overlay=name != chosen)
        else:
            settings = validated if name == chosen else settings
    if problems or settings is None:
        raise ConfigurationError("\n".join(dict.fromkeys(problems)))
    return settings


def _config_path(environ: Mapping[str, str], cwd: Path) -> Path | None:
    named = environ.get("CHANUKA_CONFIG")
    if named:
        path = cwd / named
        if not path.is_file():
            raise ConfigurationError(f"CHANUKA_CONFIG names {path}, which is not a file")
        return path
    path = cwd / "chanuka.toml"
    return path if path.is_file() else None


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{path}: not valid TOML: {error}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: can't be read: {error}") from None


def _overlays(tables: object, path: Path | None) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Return the tables of `[environments]` that can be merged, and what is wrong with the others."""
    if not isinstance(tables, dict):
        return {}, [f"{path}: environments: expected a table"]
    overlays: dict[str, dict[str, Any]] = {}
    problems = []
    for name, table in tables.items():
        where = f"{path}: environments.{name}"
        if name not in ENVIRONMENTS:
            problems.append(f"{where}: unknown environment (known: {', '.join(ENVIRONMENTS)})")
        elif not isinstance(table, dict):
            problems.append(f"{where}: expected a table")
        elif "environment" in table:
            problems.append(f"{where}.environment: a table of an environment can't choose another one")
        else:
            overlays[name] = table
    return overlays, problems


def _environment_layer(environ: Mapping[str, str]) -> tuple[dict[str, Any], dict[tuple[str, ...], str]]:
    """Return what the variables set, and which variable set which key."""
    layer: dict[str, Any] = {}
    variables: dict[tuple[str, ...], str] = {}
    if environ.get("DATABASE_URL"):
        layer = {"databases": {"main": {"url": environ["DATABASE_URL"]}}}
        variables["databases", "main", "url"] = "environment variable DATABASE_URL"
    for name, raw in sorted(environ.items()):
        if not name.startswith("CHANUKA__"):
            continue
        value: Any = raw
        if raw[:1] in {"[", "{"}:  # arrays and inline tables are written as in TOML; all else is text for pydantic
            try:
                value = tomllib.loads(f"value = {raw}")["value"]
            except tomllib.TOMLDecodeError as error:
                raise ConfigurationError(f"environment variable {name}: not valid TOML: {error}") from None
        keys = tuple(name.removeprefix("CHANUKA__").lower().split("__"))
        variables[keys] = f"environment variable {name}"
        for key in reversed(keys):
            value = {key: value}
        layer = _deep_merge(layer, value)
    return layer, variables


def _deep_merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _deep_merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


@dataclass(frozen=True)
class _Origins:
    """Where a key of the merged document came from."""

    variables: dict[tuple[str, ...], str]
    environment: str
    overlay: dict[str, Any]
    path: Path | None

    def in_overlay(self, loc: tuple[str, ...]) -> bool:
        """Tell whether the environment's table has the last word on a key."""
        return self._variable(loc) is None and _holds(self.overlay, loc)

    def of(self, loc: tuple[str, ...]) -> str:
        """Name the variable, or the file and the environment's table."""
        return self._variable(loc) or str(self.path or "settings")

    def _variable(self, loc: tuple[str, ...]) -> str | None:
        """Return the variables that set this key, one above it, or those below it."""
        exact = [name for keys, name in self.variables.items() if keys == loc[: len(keys)]]
        below = [name for keys, name in self.variables.items() if keys[: len(loc)] == loc]
        if exact:
            return exact[-1]
        return ", ".join([*([str(self.path)] if self.path else []), *below]) if below else None


def _problems(error: ValidationError, origins: _Origins, *, only_overlay: bool) -> list[str]:
    lines = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        loc = tuple(str(part) for part in problem["loc"])
        in_overlay = origins.in_overlay(loc)
        if only_overlay and not in_overlay:
            continue  # said already, or a key that this environment gets from elsewhere
        message = problem["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
        if problem["type"] == "extra_forbidden":
            message = "unknown key" + _suggestion(loc)
        elif problem["type"] == "missing":
            message = "is missing"
        shown = ("environments", origins.environment, *loc) if in_overlay else loc
        lines.append(f"{origins.of(loc)}: {'.'.join(shown)}: {message}")
    return lines


def _holds(document: Any, loc: tuple[str, ...]) -> bool:
    for part in loc:
        if not isinstance(document, dict) or part not in document:
            return False
        document = document[part]
    return True


def _suggestion(loc: tuple[str, ...]) -> str:
    section: type[BaseModel] | None = Settings
    for part in loc[:-1]:
        section = _section_of(section, part)
    if section is None:
        return ""
    known = [str(field.alias or name) for name, field in section.model_fields.items() if not field.exclude]
    close = difflib.get_close_matches(loc[-1], known, n=1)
    return f" (did you mean {close[0]}?)" if close else f" (known here: {', '.join(sorted(known))})"


def _section_of(section: type[BaseModel] | None, part: str) -> type[BaseModel] | None:
    """Return the section below another; a table of names (`databases`) stands for its members' section."""
    field = section.model_fields.get(part) if section else None
    if field is None:
        return section  # a name of such a table, as `main` in databases.main
    candidates = (field.annotation, *get_args(field.annotation))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
