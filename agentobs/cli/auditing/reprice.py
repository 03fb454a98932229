"""`agentobs audit --reprice`."""

from __future__ import annotations

from typing import Final

from agentobs.api.views import dollars as decimal
from agentobs.audit.reprice import Repriced
from agentobs.audit.reprice import reprice as repriced
from agentobs.cli import tables
from agentobs.cli.figures import count, dollars
from agentobs.cli.terminal import document, prose, show
from agentobs.errors import Unreachable
from agentobs.journal.sqlite import read_only
from agentobs.models.pricing import price_version
from agentobs.settings import Settings

_HEADS: Final = ("provider", "model", "attempts", "recorded", "today")


def reprice(settings: Settings, *, as_json: bool) -> None:
    """Raises `Unreachable` without a journal."""
    path = settings.sqlite_path
    if not path.exists():
        raise Unreachable(f"there is no journal at {path.absolute()}; name it in AGENTOBS_DATABASE_URL")
    found = repriced(read_only(path))
    total = Repriced()
    for one in found.values():
        for name in vars(total):
            setattr(total, name, getattr(total, name) + getattr(one, name))
    if as_json:
        models = [{"provider": provider, "model": model, **_told(one)} for (provider, model), one in found.items()]
        document({"price_version": price_version(), "models": models, "total": _told(total)})
        return
    rows = [(provider, model, *_cells(one)) for (provider, model), one in found.items()]
    rows.append(("", "all", *_cells(total)))
    show(tables.grid(_HEADS, rows, right=_HEADS[2:], styles=[""] * len(rows)))
    if total.unpriced_then or total.unpriced_now:
        show(
            prose(
                f"without a price and counted as 0: {count(total.unpriced_then)} attempts as recorded, "
                f"{count(total.unpriced_now)} today"
            )
        )
    show(prose(f"today: list prices of {price_version()}, cache writes as five-minute ones; nothing was changed"))


def _told(one: Repriced) -> dict[str, int | str]:
    return {
        "attempts": one.attempts,
        "usage_unknown": one.unknown,
        "recorded_usd": decimal(one.then),
        "today_usd": decimal(one.now),
        "unpriced_recorded": one.unpriced_then,
        "unpriced_today": one.unpriced_now,
    }


def _cells(one: Repriced) -> tuple[str, str, str]:
    return count(one.attempts), dollars(decimal(one.then)), dollars(decimal(one.now))
