"""Structured output: the type that an answer is to be, its schema, and what is wrong with one that does not fit."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError

from agentobs.errors import UsageError
from agentobs.models.protocol import Schema

_MOST_ERRORS: Final = 10  # told to the model at once


@dataclass(frozen=True)
class Output:
    """A type that pydantic knows, and its JSON schema."""

    adapter: TypeAdapter[Any]
    schema: Schema

    def read(self, text: str) -> str:
        """The answer as JSON to be stored, once it fits. Raises `ValueError` (pydantic's is one)."""
        self.adapter.validate_json(text)
        return json.dumps(json.loads(text), ensure_ascii=True, allow_nan=False, separators=(",", ":"))

    def value(self, stored: str) -> Any:
        """The typed value of what `read` gave."""
        return self.adapter.validate_json(stored)


@lru_cache(maxsize=1024)
def output_of(kind: Any) -> Output:
    """Read the type given as `output=`. Raises `UsageError` for one without a JSON schema."""
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(kind)
        return Output(adapter, adapter.json_schema())
    except (PydanticInvalidForJsonSchema, PydanticSchemaGenerationError, PydanticUserError) as error:
        raise UsageError(
            f"output={getattr(kind, '__name__', kind)!r:.80} has no JSON schema ({type(error).__name__}); expected a "
            "pydantic model, a dataclass, or a type made of text, numbers, booleans, lists and dicts"
        ) from None


def wrong(error: Exception) -> list[str]:
    """What of an answer does not fit, a field a line. Content: a field's name can be the model's own."""
    if not isinstance(error, ValidationError):
        kept = isinstance(error, ValueError)
        return ["the answer: " + ("it is not JSON that can be kept" if kept else "its checks could not be made")]
    return misfits(error, "the answer")


def misfits(error: ValidationError, whole: str) -> list[str]:
    """Where something a model wrote does not fit, and why; `whole` is its name where all of it is wrong."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return [f"{'.'.join(map(str, one['loc'])) or whole}: {one['msg']}" for one in found[:_MOST_ERRORS]]


def repair(error: Exception) -> str:
    """What the model is asked after an answer that does not fit."""
    return "\n".join(
        [
            "Your answer does not fit the schema that was asked for:",
            *(f"- {line}" for line in wrong(error)),
            "Answer again with the whole corrected JSON, and nothing else.",
        ]
    )
