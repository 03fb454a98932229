"""The OpenAPI document; `python -m agentobs.api` writes docs/openapi.json."""

from __future__ import annotations

from typing import Any, Final

from agentobs.api.guard import OPEN
from agentobs.api.problems import KINDS, MEDIA_TYPE

_PROBLEM: Final = {"schema": {"$ref": "#/components/schemas/Problem"}}
_OF_A_RUN: Final = "/v1/runs/{run_id}"
_UNUSED: Final = ("HTTPValidationError", "ValidationError")  # what FastAPI would answer to a bad request


def completed(document: dict[str, Any], *, key_needed: bool | None = None) -> dict[str, Any]:
    """The document with what FastAPI cannot declare, changed in place.

    Errors are problem documents, an answer that shows a run links to the calls on it, and a key is asked for:
    always, never, or (`key_needed` None) where the service was given one.
    """
    schemas = document["components"]["schemas"]
    document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
    document["security"] = [*([] if key_needed else [{}]), *([] if key_needed is False else [{"key": []}])]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            responses = operation["responses"]
            if path in OPEN:
                operation["security"] = []
            elif key_needed is not False:
                responses["401"] = {"content": {MEDIA_TYPE: _PROBLEM}}
            for status, response in responses.items():
                content = response.get("content", {})
                if status >= "400" and (MEDIA_TYPE in content or _refers_to(content, {"Problem", *_UNUSED})):
                    response["content"] = {MEDIA_TYPE: _PROBLEM}
                    response["description"] = KINDS[int(status)][1]
                elif _refers_to(content, {"Summary", "Detail"}):
                    response["links"] = _links(document)
    for name in _UNUSED:
        schemas.pop(name, None)
    return document


def _links(document: dict[str, Any]) -> dict[str, Any]:
    """From a run that was shown to each call on it."""
    return {
        operation["operationId"]: {
            "operationId": operation["operationId"],
            "parameters": {"run_id": "$response.body#/id"},
        }
        for path, operations in document["paths"].items()
        if path.startswith(_OF_A_RUN)
        for operation in operations.values()
    }


def _refers_to(content: dict[str, Any], names: set[str]) -> bool:
    """Whether a response, of whatever media type, has one of these schemas."""
    schemas = (one.get("schema", {}) for one in content.values())
    return any(schema.get("$ref", "").rpartition("/")[2] in names for schema in schemas)
