"""Numbers and stored text as people read them in a terminal."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any, Final

NONE: Final = "-"
UNKNOWN: Final = "?"

# What could move the cursor, recolour the screen or turn the reading order round: stored text is not ours.
_UNSAFE: Final = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_IN_TEXT: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def clean(value: object) -> str:
    """One line that is safe to print."""
    return _UNSAFE.sub(" ", str(value))


def clean_text(value: str) -> str:
    """Text of several lines that is safe to print."""
    return _UNSAFE_IN_TEXT.sub("\N{REPLACEMENT CHARACTER}", value.replace("\r\n", "\n"))


def shortened(value: object, width: int, *, ellipsis: str = "…") -> str:
    text = clean(value)
    return text if len(text) <= width else text[: max(width - len(ellipsis), 0)] + ellipsis


def duration(ms: float | None) -> str:
    """`310 ms` is written `0.31 s`, so that the figures of a column compare at a glance."""
    if ms is None:
        return NONE
    if 0 < ms < 1:
        return "<1 ms"
    if ms < 10:
        return f"{ms:.0f} ms"
    seconds = ms / 1000
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} m" if hours else f"{minutes} m {rest:02d} s"


def count(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value:,}"


def dollars(text: str | None) -> str:
    """Of the API's decimal text; an unknown price is no price of 0."""
    if text is None:
        return UNKNOWN
    value = Decimal(text)
    if not value:
        return "$0"
    places = 6 if value < 1 else 4 if value < 100 else 2
    shown = f"${value:,.{places}f}"
    return shown if Decimal(shown[1:].replace(",", "")) else "<$0.000001"


def counted(number: int, one: str, many: str = "") -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def pairs(values: dict[str, Any]) -> str:
    return ", ".join(f"{clean(key)}={clean(value)}" for key, value in values.items())
