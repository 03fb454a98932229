"""What a check of `agentobs doctor` found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# warning: it works, and can hurt later. problem: something does not work, or will lose what was accepted.
Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One line: `found` says what is there, `advice` what to do about it ("" where nothing is to be done)."""

    name: str
    level: Level
    found: str
    advice: str = ""


def ok(name: str, found: str) -> Finding:
    return Finding(name, "ok", found)


def warning(name: str, found: str, advice: str) -> Finding:
    return Finding(name, "warning", found, advice)


def problem(name: str, found: str, advice: str) -> Finding:
    return Finding(name, "problem", found, advice)
