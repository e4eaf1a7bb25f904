"""`migrate new`: writes a revision file. Alembic imports the others for it, so this is for a process of a person's."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

from alembic.util import rev_id
from jinja2 import Environment, StrictUndefined

from chanuka_ops import errors
from chanuka_ops.config import MigrationSettings
from chanuka_ops.migrator import forms, naming, rules
from chanuka_ops.migrator.forms import INDENT, Form, Request
from chanuka_ops.migrator.locating import locate
from chanuka_ops.migrator.scripts import Scripts, load

_TEMPLATE = "template.py.j2"
_IMPORTS = {"op.": "from alembic import op", "ops.": "from chanuka_ops.migrator import operations as ops"}
_PHASES = {"expand": "what runs now works with it too", "contract": "only once no running code needs what goes"}


def write(request: Request, settings: MigrationSettings, cwd: Path, *, head: str | None = None) -> Path:
    """Write the file, after the directory's head (or the stated one), and return its path.

    Errors: `ConfigurationError` for a name or an option; `HeadsConflict` where there are several heads and none is
    stated; `RefusedError` where the file is there already.
    """
    form = forms.form(request)
    files = load(locate(settings, cwd))
    if files.unreadable:
        raise errors.ConfigurationError(f"{files.unreadable[0]}. Nothing was written.")
    parent = _parent(files, head)
    existing = [script.revision for script in files.scripts]
    if request.completes is not None and request.completes not in existing:
        raise errors.ConfigurationError(f"--completes {request.completes}: no file in {files.path} is that revision")
    revision, numbered = naming.identify(request.name, existing, rev_id())
    path = _path(files, revision, request.name, numbered=numbered)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(_render(request, form, revision, parent))
    except FileExistsError:
        raise errors.RefusedError(f"{path} is there already. Nothing was written.") from None
    return path


def _parent(files: Scripts, head: str | None) -> str | None:
    heads = rules.heads_of(files.scripts)
    if head is not None:
        fitting = [revision for revision in heads if revision == head] or [r for r in heads if r.startswith(head)]
        if len(fitting) != 1:
            raise errors.ConfigurationError(
                f"--head {head} is none of {files.path}: {', '.join(heads) or 'it is empty'}"
            )
        return fitting[0]
    if len(heads) > 1:
        raise errors.HeadsConflict(
            f"{len(heads)} heads in {files.path}: say with --head after which one: {', '.join(heads)}."
            " Nothing was written."
        )
    return heads[0] if heads else None


def _path(files: Scripts, revision: str, name: str, *, numbered: bool) -> Path:
    directory = files.directory
    if numbered:
        where = Path(directory.versions)
        where.mkdir(exist_ok=True)
        return where / f"{revision}.py"
    # Alembic's own scheme, with the directory's file_template, is behind no public name.
    return Path(directory._rev_path(directory.versions, revision, name, datetime.now(UTC)))  # noqa: SLF001


def _render(request: Request, form: Form, revision: str, parent: str | None) -> str:
    environment = Environment(undefined=StrictUndefined, trim_blocks=True, keep_trailing_newline=True, autoescape=False)  # noqa: S701 - it's Python
    environment.filters["text"] = forms.text
    source = resources.files("chanuka_ops.migrator").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    lines = [*form.upgrade, *form.downgrade]
    return environment.from_string(source).render(
        doc=(request.message or form.doc).replace("\\", "\\\\").replace('"""', "'''"),
        revision=revision,
        parent=parent,
        phase=form.phase,
        phase_says=_PHASES.get(form.phase or "", ""),
        completes=request.completes,
        imports=[words for prefix, words in _IMPORTS.items() if any(line.startswith(prefix) for line in lines)],
        upgrade="\n".join(INDENT + line for line in form.upgrade),
        downgrade="\n".join(INDENT + line for line in form.downgrade),
    )
