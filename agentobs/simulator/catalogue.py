"""Which models exist here, and under which name each one answers.

The names are those of the `anthropic` SDK's model type and of the genai-prices families, each also with a
date (`-20251101`) or `-latest` behind it. Older models answer under a dated name, as recorded traffic shows;
newer ones under the name they were called by.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

CURRENT = (
    "claude-fable-5-2",
    "claude-mythos-5-2",
    "claude-haiku-5-5",
    "claude-sonnet-5-5",
    "claude-fable-5-1",
    "claude-opus-5-5",
    "claude-mythos-5-1",
    "claude-sonnet-5",
    "claude-fable-5",
    "claude-mythos-5",
    "claude-opus-5",
    "claude-opus-4-8",
    "claude-opus-4-7",
    "claude-mythos-preview",
    "claude-opus-4-6",
    "claude-sonnet-4-6",
)
# The last generation that lets a conversation end with the assistant's own words ("prefill").
WITH_PREFILL = (
    "claude-haiku-4-5",
    "claude-opus-4-5",
    "claude-sonnet-4-5",
    "claude-opus-4-1",
    "claude-opus-4-0",
    "claude-opus-4",
    "claude-sonnet-4-0",
    "claude-sonnet-4",
    "claude-3-7-sonnet",
    "claude-3-5-sonnet",
    "claude-3-5-haiku",
    "claude-3-opus",
    "claude-3-sonnet",
    "claude-3-haiku",
    "claude-2",
    "claude-v1",
)
DATED = {
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
    "claude-opus-4-5": "claude-opus-4-5-20251101",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
}
_FAMILY = re.compile(r"(?P<family>claude-[a-z0-9-]+?)(?:-latest|[-@]20\d{6})?")
_KNOWN = frozenset(CURRENT + WITH_PREFILL)


@dataclass(frozen=True, slots=True)
class Model:
    """A model that may be asked."""

    name: str
    """As the request says it."""
    answers_as: str
    """What the response calls it."""
    prefill: bool


@lru_cache(maxsize=1024)
def find(name: str) -> Model | None:
    """The model of this name; None when there is none."""
    match = _FAMILY.fullmatch(name)
    if match is None or match["family"] not in _KNOWN:
        return None
    return Model(name, DATED.get(name, name), match["family"] in WITH_PREFILL)


def _listed(name: str) -> dict[str, Any]:
    words = name.removeprefix("claude-").split("-")
    date = words.pop() if len(words[-1]) == 8 and words[-1].isdigit() else None
    return {
        "type": "model",
        "id": name,
        "display_name": " ".join(["Claude", *(word.capitalize() for word in words)]),
        # The API says the epoch where it does not know the date.
        "created_at": f"{date[:4]}-{date[4:6]}-{date[6:]}T00:00:00Z" if date else "1970-01-01T00:00:00Z",
        "lifecycle": "active",
    }


def listing() -> dict[str, Any]:
    """The body of `GET /v1/models`: one page with everything."""
    data = [_listed(name) for name in (*CURRENT, *DATED.values())]
    return {"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]}


def described(name: str) -> dict[str, Any] | None:
    """The body of `GET /v1/models/{name}`; None for an unknown one."""
    model = find(name)
    return _listed(model.answers_as) if model else None
