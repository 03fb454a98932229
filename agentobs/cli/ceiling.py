"""What a run of the article workflow can cost at most."""

from __future__ import annotations

from agentobs.examples.article import editor, researcher, writer
from agentobs.models import pricing
from agentobs.models.usage import Bill, Part
from agentobs.records import EXACT, PICO, Usage

_AROUND: int = 200  # tokens of the words and marks that stand around what is quoted


def most_usd(goal: str) -> str:
    """Every attempt of every agent billed, with the longest answer; as text, in dollars and cents."""
    total = 0
    read = 0  # of the answer before, which the next agent is given to read
    for agent in (researcher, writer, editor):
        asked = len((agent.system + goal).encode()) + _AROUND + read  # no token is shorter than a byte
        usage = Usage(input_uncached=asked, output=agent.max_tokens, state=EXACT)
        pico = pricing.price(Bill(usage=usage, parts=(Part(None, usage),)), agent.model).pico
        if pico is None:
            return "an unknown sum"
        total += pico * agent.attempts
        read = agent.max_tokens
    return f"${-(-total * 100 // PICO) / 100:.2f}"
