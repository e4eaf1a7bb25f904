"""Secrets, read from where they are kept for each new connection: a rotated one is in force at once."""

from __future__ import annotations

import os
import subprocess

from chanuka_ops import errors
from chanuka_ops.config import DatabaseSettings, SecretSource

SECRET_COMMAND_TIMEOUT_S = 10.0


def resolve_secret(source: SecretSource, what: str = "the password") -> str:
    """Read a secret from where it is kept; `what` names it in errors.

    Errors: `ConfigurationError` naming the source, never the secret.
    """
    if source.env is not None:
        value = os.environ.get(source.env)
        if value is None:
            raise errors.ConfigurationError(f"{what} is to come from ${source.env}, which is not set")
        return value
    if source.file is not None:
        try:
            return source.file.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise errors.ConfigurationError(
                f"{what} is to come from {source.file}, which can't be read: {error}"
            ) from None
    command = source.command or ()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECRET_COMMAND_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise errors.ConfigurationError(
            f"{what} is to come from the command {command[0]!r}, which failed: {error}"
        ) from None
    if done.returncode != 0:
        raise errors.ConfigurationError(
            f"{what} is to come from the command {command[0]!r}, which exited with {done.returncode}"
        )
    return done.stdout.rstrip("\r\n")


def password_of(database: DatabaseSettings) -> str | None:
    """Return the password in force now, or None where the server asks for none."""
    if database.password is not None:
        return resolve_secret(database.password)
    stated = database.sqlalchemy_url.password
    return str(stated) if stated is not None else None
