"""Workflows that carry secrets everywhere that user code can put them. The secrets come with the input."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
import warnings
from typing import Any

from pydantic import BaseModel, ConfigDict

from agentobs import Agent, RunContext, StepFailed, workflow
from tests.acceptance.flows import HAIKU

SYSTEM = os.environ.get("CANARY_SYSTEM", "")
asked = Agent(name="asked", model=HAIKU, system=f"Keep this: {SYSTEM}", max_tokens=512, attempts=1, timeout_s=10)
streamed = Agent(
    name="streamed", model=HAIKU, system=f"Keep: {SYSTEM}", max_tokens=512, attempts=1, stream=True, timeout_s=10
)


class Secrets(BaseModel):
    model_config = ConfigDict(extra="forbid")

    words: dict[str, str]
    number: int = 0
    how: str = ""


class Answer(BaseModel):
    text: str
    count: int


def learn(word: str) -> str:
    return f"learned {word}"


def stumble(word: str) -> str:
    raise KeyError(word)


async def stumble_later(word: str) -> str:
    await asyncio.sleep(0)
    try:
        raise LookupError(word)
    except LookupError as error:
        raise OSError(5, f"while handling {word}", word) from error


@workflow(agents=[asked, streamed], steps=[learn, stumble, stumble_later])
async def confides(run: RunContext, input: Secrets) -> Any:
    """Prompts, outputs, arguments; failing steps are swallowed, as user code does."""
    word = input.words
    first = await run.call(asked, f"ANSWER whole {word['prompt']}")
    second = await run.call(streamed, [{"role": "user", "content": f"ANSWER whole {word['prompt']} {first[:40]}"}])
    learned = await run.step(learn, word["argument"])
    for function in (stumble, stumble_later):
        try:
            await run.step(function, word["exception"])
        except StepFailed as error:
            assert word["exception"] not in str(error)
    return {"first": first, "second": second, "learned": learned}


@workflow(agents=[asked])
async def fails_loudly(run: RunContext, input: Secrets) -> Any:
    """Ends with a secret in the exception, in one of the ways that exceptions take."""
    word = input.words["exception"]
    match input.how:
        case "raise":
            raise ValueError(word)
        case "cause":
            try:
                raise OSError(2, word, word)
            except OSError as error:
                raise RuntimeError(f"because of {word}") from error
        case "group":
            raise ExceptionGroup(word, [ValueError(word), TypeError(word)])
        case "class":
            raise type(f"Error_{input.number}", (Exception,), {"__str__": lambda _: word})
        case "assert":
            assert word == "", word
        case "unserialisable":
            return {word: object()}
        case "keys":
            return {(word,): word}
        case "surrogate":
            return "\ud800" + word
        case "model":
            return Answer.model_construct(text=word, count=word)  # pydantic warns, and quotes the value
        case "await":
            await asyncio.gather(run.call(asked, f"ANSWER status-400 {word}"), _raise(word))
        case other:
            raise AssertionError(other)


async def _raise(word: str) -> None:
    await asyncio.sleep(0.01)
    raise ValueError(word)


@workflow()
async def mutters(run: RunContext, input: Secrets) -> str:
    """User code and its libraries log, warn, and lose exceptions."""
    word = input.words["muttered"]
    log = logging.getLogger("somebody.library")
    log.warning("about to send %s", word)
    log.error(f"cannot send {word}")  # noqa: G004 -- what it is about
    try:
        raise ValueError(word)
    except ValueError:
        log.exception("failed")
    logging.getLogger("anthropic").error("request %s", {"messages": word})
    logging.getLogger("asyncio").error("slow callback %s", word)
    warnings.warn(f"careful with {word}", UserWarning, stacklevel=1)
    lost = asyncio.get_running_loop().create_task(_raise(word))  # never awaited
    await asyncio.sleep(0.05)
    del lost
    gc.collect()
    asyncio.get_running_loop().call_soon(_fail_now, word)
    await asyncio.sleep(0.05)
    return word


def _fail_now(word: str) -> None:
    raise ValueError(word)


class _Grumbles:
    def __init__(self, word: str) -> None:
        self._word = word

    def __del__(self) -> None:
        raise ValueError(self._word)


@workflow()
async def cries_out(run: RunContext, input: Secrets) -> str:
    """Exceptions that no logger sees: Python itself prints them to stderr, where the log is."""
    word = input.words["cried"]
    if input.how == "thread":
        thread = threading.Thread(target=_fail_now, args=(word,))
        thread.start()
        thread.join()
    else:
        _Grumbles(word)
        gc.collect()
    sys.stderr.flush()
    return word


def tell(word: str) -> dict[str, str]:
    """Tell a word."""
    return {word: word}


def choke(word: str) -> str:
    """Choke on a word."""
    raise LookupError(word)


handy = Agent(
    name="handy", model=HAIKU, system=f"Keep: {SYSTEM}", max_tokens=512, attempts=1, tools=[tell, choke], max_turns=2
)


@workflow(agents=[handy])
async def handles(run: RunContext, input: Secrets) -> Any:
    """Tools are called with secrets, by secret names, and raise secrets; an answer does not fit what was asked."""
    prompt = f"ANSWER {input.how} {input.words['prompt']}"
    return await (run.call(handy, prompt, output=Answer) if input.how == "misfit" else run.call(handy, prompt))


@workflow(agents=[asked, streamed])
async def meets(run: RunContext, input: Secrets) -> str:
    """One answer of the telling provider; a failure is the run's."""
    agent = streamed if input.how.startswith("stream") else asked
    return await run.call(agent, f"ANSWER {input.how} {input.words['prompt']}")
