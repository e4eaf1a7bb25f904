"""Settings: the only reader of chanuka.toml and of the environment.

Layers, the later winning: defaults · chanuka.toml · its `[environments.<environment>]` · `DATABASE_URL` ·
`CHANUKA__SECTION__KEY`. Everything is validated at load; a problem is one message that names the key and where it
came from, and never its value, which may be a secret.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_serializer,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from chanuka_ops.errors import ConfigurationError

DRIVER = "postgresql+psycopg"
_ACCEPTED_SCHEMES = {"postgres", "postgresql", DRIVER}
_DURATION = re.compile(r"^\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>ms|s|min|h)?\s*$")
_UNIT_S = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, None: 1.0}


def _duration_s(value: object) -> object:
    """Read a duration as PostgreSQL writes it: `300ms`, `5s`, `2min`, `1h`; a bare number is seconds."""
    if isinstance(value, str):
        match = _DURATION.match(value)
        if not match:
            raise ValueError("a duration is a number of seconds, or a number with ms, s, min or h")
        return float(match["number"]) * _UNIT_S[match["unit"]]
    return value


Seconds = Annotated[float, BeforeValidator(_duration_s), Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)


class SecretSource(_Section):
    """Where a secret is kept: exactly one of `env`, `file`, `command`. It is read anew for each new connection."""

    env: str | None = None
    file: Path | None = None
    command: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(source is not None for source in (self.env, self.file, self.command)) != 1:
            raise ValueError("give exactly one of env, file, command")
        return self


class PoolSettings(_Section):
    """How many connections a process may hold to one database."""

    size: int = Field(1, ge=1)
    overflow: int = Field(2, ge=0)
    acquire_timeout_s: Seconds = Field(10.0, alias="acquire_timeout")
    max_lifetime_s: Seconds = Field(1800.0, alias="max_lifetime")


class TimeoutSettings(_Section):
    """Deadlines of a session. A lock timeout is always in force: no operation may queue everybody behind itself."""

    connect_s: Seconds = Field(3.0, alias="connect")
    statement_s: Seconds = Field(60.0, alias="statement")
    lock_s: Seconds = Field(5.0, alias="lock")
    idle_in_transaction_s: Seconds = Field(60.0, alias="idle_in_transaction")


class DatabaseSettings(_Section):
    """One database."""

    url: SecretStr
    password: SecretSource | None = None
    tags: dict[str, str] = {}
    pool: PoolSettings = PoolSettings()
    timeouts: TimeoutSettings = TimeoutSettings()

    @field_validator("url")
    @classmethod
    def _a_postgresql_url(cls, value: SecretStr) -> SecretStr:
        raw = value.get_secret_value()
        try:
            url = make_url(raw)
        except (ArgumentError, ValueError):
            raise ValueError("not a database URL: expected postgresql+psycopg://user@host:port/database") from None
        if url.drivername not in _ACCEPTED_SCHEMES:
            raise ValueError(f"scheme {url.drivername!r} is not PostgreSQL with psycopg 3: write {DRIVER}://")
        if not url.database:
            raise ValueError("the URL names no database: end it with /name")
        return SecretStr(url.set(drivername=DRIVER).render_as_string(hide_password=False))

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if self.password is not None and self.sqlalchemy_url.password is not None:
            raise ValueError("the password stands in the url and in password: give it once")
        return self

    @field_serializer("url")
    def _masked(self, _: SecretStr) -> str:
        return self.sqlalchemy_url.render_as_string(hide_password=True)

    def with_dbname(self, dbname: str) -> Self:
        """Return the same server and role with another database."""
        url = self.sqlalchemy_url.set(database=dbname).render_as_string(hide_password=False)
        return self.model_copy(update={"url": SecretStr(url)})

    @property
    def sqlalchemy_url(self) -> URL:
        """The URL with its password, if it has one; SQLAlchemy hides it in repr and str."""
        return make_url(self.url.get_secret_value())


class FeatureSettings(_Section):
    """What is switched off here is absent: no command, no job step, no schedule."""

    health_monitoring: bool = True


class PostgresSettings(_Section):
    """PostgreSQL's own programs."""

    bin_dir: Path | None = None


class MigrationSettings(_Section):
    """How migrations are run."""

    script_location: Path | None = None
    lock_timeout_s: Seconds = Field(1.0, alias="lock_timeout")
    retry_deadline_s: Seconds = Field(60.0, alias="retry_deadline")
    deadline_s: Seconds = Field(3600.0, alias="deadline")


class BackupSettings(_Section):
    """How backups are taken and proved."""

    store: Path | None = None
    jobs: int = Field(2, ge=1, le=64)
    compression_level: int = Field(1, ge=0, le=9)
    deadline_s: Seconds = Field(6 * 3600.0, alias="deadline")


class Threshold(_Section):
    """Limits of one check, in that check's unit; None leaves the check's own."""

    warning: float | None = None
    critical: float | None = None


class MonitoringSettings(_Section):
    """What health checks look at and where they draw the line."""

    thresholds: dict[str, Threshold] = {}
    disabled: frozenset[str] = frozenset()

    @field_validator("thresholds", mode="before")
    @classmethod
    def _bare_number_is_the_first_limit(cls, value: object) -> object:
        if isinstance(value, Mapping):
            return {key: {"warning": v} if isinstance(v, int | float | str) else v for key, v in value.items()}
        return value


