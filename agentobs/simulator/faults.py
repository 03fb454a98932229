"""Rules that make requests go wrong, and which of them applies to a request.

Fields that only some faults have:
    the five errors: `message`, `should_retry` (the x-should-retry header), `retry_after_s`; `slow`: `delay_s`;
    `hang`: `after_deltas`, for a stream that stalls in its middle instead of before its start; `cut_stream`:
    `after_deltas` (else half of them), `after_usage` (only `message_stop` is missing), `clean` (false: no end
    of the body either); `error_in_stream`: `after_deltas`, `first` (nothing before it), `message`; `garbage`:
    `content_type` (else text/html); `refusal`: `category`, `explanation`; `misfit` (an answer
    that does not fit the schema that was asked for): `text`, the whole of it; `low_limits` (a good answer whose
    headers say that little is left): `left`, the share of each rate limit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CATEGORIES = ("cyber", "bio", "frontier_llm", "reasoning_extraction", "general_harms")


class FaultRuleError(ValueError):
    """A rule that cannot be used; says which field of which rule and what it may be."""


@dataclass(frozen=True, slots=True)
class _Field:
    """What a field of a rule may hold."""

    expected: str
    accepts: Callable[[Any], bool]
    required: bool = False


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_BOOL = _Field("true or false", lambda value: isinstance(value, bool))
_TEXT = _Field("a text", lambda value: isinstance(value, str))
_SECONDS = _Field("a number of seconds, 0 or more", lambda value: _is_number(value) and value >= 0)
_SHARE = _Field("a number from 0 to 1", lambda value: _is_number(value) and 0 <= value <= 1)
_DELTAS = _Field("a whole number of deltas, 0 or more", lambda value: _is_count(value) and value >= 0)
_ERROR = {"message": _TEXT, "should_retry": _BOOL, "retry_after_s": _SECONDS}

FAULTS: Mapping[str, Mapping[str, _Field]] = {
    "rate_limited": _ERROR,
    "overloaded": _ERROR,
    "server_error": _ERROR,
    "bad_request": _ERROR,
    "unauthorized": _ERROR,
    "slow": {"delay_s": _Field(_SECONDS.expected, _SECONDS.accepts, required=True)},
    "hang": {"after_deltas": _DELTAS},
    "reset": {},
    "cut_stream": {"after_deltas": _DELTAS, "after_usage": _BOOL, "clean": _BOOL},
    "error_in_stream": {"after_deltas": _DELTAS, "first": _BOOL, "message": _TEXT},
    "garbage": {"content_type": _TEXT},
    "refusal": {
        "category": _Field(
            "null or one of " + ", ".join(CATEGORIES), lambda value: value is None or value in CATEGORIES
        ),
        "explanation": _TEXT,
    },
    "max_tokens": {},
    "misfit": {"text": _TEXT},
    "low_limits": {"left": _Field(_SHARE.expected, _SHARE.accepts, required=True)},
}
_COMMON: Mapping[str, _Field] = {
    "fault": _Field(
        "one of " + ", ".join(FAULTS), lambda value: isinstance(value, str) and value in FAULTS, required=True
    ),
    "match": _Field("an object", lambda value: isinstance(value, dict)),
    "times": _Field("a whole number, 1 or more", lambda value: _is_count(value) and value >= 1),
    "probability": _SHARE,
    "after_s": _SECONDS,
    "for_s": _SECONDS,
}
_MATCH: Mapping[str, _Field] = {"model": _TEXT, "contains": _TEXT}


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, checked.

    It applies to requests that match, at most `times` times, each with `probability`, from `after_s` seconds
    after it was put and (with `for_s`) for so many seconds.
    """

    fault: str
    model: str | None = None
    contains: str | None = None
    times: int | None = None
    probability: float = 1.0
    after_s: float = 0.0
    for_s: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """The fields of this fault alone, such as `delay_s`."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """As it was put."""


def parse(data: Any) -> tuple[Rule, ...]:
    """Check a list of rules. Raises FaultRuleError at the first field that is unknown, missing or wrong."""
    if not isinstance(data, list):
        raise FaultRuleError("rules: found no list, expected a list of rules")
    return tuple(_rule(item, f"rules[{at}]") for at, item in enumerate(data))


def _rule(data: Any, at: str) -> Rule:
    if not isinstance(data, dict):
        raise FaultRuleError(f"{at}: expected an object with the field 'fault'")
    _check({"fault": data["fault"]} if "fault" in data else {}, {"fault": _COMMON["fault"]}, at)
    own = FAULTS[data["fault"]]
    _check(data, {**_COMMON, **own}, at)
    match = data.get("match", {})
    _check(match, _MATCH, f"{at}.match")
    return Rule(
        fault=data["fault"],
        model=match.get("model"),
        contains=match.get("contains"),
        times=data.get("times"),
        probability=data.get("probability", 1.0),
        after_s=data.get("after_s", 0.0),
        for_s=data.get("for_s"),
        options={name: data[name] for name in own if name in data},
        source=data,
    )


def _check(data: Mapping[str, Any], fields: Mapping[str, _Field], at: str) -> None:
    for name, wanted in fields.items():
        if wanted.required and name not in data:
            raise FaultRuleError(f"{at}.{name}: missing, expected {wanted.expected}")
    for name, value in data.items():
        if name not in fields:
            raise FaultRuleError(f"{at}.{name}: unknown field, expected one of {', '.join(fields)}")
        if not fields[name].accepts(value):
            raise FaultRuleError(f"{at}.{name}: found {value!r}, expected {fields[name].expected}")


@dataclass(slots=True)
class _Counted:
    rule: Rule
    random: Random
    applied: int = 0


class Faults:
    """The rules in force. Each has its own random source, so one rule's draws do not shift another's."""

    def __init__(self, seed: int, clock: Callable[[], float]) -> None:
        self._seed = seed
        self._clock = clock
        self._put_at = 0.0
        self._rules: list[_Counted] = []

    def put(self, rules: Sequence[Rule]) -> None:
        """Replace all rules; counts and draws start anew."""
        self._put_at = self._clock()
        self._rules = [
            _Counted(rule, Random(f"{self._seed}/{at}"))  # noqa: S311  (made to be repeatable)
            for at, rule in enumerate(rules)
        ]

    def clear(self) -> None:
        self._rules = []

    def listing(self) -> list[dict[str, Any]]:
        """The rules as they were put, each with how often it was `applied`."""
        return [{**item.rule.source, "applied": item.applied} for item in self._rules]

    def pick(self, model: str, text: str) -> Rule | None:
        """The first rule that applies to a request; it is counted as applied."""
        if not self._rules:
            return None
        age = self._clock() - self._put_at
        for item in self._rules:
            if not _matches(item, model, text, age):
                continue
            if item.rule.probability < 1 and item.random.random() >= item.rule.probability:
                continue
            item.applied += 1
            return item.rule
        return None


def _matches(item: _Counted, model: str, text: str, age: float) -> bool:
    rule = item.rule
    return (
        (rule.times is None or item.applied < rule.times)
        and (rule.model is None or rule.model == model)
        and (rule.contains is None or rule.contains in text)
        and age >= rule.after_s
        and (rule.for_s is None or age < rule.after_s + rule.for_s)
    )
