"""The one JSON encoding of stored text: ASCII-escaped, so that NULs and lone surrogates survive every backend."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import PydanticSerializationError, to_jsonable_python

from agentobs.errors import UsageError


def encode(value: object, what: str) -> str:
    """`value` as stored JSON. Knows what pydantic knows (models, dataclasses, datetimes, …).

    Raises `UsageError` that names `what` and the offending type, never the value.
    """
    try:
        return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"), default=to_jsonable_python)
    except (TypeError, ValueError, RecursionError, PydanticSerializationError):
        raise UsageError(
            f"{what} is of type {type(value).__name__} and cannot be stored as JSON: expected text, numbers, booleans, "
            "None, lists, dicts with text keys, dataclasses or pydantic models of these (no NaN, no cycles)"
        ) from None


def canonical(value: object, what: str) -> str:
    """The same with sorted keys, for hashing."""
    return json.dumps(json.loads(encode(value, what)), ensure_ascii=True, sort_keys=True, separators=(",", ":"))


def decode(text: str) -> Any:
    return json.loads(text)
