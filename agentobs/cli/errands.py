"""Inputs for the example workflows, varied as those of different people are: what `agentobs traffic` sends."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from random import Random
from typing import Any, Final, TypeAlias

Errand: TypeAlias = tuple[str, dict[str, Any]]
"""A workflow's name and an input of it."""

_GOALS: Final = (
    "Best practices for remote team communication",
    "How a heat pump works, for people who are about to buy one",
    "What changed in European train travel in ten years",
    "A first garden on a north-facing balcony",
    "Why backups fail and how a small company tests its own",
    "The history of the pencil",
    "Choosing a database for a team of three",
    "Sourdough for beginners: what matters and what does not",
    "How cities plant trees that survive the summer",
    "An introduction to reading financial statements",
)
_READERS: Final = ("", " Write for beginners.", " Write for people who know the subject.", " Keep it under a page.")
_NOTES: Final = (
    "Start from what people get wrong.",
    "The last text on this was too long.\nThree sections are enough.",
    "Readers asked for figures with their sources.",
)
_QUESTIONS: Final = (
    "Should we move our nightly reports to an hourly schedule?",
    "Which of our three suppliers is most likely to be late this winter?",
    "Is it cheaper to repair the old delivery vans or to lease new ones?",
    "What would a four-day week change for a support team of twelve?",
    "Why do customers leave in their second month?",
    "Where should a second warehouse be?",
)
_CHANGES: Final = (
    "fix crash when a project has no members",
    "search understands quotes",
    "drop the deprecated v1 export",
    "faster start on large workspaces",
    "new: calendar view",
    "the API answers 409 for a duplicate name instead of 500",
    "times are shown in the reader's own time zone",
    "fix: attachments of 0 bytes were lost",
    "require a second factor for administrators",
    "rename 'folders' to 'spaces'",
)
_TICKETS: Final = (
    "I cannot log in since this morning, the page stays white.",
    "How do I add a colleague to my project?",
    "The last invoice lists a user who left in March.",
    "Please add a dark theme.",
    "Our export has been running for six hours now. We need it for the audit today!",
    "Where can I download the receipt for last year?",
    "Notifications arrive twice.",
    "Thanks, all works again.",
    "The mobile app closes when I open a photo.",
    "Is there a discount for schools?",
    "I deleted a space by mistake, can you bring it back?",
    "The calendar starts the week on Sunday, how do I change that?",
)


def _article(random: Random) -> dict[str, Any]:
    goal = random.choice(_GOALS) + "." * bool(reader := random.choice(_READERS)) + reader
    return {"goal": goal, "notes": random.choice(_NOTES)} if random.random() < 0.3 else {"goal": goal}


def _report(random: Random) -> dict[str, Any]:
    return {"question": random.choice(_QUESTIONS), "max_tasks": random.randint(3, 6)}


def _release_notes(random: Random) -> dict[str, Any]:
    version = f"{random.randint(1, 4)}.{random.randint(0, 12)}.{random.randint(0, 5)}"
    changes = random.sample(_CHANGES, random.randint(2, 6))
    return {"version": version, "changes": changes, "rounds": random.randint(2, 4)}


def _triage(random: Random) -> dict[str, Any]:
    return {"tickets": random.sample(_TICKETS, random.randint(1, 8)), "at_once": random.choice((2, 4, 8))}


# How often each is sent, against the others.
_KINDS: Final[Mapping[str, tuple[int, Callable[[Random], dict[str, Any]]]]] = {
    "article": (5, _article),
    "triage": (3, _triage),
    "report": (2, _report),
    "release_notes": (2, _release_notes),
}
SMALLEST: Final[Errand] = ("triage", {"tickets": [_TICKETS[1]]})
WORKFLOWS: Final = tuple(_KINDS)


def errands(random: Random, served: Collection[str]) -> Iterator[Errand]:
    """Without end, of those workflows that the service serves: at least one of `WORKFLOWS`."""
    kinds = [name for name in _KINDS if name in served]
    weights = [_KINDS[name][0] for name in kinds]
    while True:
        (name,) = random.choices(kinds, weights)
        yield name, _KINDS[name][1](random)
