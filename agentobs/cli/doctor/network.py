"""Checks of what is reached over the network, and of the clock against it. Prompts, keys and bodies are not shown."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import httpx2

from agentobs.cli.doctor.finding import Finding, ok, problem, warning
from agentobs.setting_types import is_loopback, masked

PATIENCE_S: Final = 5.0
SKEW_S: Final = 10.0  # a Date header has whole seconds
WRONG_S: Final = 300.0
_BUILT: Final = 1_767_225_600  # 2026-01-01: no clock of this version's users shows less


class Answer(NamedTuple):
    """Of a plain GET: its status (0: none) and Date, when it was asked for, and what went wrong."""

    status: int
    date: str | None = None
    asked_at: float = 0.0
    error: str = ""
    body: object = None


async def get(url: str) -> Answer:
    """Ask once, without credentials. Raises nothing."""
    asked_at = time.time()
    try:
        local = is_loopback(urlsplit(url).hostname or "")
        async with httpx2.AsyncClient(timeout=PATIENCE_S, trust_env=not local) as http:
            response = await http.get(url)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        return Answer(0, error=type(error).__name__)
    try:
        body = response.json()
    except ValueError:
        body = None
    return Answer(response.status_code, response.headers.get("date"), asked_at, body=body)


def model_api(base_url: str, answer: Answer) -> Finding:
    shown = masked("ANTHROPIC_BASE_URL", base_url)
    if answer.status:
        return ok("model API", f"{shown} answers")
    return problem(
        "model API",
        f"nothing answers at {shown} within {PATIENCE_S:g} s ({answer.error})",
        "look at ANTHROPIC_BASE_URL, the name's address, a proxy (HTTPS_PROXY), firewalls",
    )


def credentials(status: int, error: str = "") -> Finding:
    """What a free call with the credentials was answered: `GET /v1/models`."""
    name = "model key tried"
    if 200 <= status < 300:
        return ok(name, "the API takes it")
    if status in {401, 403}:
        return problem(name, f"the API refuses it ({status})", "set ANTHROPIC_API_KEY to a key that is in force")
    if not status:
        return problem(name, f"the call did not get through ({error})", "see the model API above")
    return warning(name, f"the free call was answered with {status}", "try again; a gateway may not serve /v1/models")


def clock(wall: float, monotonic: tuple[float, float], answer: Answer) -> Finding:
    """The wall clock against what is possible and against an answer's Date; the monotonic one must not go back."""
    if wall < _BUILT:
        return problem("clock", f"it shows {_day(wall)}, before this version was made", "set it: run an NTP client")
    if monotonic[1] < monotonic[0]:
        return problem("clock", "the monotonic clock went back", "look at this machine's clock source")
    try:
        told = parsedate_to_datetime(answer.date or "").timestamp()
    except (ValueError, TypeError):
        return ok("clock", f"{_day(wall)} UTC; no answer to compare it with")
    skew = answer.asked_at - told
    text = f"{abs(skew):,.0f} s {'ahead of' if skew > 0 else 'behind'} the model API's"
    if abs(skew) <= SKEW_S:
        return ok("clock", "agrees with the model API's to some seconds")
    advice = "run an NTP client: traces, logs and Retry-After dates are read against other machines' clocks"
    return problem("clock", text, advice) if abs(skew) > WRONG_S else warning("clock", text, advice)


def service(url: str, alive: Answer, ready: Answer, *, named: bool) -> Finding:
    """`named`: AGENTOBS_URL is set, so that one should be there."""
    shown = masked("AGENTOBS_URL", url)
    if not alive.status:
        if not named:
            return ok("service", f"none answers at {shown}")
        return problem(
            "service", f"none answers at {shown} ({alive.error})", "start 'agentobs serve', or mend AGENTOBS_URL"
        )
    if not isinstance(alive.body, dict) or alive.body.get("status") != "alive":
        return problem(
            "service", f"what answers at {shown} is not agentobs", "set AGENTOBS_URL, and AGENTOBS_PORT to a free one"
        )
    if ready.status != 200:
        reasons = ready.body.get("reasons", []) if isinstance(ready.body, dict) else []
        return problem(
            "service", f"{shown} is not ready: {'; '.join(map(str, reasons)) or ready.status}", "see its log"
        )
    return ok("service", f"{shown} is ready")


def traces(endpoint: str | None, verdict: str, reason: str) -> Finding:
    """What an empty export was answered."""
    if endpoint is None:
        return ok("traces", "no OTLP endpoint is set: nothing is exported")
    shown = masked("ENDPOINT", endpoint)
    if verdict in {"ok", "partial"}:
        return ok("traces", f"{shown} takes exports")
    return problem(
        "traces",
        f"{shown} did not take an empty export ({reason}): spans are kept in the journal until it does",
        "look at OTEL_EXPORTER_OTLP_ENDPOINT (OTLP over HTTP, port 4318 of a Collector), its headers and certificates",
    )


def _day(wall: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(wall))
