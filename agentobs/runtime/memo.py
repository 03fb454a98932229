"""Steps memoised by content: keys, and what earlier executions of a run have for them.

A step's key is (branch, content hash, occurrence). The hash covers what decides the answer and nothing else, so
that a changed timeout or retry policy reuses what was paid and a changed prompt does not.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from agentobs.agents import Agent
from agentobs.encoding import canonical, decode
from agentobs.functions import FunctionStep
from agentobs.journal.protocol import History
from agentobs.models.protocol import Message, Schema
from agentobs.records import CANCELLED, FAILED, INTERRUPTED, OK, SUCCEEDED, Attempt, Note, Step

HASH_VERSION: Final = 1  # raise it when the hashed form changes: recorded steps of older forms are then paid again

_NOT_A_FAILURE: Final = frozenset({OK, INTERRUPTED, CANCELLED})


def agent_hash(agent: Agent, messages: Sequence[Message], schema: Schema | None = None) -> str:
    """Hash of the agent's name and of what would be sent; unset fields left out; no timeouts, retries, caching."""
    sent: dict[str, Any] = {
        "model": agent.model,
        "provider": agent.provider,
        "max_tokens": agent.max_tokens,
        "messages": list(messages),
    }
    if agent.system:
        sent["system"] = agent.system
    if agent.effort:
        sent["effort"] = agent.effort
    if agent.tool_params:
        sent["tools"] = json.loads(agent.tool_params)
    if schema is not None:
        sent["schema"] = schema
    return _digest("agent", agent.name, json.dumps(sent, ensure_ascii=True, sort_keys=True, separators=(",", ":")))


def function_hash(step: FunctionStep, args: Sequence[Any], kwargs: dict[str, Any]) -> str:
    """Hash of a function step's name, version and arguments. Raises `UsageError` for arguments that are not JSON."""
    arguments = canonical([list(args), kwargs], f"an argument of step {step.name!r}")
    return _digest("function", f"{step.name}\0{step.version}", arguments)


def _digest(kind: str, name: str, content: str) -> str:
    text = f"{HASH_VERSION}\0{kind}\0{name}\0{content}"
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Finished:
    """A recorded end of a step, and what it once cost."""

    step: Step
    cost_pico: int


@dataclass(frozen=True)
class Retries:
    """What a cut-off turn had used of its retries, and until when it was told to wait (wall clock, ns)."""

    failures: int = 0
    not_before: int | None = None


class Memo:
    """What a run's history answers. Asking takes an entry off, so that what was never asked for can be told."""

    def __init__(self, history: History) -> None:
        self._finished: dict[str, Finished] = {}
        self._answers: dict[tuple[str, int], str] = {}
        self._retries: dict[tuple[str, int], Retries] = {}
        self._noted: dict[str, Note] = {note.key: note for note in history.notes if note.key}
        self._occurrences: Counter[tuple[str, str]] = Counter()
        self._unasked: defaultdict[str, set[str]] = defaultdict(set)
        self.reused: Counter[str] = Counter()
        self.saved_pico: Counter[str] = Counter()
        self._of_source: dict[str, Finished] = {}
        self._noted_by_source: dict[str, Note] = {}
        if history.source is not None:
            costs = _costs(history.source)
            self._of_source = {one.key: Finished(one, _cost(one, costs)) for one in history.source.steps}
            self._noted_by_source = {note.key: note for note in history.source.notes}
        if history.steps:
            self._read(history)

    def _read(self, history: History) -> None:
        costs = _costs(history)
        for step in history.steps:
            if step.parent is not None:  # what a tool did is part of a conversation that goes on, even its failure
                if step.status in {SUCCEEDED, FAILED}:
                    self._finished[step.key] = Finished(step, 0)
                continue
            replayed = step.status == FAILED and step.execution >= max(history.resumed_from, 1)
            if step.status == SUCCEEDED or replayed:
                self._finished[step.key] = Finished(step, _cost(step, costs))
                self._unasked[step.branch].add(step.key)
        for attempt in history.attempts:
            if attempt.answer is not None:
                self._answers[attempt.key, attempt.turn] = attempt.answer
            elif attempt.execution >= history.resumed_from:
                self._count_retry(attempt)

    def _count_retry(self, attempt: Attempt) -> None:
        known = self._retries.get((attempt.key, attempt.turn), Retries())
        failed = attempt.outcome is not None and attempt.outcome not in _NOT_A_FAILURE
        self._retries[attempt.key, attempt.turn] = Retries(
            known.failures + failed, attempt.not_before if failed else known.not_before
        )

    def key(self, branch: str, content: str) -> str:
        """The key of a call made now: its occurrence is its place among equal calls of its branch."""
        self._occurrences[branch, content] += 1
        return f"{branch}:{content}:{self._occurrences[branch, content]}"

    def finished(self, branch: str, key: str) -> Finished | None:
        found = self._finished.get(key)
        if found is not None and key in self._unasked[branch]:
            self._unasked[branch].discard(key)
            self.reused[found.step.name] += 1
            self.saved_pico[found.step.name] += found.cost_pico
        return found

    def of_source(self, key: str) -> Finished | None:
        """What a fork's source had for this step. Not asked for, it has not diverged: a fork may go other ways."""
        found = self._of_source.get(key)
        if found is not None:
            self.reused[found.step.name] += 1
            self.saved_pico[found.step.name] += found.cost_pico
        return found

    def tool(self, key: str) -> Finished | None:
        """A tool call's recorded end: its turn is known, so it has no occurrence, and nobody else asks for it."""
        found = self._finished.get(key)
        if found is not None:
            self.reused[found.step.name] += 1
        return found

    def unasked(self, branch: str | None = None) -> int:
        """How many finished recorded steps (of a branch) nobody has asked for yet."""
        if branch is not None:
            return len(self._unasked[branch])
        return sum(len(keys) for keys in self._unasked.values())

    def answer(self, key: str, turn: int) -> Any:
        """The recorded answer of a finished turn, or None."""
        text = self._answers.get((key, turn))
        return None if text is None else decode(text)

    def retries(self, key: str, turn: int) -> Retries:
        return self._retries.get((key, turn), Retries())

    def noted(self, key: str) -> Note | None:
        return self._noted.get(key)

    def noted_by_source(self, key: str) -> Note | None:
        return self._noted_by_source.get(key)


def _costs(history: History) -> Counter[int]:
    found: Counter[int] = Counter()
    for attempt in history.attempts:
        found[attempt.step] += attempt.cost_pico or 0
    return found


def _cost(step: Step, costs: Counter[int]) -> int:
    """What it cost where it was paid: perhaps in another run."""
    return costs[step.number] if step.saved_pico is None else step.saved_pico
