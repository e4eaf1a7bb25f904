"""Settings of backups: where they are kept, what is in them, how they are proved, how long they stay."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from chanuka_ops.config.databases import Seconds, SecretSource, Section

DEFAULT_STORE = "default"
_SCHEMES = ("s3", "gs", "gcs", "az", "azure", "adl", "abfs", "abfss")
_SECRET_WORDS = re.compile(
    r"secret|password|token|credential|(?:account|access|sas|client).*key|\bkey\b", re.IGNORECASE
)
_NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,62}$")
_SIZE = re.compile(r"^\s*(?P<number>\d+(?:\.\d+)?)\s*(?P<unit>B|kB|MB|GB|TB)?\s*$")
_UNIT_BYTES = {None: 1, "B": 1, "kB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4}
_AGE = re.compile(r"^\s*(?P<number>\d+)\s*(?P<unit>h|d|w)\s*$")
_UNIT_HOURS = {"h": 1, "d": 24, "w": 168}


def _bytes(value: object) -> object:
    """Read a size as PostgreSQL writes it: `64MB`, `1GB`; a bare number is bytes."""
    if isinstance(value, str):
        match = _SIZE.match(value)
        if not match:
            raise ValueError("a size is a number of bytes, or a number with kB, MB, GB or TB")
        return int(float(match["number"]) * _UNIT_BYTES[match["unit"]])
    return value


def _hours(value: object) -> object:
    """Read an age: `36h`, `30d`, `8w`; a bare number is hours."""
    if isinstance(value, str) and not value.isdigit():
        match = _AGE.match(value)
        if not match:
            raise ValueError("an age is a number of hours, or a number with h, d or w")
        return int(match["number"]) * _UNIT_HOURS[match["unit"]]
    return value


Bytes = Annotated[int, BeforeValidator(_bytes), Field(ge=0)]
Hours = Annotated[int, BeforeValidator(_hours), Field(ge=1)]


class StoreSettings(Section):
    """One place where backups are kept: a directory, or a prefix of a bucket (`s3://`, `gs://`, `az://`).

    `options` are obstore's configuration keys (`region`, `endpoint`, `virtual_hosted_style_request`, …), `secrets` are
    those whose value is a secret (`access_key_id`, `secret_access_key`, …) and say where it is kept. What neither
    names is taken from the cloud's own default: environment, instance role.
    """

    url: str = Field(min_length=1)
    options: dict[str, str] = Field({})
    secrets: dict[str, SecretSource] = Field({})

    @field_validator("url")
    @classmethod
    def _a_known_place(cls, value: str) -> str:
        scheme, colon, rest = value.partition("://")
        if colon and scheme not in _SCHEMES:
            raise ValueError(f"{scheme}:// is not known: a directory, or one of {', '.join(_SCHEMES)}")
        if colon and "@" in rest.partition("/")[0]:
            raise ValueError("a store's URL can't hold a credential: say under secrets where it is kept")
        return value

    @field_validator("options")
    @classmethod
    def _no_secret(cls, value: dict[str, str]) -> dict[str, str]:
        for key in value:
            if _SECRET_WORDS.search(key):
                raise ValueError(f"{key} is a secret: say under secrets where it is kept")
        return value

    @property
    def is_local(self) -> bool:
        """Whether it is a directory of this machine."""
        return "://" not in self.url

    @property
    def path(self) -> Path:
        """The directory of a local store."""
        return Path(self.url)


class KeepSettings(Section):
    """Which backups stay. With no number set every backup does.

    `last` is a count of backups; the others keep the newest of each of that many hours, days, ISO weeks, months and
    years (UTC) that have a backup. `minimum` are kept whatever the rest says. What is older than the newest backup by
    more than `maximum_age` stays only if it is pinned, the last proven one, or one of the `minimum`.
    """

    last: int = Field(0, ge=0)
    hourly: int = Field(0, ge=0)
    daily: int = Field(0, ge=0)
    weekly: int = Field(0, ge=0)
    monthly: int = Field(0, ge=0)
    yearly: int = Field(0, ge=0)
    minimum: int = Field(2, ge=1)
    maximum_age_hours: Hours | None = Field(None, alias="maximum_age")

    @property
    def keeps_all(self) -> bool:
        """Whether nothing ever expires."""
        counts = (self.last, self.hourly, self.daily, self.weekly, self.monthly, self.yearly)
        return not any(counts) and self.maximum_age_hours is None


class FilterSettings(Section):
    """What of a database is backed up; patterns are shell-style, matched against names as they are stored.

    A table's pattern has the form `schema.table`. A backup with a filter can only be restored where what it leaves
    out isn't needed, which is what its drill finds out.
    """

    schemas: tuple[str, ...] = ()
    exclude_schemas: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    exclude_tables: tuple[str, ...] = ()
    exclude_table_data: tuple[str, ...] = ()

    @field_validator("tables", "exclude_tables", "exclude_table_data")
    @classmethod
    def _with_schema(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for pattern in value:
            if "." not in pattern:
                raise ValueError(f"{pattern!r}: a table's pattern is schema.table, such as public.{pattern}")
        return value

    @property
    def keeps_all(self) -> bool:
        """Whether the whole database is meant."""
        return not any((self.schemas, self.exclude_schemas, self.tables, self.exclude_tables, self.exclude_table_data))


class DrillSettings(Section):
    """How a backup is proved.

    A table whose content passes `sample_above` is compared by one of `sample_parts` at each drill. `assertions` are
    SQL by name, and each must return true within `assertion_timeout`. Without `scratch_url` the drill makes a server of
    its own; with it, a database of its own on that server.
    """

    sample_above_bytes: Bytes = Field(10 * 1024**3, alias="sample_above")
    sample_parts: int = Field(7, ge=1, le=365)
    amcheck: bool = True
    assertions: dict[str, str] = Field({})
    assertion_timeout_s: Seconds = Field(600.0, alias="assertion_timeout")
    scratch_url: SecretSource | None = None


class HeartbeatSettings(Section):
    """What is touched after each proven backup, so that silence shows from outside: a URL (a secret), a file.

    `{database}` in either stands for the database's name; with several databases each needs a heartbeat of its own.
    """

    url: SecretSource | None = None
    file: Path | None = None


class BackupSettings(Section):
    """How backups are taken, kept and proved."""

    store: str | None = None
    stores: dict[str, StoreSettings] = Field({})
    recipients: tuple[str, ...] = ()
    identity: SecretSource | None = None
    jobs: int = Field(2, ge=1, le=64)
    compression: Literal["auto", "none", "gzip", "lz4", "zstd"] = "auto"
    compression_level: int = Field(1, ge=0, le=22)
    rate_limit_bytes: Bytes = Field(0, alias="rate_limit")
    role_passwords: bool = False
    databases: tuple[str, ...] = ()
    filter: FilterSettings = FilterSettings()
    fingerprint: Literal["content", "structure"] = "content"
    deadline_s: Seconds = Field(6 * 3600.0, alias="deadline")
    keep: KeepSettings = KeepSettings()
    drill: DrillSettings = DrillSettings()
    proven_within_hours: Hours = Field(26, alias="proven_within")
    heartbeat: HeartbeatSettings = HeartbeatSettings()

    @field_validator("recipients")
    @classmethod
    def _public_keys(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Let no secret key in: what shows the settings would show it. Whether they're whole keys is found later."""
        for position, text in enumerate(value, start=1):
            if text.strip().upper().startswith(("AGE-SECRET-KEY", "-----BEGIN")):
                raise ValueError(f"number {position} is a secret key: here stands the public one, and make a new pair")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in self.stores:
            if not _NAME.match(name):
                raise ValueError(f"stores.{name}: a store's name has small letters, digits, _ and - only")
        if self.store is not None and DEFAULT_STORE in self.stores:
            raise ValueError(f"store and stores.{DEFAULT_STORE} are the same store: give one of them")
        if self.store is not None:
            StoreSettings(url=self.store)
        gzip_most = 9
        if self.compression == "gzip" and self.compression_level > gzip_most:
            raise ValueError(f"compression_level: gzip knows 0 to {gzip_most}")
        return self

    def all_stores(self, otherwise: Path) -> dict[str, StoreSettings]:
        """Return every store by name, the first being the one that is read from first; `otherwise` where none is."""
        first = {DEFAULT_STORE: StoreSettings(url=self.store)} if self.store is not None else {}
        return {**first, **self.stores} or {DEFAULT_STORE: StoreSettings(url=str(otherwise))}
