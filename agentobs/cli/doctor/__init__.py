"""`agentobs doctor`: what is wrong here, and what to do about it. Writes nothing, and pays nothing."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from rich.text import Text

from agentobs.cli.doctor import local, machine, network
from agentobs.cli.doctor.finding import Finding, problem
from agentobs.cli.figures import clean, counted
from agentobs.cli.terminal import document, prose, show
from agentobs.errors import InvalidSettings
from agentobs.settings import Settings

_STYLES: Final = {"ok": "green", "warning": "yellow", "problem": "red"}


def doctor(settings: Settings | InvalidSettings, *, online: bool, deep: bool, as_json: bool) -> int:
    """Print the findings; the exit code: 0, 2 for settings that are invalid, 4 for a problem.

    `online` tries the credentials with a free call; `deep` reads the whole journal file.
    """
    findings = [machine.versions(), machine.sqlite(sqlite3.sqlite_version_info[:3])]
    if isinstance(settings, InvalidSettings):
        findings += [problem("settings", text, "see docs/settings.md") for text in str(settings).split("; ")]
    else:
        with contextlib.redirect_stdout(sys.stderr):  # what workflow modules print is none of the result
            findings += _of_settings(settings, deep=deep)
            findings += asyncio.run(_reached(settings, online=online))
    levels: Counter[str] = Counter(one.level for one in findings)
    if as_json:
        found = [{"name": one.name, "level": one.level, "found": one.found, "advice": one.advice} for one in findings]
        document({"findings": found, "totals": {level: levels[level] for level in _STYLES}})
    else:
        show(_lines(findings))
    if isinstance(settings, InvalidSettings):
        return settings.exit_code
    return 4 if levels["problem"] else 0


def _of_settings(settings: Settings, *, deep: bool) -> list[Finding]:
    import agentobs.examples  # noqa: F401, PLC0415 -- registers what ships
    from agentobs.service import SPARE_FILES  # noqa: PLC0415
    from agentobs.workflows import REGISTRY  # noqa: PLC0415

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    calls = settings.max_calls_in_flight
    path = settings.sqlite_path.absolute()
    logs = local.log_folder(settings)
    return [
        *local.settings_found(settings),
        local.exposure(settings),
        local.workflows(REGISTRY, settings.workflows),
        machine.open_files(None if hard == resource.RLIM_INFINITY else hard, calls + SPARE_FILES, calls),
        *_looked("journal's disk", lambda: [machine.disk("journal's disk", path.parent, journal=True)]),
        *([] if logs is None else _looked("log's disk", lambda: [machine.disk("log's disk", logs, journal=False)])),
        *_looked("journal", lambda: local.journal(path, deep=deep)),
    ]


def _looked(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """A folder that cannot even be entered ends one check, and not the doctor."""
    try:
        return check()
    except OSError as error:
        where = f"{error.filename or 'it'} cannot be looked at ({error.strerror})"
        return [problem(name, where, "run this as the user that runs the service, or give it the right to")]


async def _reached(settings: Settings, *, online: bool) -> list[Finding]:
    from agentobs.models.providers import unready, users  # noqa: PLC0415
    from agentobs.models.wire import Wire  # noqa: PLC0415 -- two seconds of CPU
    from agentobs.service import try_export  # noqa: PLC0415
    from agentobs.workflows import REGISTRY  # noqa: PLC0415

    key = settings.model_key
    base, url = settings.anthropic_base_url, settings.url.rstrip("/")
    began = time.monotonic()
    declared = tuple(REGISTRY.values())
    api, alive, ready, sent, lacking = await asyncio.gather(
        network.get(f"{base.rstrip('/')}/v1/models"),
        network.get(f"{url}/healthz"),
        network.get(f"{url}/readyz"),
        asyncio.to_thread(try_export, settings),
        unready(declared),
    )
    held, tried = False, list[Finding]()
    try:
        wire = Wire(api_key=key, base_url=base, max_connections=1)
    except Exception as error:  # noqa: BLE001 -- the SDK's own, such as of a credential profile that is not there
        unusable = f"the model client cannot be made ({type(error).__name__})"
        tried = [problem("model client", unusable, "look at the ANTHROPIC_ variables, ANTHROPIC_PROFILE too")]
    else:
        try:
            held = wire.has_credentials()
            if online and held:
                tried = [network.credentials(*await wire.try_credentials(network.PATIENCE_S))]
        finally:
            await wire.close()
    return [
        local.model_key(key, base_url=base, sdk_finds=held, in_file=settings.anthropic_api_key_file is not None),
        network.model_api(base, api),
        *tried,
        *local.providers([one for one in users(declared) if one != "anthropic"], lacking),
        network.clock(time.time(), (began, time.monotonic()), api),
        network.traces(settings.trace_endpoint, *sent),
        network.service(url, alive, ready, named="url" in settings.model_fields_set),
    ]


def _lines(findings: Sequence[Finding]) -> Iterator[Text | str]:
    width = max(len(one.name) for one in findings)
    for one in findings:
        yield Text.assemble((f"{one.level:<7}", _STYLES[one.level]), f"  {one.name:<{width}}  {clean(one.found)}")
        if one.advice:
            yield from prose(f"-> {clean(one.advice)}", " " * (width + 11))
    levels: Counter[str] = Counter(one.level for one in findings)
    told = [counted(levels[level], level) for level in ("problem", "warning") if levels[level]]
    yield "all is well" if not told else " and ".join(told)
