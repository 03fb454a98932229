"""Checks of what is set and of the journal file. Nothing here leaves the machine or writes."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from agentobs.cli.doctor.finding import Finding, ok, problem, warning
from agentobs.errors import AgentobsError, UsageError
from agentobs.journal import migrate
from agentobs.setting_types import is_loopback
from agentobs.settings import NO_MODEL_KEY, Settings
from agentobs.workflows import Registry

_ANTHROPIC: Final = "api.anthropic.com"
_KEY_BEGINS: Final = "sk-ant-"


def settings_found(settings: Settings) -> list[Finding]:
    told = [warning("settings", text, "see 'agentobs settings'") for text in settings.warnings()]
    return told or [ok("settings", "valid, none unknown or ignored")]


def model_key(key: str | None, *, base_url: str, sdk_finds: bool, in_file: bool = False) -> Finding:
    """`sdk_finds`: the SDK finds credentials by itself (ANTHROPIC_AUTH_TOKEN, its own files)."""
    name, variable = "model key", "ANTHROPIC_API_KEY_FILE" if in_file else "ANTHROPIC_API_KEY"
    if key is None:
        if sdk_finds:
            return ok(name, "the Anthropic SDK finds credentials of its own (ANTHROPIC_AUTH_TOKEN, or its files)")
        return problem(
            name,
            NO_MODEL_KEY,
            "set it, or point ANTHROPIC_BASE_URL at 'agentobs simulate' with any key",
        )
    if key != key.strip() or not key.isascii() or not key.isprintable():
        return problem(
            name,
            f"{variable} holds white space or characters that no key has",
            "set it anew, without line breaks or quotes around it",
        )
    if urlsplit(base_url).hostname == _ANTHROPIC and not key.startswith(_KEY_BEGINS):
        return warning(
            name,
            f"{variable} is set and does not begin with {_KEY_BEGINS!r}, as keys of {_ANTHROPIC} do",
            "compare it with the key in the Anthropic Console; --online tries it",
        )
    if not key.startswith(_KEY_BEGINS):
        return ok(name, f"{variable} is set; what a key is, is up to ANTHROPIC_BASE_URL, and --online tries it")
    return ok(name, f"{variable} is set, and looks like a key")


def providers(used: Iterable[str], unready: Iterable[str]) -> list[Finding]:
    """`used`: which other providers than Anthropic agents name; `unready`: a sentence for each that cannot be used."""
    name = "model providers"
    found = [problem(name, text, "see docs/connect-a-platform.md") for text in unready]
    named = ", ".join(used)
    return found or ([ok(name, f"{named}: set up")] if named else [])


def exposure(settings: Settings) -> Finding:
    """Who can reach the service, as it is set."""
    name = "exposure"
    where = f"{settings.host}:{settings.port}"
    if settings.api_key is not None:
        return ok(name, f"listens on {where}, asks for a key")
    if is_loopback(settings.host) and "*" not in settings.allowed_hosts:
        return ok(name, f"listens on {where}, for this machine alone")
    return warning(
        name,
        f"AGENTOBS_INSECURE=1: whoever reaches {where} can submit runs and read their content",
        "set AGENTOBS_API_KEY_FILE to a file (mode 600) that holds a key",
    )


def workflows(registry: Registry, modules: tuple[str, ...]) -> Finding:
    """Import what AGENTOBS_WORKFLOWS names."""
    try:
        registry.load(modules)
    except UsageError as error:
        return problem("workflows", str(error), "mend the module, or AGENTOBS_WORKFLOWS and where Python looks")
    beside = "" if modules else "; AGENTOBS_WORKFLOWS names no module of yours"
    return ok("workflows", f"{', '.join(registry)} registered{beside}")


def journal(path: Path, *, deep: bool) -> list[Finding]:
    """The journal file: schema, rights, owner and, with `deep`, whether it is whole."""
    if not path.exists():
        return [ok("journal", f"none at {path} yet; 'agentobs serve' makes it")]
    try:
        migrate.check(path)
    except AgentobsError as error:
        return [problem("journal", str(error), "")]
    findings = [ok("journal", f"{path}, {_megabytes(path)}, schema version {migrate.sqlite_version(path)}")]
    if not os.access(path, os.R_OK | os.W_OK):
        findings = [problem("journal", f"{path} cannot be written by this user", "give it the right to (mode 600)")]
    elif path.stat().st_mode & 0o077:
        findings.append(
            warning(
                "journal rights",
                f"{path} has mode {path.stat().st_mode & 0o777:o}: other users can get at prompts and outputs",
                f"chmod 600 {path}",
            )
        )
    findings.append(ok("journal owner", owner(path) or "no process"))
    return [*findings, quick_check(path)] if deep else findings


def owner(path: Path) -> str | None:
    """Who holds the journal's lock, by its own words; None: nobody."""
    lock = path.resolve().with_name(path.resolve().name + ".lock")
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if not _held(descriptor):
            return None
        return os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "a process that left no name"
    finally:
        os.close(descriptor)


def _held(descriptor: int) -> bool:
    table = Path("/proc/locks")
    if table.exists():  # only looked at: trying the lock could keep out an owner that starts at this moment
        inode = f":{os.fstat(descriptor).st_ino} "
        return any("FLOCK" in line and inode in line for line in table.read_text().splitlines())
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    return False


def quick_check(path: Path) -> Finding:
    """SQLite's own check of the whole file (PRAGMA quick_check)."""
    advice = (
        "stop the service, copy the file with its -wal and -shm, and restore the last backup; or save what can be read "
        "with 'sqlite3 FILE .recover' (https://sqlite.org/recovery.html)"
    )
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            rows = [str(row[0]) for row in db.execute("PRAGMA quick_check(5)")]
        finally:
            db.close()
    except sqlite3.Error as error:
        return problem("journal check", f"{path} cannot be read whole (SQLite says {error})", advice)
    if rows == ["ok"]:
        return ok("journal check", "SQLite finds the file whole")
    told = [line for row in rows for line in row.splitlines() if not line.startswith("***")]
    return problem("journal check", f"{path} is damaged: {'; '.join(told[:2])}", advice)


def _megabytes(path: Path) -> str:
    sizes = {name: _bytes(path.with_name(path.name + name)) for name in ("", "-wal")}
    return f"{sizes[''] / 1e6:,.1f} MB" + (f" and {sizes['-wal'] / 1e6:,.1f} MB of log" if sizes["-wal"] else "")


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def log_folder(settings: Settings) -> Path | None:
    return None if settings.log_file is None else settings.log_file.absolute().parent
