"""`Prefer: wait=…` (RFC 7240, 4.3): for how long the caller would have an answer waited for."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

MAX_WAIT_S: Final = 600
_SECONDS: Final = re.compile(r'(")?([0-9]{1,9})(?(1)")')


def wait_s(headers: Iterable[str]) -> int | None:
    """Seconds, at most `MAX_WAIT_S`; None when no wait is asked for, or one that is no number.

    Of several the first counts; other preferences are passed over, as the RFC has it.
    """
    for preference in (part.partition(";")[0] for header in headers for part in header.split(",")):
        name, _, value = preference.partition("=")
        if name.strip().lower() == "wait":
            found = _SECONDS.fullmatch(value.strip())
            return min(int(found[2]), MAX_WAIT_S) if found else None
    return None
