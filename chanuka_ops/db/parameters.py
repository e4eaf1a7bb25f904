"""What a connection is asked for with: libpq's parameters and the session's settings. Pure, but for the password.

https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import Enum
from typing import Any

from psycopg.conninfo import make_conninfo
from pydantic import SecretStr
from sqlalchemy.engine import URL

from chanuka_ops import errors
from chanuka_ops.config import DRIVER, DatabaseSettings

PROBE_STATEMENT_S = 5.0
DEFAULT_PORT = 5432
# A client that was SIGKILLed leaves its query running until the server looks at the socket; the default is never.
# https://www.postgresql.org/docs/current/runtime-config-connection.html#GUC-CLIENT-CONNECTION-CHECK-INTERVAL
CONNECTION_CHECK_MS = 2000
MINIMUM_LIBPQ_TIMEOUT_S = 2  # libpq takes 1 for 2
# Silent loss of packets is noticed while a result is waited for (keepalives) and while one is sent (the user timeout).
KEEPALIVES = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 15000}


class Profile(Enum):
    """How long a session's statements may take: a probe, an ordinary query, or maintenance without a limit."""

    PROBE = "probe"
    QUERY = "query"
    MAINTENANCE = "maintenance"


def statement_s(database: DatabaseSettings, profile: Profile) -> float:
    """Return the profile's limit of a statement in seconds; 0 is none."""
    limits = {Profile.PROBE: PROBE_STATEMENT_S, Profile.QUERY: database.timeouts.statement_s, Profile.MAINTENANCE: 0.0}
    return limits[profile]


def session_settings(
    database: DatabaseSettings, profile: Profile, *, lock_timeout_s: float | None = None
) -> dict[str, str]:
    """Return the settings of a session, by name: its deadlines, a lock timeout always."""
    limits = database.timeouts
    settings_s = {
        "statement_timeout": statement_s(database, profile),
        "lock_timeout": limits.lock_s if lock_timeout_s is None else lock_timeout_s,
        "idle_in_transaction_session_timeout": 0.0 if profile is Profile.MAINTENANCE else limits.idle_in_transaction_s,
    }
    if profile is Profile.MAINTENANCE:  # the operation's lock is held by a session that does nothing else
        settings_s["idle_session_timeout"] = 0.0
    settings = {name: str(round(seconds * 1000)) for name, seconds in settings_s.items()}
    return {**settings, "client_connection_check_interval": str(CONNECTION_CHECK_MS)}


def session_options(database: DatabaseSettings, profile: Profile, *, lock_timeout_s: float | None = None) -> str:
    """Return libpq's `options`: what the URL states, then our own, in force from the first statement on."""
    ours = session_settings(database, profile, lock_timeout_s=lock_timeout_s)
    return " ".join([stated_options(database), *(f"-c {name}={value}" for name, value in ours.items())]).strip()


def stated_options(database: DatabaseSettings) -> str:
    """Return libpq's `options` as the URL states them: they hold for our sessions and for the tools'."""
    return str(database.sqlalchemy_url.query.get("options", ""))


def conninfo(database: DatabaseSettings, *, dbname: str | None = None) -> str:
    """Return libpq's connection string without a password: fit for an argument list."""
    parts = _parts(database)
    if dbname is not None:
        parts["dbname"] = dbname
    parts.setdefault("connect_timeout", max(MINIMUM_LIBPQ_TIMEOUT_S, round(database.timeouts.connect_s)))
    return make_conninfo("", **parts)


def dbname_only(database: DatabaseSettings) -> str:
    """Return a connection string of nothing but the database: for an option that takes a name, which may hold an =."""
    return make_conninfo("", dbname=database.sqlalchemy_url.database)


def _parts(database: DatabaseSettings) -> dict[str, Any]:
    url = database.sqlalchemy_url
    parts: dict[str, Any] = {**url.translate_connect_args(username="user", database="dbname"), **url.query}
    for key in ("host", "port"):
        if isinstance(parts.get(key), tuple):
            parts[key] = ",".join(parts[key])
    parts.pop("password", None)
    parts.pop("options", None)
    if not (is_local(str(parts.get("host", ""))) and is_local(str(parts.get("hostaddr", "")))):
        parts.setdefault("sslmode", "verify-full")  # libpq's own default tells nobody that it fell back to clear text
    return parts


def is_local(host: str) -> bool:
    """Tell whether what goes to that host never leaves this machine: a socket, or a loopback address."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class NodeSpec:
    """One server of a database: its name (host:port), how to reach it, its share of the reads."""

    name: str
    settings: DatabaseSettings
    weight: int
    is_replica: bool  # as the settings have it; what it is, is found by asking


def nodes_of(database: DatabaseSettings) -> list[NodeSpec]:
    """Return the servers of a database: the URL's (it may name several hosts), then the replicas.

    Errors: `ConfigurationError` where one stands there twice.
    """
    specs = [_spec(database, url, 1, is_replica=False) for url in _single_hosts(database.sqlalchemy_url)]
    for replica in database.replicas:
        theirs = _completed(replica.sqlalchemy_url, database.sqlalchemy_url)
        specs += [_spec(database, url, replica.weight, is_replica=True) for url in _single_hosts(theirs)]
    names = [spec.name for spec in specs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise errors.ConfigurationError(f"server {twice[0]} stands twice among the url and the replicas: name it once")
    return specs


def _completed(replica: URL, url: URL) -> URL:
    """Give a replica's URL what it leaves out."""
    if replica.username is None:
        replica = replica.set(username=url.username, password=url.password)
    inherited = {key: value for key, value in url.query.items() if key not in {"host", "port", "hostaddr"}}
    return replica.set(database=url.database, query={**inherited, **replica.query})


def _single_hosts(url: URL) -> list[URL]:
    hosts = _words(url.query.get("host")) or (url.host or "").split(",")
    ports = _words(url.query.get("port")) or ([str(url.port)] if url.port else [])
    query = {key: value for key, value in url.query.items() if key not in {"host", "port"}}
    found = []
    for position, word in enumerate(hosts):
        host, port = word, ports[min(position, len(ports) - 1)] if ports else ""
        if not host.startswith(("/", "@")) and host.count(":") == 1:
            host, port = host.split(":")
        if port and not port.isdigit():
            raise errors.ConfigurationError(f"port {port!r} of host {host!r} is no number")
        stated = {**query, "host": host} if host.startswith(("/", "@")) else query
        network = None if "host" in stated else host or None
        found.append(url.set(host=network, port=int(port) if port else None, query=stated))
    return found


def _words(value: str | tuple[str, ...] | None) -> list[str]:
    if not value:
        return []
    return [word for text in ([value] if isinstance(value, str) else value) for word in text.split(",")]


def _spec(database: DatabaseSettings, url: URL, weight: int, *, is_replica: bool) -> NodeSpec:
    stated = SecretStr(url.render_as_string(hide_password=False))
    own_password = is_replica and url.password is not None
    changed = {"url": stated, "replicas": (), "password": None if own_password else database.password}
    host = url.query.get("host") or url.host or "local"
    return NodeSpec(f"{host}:{url.port or DEFAULT_PORT}", database.model_copy(update=changed), weight, is_replica)


def where(database: DatabaseSettings) -> str:
    """Return the database's address for people, without its password."""
    return database.sqlalchemy_url.render_as_string(hide_password=True).removeprefix(f"{DRIVER}://")
