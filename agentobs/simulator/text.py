"""Prose that depends on its prompt, and how many tokens a text is.

A token is four characters, a started one counts: any text says itself what it costs, so an answer, its
usage and the bill can be checked against each other without a tokenizer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from random import Random

CHARS_PER_TOKEN = 4

# How much of a prompt is read for words: enough to be about it, little enough to stay cheap.
_READ_CHARS = 1_000
_MOST_WORDS = 48
_WORD = re.compile(r"[^\W\d_]{4,}")
_COMMON_WORDS = (
    "about above after again also because been before being below between both could does doing down during"
    " each every from have having here into itself just like make made many more most much must only other"
    " over please same should some such than that their them then there these they this those through under"
    " until upon very want were what when where which while will with would write your yours"
)
_COMMON = frozenset(_COMMON_WORDS.split())
_FALLBACK = ("request", "question", "answer", "result", "context", "example")

_OPENINGS = (
    "Here is what matters about {a}. ",
    "Let us look at {a} and {b}. ",
    "In short: {a} depends on {b}. ",
    "There are a few things to say about {a}. ",
    "The question of {a} comes down to {b}. ",
)
_SENTENCES = (
    "Start with {a}, because {b} follows from it. ",
    "A team that treats {a} as a habit finds that {b} takes care of itself. ",
    "Evidence on {a} is mixed, yet {b} shows up in most accounts. ",
    "For example, {a} can be checked in a day, while {b} takes a quarter. ",
    "The common mistake is to confuse {a} with {b}. ",
    "Write down how {a} is measured before you change {b}. ",
    "When {a} fails, {b} is usually the first sign. ",
    "Two sources agree that {a} comes before {b}. ",
    "None of this makes {a} easy, but it makes {b} visible. ",
    "Keep {a} small and review {b} every week. ",
    "What helps most is naming who owns {a} and who is told of {b}. ",
    "Compare {a} with {b} and keep whichever is simpler to explain. ",
)


def tokens_of(text: str) -> int:
    """Tokens of a text: a quarter of its characters, rounded up."""
    return (len(text) + CHARS_PER_TOKEN - 1) // CHARS_PER_TOKEN


def cut_to(text: str, tokens: int) -> str:
    """The longest start of the text that is no more than so many tokens."""
    return text[: max(tokens, 0) * CHARS_PER_TOKEN]


def words_of(prompt: str) -> tuple[str, ...]:
    """The words that an answer to this prompt is about, each once, in their order."""
    found = dict.fromkeys(_WORD.findall(prompt[:_READ_CHARS].lower()))
    kept = [word for word in found if word not in _COMMON][:_MOST_WORDS]
    return tuple(kept) or _FALLBACK


def prose(random: Random, words: Sequence[str], tokens: int) -> str:
    """Whole sentences about the words, together at least so many tokens and at most some 30 more."""
    wanted = tokens * CHARS_PER_TOKEN
    sentence = _about(random, random.choice(_OPENINGS), words)
    parts = [sentence]
    length = len(sentence)
    deck: list[str] = []
    while length <= wanted:
        deck = deck or random.sample(_SENTENCES, len(_SENTENCES))
        sentence = _about(random, deck.pop(), words)
        if len(parts) % 5 == 4:
            sentence = sentence.rstrip() + "\n\n"
        parts.append(sentence)
        length += len(sentence)
    return "".join(parts).rstrip()


def _about(random: Random, sentence: str, words: Sequence[str]) -> str:
    first = int(random.random() * len(words))
    second = (first + 1 + int(random.random() * (len(words) - 1))) % len(words)
    return sentence.format(a=words[first], b=words[second])
