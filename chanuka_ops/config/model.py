"""The nouns of the settings: frozen, validated, secrets masked wherever they are shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from chanuka_ops.config.backup import BackupSettings, StoreSettings
from chanuka_ops.config.databases import DatabaseSettings, Seconds, SecretSource, Section
from chanuka_ops.config.features import FeatureSettings
from chanuka_ops.config.migration import MigrationSettings
from chanuka_ops.config.monitoring import MonitoringSettings
from chanuka_ops.errors import ConfigurationError

Environment = Literal["development", "staging", "production"]
ENVIRONMENTS: tuple[str, ...] = get_args(Environment)
# It names a directory of the backup store and an asset of Dagster's.
_DATABASE_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")


class PostgresSettings(Section):
    """PostgreSQL's own programs."""

    bin_dir: Path | None = None


class OptimisationSettings(Section):
    """What the optimiser may do."""

    lock_timeout_s: Seconds = Field(2.0, alias="lock_timeout")
    statement_timeout_s: Seconds = Field(3600.0, alias="statement_timeout")


class RunSettings(Section):
    """What Dagster does where a server can't be reached: so many more tries, after so long, holding no process."""

    max_retries: int = Field(3, ge=0, le=100)
    retry_wait_s: Seconds = Field(10.0, alias="retry_wait")


class RouteSettings(Section):
    """One way to tell somebody: an Apprise URL (a secret, so it says where it is kept), and what goes that way."""

    url: SecretSource
    severities: frozenset[Literal["info", "warning", "critical"]] = frozenset({"info", "warning", "critical"})
    events: tuple[str, ...] = ("*",)
    databases: tuple[str, ...] = ("*",)
    checks: tuple[str, ...] = ("*",)
    tags: dict[str, str] = Field({})


class NotifySettings(Section):
    """Who is told what: routes by name. `events`, `databases` and `checks` of a route are shell-style patterns.

    `checks` are the ids of health checks; they say nothing of a message that is about none.
    """

    routes: dict[str, RouteSettings] = Field({})
    timeout_s: Seconds = Field(10.0, alias="timeout")
    attempts: int = Field(3, ge=1, le=10)


class OperationSettings(Section):
    """One section for each kind of operation."""

    runs: RunSettings = RunSettings()
    migration: MigrationSettings = MigrationSettings()
    backup: BackupSettings = BackupSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    optimisation: OptimisationSettings = OptimisationSettings()
    notify: NotifySettings = NotifySettings()


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
    databases: dict[str, DatabaseSettings] = Field({})
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
    def backup_stores(self) -> dict[str, StoreSettings]:
        """Every backup store by name; by default a directory below the state directory."""
        return self.operations.backup.all_stores(self.state_dir / "backups")

    def database(self, name: str) -> DatabaseSettings:
        """Return one database's settings.

        Errors: `ConfigurationError` naming the databases there are.
        """
        try:
            return self.databases[name]
        except KeyError:
            known = ", ".join(sorted(self.databases)) or "none"
            raise ConfigurationError(f"database {name!r} is not configured (configured: {known})") from None
