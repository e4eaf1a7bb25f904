"""Sealed documents: JSON that carries its own SHA-256, so that any changed byte shows. Pure.

The seal is one line of the document. What it states is the hash of all the other lines, so that reading one back needs
no parsing: thousands are listed in a second.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from pydantic import ValidationError

from chanuka_ops import errors
from chanuka_ops.backup.answers import Listed
from chanuka_ops.backup.model import Document, Manifest, Status, Summary

MANIFEST = "manifest.json"
STATUS = "status.json"
OWN = frozenset({MANIFEST, STATUS})
_SEAL = "document_sha256"
_MARK = b'\n "document_sha256": "'
_LINE = re.compile(rb' "document_sha256": "(?P<hash>[0-9a-f]{64})"(?P<more>,?)\n')
# In canonical JSON the depth of a member is that of its line: these are a look's figures, and where they end.
_FIGURES, _FIGURES_END, _NO_FIGURES = b'\n   "figures": {\n', b"\n   }", b'\n   "figures": {}'
_D = TypeVar("_D", bound=Document)


def seal(document: Mapping[str, Any]) -> bytes:
    """Write a document as canonical JSON with its seal: the SHA-256 of the same without that line."""
    body = _canonical(document)
    line = f' "{_SEAL}": "{hashlib.sha256(body).hexdigest()}"'.encode()
    following = min((key for key in document if key > _SEAL), default=None)
    if following is not None:
        place = body.index(f"\n {json.dumps(following)}: ".encode()) + 1
        return body[:place] + line + b",\n" + body[place:]
    if not document:
        return b"{\n" + line + b"\n}\n"
    return body.removesuffix(b"\n}\n") + b",\n" + line + b"\n}\n"


def unseal(content: bytes) -> dict[str, Any]:
    """Read a sealed document back.

    Errors: `BackupDamaged` if a single byte differs from what was written.
    """
    return _parsed(_checked(content))


def opened(content: bytes, kind: type[_D], backup_id: str, name: str) -> _D:
    """Read a manifest or a status from its bytes.

    Errors: `BackupDamaged` where it isn't as it was written, or belongs to another backup.
    """
    return _opened(content, kind, backup_id, name, lambda body: body)


def glimpsed(content: bytes, backup_id: str) -> Status:
    """Read a status as `opened` does, every byte checked, but leave out the looks' figures, which no listing shows."""
    return _opened(content, Status, backup_id, STATUS, _without_figures)


def _opened(content: bytes, kind: type[_D], backup_id: str, name: str, part: Callable[[bytes], bytes]) -> _D:
    try:
        body = part(_checked(content))
        try:
            document = kind.model_validate_json(body)  # a fifth of what it takes to make a dictionary first
        except ValidationError:  # what that parser doesn't read, Python's may: half of a surrogate pair
            document = kind.model_validate(_parsed(body))
    except errors.BackupDamaged as damage:
        raise errors.BackupDamaged(f"{backup_id}: {name}: {damage}") from None
    except ValidationError:
        raise errors.BackupDamaged(f"{backup_id}: {name}: its fields are not those of this format") from None
    stated = getattr(document, "backup_id", None)
    if stated != backup_id:
        raise errors.BackupDamaged(f"{backup_id}: {name} is that of {stated}")
    return document


def _checked(content: bytes) -> bytes:
    """Return what was sealed: the document without its seal. Errors: `BackupDamaged`."""
    start = content.find(_MARK) + 1
    line = _LINE.match(content, start) if start else None
    if line is None or content.find(_MARK, start) >= 0:
        raise errors.BackupDamaged("it is not a sealed document")
    before, after = content[:start], content[line.end() :]
    if not line["more"]:  # it is the last member, or the only one
        before = before.removesuffix(b",\n") + b"\n" if before.endswith(b",\n") else before.removesuffix(b"\n")
    body = before + after
    if hashlib.sha256(body).hexdigest().encode() != line["hash"]:
        raise errors.BackupDamaged("its content is not what its own checksum says")
    return body


def _parsed(body: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(body))
    except (ValueError, TypeError, RecursionError):
        raise errors.BackupDamaged("it is not a sealed document") from None


def _without_figures(body: bytes) -> bytes:
    first, *others = body.split(_FIGURES)
    return _NO_FIGURES.join([first, *(other.partition(_FIGURES_END)[2] for other in others)])


def first_documents(manifest: Manifest) -> tuple[bytes, bytes]:
    """Write a new backup's manifest and status: (manifest, status)."""
    content = seal(manifest.model_dump(mode="json"))
    status = Status(backup_id=manifest.backup_id, summary=summary(manifest, content))
    return content, seal(status.model_dump(mode="json"))


def summary(manifest: Manifest, content: bytes) -> Summary:
    """Say what a listing shows of a manifest whose bytes are `content`."""
    return Summary(
        database=manifest.database,
        kind=manifest.kind,
        created_at=manifest.created_at,
        bytes=manifest.bytes,
        server_version=manifest.source.server_version,
        manifest_bytes=len(content),
        manifest_sha256=hashlib.sha256(content).hexdigest(),
    )


def _canonical(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, sort_keys=True, indent=1, ensure_ascii=True) + "\n").encode()


def listed(store: str, status: Status, summary: Summary) -> Listed:
    """Return a whole backup's line of the catalogue."""
    return Listed(
        backup_id=status.backup_id,
        database=summary.database,
        kind=summary.kind,
        tier=status.tier,
        created_at=summary.created_at,
        bytes=summary.bytes,
        server_version=summary.server_version,
        store=store,
        proven_at=status.proven_at,
        pinned=status.pin.reason if status.pin else None,
        disproved=status.disproved,
    )


def damaged(store: str, database: str, backup_id: str, reason: str) -> Listed:
    """Return the line of a backup that can't be read."""
    return Listed(
        backup_id=backup_id, database=database, kind="?", tier="damaged", created_at=None, bytes=None,
        server_version=None, store=store, problem=reason,
    )  # fmt: skip


def newest_first(backups: Iterable[Listed]) -> list[Listed]:
    """Sort a catalogue; those that can't be read come last."""
    return sorted(
        backups, key=lambda b: (b.created_at is not None, b.created_at and b.created_at, b.backup_id), reverse=True
    )
