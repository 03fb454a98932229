"""A rule broken in one place, in each way that a slip of the hand could break it."""

from __future__ import annotations

import re
from collections.abc import Iterator

# What a string in quotes holds is none of the expression's own numbers and operators.
_QUOTED = re.compile(r'"[^"]*"')
_METRIC = re.compile(r"\b(?:agentobs_\w+|gen_ai_\w+_bucket|(?:agentobs|workflow):[\w:]+|up)\b")
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
_NUMBER = re.compile(r"(?<![\w.:\[])\d+(?:\.\d+)?(?![\w:.\]])")
_COMPARISON = re.compile(r"(?<=[\s)])(?:>=|<=|==|!=|>|<)(?=\s)")
_WINDOW = re.compile(r"\[(\d+)([mhd])\]")
_LABELS = re.compile(r"\b(?:by|on) \(([^)]+)\)")

_OPPOSITE = {">": "<=", "<": ">=", ">=": "<", "<=": ">", "==": "!=", "!=": "=="}
_BOUNDARY = {">": ">=", "<": "<=", ">=": ">", "<=": "<"}
_WORDS = (
    (" and ", " or "), ("\nand ", "\nor "), ("\nor\n", "\nand\n"), (" unless ", " and "), ("\n/\n", "\n*\n"),
    ("sum ", "max "), ("max ", "min "), ("min ", "max "), ("increase(", "rate("), ("rate(", "delta("),
    ("changes(", "increase("), (" offset 1h", ""),
)  # fmt: skip

Mutant = tuple[str, str]  # what was done, the expression that it gives


def mutants(expr: str) -> Iterator[Mutant]:
    """Each differs from `expr` at one place."""
    bare = _QUOTED.sub(lambda found: '"' + "·" * (len(found[0]) - 2) + '"', expr)

    def put(start: int, end: int, text: str) -> Mutant:
        near = " ".join(expr[max(start - 40, 0) : end + 10].split())
        return f"{expr[start:end].strip()!r} → {text.strip()!r} in …{near}…", expr[:start] + text + expr[end:]

    for found in _METRIC.finditer(bare):
        yield put(*found.span(), found[0] + "_x")
    for found in _MATCHER.finditer(expr):
        opposite = {"=": "!=", "!=": "=", "=~": "!~", "!~": "=~"}[found[2]]
        yield put(*found.span(2), opposite)
        yield put(*found.span(1), found[1] + "_x")
        values = found[3].split("|")
        for n, value in enumerate(values):
            yield put(*found.span(3), "|".join([*values[:n], value + "x", *values[n + 1 :]]))
    for found in _COMPARISON.finditer(bare):
        yield put(*found.span(), _OPPOSITE[found[0]])
        if found[0] in _BOUNDARY:
            yield put(*found.span(), _BOUNDARY[found[0]])
    for found in _NUMBER.finditer(bare):
        for text in _near(found[0]):
            yield put(*found.span(), text)
    for found in _WINDOW.finditer(bare):
        yield put(*found.span(1), str(int(found[1]) * 2))
    for found in _LABELS.finditer(bare):
        labels = [label.strip() for label in found[1].split(",")]
        for n in range(len(labels)):
            yield put(*found.span(1), ", ".join([*labels[:n], *labels[n + 1 :]]))
    for word, other in _WORDS:
        for found in re.finditer(rf"(?<![a-z_:]){re.escape(word)}" if word[0].isalpha() else re.escape(word), bare):
            yield put(*found.span(), other)


def _near(number: str) -> list[str]:
    """A little less and a little more: one for counts, a tenth for the rest."""
    value = float(number)
    if value == 0:
        return ["1.5"]
    if "." not in number and value < 20:
        return [str(int(value) - 1), str(int(value) + 1)]
    return [f"{value * 0.9:.12g}", f"{value * 1.1:.12g}"]
