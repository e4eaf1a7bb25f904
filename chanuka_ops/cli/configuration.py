"""`chanuka-ops config …`."""

from __future__ import annotations

import click

from chanuka_ops import errors
from chanuka_ops.cli.face import Face, common


@click.group()
def config() -> None:
    """Show and check the settings."""


@config.command("show")
@common
def show(face: Face) -> None:
    """Print the settings in force, secrets masked."""
    settings = face.settings()
    document = settings.model_dump(mode="json", by_alias=True)  # the keys as they are written in chanuka.toml
    document["state_dir"] = str(settings.state_dir)
    document["source"] = str(settings.source) if settings.source else None
    face.answer(document)


@config.command("check")
@common
def check(face: Face) -> int:
    """Say what is wrong with the settings; 2 if anything is."""
    problems: list[str] = []
    try:
        face.settings()
    except errors.ConfigurationError as error:
        problems = str(error).splitlines()
    if face.as_json:
        face.answer({"problems": problems})
    else:
        for problem in problems:
            face.say(problem)
        if not problems:
            face.say("the settings are valid")
    return errors.ConfigurationError.exit_code if problems else 0
