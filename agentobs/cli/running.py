"""`agentobs run`: one run, in this process or at a service, watched to its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from agentobs.api import views
from agentobs.cli.figures import clean_text
from agentobs.cli.http import Client
from agentobs.cli.inputs import check
from agentobs.cli.progress import follow
from agentobs.cli.render import summary
from agentobs.cli.terminal import document, err, look, note, out, show
from agentobs.errors import AgentobsError, NotFound, Unreachable
from agentobs.records import SUCCEEDED
from agentobs.settings import NO_MODEL_KEY, Settings

_PATIENCE_S: Final = 30.0  # for a service that does not answer while a run is followed there


async def run_here(settings: Settings, workflow: str, value: object, tags: Mapping[str, str]) -> Mapping[str, Any]:
    """Own the journal for as long as the run takes. Nothing is left behind for an input that cannot be run."""
    from agentobs.models.providers import unready, users  # noqa: PLC0415
    from agentobs.service import open_service  # noqa: PLC0415 -- a second and a half of imports
    from agentobs.workflows import REGISTRY  # noqa: PLC0415

    REGISTRY.load(settings.workflows)
    check(REGISTRY[workflow], value)
    import agentobs.models.wire  # noqa: F401, PLC0415 -- the SDK, lest the first attempt waits for it

    keyless = not settings.has_model_key and "anthropic" in users([REGISTRY[workflow]])
    for reason in [NO_MODEL_KEY] * keyless + await unready([REGISTRY[workflow]]):  # no log line would be seen
        note(reason)
    async with open_service(_quiet(settings)) as service:
        run, _ = await service.submit(workflow, value, tags=tags)
        note(f"run {run.id}")
        told: Sequence[str] = ()

        async def read(*, content: bool = False) -> Mapping[str, Any]:
            nonlocal told
            reasons = service.readiness()
            for reason in reasons if reasons != told else ():
                note(f"waiting: {reason}")
            told = reasons
            detail = await service.reader.detail(run.id, content=content)
            if detail is None:
                raise NotFound(f"run {run.id} is no longer in the journal")
            return views.run_detail(detail)

        try:
            await follow(read, err())
        except asyncio.CancelledError:  # Ctrl-C: nobody would be left to see what it spends
            with contextlib.suppress(AgentobsError):
                await service.cancel(run.id)
            note(f"cancelled; see 'agentobs runs show {run.id}'")
            raise
        return await read(content=True)


def _quiet(settings: Settings) -> Settings:
    """Without log lines that nobody asked for: progress and summary say the same, on the same terminal."""
    if settings.model_fields_set & {"log_file", "log_level", "log_format"}:
        return settings
    return settings.model_copy(update={"log_file": Path(os.devnull)})


async def run_there(http: Client, workflow: str, value: object, tags: Mapping[str, str]) -> Mapping[str, Any]:
    """Submit to a service and follow; the run goes on there whatever becomes of this process."""
    async with http:
        run_id = (await http.submit(workflow, value, tags))["id"]
        note(f"run {run_id} at {http.url}")
        loop = asyncio.get_running_loop()
        heard = loop.time()

        async def read() -> Mapping[str, Any]:
            nonlocal heard
            while True:
                try:
                    found = await http.run(run_id)
                except Unreachable as error:
                    if loop.time() - heard > _PATIENCE_S:
                        raise Unreachable(f"{error}. The run goes on there once it is back: {run_id}") from None
                    await asyncio.sleep(1)
                else:
                    heard = loop.time()
                    return found

        try:
            return await follow(read, err())
        except asyncio.CancelledError:
            note(f"the run goes on at {http.url}; 'agentobs runs show {run_id}' or 'agentobs runs cancel {run_id}'")
            raise


def finish(run: Mapping[str, Any], *, as_json: bool) -> int:
    """Print the summary and the output; the exit code."""
    if as_json:
        document(run)
    else:
        show(["", *summary(run, look(out()))])
        if isinstance(run["output"], str):
            show(["", clean_text(run["output"])])
        elif run["output"] is not None:
            document(run["output"])
    return 0 if run["status"] == SUCCEEDED else 1
