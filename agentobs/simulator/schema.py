"""A value that conforms to a JSON schema, the same for the same random source.

Covers what structured outputs and tool inputs use: objects, arrays, strings with a format, numbers with
bounds, enum, const, anyOf, oneOf, allOf, local `$ref` (recursive ones too). Not covered: `pattern`, `not`,
`if`. The SDKs move bounds that the API does not support into the description as `{minimum: 0, maximum: 1}`;
those are obeyed as a model would.
"""

from __future__ import annotations

import json
import math
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from random import Random

# From here on only what a schema insists on is made, so that recursive schemas end.
_DEPTH_OF_OPTIONAL = 3
_DEEPEST = 12
_BOTTOM = 60
_HINT = re.compile(
    r"\b(minimum|maximum|exclusiveMinimum|exclusiveMaximum|multipleOf|minLength|maxLength|minItems|maxItems)"
    r": (-?\d+(?:\.\d+)?)"
)
_NUMBERS = frozenset({
    "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
    "minLength", "maxLength", "minItems", "maxItems",
})  # fmt: skip
_FORMATS = {
    "date-time": "2026-01-02T03:04:05Z",
    "date": "2026-01-02",
    "time": "03:04:05Z",
    "duration": "P1D",
    "email": "someone@example.com",
    "hostname": "example.com",
    "uri": "https://example.com/",
    "ipv4": "192.0.2.1",
    "ipv6": "2001:db8::1",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


class _Maker:
    """Carries what every level needs: the root for `$ref`, the random source, the words."""

    def __init__(self, root: Mapping[str, Any], random: Random, words: Sequence[str]) -> None:
        self.root = root
        self.random = random
        self.words = words

    def value(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, dict):
            return self.string({})  # `true`: anything goes
        if depth > _BOTTOM:
            return None  # a schema that no finite value fits
        schema = self.resolved(schema)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return self.random.choice(schema["enum"])
        variants = schema.get("anyOf") or schema.get("oneOf")
        if variants:
            return self.value(self.variant(variants, depth), depth + 1)
        schema = _with_hints(schema)
        match _type_of(schema):
            case "object":
                return self.object(schema, depth)
            case "array":
                return self.array(schema, depth)
            case "integer":
                return self.integer(schema)
            case "number":
                return self.number(schema)
            case "boolean":
                return self.random.random() < 0.5
            case "null":
                return None
            case _:
                return self.string(schema)

    def resolved(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        for _ in range(_DEEPEST):
            reference = schema.get("$ref")
            if reference is None:
                break
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            schema = {**_follow(self.root, str(reference)), **rest}
        for part in schema.get("allOf") or ():
            merged = self.resolved(part)
            properties = {**(schema.get("properties") or {}), **(merged.get("properties") or {})}
            required = [*(schema.get("required") or ()), *(merged.get("required") or ())]
            schema = {**schema, **merged, "properties": properties, "required": required}
        return schema

    def variant(self, variants: Sequence[Any], depth: int) -> Any:
        if depth < _DEPTH_OF_OPTIONAL:
            return self.random.choice(variants)
        plain = [item for item in variants if isinstance(item, dict) and not _nests(item)]
        return plain[0] if plain else variants[0]

    def object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        properties: Mapping[str, Any] = schema.get("properties") or {}
        required = dict.fromkeys(schema.get("required") or ())
        names = dict.fromkeys(properties) if depth < _DEPTH_OF_OPTIONAL else {}
        return {
            name: self.value(properties.get(name, True), depth + 1)
            for name in {**names, **required}
            if depth < _DEEPEST or name in required
        }

    def array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        least = int(schema.get("minItems") or 0)
        most = int(schema.get("maxItems", max(least, 3)))
        if depth >= _DEPTH_OF_OPTIONAL:
            most = least
        count = self.random.randint(max(least, min(1, most)), max(least, min(most, least + 3)))
        first = list(schema.get("prefixItems") or ())
        rest = schema.get("items", True)
        items = [self.value(part, depth + 1) for part in first]
        unique = bool(schema.get("uniqueItems"))
        seen = {json.dumps(item, sort_keys=True) for item in items}
        for _ in range(20 * (count + 1)):
            if len(items) >= count or (first and rest is False):
                break
            item = self.value(rest, depth + 1)
            key = json.dumps(item, sort_keys=True)
            if not unique or key not in seen:
                seen.add(key)
                items.append(item)
        return items

    def integer(self, schema: Mapping[str, Any]) -> int:
        low, high = _bounds(schema, span=9)
        step = int(schema.get("multipleOf") or 1) or 1
        first, last = math.ceil(low / step), math.floor(high / step)
        return self.random.randint(first, max(first, last)) * step

    def number(self, schema: Mapping[str, Any]) -> float:
        low, high = _bounds(schema, span=9)
        step = schema.get("multipleOf")
        if step:
            first, last = math.ceil(low / step), math.floor(high / step)
            return float(self.random.randint(first, max(first, last)) * step)
        exact = low + (high - low) * (0.05 + 0.9 * self.random.random())
        rounded = round(exact, 2)
        return rounded if low < rounded < high else exact

    def string(self, schema: Mapping[str, Any]) -> str:
        example = _FORMATS.get(str(schema.get("format")))
        if example is not None:
            return example
        text = " ".join(self.random.choices(self.words, k=self.random.randint(2, 5))).capitalize()
        least = int(schema.get("minLength") or 0)
        while len(text) < least:
            text += " " + self.random.choice(self.words)
        return text[: int(schema["maxLength"])] if "maxLength" in schema else text


def _follow(root: Mapping[str, Any], reference: str) -> Mapping[str, Any]:
    found: Any = root
    for raw in reference.removeprefix("#").split("/"):
        name = raw.replace("~1", "/").replace("~0", "~")
        if name:
            found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _nests(schema: Mapping[str, Any]) -> bool:
    return "$ref" in schema or _type_of(schema) in {"object", "array"} or bool(schema.get("anyOf"))


def _type_of(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((item for item in kind if item != "null"), "null")
    if kind is None:
        kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
    return str(kind)


def _with_hints(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    description = schema.get("description")
    if not isinstance(description, str) or "{" not in description:
        return schema
    hints = {name: float(value) for name, value in _HINT.findall(description.rpartition("{")[2])}
    return {**hints, **schema}


def _bounds(schema: Mapping[str, Any], *, span: int) -> tuple[float, float]:
    """The lowest and highest value; 1 to 10 where the schema does not say."""
    whole = _type_of(schema) == "integer"
    low, high = schema.get("minimum"), schema.get("maximum")
    over, under = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    if isinstance(over, int | float) and not isinstance(over, bool):
        low = max(over + 1 if whole else over, low if low is not None else over)
    if isinstance(under, int | float) and not isinstance(under, bool):
        high = min(under - 1 if whole else under, high if high is not None else under)
    if low is None:
        low = 1 if high is None or high > 1 else high - span
    if high is None:
        high = low + span
    return low, max(low, high)


def is_sound(schema: Any) -> bool:
    """Whether the parts of a schema that are read here have the types that JSON Schema gives them."""
    if isinstance(schema, bool):
        return True
    if not isinstance(schema, dict):
        return False
    kind, required, enum = schema.get("type", "any"), schema.get("required", []), schema.get("enum", [None])
    if not isinstance(kind, str) and not _all_of(kind, str):
        return False
    if not (_all_of(required, str) or required == []) or not isinstance(enum, list) or not enum:
        return False
    if not isinstance(schema.get("$ref", ""), str):
        return False
    for name in _NUMBERS & schema.keys():
        if isinstance(schema[name], bool) or not isinstance(schema[name], int | float):
            return False
    maps = [schema[name] for name in ("properties", "$defs", "definitions") if schema.get(name) is not None]
    lists = [schema[name] for name in ("anyOf", "oneOf", "allOf", "prefixItems") if schema.get(name) is not None]
    if not all(isinstance(part, dict) for part in maps) or not all(isinstance(part, list) for part in lists):
        return False
    parts = [*(part for group in maps for part in group.values()), *(part for group in lists for part in group)]
    return all(is_sound(part) for part in [*parts, schema.get("items", True)])


def _all_of(values: Any, kind: type) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(value, kind) for value in values)


def example(schema: Mapping[str, Any], random: Random, words: Sequence[str]) -> Any:
    """A value that the schema accepts, made of the given words."""
    return _Maker(schema, random, words).value(schema, 0)
