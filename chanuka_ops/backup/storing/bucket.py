"""One prefix of a bucket, by what a store of backups needs of it; with `clients` the only module that knows obstore.

What the server answers to a condition is an answer here (None, False), what it fails at is a `StoreError` that says
which operation, which key and why. A request has a deadline, is retried a bounded number of times, and no message
carries a credential.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal, cast

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
)

from chanuka_ops import errors
from chanuka_ops.backup.storing import causes, clients
from chanuka_ops.config import StoreSettings

if TYPE_CHECKING:  # they aren't there otherwise
    from obstore import GetOptions, ObjectMeta, UpdateVersion
    from obstore.store import ObjectStore as Client

log = logging.getLogger(__name__)

PUT_TRIES = 3


@dataclass(frozen=True, slots=True)
class Object:
    """What the server says of one object; `modified` is by its clock, `version` what a conditional put refers to."""

    key: str
    bytes: int
    modified: datetime
    version: tuple[tuple[str, str], ...]

    @property
    def e_tag(self) -> str | None:
        """What a read can be held to."""
        return dict(self.version).get("e_tag")


class Bucket:
    """A prefix of a bucket. `deadline_s` bounds each request with its body; no retry begins later than that."""

    def __init__(self, name: str, settings: StoreSettings, deadline_s: float) -> None:
        self._name = name
        self._settings = settings
        self._deadline_s = deadline_s
        self._secrets: tuple[str, ...] = ()
        self._unconditional = False  # what the server said of conditional puts

    def __repr__(self) -> str:
        return f"Bucket({self._name!r}, {self.url!r})"

    @property
    def url(self) -> str:
        """Where it is; the settings keep credentials out of it."""
        return self._settings.url

    def objects(self, prefix: str | None) -> list[Object]:
        """List every object below a folder, all pages of it. Errors: `StoreError`, also where one page fails."""
        with self._translated("list", prefix or ""):
            return [_object(meta) for page in obstore.list(self._client, prefix) for meta in page]

    def folders(self) -> list[str]:
        """List the folders right below. Errors: `StoreError`."""
        with self._translated("list", ""):
            return [str(folder) for folder in obstore.list_with_delimiter(self._client)["common_prefixes"]]

    def head(self, key: str) -> Object | None:
        """Ask for an object; None where there is none. Errors: `StoreError`."""
        with self._translated("look at", key):
            try:
                return _object(obstore.head(self._client, key))
            except FileNotFoundError:
                return None

    def read(self, key: str) -> tuple[bytes, Object] | None:
        """Read a small object; None where there is none. Errors: `StoreError`."""
        with self._translated("read", key):
            try:
                got = obstore.get(self._client, key)
            except FileNotFoundError:
                return None
            return bytes(got.bytes()), _object(got.meta)

    def stream(self, found: Object, piece_bytes: int) -> Iterator[memoryview]:
        """Read an object, a piece at a time, so that a reader may take its time and yet each request has its deadline.

        A connection that is cut in the middle is resumed where it was, a bounded number of times, by the client.
        Errors: `StoreError`, also where the object is another by now.
        """
        offset = 0
        while offset < found.bytes:
            options: GetOptions = {"range": (offset, min(offset + piece_bytes, found.bytes))}
            if found.e_tag is not None:
                options["if_match"] = found.e_tag
            with self._translated("read", found.key):
                piece = memoryview(obstore.get(self._client, found.key, options=options).bytes())
            if not piece:
                raise errors.StoreError(
                    f"{self.url}: can't read {found.key}: it ends at {offset} of {found.bytes} bytes"
                )
            offset += len(piece)
            yield piece

    def put(self, key: str, content: bytes) -> None:
        """Write a small object, whether it was there or not. Errors: `StoreError`."""
        with self._translated("write", key):
            obstore.put(self._client, key, content, use_multipart=False)

    def send(self, key: str, chunks: Iterator[bytes], *, part_bytes: int, parts: int) -> None:
        """Write a large object in parts, `parts` of them under way at once; it's there when the last has arrived.

        What `chunks` raises passes through, and nothing is written then. Errors: `StoreError`.
        """
        with self._translated("write", key):
            obstore.put(self._client, key, chunks, use_multipart=True, chunk_size=part_bytes, max_concurrency=parts)

    def create(self, key: str, content: bytes) -> bool:
        """Write a small object unless one is there; tell whether the one that's there now is this very content.

        Errors: `StoreError`; it may then be there or not, or arrive later.
        """
        return self._settled(key, content, "create", ())

    def replace(self, key: str, content: bytes, was: Object) -> bool:
        """Write a small object if it's still as it was; tell whether it is this very content now.

        Errors: `StoreError`; it may then be written or not, or arrive later.
        """
        return self._settled(key, content, cast("UpdateVersion", dict(was.version)), was.version)

    def refuses_a_second(self, key: str) -> bool:
        """Tell whether a put-if-absent on an object that is there is refused, as it must be. Errors: `StoreError`."""
        with self._translated("write", key):
            found = self.read(key)
            if found is None or self._unconditional:
                return False
            try:
                obstore.put(self._client, key, found[0], mode="create", use_multipart=False)
            except BaseError as error:  # that it's there; and what can't be told isn't held against the server
                return not _unsupported(error)
            return False

    def delete(self, keys: list[str]) -> None:
        """Delete objects; one that isn't there is none the less gone. Errors: `StoreError`."""
        if not keys:
            return
        with self._translated("delete", keys[0] if len(keys) == 1 else f"{keys[0]} and {len(keys) - 1} more"):
            try:
                obstore.delete(self._client, keys)
            except FileNotFoundError:  # GCS and Azure say so, and stop
                for key in keys:
                    self._delete_one(key)

    def readable(self, found: Object) -> bool:
        """Tell whether the server would let an object be read. Errors: `StoreError` where it can't be asked."""
        with self._translated("look at", found.key):
            try:
                obstore.head(self._client, found.key)
            except (FileNotFoundError, PermissionDeniedError):
                return False
            return True

    def _delete_one(self, key: str) -> None:
        try:
            obstore.delete(self._client, key)
        except FileNotFoundError:
            return

    def _settled(
        self, key: str, content: bytes, mode: Literal["create"] | UpdateVersion, before: tuple[tuple[str, str], ...]
    ) -> bool:
        """Put on a condition; where the reply was lost on the way, read back what is there, and else put again."""
        with self._translated("write", key):
            for tries_left in reversed(range(PUT_TRIES)):
                try:
                    return self._put_if(key, content, mode)
                except FileNotFoundError:  # how S3 answers where what was to be replaced is gone
                    return False
                except BaseError:
                    if not tries_left:
                        raise
                found = self.read(key)
                if found is not None and found[0] == content:
                    return True
                if (found[1].version if found is not None else ()) != before:
                    return False
        raise AssertionError  # pragma: no cover

    def _put_if(self, key: str, content: bytes, mode: Literal["create"] | UpdateVersion) -> bool:
        if self._unconditional:
            return self._put_unguarded(key, content, mode)
        try:
            obstore.put(self._client, key, content, mode=mode, use_multipart=False)
        except (AlreadyExistsError, PreconditionError):
            found = self.read(key)  # a put whose reply was lost is repeated by the client, and meets itself
            return found is not None and found[0] == content
        except BaseError as error:
            if not _unsupported(error):
                raise
            self._unconditional = True
            log.warning(
                "%s takes no conditional writes: two that write the same object at once may overwrite each other",
                self.url,
                extra={"event": "store.unconditional", "store": self._name},
            )
            return self._put_unguarded(key, content, mode)
        return True

    def _put_unguarded(self, key: str, content: bytes, mode: Literal["create"] | UpdateVersion) -> bool:
        """Do without the condition where the server can't: look first, then write."""
        found = self.head(key)
        as_stated = found is None if mode == "create" else found is not None and found.e_tag == mode.get("e_tag")
        if as_stated:
            self.put(key, content)
        return as_stated

    @functools.cached_property
    def _client(self) -> Client:
        made, self._secrets = clients.opened(self._name, self._settings, self._deadline_s)
        return made

    @contextmanager
    def _translated(self, operation: str, key: str) -> Iterator[None]:
        """Turn whatever obstore raises into a `StoreError` without secrets."""
        client = self._client  # its own errors are of the configuration
        del client
        try:
            yield
        except (BaseError, ValueError, OSError) as error:
            reason = causes.of(error, self._secrets)
        else:
            return
        raise errors.StoreError(f"{self.url}: can't {operation} {key or 'the bucket'}: {reason}")


def _unsupported(error: BaseError) -> bool:
    return isinstance(error, NotSupportedError) or causes.not_implemented(error)


def _object(meta: ObjectMeta) -> Object:
    version = {name: meta.get(name) for name in ("e_tag", "version")}
    stated = tuple((name, str(value)) for name, value in version.items() if value is not None)
    return Object(key=meta["path"], bytes=meta["size"], modified=meta["last_modified"], version=stated)
