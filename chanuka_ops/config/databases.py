"""A database's settings: where its servers are, and how they may be used."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

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
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

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


class Section(BaseModel):
    """A table of the settings: frozen, its unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True)


class SecretSource(Section):
    """Where a secret is kept: exactly one of `env`, `file`, `command`. It is read anew for each new connection."""

    env: str | None = None
    file: Path | None = None
    command: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(source is not None for source in (self.env, self.file, self.command)) != 1:
            raise ValueError("give exactly one of env, file, command")
        return self


class PoolSettings(Section):
    """How many connections a process may hold to one server of a database, and for how long.

    `acquire_timeout` bounds everything up to a usable connection: breaker, slot, name resolution, connect and ping.
    `runs` is how many processes use such a pool at once, as Dagster's queue has it: for the connection budget only.
    """

    size: int = Field(1, ge=1)
    overflow: int = Field(2, ge=0)
    acquire_timeout_s: Seconds = Field(10.0, alias="acquire_timeout")
    max_lifetime_s: Seconds = Field(1800.0, alias="max_lifetime")
    leak_after_s: Seconds = Field(300.0, alias="leak_after")
    runs: int = Field(10, ge=1)


class TimeoutSettings(Section):
    """Deadlines of a session. A lock timeout is always in force: no operation may queue everybody behind itself."""

    connect_s: Seconds = Field(3.0, alias="connect")
    statement_s: Seconds = Field(60.0, alias="statement")
    lock_s: Seconds = Field(5.0, alias="lock")
    idle_in_transaction_s: Seconds = Field(60.0, alias="idle_in_transaction")


class RoutingSettings(Section):
    """Which replicas may serve a read. What lags by more, in bytes or in time, gets none until it has caught up."""

    max_lag_bytes: int = Field(64 * 1024 * 1024, ge=0)
    max_lag_s: Seconds = Field(30.0, alias="max_lag")
    probe_every_s: Seconds = Field(1.0, alias="probe_every")
    token_wait_s: Seconds = Field(1.0, alias="token_wait")
    primary_fallback: bool = True


class BreakerSettings(Section):
    """When a server that fails is left alone: after so many failures of one class within the window."""

    failures: int = Field(3, ge=1)
    window_s: Seconds = Field(10.0, alias="window")


class _Addressed(Section):
    url: SecretStr

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
        hidden = sorted({"password", "sslpassword"} & set(url.query))
        if hidden:  # nothing masks it there, and it would stand in the argument list of pg_dump
            raise ValueError(f"the URL's query holds {hidden[0]}: give a password before the @, or with password")
        return SecretStr(url.set(drivername=DRIVER).render_as_string(hide_password=False))

    @field_serializer("url")
    def _masked(self, _: SecretStr) -> str:
        return self.sqlalchemy_url.render_as_string(hide_password=True)

    @property
    def sqlalchemy_url(self) -> URL:
        """The URL with its password, if it has one; SQLAlchemy hides it in repr and str."""
        return make_url(self.url.get_secret_value())


class ReplicaSettings(_Addressed):
    """A server that may serve reads. What its URL leaves out (database, role, options) is as in the database's."""

    weight: int = Field(1, ge=0)


class DatabaseSettings(_Addressed):
    """One database: the server that is asked first, and those that replicate it. Which is primary is found by asking.

    `pooler` says what stands between: nothing, or a pooler that lends its servers for a session or for a transaction.
    """

    password: SecretSource | None = None
    replicas: tuple[ReplicaSettings, ...] = ()
    pooler: Literal["none", "session", "transaction"] = "none"
    tags: dict[str, str] = {}
    pool: PoolSettings = PoolSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    routing: RoutingSettings = RoutingSettings()
    breaker: BreakerSettings = BreakerSettings()

    @model_validator(mode="after")
    def _names_a_database(self) -> Self:
        dbname = self.sqlalchemy_url.database
        if not dbname:
            raise ValueError("the URL names no database: end it with /name")
        for replica in self.replicas:
            theirs = replica.sqlalchemy_url.database
            if theirs not in {None, "", dbname}:
                raise ValueError(f"a replica's URL names database {theirs!r}, and it replicates {dbname!r}")
        return self

    @model_validator(mode="after")
    def _one_password(self) -> Self:
        if self.password is not None and self.sqlalchemy_url.password is not None:
            raise ValueError("the password stands in the url and in password: give it once")
        return self

    def with_dbname(self, dbname: str) -> Self:
        """Return the same servers and role with another database."""
        replicas = tuple(r.model_copy(update={"url": _elsewhere(r, dbname)}) for r in self.replicas)
        return self.model_copy(update={"url": _elsewhere(self, dbname), "replicas": replicas})


def _elsewhere(addressed: _Addressed, dbname: str) -> SecretStr:
    return SecretStr(addressed.sqlalchemy_url.set(database=dbname).render_as_string(hide_password=False))
