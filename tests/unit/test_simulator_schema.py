"""Values made for a schema are accepted by it: pydantic is the judge."""

import json
from datetime import date, datetime
from enum import Enum
from ipaddress import IPv4Address
from random import Random
from typing import Annotated, Literal
from uuid import UUID

import pytest
from anthropic import transform_schema
from pydantic import AnyUrl, BaseModel, ConfigDict, Field, TypeAdapter

from agentobs.simulator.schema import example, is_sound

WORDS = ("alpha", "beta", "gamma", "delta")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Leaf(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["leaf"]
    weight: float = Field(ge=0, le=1)


class Branch(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: Literal["branch"]
    children: list["Branch | Leaf"]
    parent: "Branch | None"


class Everything(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=30, max_length=40)
    count: int = Field(ge=3, le=5)
    step: int = Field(multiple_of=7, ge=1, le=30)
    ratio: float = Field(gt=0, lt=0.01)
    below: float = Field(lt=-5)
    yes: bool
    nothing: None
    colour: Colour
    when: datetime
    day: date
    uid: UUID
    link: AnyUrl
    host: IPv4Address
    pair: tuple[int, str]
    some: set[Literal["a", "b", "c"]] = Field(min_length=2)
    many: list[Annotated[int, Field(gt=100)]] = Field(min_length=2, max_length=4)
    maybe: int | None
    tree: Branch
    either: Leaf | Branch = Field(discriminator="kind")
    optional: str = "not given"


@pytest.mark.parametrize("seed", range(40))
def test_a_value_conforms_to_its_schema(seed):
    value = example(Everything.model_json_schema(), Random(seed), WORDS)

    Everything.model_validate_json(json.dumps(value))


@pytest.mark.parametrize("seed", range(40))
def test_bounds_that_the_sdk_moved_into_descriptions_are_obeyed(seed):
    class Score(BaseModel):
        score: float = Field(ge=0, le=1, description="How good it is {really}")
        stars: int = Field(ge=1, le=5)
        notes: list[str] = Field(min_length=2, max_length=2)
        word: str = Field(max_length=6)

    schema = transform_schema(Score)
    assert "maximum" not in schema["properties"]["score"]

    Score.model_validate(example(schema, Random(seed), WORDS))


def test_the_same_random_source_makes_the_same_value():
    schema = Everything.model_json_schema()

    assert example(schema, Random(5), WORDS) == example(schema, Random(5), WORDS)
    assert example(schema, Random(5), WORDS) != example(schema, Random(6), WORDS)


def test_a_schema_that_only_infinite_values_fit_still_gets_a_value():
    schema = {"type": "object", "properties": {"self": {"$ref": "#"}}, "required": ["self"]}

    assert example(schema, Random(1), WORDS)["self"]["self"]


def test_a_root_model_is_followed_through_its_reference():
    adapter = TypeAdapter(list[Leaf])

    adapter.validate_python(example(adapter.json_schema(), Random(1), WORDS))


def test_all_of_is_merged():
    schema = {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
            {"properties": {"b": {"const": 4}}, "required": ["b"]},
        ]
    }
    value = example(schema, Random(1), WORDS)

    assert value["b"] == 4
    assert isinstance(value["a"], int)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": 3},
        {"type": "object", "properties": ["a"]},
        {"type": "object", "properties": {"a": 3}},
        {"type": "object", "required": "a"},
        {"enum": []},
        {"enum": "abc"},
        {"anyOf": {"type": "string"}},
        {"type": "array", "items": "string"},
        {"type": "integer", "minimum": "1"},
        {"$ref": 1},
    ],
)
def test_a_malformed_schema_is_told(schema):
    assert not is_sound({"type": "object", "properties": {"inner": schema}})
    assert is_sound({"type": "object", "properties": {"inner": {"type": ["string", "null"]}}})
