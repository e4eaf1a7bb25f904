"""The nouns of the settings: frozen, validated, secrets masked wherever they are shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
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


# Less would be rounded to 0 ms, which PostgreSQL takes for "no limit"; more doesn't fit its integer of milliseconds.
Seconds = Annotated[float, BeforeValidator(_duration_s), Field(ge=0.001, le=2_147_483, allow_inf_nan=False)]
Environment = Literal["development", "staging", "production"]
ENVIRONMENTS: tuple[str, ...] = get_args(Environment)
# It names a directory of the backup store and an asset of Dagster's.
_DATABASE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")


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
        hidden = sorted({"password", "sslpassword"} & set(url.query))
        if hidden:  # nothing masks it there, and it would stand in the argument list of pg_dump
            raise ValueError(f"the URL's query holds {hidden[0]}: give a password before the @, or with password")
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

    environment: Environment = "development"
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

    @field_validator("databases")
    @classmethod
    def _usable_names(cls, value: dict[str, DatabaseSettings]) -> dict[str, DatabaseSettings]:
        for name in value:
            if not _DATABASE_NAME.match(name):
                raise ValueError(f"database name {name!r}: letters, digits, _ and - only, 63 at most")
        return value

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
