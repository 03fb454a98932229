"""What a call that no record answers means: changed code, new code, or simply the place where the run stopped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from agentobs.journal.protocol import RunDetail
from agentobs.records import AGENT, FAILED, SUCCEEDED, Attempt, Step

# changed: a recorded step stands unused in its place, and is paid (or run) a second time.
# added: it is not on record, though the record goes on beyond it.
# due: the record has it as not finished, or as failed where failures run again: owed whatever the code.
# next: the record ends here.
Verdict = Literal["changed", "added", "due", "next"]


_RANKS: Final = 3


@dataclass(frozen=True)
class Found:
    """A recorded step that can be answered from, in whole (`finished`) or in some turns, and what that had cost.

    `cost_pico` is None where an attempt's cost is not known.
    """

    step: Step
    cost_pico: int | None
    finished: bool = True
    attempt: Attempt | None = None  # its first


@dataclass(frozen=True)
class Held:
    """The start rows of a call that waits for an answer nobody has."""

    step: Step
    attempt: Attempt | None  # None for a function


@dataclass(frozen=True)
class Unanswered:
    """A held call, and what it means. `recorded` is the step that it does not use any more."""

    step: Step
    verdict: Verdict
    why: str
    recorded: Found | None = None

    @property
    def differs(self) -> bool:
        return self.verdict in {"changed", "added"}


def judge(
    held: Sequence[Held], left: Sequence[Found], detail: RunDetail
) -> tuple[tuple[Unanswered, ...], tuple[Found, ...]]:
    """Each held call's meaning, in order of number, and the recorded steps that are still left.

    `left`: what the record could answer and nobody asked for, in order of number.
    """
    recorded = {step.key: step for step in detail.steps}  # the last row of each
    known = [one for one in held if one.step.key in recorded]
    matched: dict[str, Found] = {}
    rest = list(left)
    for rank in range(_RANKS):
        for call in held:
            if call in known or call.step.key in matched:
                continue
            match = next((found for found in rest if _rank(call, found) == rank), None)
            if match is not None:
                matched[call.step.key] = match
                rest.remove(match)
    unused = [found for found in rest if found.finished]

    def verdicts() -> Iterator[Unanswered]:
        for call in held:
            step = call.step
            if (then := recorded.get(step.key)) is not None:
                failed = then.status == FAILED
                yield Unanswered(step, "due", "it had failed, and runs again" if failed else "it had not finished")
            elif (found := matched.get(step.key)) is not None:
                yield Unanswered(step, "changed", _why(call, found), found)
            # While an owed call is outstanding, what the record has in other branches may follow from its answer.
            elif behind := [one for one in unused if not known or one.step.branch == step.branch]:
                why = (
                    f"not on record, while step {behind[0].step.number} ({behind[0].step.name}) is no longer asked for"
                )
                yield Unanswered(step, "added", why)
            elif detail.run.status == SUCCEEDED:
                yield Unanswered(step, "added", "the recorded run had succeeded without it")
            else:
                yield Unanswered(step, "next", "the record ends here")

    return tuple(verdicts()), tuple(rest)


def _rank(call: Held, found: Found) -> int | None:
    """How well a recorded step fits a call that could not use it: 0 best; None: not at all."""
    now, then = call.step, found.step
    if (now.kind, now.name) != (then.kind, then.name):
        return None
    if now.branch == then.branch:
        return 0 if now.input == then.input else 1
    return 2 if _content(now) == _content(then) else None


def _content(step: Step) -> str:
    """The content hash in its key."""
    return step.key.rsplit(":", 2)[-2]


def _why(call: Held, found: Found) -> str:
    now, then = call.step, found.step
    if now.branch != then.branch:
        return f"its branch changed from {then.branch!r} to {now.branch!r}"
    if now.kind != AGENT:
        return "its version changed" if now.input == then.input else "its arguments changed"
    changed = [f"its model changed from {then.model} to {now.model}"] if now.model != then.model else []
    if now.input != then.input:
        changed.append("its prompt changed")
    if call.attempt is not None and found.attempt is not None:
        for name in ("max_tokens", "effort", "provider"):
            before, after = getattr(found.attempt, name), getattr(call.attempt, name)
            if before != after:
                changed.append(f"its {name} changed from {before} to {after}")
    # No column holds the rest of what is sent: it is known by the key alone.
    return (
        ", ".join(changed)
        or "its system prompt, its tools, its output schema, or another part of what is sent, changed"
    )
