"""The OpenAPI document; `python -m agentobs.api` writes docs/openapi.json."""

from __future__ import annotations

from typing import Any, Final

from agentobs.api.problems import KINDS, MEDIA_TYPE

_UNUSED: Final = ("HTTPValidationError", "ValidationError")  # what FastAPI would answer to a bad request


def with_problems(document: dict[str, Any]) -> dict[str, Any]:
    """The document, changed in place: every error a problem, which FastAPI can only declare as plain JSON."""
    for operations in document["paths"].values():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                content = response.get("content", {})
                if status >= "400" and any(map(_is_problem, content.values())):  # a stream's too
                    response["content"] = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
                    response["description"] = KINDS[int(status)][1]
    # A key is asked for only where the service was given one.
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [{}, {"key": []}]
    for name in _UNUSED:
        document["components"]["schemas"].pop(name, None)
    return document


def _is_problem(content: dict[str, Any]) -> bool:
    return content.get("schema", {}).get("$ref", "").rpartition("/")[2] in {"Problem", *_UNUSED}
