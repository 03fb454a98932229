"""What the provider says, from a file or a URL: the simulator's bill, or Anthropic's usage report."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx2

from agentobs.audit.bill import read_lines
from agentobs.audit.usage_report import read_report
from agentobs.errors import Unreachable, UsageError
from agentobs.setting_types import is_loopback, masked

if TYPE_CHECKING:
    from agentobs.audit.journal import Statement

_ANSWER_S: Final = 120.0  # a bill of a million lines takes its time


def read_statement(source: str) -> Statement:
    """Raises `Unreachable` where it cannot be had, `UsageError` for what is neither of the two."""
    if source.startswith(("http://", "https://")):
        text, taken_at = _fetched(source)
    else:
        text, taken_at = _read(Path(source))
    try:
        found: Any = json.loads(text)
    except ValueError:
        found = None
    if isinstance(found, dict) and isinstance(found.get("requests"), list):
        return read_lines(found["requests"], taken_at)
    pages = found if isinstance(found, list) else [found]
    if pages and all(isinstance(page, dict) and isinstance(page.get("data"), list) for page in pages):
        return read_report(pages)
    raise UsageError(
        f"--bill {_shown(source)!r:.200} is neither a bill of the simulator (GET /_bill) nor Anthropic's "
        "usage report (GET /v1/organizations/usage_report/messages, one page or a list of them)"
    )


def _shown(source: str) -> str:
    """Without what a URL holds that is nobody's business."""
    return masked("BILL_URL" if "://" in source else "", source)


def _read(path: Path) -> tuple[str, int]:
    """Its text, and when it was last written."""
    try:
        return path.read_text("utf-8"), path.stat().st_mtime_ns
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise Unreachable(f"--bill {str(path)!r:.200} cannot be read ({why}); expected a file or a URL") from None


def _fetched(url: str) -> tuple[str, int]:
    """Its text, and when it was asked for: what the bill says then can only grow."""
    shown = masked("BILL_URL", url)
    try:
        parts = urlsplit(url)
        target = url.rstrip("/") + "/_bill" if parts.path in {"", "/"} and not parts.query else url
        taken_at = time.time_ns()
        answer = httpx2.get(target, timeout=_ANSWER_S, trust_env=not is_loopback(parts.hostname or ""))
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        raise Unreachable(
            f"no bill can be had from {shown} ({type(error).__name__}); see that the simulator listens there"
        ) from None
    if not answer.is_success:
        raise Unreachable(f"{shown} answers {answer.status_code}, no bill; give the simulator's address, or a file")
    return answer.text, taken_at
