"""Takes a backup: dump → (encrypt) → every store → manifest. Until a store has its manifest, it lists nothing."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from chanuka_ops import context, errors
from chanuka_ops.backup import encryption, files, rules
from chanuka_ops.backup.answers import Created, Placed
from chanuka_ops.backup.boundaries import reached
from chanuka_ops.backup.encryption import Recipient
from chanuka_ops.backup.files import Begun
from chanuka_ops.backup.model import Encryption, File, Manifest, Tier
from chanuka_ops.backup.storing import sweeping
from chanuka_ops.backup.storing.local import LocalStore
from chanuka_ops.backup.storing.store import Store, Writer
from chanuka_ops.backup.taking import dump
from chanuka_ops.config import BackupSettings, Settings
from chanuka_ops.db.lock import operation_lock
from chanuka_ops.db.manager import ConnectionManager
from chanuka_ops.logs import Stopwatch
from chanuka_ops.postgres import binaries
from chanuka_ops.postgres.binaries import Binaries

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Targets:
    """The stores that still take part, and why the others don't. The last one's failure is the backup's.

    A store that isn't configured as it should be has failed like one that is down: there's a backup all the same.
    """

    writers: dict[str, Writer] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def attempt(self, name: str, *, others: bool) -> Iterator[None]:
        """Leave a store out that fails in the block. Errors: its own, where no other is left."""
        try:
            yield
        except (errors.StoreError, errors.ConfigurationError) as error:
            self.writers.pop(name, None)
            self.problems[name] = str(error)
            log.warning("store %s: %s", name, error, extra={"event": "store.failed", "store": name})
            if not self.writers and not others:
                raise


def create(manager: ConnectionManager, settings: Settings, stores: Mapping[str, Store]) -> Created:
    """Take one database's backup into every store. Errors: see `BackupService.create`."""
    watch = Stopwatch()
    backup = settings.operations.backup
    recipients = encryption.recipients_of(backup.recipients) if backup.recipients else None
    created_at = datetime.now(UTC)
    backup_id = rules.new_id(manager.name, created_at, secrets.token_hex(3))
    tools = binaries.find(configured=settings.postgres.bin_dir, server_major=manager.probe().major)
    with ExitStack() as stack:
        targets = _opened(stores, manager.name, backup_id, stack)
        plain = recipients is None
        staging = _staging(targets, settings, backup_id, manager.name, stack, shared=plain, name=sweeping.STAGING)
        reached("begun")
        # what follows needs the database no more, and a lost lock must list nothing
        with operation_lock(manager), _translated(staging, "written"):
            reached("locked")
            dumped = dump.dump(manager, tools, backup, staging)
        reached("dumped")
        if recipients is None:
            directory, found = staging, _inventory(staging, dumped.begun)
        else:
            directory = _staging(targets, settings, backup_id, manager.name, stack, name=sweeping.STAGING_ENCRYPTED)
            found = list(_encrypted(staging, directory, recipients, backup.jobs))
        reached("hashed")
        for name, writer in list(targets.writers.items()):
            with targets.attempt(name, others=False):
                writer.receive(directory, found)
            reached(f"received:{name}")
        manifest = _manifest(
            database=manager.name, backup_id=backup_id, created_at=created_at, tools=tools, settings=backup,
            dumped=dumped, found=found, seconds=watch.seconds,
        )  # fmt: skip
        placed: list[str] = []
        for name, writer in list(targets.writers.items()):
            with targets.attempt(name, others=bool(placed)):
                writer.publish(manifest)
                placed.append(name)
            reached(f"published:{name}")
    log.info("backup %s taken", backup_id, extra={"event": "backup.taken", "backup_id": backup_id})
    return _created(manifest, stores, targets, watch)


def _opened(stores: Mapping[str, Store], database: str, backup_id: str, stack: ExitStack) -> _Targets:
    """Begin to write to each store. Errors: `StoreError` where none can be written."""
    targets = _Targets()
    names = list(stores)
    for name in names:
        with targets.attempt(name, others=name != names[-1]):
            targets.writers[name] = stack.enter_context(stores[name].writing(database, backup_id))
    return targets


def _staging(
    targets: _Targets, settings: Settings, backup_id: str, database: str, stack: ExitStack, *, name: str,
    shared: bool = True,
) -> Path:  # fmt: skip
    """Return where files are made: in a local store at once if `shared`, which plain text of an encrypted one isn't.

    Elsewhere it's below the state directory, guarded and swept as a local store's unfinished backups are.
    """
    if shared:
        for writer in targets.writers.values():
            if writer.staging is not None:
                return writer.staging
    own = LocalStore(settings.state_dir / name, name)
    return stack.enter_context(own.writing(database, backup_id)).staging


def _encrypted(staging: Path, directory: Path, recipients: Sequence[Recipient], jobs: int) -> tuple[File, ...]:
    """Encrypt every file that was made; each plain one is removed as soon as its encrypted one lasts."""
    with _translated(staging, "read back"):
        paths = sorted(path.relative_to(staging).as_posix() for path in files.below(staging, strict=True))
    return encryption.encrypt_all(staging, paths, directory, recipients, jobs=jobs, delete=True)


def _inventory(directory: Path, begun: Mapping[Path, Begun]) -> list[File]:
    with _translated(directory, "read back"):
        found = files.inventory(directory, label="hash and fsync", fsync=True, begun=begun)
    return [file for _, file in sorted(found.items()) if file is not None]


@contextmanager
def _translated(directory: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise errors.StoreError(f"{error.filename or directory} can't be {what}: {error.strerror}") from None


def _manifest(
    *,
    database: str,
    backup_id: str,
    created_at: datetime,
    tools: Binaries,
    settings: BackupSettings,
    dumped: dump.Dumped,
    found: list[File],
    seconds: float,
) -> Manifest:
    who = context.current()
    return Manifest(
        backup_id=backup_id,
        database=database,
        created_at=created_at,
        seconds=seconds,
        actor=who.actor,
        run_id=who.run_id,
        tool_version=tools.version,
        tool_major=tools.major,
        compression=dumped.compression.codec,
        compression_level=dumped.compression.level,
        encryption=Encryption(recipients=settings.recipients) if settings.recipients else None,
        filters=dumped.filters,
        role_passwords=settings.role_passwords,
        jobs=settings.jobs,
        source=dumped.source,
        files=tuple(sorted(found, key=lambda file: file.path)),
        fingerprint=dumped.fingerprint,
    )


def _created(manifest: Manifest, stores: Mapping[str, Store], targets: _Targets, watch: Stopwatch) -> Created:
    placed = [
        Placed(store=name, where=store.where, problem=targets.problems.get(name)) for name, store in stores.items()
    ]
    return Created(
        backup_id=manifest.backup_id,
        kind=manifest.kind,
        tier=Tier.TAKEN,
        bytes=manifest.bytes,
        source_bytes=manifest.source.source_bytes,
        seconds=watch.seconds,
        store=next(item.where for item in placed if item.problem is None),
        tables=len(manifest.fingerprint.tables),
        rows=manifest.fingerprint.rows,
        stores=tuple(placed),
    )
