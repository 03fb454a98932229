"""Words for an input that does not fit its schema: from the kinds of errors and from the schema, never from values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pydantic import ValidationError

SEE: Final = "Its schema is in GET /v1/workflows"  # the end of such a message, as a client of the API reads it

_SHOWN: Final = 5
_LONGEST: Final = 200
_DEEPEST: Final = 3  # of an example
_PLAIN: Final = {"string": "…", "integer": 1, "number": 1.5, "boolean": True}
_UNDECLARED: Final = "(a key not declared)"

# How pydantic names a member of a union, and a key, in an error's location.
_OF_PYDANTIC: Final = frozenset({"str", "int", "float", "bool", "list", "dict", "none", "[key]"})

# Pydantic's commonest error types in words; of the others the type itself is told.
# https://docs.pydantic.dev/latest/errors/validation_errors/
_TYPES: Final[Mapping[str, Sequence[str]]] = {
    "missing": ("missing",),
    "not among its fields": ("extra_forbidden",),
    "expected an object": ("model_type", "model_attributes_type", "dict_type", "dataclass_type", "mapping_type"),
    "expected a list": ("list_type", "tuple_type", "set_type", "frozen_set_type", "iterable_type"),
    "expected text": ("string_type", "string_unicode"),
    "expected a whole number": ("int_type", "int_parsing", "int_from_float", "int_parsing_size"),
    "expected a number": ("float_type", "float_parsing", "finite_number", "decimal_type", "decimal_parsing"),
    "expected true or false": ("bool_type", "bool_parsing"),
    "expected null": ("none_required",),
    "expected a date": ("date_type", "date_parsing", "date_from_datetime_parsing", "date_from_datetime_inexact"),
    "expected a date and time": ("datetime_type", "datetime_parsing", "datetime_from_date_parsing"),
    "expected a UUID": ("uuid_type", "uuid_parsing", "uuid_version"),
    "expected a URL": ("url_type", "url_parsing", "url_scheme"),
    "too short": ("string_too_short", "too_short"),
    "too long": ("string_too_long", "too_long"),
    "too small": ("greater_than", "greater_than_equal"),
    "too large": ("less_than", "less_than_equal"),
    "expected other text": ("literal_error", "enum", "string_pattern_mismatch"),
    "refused by the workflow's own check": ("value_error", "assertion_error"),
}
_WORDS: Final = {kind: words for words, kinds in _TYPES.items() for kind in kinds}

# What an error's context has from the schema, and in which words.
_BOUNDS: Final = {
    "min_length": "at least {} long",
    "max_length": "at most {} long",
    "gt": "above {}",
    "ge": "{} or more",
    "lt": "below {}",
    "le": "{} or less",
    "expected": "{}",  # of a literal or an enum: all that was declared
}


def fields(error: ValidationError, schema: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """`(location, pydantic's error type)` of each; a key that the caller made up is content, and is not repeated."""
    known = _declared_names(schema) | _OF_PYDANTIC
    return tuple((_place(item["loc"], known), item["type"]) for item in error.errors())


def sentence(error: ValidationError, schema: Mapping[str, Any]) -> str:
    """What is wrong where, such as `goal: missing. Its fields: goal (required), notes`."""
    found = [
        f"{where}: {_words(item)}" if item["loc"] else _words(item)
        for (where, _), item in zip(fields(error, schema), error.errors(), strict=True)
    ]
    more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    declared = ", ".join(_declared(schema))
    return "; ".join(found[:_SHOWN]) + more + (f". Its fields: {declared}" if declared else "")


def how_to_give(schema: Mapping[str, Any]) -> str:
    """The option of `agentobs run` that gives such an input, with `…` for text; "" where that is not plain to see."""
    top, defs = _top(schema), schema.get("$defs", {})
    properties, required = top.get("properties", {}), top.get("required", ())
    if required and all(properties.get(name, {}).get("type") in _PLAIN for name in required):
        return " ".join(f"--set {name}=…" for name in required)
    example = _example(top, defs)
    return "" if example is None else f"--input '{json.dumps(example, ensure_ascii=False)}'"


def _words(item: Any) -> str:
    words: str = _WORDS.get(item["type"], item["type"])
    if item["type"] in {"literal_error", "enum"}:
        words = "expected"
    context = item.get("ctx", {})
    bounds = [text.format(str(context[key])) for key, text in _BOUNDS.items() if key in context]
    if item["type"] not in _WORDS or not bounds:  # of a type that is not known, its context is not either
        return words
    joined = f"{words} {bounds[0]}" if words == "expected" else f"{words}, expected {bounds[0]}"
    return joined if len(joined) <= _LONGEST else f"{joined[:_LONGEST]}…"


def _place(location: Sequence[int | str], known: set[str]) -> str:
    parts = [str(part) if isinstance(part, int) or part in known else _UNDECLARED for part in location]
    return ".".join(parts) or "(input)"


def _declared(schema: Mapping[str, Any]) -> Iterator[str]:
    top = _top(schema)
    required = top.get("required", ())
    for name in top.get("properties", ()):
        yield f"{name} (required)" if name in required else name


def _top(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without the reference that a schema of a model with itself in it begins with."""
    reference = schema.get("$ref")
    found = schema.get("$defs", {}).get(str(reference).rpartition("/")[2]) if reference else schema
    return found if isinstance(found, Mapping) else {}


def _example(schema: Mapping[str, Any], defs: Mapping[str, Any], depth: int = 0) -> object:
    """One that has what is required; None for a schema that says more than a type."""
    if "$ref" in schema:
        schema = defs.get(str(schema["$ref"]).rpartition("/")[2], {})
    kind = schema.get("type")
    if depth > _DEEPEST or kind not in {*_PLAIN, "array", "object"}:
        return None
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind == "array":
        item = _example(schema.get("items", {}), defs, depth + 1)
        return [] if item is None else [item]
    found = {
        name: _example(schema.get("properties", {}).get(name, {}), defs, depth + 1)
        for name in schema.get("required", ())
    }
    return None if None in found.values() else found


def _declared_names(schema: Any) -> set[str]:
    """All names of properties and models in a JSON schema, at any depth."""
    if isinstance(schema, list):
        return set().union(*(_declared_names(one) for one in schema))
    if not isinstance(schema, dict):
        return set()
    properties = schema.get("properties")
    own = set(properties) if isinstance(properties, dict) else set()
    models = schema.get("$defs")  # how pydantic names a model that is a member of a union
    own |= set(models) if isinstance(models, dict) else set()
    return own.union(*(_declared_names(one) for one in schema.values()))
