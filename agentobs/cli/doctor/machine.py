"""Checks of this machine: versions, SQLite, open files, disks."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Final, NamedTuple

from agentobs.cli.doctor.finding import Finding, ok, problem, warning
from agentobs.version import __version__

_MB: Final = 1_000_000
LOW_BYTES: Final = 1_000 * _MB
FULL_BYTES: Final = 100 * _MB

# https://sqlite.org/wal.html#walresetbug: in 3.7.0 to 3.51.2; fixed in 3.51.3, and in 3.44.6 and 3.50.7 of two older
# branches. (3.52.0, which has the fix too, was withdrawn for other reasons.)
_WAL_RESET: Final = ((3, 7, 0), (3, 51, 3))
_WAL_RESET_FIXED: Final = {(3, 44): 6, (3, 50): 7}

# https://sqlite.org/wal.html: the write-ahead log needs shared memory and does not work over a network filesystem.
_NETWORK: Final = frozenset(
    {"afs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"}
)
_PASSING: Final = {
    "tmpfs": "in memory: gone when the machine restarts",
    "ramfs": "in memory: gone when the machine restarts",
    "overlay": "a container's own layer: gone with the container",
}


def versions() -> Finding:
    sdk = metadata.version("anthropic")
    return ok("versions", f"agentobs {__version__}, Python {platform.python_version()}, anthropic {sdk}")


def sqlite(version: tuple[int, int, int]) -> Finding:
    """Whether this SQLite can meet the WAL-reset bug."""
    text = "SQLite " + ".".join(map(str, version))
    first, fixed = _WAL_RESET
    if not first <= version < fixed or version[2] >= _WAL_RESET_FIXED.get(version[:2], 1 << 30):
        return ok("sqlite", text)
    return warning(
        "sqlite",
        f"{text}, by its number, has the WAL-reset bug (3.7.0 to 3.51.2; fixed in 3.51.3, 3.50.7 and 3.44.6): two "
        "connections that write or checkpoint at the same moment can, very rarely, corrupt the file",
        "use a Python whose sqlite3 has a fixed version. agentobs has one writing connection and so does not meet it "
        "alone: until then open the journal with other programs read-only (sqlite3 -readonly) while a service runs. "
        "https://sqlite.org/wal.html#walresetbug",
    )


def open_files(hard: int | None, needed: int, calls: int) -> Finding:
    """`hard`: the limit up to which a process may raise its own; None where there is none."""
    if hard is None or hard >= needed:
        return ok("open files", f"up to {'any number' if hard is None else format(hard, ',')}, {needed:,} are needed")
    return problem(
        "open files",
        f"at most {hard:,}, and AGENTOBS_MAX_CALLS_IN_FLIGHT={calls:,} needs {needed:,}",
        f"raise the hard limit (ulimit -Hn {needed}, LimitNOFILE= of a systemd unit), or lower that setting",
    )


class Mount(NamedTuple):
    point: str
    type: str


def disk(name: str, folder: Path, *, journal: bool) -> Finding:
    """Room, rights and kind of the filesystem that a file is to be written to."""
    if not folder.is_dir():
        return problem(name, f"there is no folder {folder}", "make it, or set the path to another place")
    try:
        status = os.statvfs(folder)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return problem(name, f"{folder} cannot be looked at ({error.strerror})", "mend that, or choose another place")
    if not os.access(folder, os.W_OK | os.X_OK):
        return problem(
            name, f"{folder} cannot be written to by this user", "give it the right, or choose another place"
        )
    mount = mount_of(folder, mounts())
    where = f"{folder} ({mount.type})" if mount else str(folder)
    room = f"{_size(free)} free at {where}"
    if free < FULL_BYTES or (status.f_files and not status.f_favail):
        what = room if free < FULL_BYTES else f"no inode free at {where}"
        return problem(name, what, "free some: with a full disk nothing is accepted and no model is called")
    if journal and mount and mount.type in _NETWORK:
        return problem(
            name,
            f"{where} is a network filesystem: SQLite's write-ahead log and the lock of its owner do not hold there",
            "set AGENTOBS_DATABASE_URL to a file on a disk of this machine",
        )
    if journal and mount and mount.type in _PASSING:
        return warning(name, f"{room}, {_PASSING[mount.type]}", "put the journal on a disk or volume that stays")
    if free < LOW_BYTES:
        return warning(name, room, "free some before it is full: then nothing is accepted and no model is called")
    return ok(name, room)


def mounts(table: Path = Path("/proc/self/mountinfo")) -> list[Mount]:
    """The mounts of this process; empty where the system has no such table."""
    try:
        lines = table.read_text(errors="replace").splitlines()
    except OSError:
        return []
    return list(_parsed(lines))


def _parsed(lines: list[str]) -> Iterator[Mount]:
    # 36 35 98:0 /root /mount/point rw,noatime master:1 - ext3 /dev/root rw   (proc_pid_mountinfo(5))
    for line in lines:
        before, found, after = line.partition(" - ")
        fields = before.split()
        if found and len(fields) > 4:
            yield Mount(fields[4].encode().decode("unicode_escape"), after.split()[0])


def mount_of(folder: Path, table: list[Mount]) -> Mount | None:
    """The mount that a folder is on: of the longest point above it, the latest."""
    here = folder.resolve()
    fitting = [mount for mount in table if here.is_relative_to(mount.point)]
    return max(reversed(fitting), key=lambda mount: len(mount.point), default=None)


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"
