"""The prompt cache: what of an input is new, written or read.

A block with `cache_control` (or the last block, for a top-level one) ends a prefix that is kept for its time
to live. A later request of the same model that starts with a kept prefix reads it; what lies between that and
its own last mark is written; the rest is plain input. The three together are always all input tokens.
Unlike the API, which wants some thousand tokens, no prefix is too short here: small tests can see the cache work.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .prompt import Piece

_SECONDS = {"5m": 300.0, "1h": 3_600.0}
_MOST_PREFIXES = 50_000


@dataclass(frozen=True, slots=True)
class Charge:
    """Input tokens by class, as `usage` says them: `input` does not include the cache."""

    input: int
    read: int = 0
    written_5m: int = 0
    written_1h: int = 0

    @property
    def written(self) -> int:
        return self.written_5m + self.written_1h

    @property
    def total(self) -> int:
        return self.input + self.read + self.written


class PromptCache:
    """Which prefixes are kept until when."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[bytes, tuple[float, str]] = {}

    def charge(self, model: str, pieces: Sequence[Piece]) -> Charge:
        """Read and write the cache for one request."""
        total = sum(piece.tokens for piece in pieces)
        marks = [at for at, piece in enumerate(pieces) if piece.ttl]
        if not marks:
            return Charge(input=total)
        now = self._clock()
        prefixes = self._prefixes(model, pieces[: marks[-1] + 1])
        tokens = 0
        hit, read = -1, 0
        reached: list[int] = []
        for at, prefix in enumerate(prefixes):
            tokens += pieces[at].tokens
            reached.append(tokens)
            until, ttl = self._until.get(prefix, (0.0, ""))
            if until > now:
                hit, read = at, tokens
                self._until[prefix] = (now + _SECONDS[ttl], ttl)
        written = dict.fromkeys(_SECONDS, 0)
        before = read
        for at in marks:
            wanted = pieces[at].ttl
            if at > hit and wanted:
                written[wanted] += reached[at] - before
                before = reached[at]
                self._keep(prefixes[at], now + _SECONDS[wanted], wanted)
        return Charge(total - tokens, read, written["5m"], written["1h"])

    def _prefixes(self, model: str, pieces: Sequence[Piece]) -> list[bytes]:
        mark = blake2b(model.encode(), digest_size=16)
        found = []
        for piece in pieces:
            mark.update(f"\x1e{piece.identity}".encode())
            found.append(mark.digest())
        return found

    def _keep(self, prefix: bytes, until: float, ttl: str) -> None:
        self._until[prefix] = (until, ttl)
        if len(self._until) > _MOST_PREFIXES:
            now = self._clock()
            self._until = {key: kept for key, kept in self._until.items() if kept[0] > now}
            while len(self._until) > _MOST_PREFIXES // 2:
                del self._until[next(iter(self._until))]
