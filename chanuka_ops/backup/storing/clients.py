"""The client of an object store, made from its settings, with a deadline and bounded retries."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from obstore import store as stores
from obstore.exceptions import BaseError, UnknownConfigurationKeyError

from chanuka_ops import errors
from chanuka_ops.backup.storing import causes
from chanuka_ops.config import StoreSettings
from chanuka_ops.db.credentials import resolve_secret

if TYPE_CHECKING:  # it isn't there otherwise
    from obstore.store import ObjectStore as Client

MAX_RETRIES = 10
CONNECT_TIMEOUT_S = 10.0
# keys of the HTTP client; obstore panics where one stands among the store's own
CLIENT_KEYS = frozenset({
    "allow_http", "allow_invalid_certificates", "default_content_type", "http1_only", "http2_keep_alive_interval",
    "http2_keep_alive_timeout", "http2_keep_alive_while_idle", "http2_max_frame_size", "http2_only",
    "pool_idle_timeout", "pool_max_idle_per_host", "proxy_ca_certificate", "proxy_excludes", "proxy_url",
    "randomize_addresses", "root_certificate", "user_agent",
})  # fmt: skip
_DEADLINES = frozenset({"timeout", "connect_timeout", "read_timeout"})
_PREFIXES = ("aws_", "google_", "azure_")


def opened(name: str, settings: StoreSettings, deadline_s: float) -> tuple[Client, tuple[str, ...]]:
    """Make a client, and return it with the secrets it was given. Nothing is requested yet.

    `deadline_s` bounds each request, its body included; no retry is begun later than that after the first.
    Errors: `ConfigurationError` naming the option, or where a secret is to come from.
    """
    secrets = {key: resolve_secret(source, f"{key} of store {name}") for key, source in settings.secrets.items()}
    config, client = _sorted(name, {**settings.options, **secrets})
    deadline = timedelta(seconds=deadline_s)
    waits = {
        "timeout": deadline,
        "read_timeout": deadline,
        "connect_timeout": timedelta(seconds=min(CONNECT_TIMEOUT_S, deadline_s)),
    }
    backoff = {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=10), "base": 2}
    retry = {"max_retries": MAX_RETRIES, "retry_timeout": deadline, "backoff": backoff}
    scheme, _, place = settings.url.partition("://")
    url = f"gs://{place}" if scheme == "gcs" else settings.url
    make = cast("Any", stores.from_url)  # its overloads want to know the cloud
    try:
        made = make(url, config=config, client_options={**client, **waits}, retry_config=retry)
    except UnknownConfigurationKeyError as error:
        key = causes.quoted(str(error))
        raise errors.ConfigurationError(f"stores.{name}: {key!r} is not an option of {scheme}://") from None
    except (BaseError, ValueError, OSError) as error:
        reason = causes.of(error, secrets.values())
        raise errors.ConfigurationError(f"stores.{name}: {settings.url} can't be opened: {reason}") from None
    return made, tuple(secrets.values())


def _sorted(name: str, options: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """Sort the options into the store's own and the HTTP client's."""
    config: dict[str, str] = {}
    client: dict[str, str] = {}
    for stated, value in options.items():
        key = stated.lower()
        for prefix in _PREFIXES:
            key = key.removeprefix(prefix)
        if key in _DEADLINES:
            raise errors.ConfigurationError(f"stores.{name}: {stated} can't be set: every request has its deadline")
        if key in CLIENT_KEYS:
            client[key] = value
        else:
            config[stated] = value
    return config, client