class OptimisationSettings(_Section):
    """What the optimiser may do."""

    lock_timeout_s: Seconds = Field(2.0, alias="lock_timeout")
    statement_timeout_s: Seconds = Field(3600.0, alias="statement_timeout")


class OperationSettings(_Section):
    """One section for each kind of operation."""

    migration: MigrationSettings = MigrationSettings()
    backup: BackupSettings = BackupSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    optimisation: OptimisationSettings = OptimisationSettings()


class _Layers(PydanticBaseSettingsSource):
    """The merged document of all layers, as pydantic-settings' one source."""

    def __init__(self, settings_cls: type[BaseSettings], document: dict[str, Any]) -> None:
        super().__init__(settings_cls)
        self._document = document

    def get_field_value(self, field: Any, field_name: str) -> tuple[Any, str, bool]:  # noqa: ARG002 - the base class's signature
        return self._document.get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        return self._document


class Settings(BaseSettings):
    """Everything a team may set; immutable once loaded."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    environment: Literal["development", "staging", "production"] = "development"
    features: FeatureSettings = FeatureSettings()
    databases: dict[str, DatabaseSettings] = {}
    postgres: PostgresSettings = PostgresSettings()
    operations: OperationSettings = OperationSettings()
    state_dir: Path = Field(exclude=True)
    source: Path | None = Field(None, exclude=True, description="the chanuka.toml that was read")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Use our own layers only: pydantic-settings would ignore an unknown key of the environment in silence."""
        del env_settings, dotenv_settings, file_secret_settings
        return (_Layers(settings_cls, init_settings()),)

    @property
    def backup_store(self) -> Path:
        """Directory of the local backup store."""
        return self.operations.backup.store or self.state_dir / "backups"

    def database(self, name: str) -> DatabaseSettings:
        """Return one database's settings.

        Errors: `ConfigurationError` naming the databases there are.
        """
        try:
            return self.databases[name]
        except KeyError:
            known = ", ".join(sorted(self.databases)) or "none"
            raise ConfigurationError(f"database {name!r} is not configured (configured: {known})") from None


def load(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> Settings:
    """Read and validate every layer.

    Errors: `ConfigurationError`, one line a problem, each naming the key and the file or variable it came from.
    """
    environ = os.environ if environ is None else environ
    cwd = cwd or Path.cwd()
    path = _config_path(environ, cwd)
    from_file = _read_toml(path) if path else {}
    from_environ = _environment_layer(environ)
    overlays = from_file.pop("environments", {})
    chosen = from_environ.get("environment", from_file.get("environment", "development"))
    if not isinstance(overlays, dict):
        raise ConfigurationError(f"{path}: environments: expected a table")
    overlay = overlays.get(chosen, {})
    document = _deep_merge(_deep_merge(from_file, overlay), from_environ)
    document["state_dir"] = (cwd / environ.get("CHANUKA_STATE_DIR", ".chanuka")).resolve()
    document["source"] = path
    try:
        return Settings(**document)
    except ValidationError as error:
        raise ConfigurationError("\n".join(_problems(error, from_environ, path))) from None


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


def _environment_layer(environ: Mapping[str, str]) -> dict[str, Any]:
    layer: dict[str, Any] = {}
    if environ.get("DATABASE_URL"):
        layer = {"databases": {"main": {"url": environ["DATABASE_URL"]}}}
    for name, raw in sorted(environ.items()):
        if not name.startswith("CHANUKA__"):
            continue
        value: Any = raw
        if raw[:1] in "[{":  # arrays and inline tables are written as in TOML; all else is text that pydantic reads
            try:
                value = tomllib.loads(f"value = {raw}")["value"]
            except tomllib.TOMLDecodeError as error:
                raise ConfigurationError(f"environment variable {name}: not valid TOML: {error}") from None
        for key in reversed(name.removeprefix("CHANUKA__").lower().split("__")):
            value = {key: value}
        layer = _deep_merge(layer, value)
    return layer


def _deep_merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _deep_merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def _problems(error: ValidationError, from_environ: dict[str, Any], path: Path | None) -> list[str]:
    lines = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        loc = [str(part) for part in problem["loc"]]
        if _holds(from_environ, loc):
            origin = f"environment variable CHANUKA__{'__'.join(loc).upper()}"
            if loc == ["databases", "main", "url"]:
                origin = "environment variable DATABASE_URL"
        else:
            origin = str(path or "settings")
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            message = "unknown key" + _suggestion(loc)
        lines.append(f"{origin}: {'.'.join(loc)}: {message}")
    return lines


def _holds(document: Any, loc: list[str]) -> bool:
    for part in loc:
        if not isinstance(document, dict) or part not in document:
            return False
        document = document[part]
    return True


def _suggestion(loc: list[str]) -> str:
    section: Any = Settings
    for part in loc[:-1]:
        field = section.model_fields.get(part) if isinstance(section, type) and issubclass(section, BaseModel) else None
        annotation = field.annotation if field else None
        section = DatabaseSettings if section is Settings and part == "databases" else annotation
        if section is None:  # a database's own name stands between `databases` and its keys
            section = DatabaseSettings
    if not (isinstance(section, type) and issubclass(section, BaseModel)):
        return ""
    known = [str(field.alias or name) for name, field in section.model_fields.items() if not field.exclude]
    close = difflib.get_close_matches(loc[-1], known, n=1)
    return f" (did you mean {close[0]}?)" if close else f" (known here: {', '.join(sorted(known))})"


__all__ = ["DRIVER", "DatabaseSettings", "SecretSource", "Settings", "Threshold", "load"]
