"""/docs: the OpenAPI document as one page of HTML that loads nothing from anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any, Final

POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"
_STYLE: Final = """
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 60rem; padding: 0 1rem }
code, pre { font: 13px/1.4 ui-monospace, monospace }
pre { border: 1px solid #8885; overflow-x: auto; padding: .5rem }
h2 { border-top: 1px solid #8885; margin-top: 2rem; padding-top: 1rem }
table { border-collapse: collapse; margin: .5rem 0 }
td, th { border: 1px solid #8885; padding: .2rem .6rem; text-align: left; vertical-align: top }
.method { display: inline-block; min-width: 4rem }
"""


def page(document: dict[str, Any]) -> str:
    info = document["info"]
    title = f"{info['title']} {info['version']}"
    calls = "".join(
        _operation(path, method, operation)
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    )
    shapes = "".join(_shape(name, schema) for name, schema in document["components"]["schemas"].items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1><p>{escape(info.get('summary', ''))} Errors are problem documents (RFC 9457). "
        f'The same for programs: <a href="openapi.json">openapi.json</a>.</p>{calls}<h1>Shapes</h1>{shapes}'
        "</body></html>"
    )


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    parameters = [
        (item["name"], item["in"], _type(item["schema"]), _meaning(item["schema"], item.get("description", "")))
        for item in operation.get("parameters", ())
    ]
    body = operation.get("requestBody", {}).get("content", {})
    answers = [
        (status, ", ".join(response.get("content", {})), _contents(response), escape(response["description"]))
        for status, response in operation["responses"].items()
    ]
    return (
        f'<h2><code><span class="method">{method.upper()}</span>{escape(path)}</code></h2>'
        f"<p>{escape(operation.get('description', ''))}</p>"
        + _table(("parameter", "in", "type", "meaning"), parameters)
        + "".join(f"<p>Body: {escape(kind)}, {_type(content['schema'])}</p>" for kind, content in body.items())
        + _table(("answer", "type", "shape", "meaning"), answers)
    )


def _shape(name: str, schema: dict[str, Any]) -> str:
    needed = schema.get("required", ())
    fields = [
        (field, _type(of), "yes" if field in needed else "", _meaning(of, of.get("description", "")))
        for field, of in schema.get("properties", {}).items()
    ]
    return (
        f'<h2 id="{escape(name)}"><code>{escape(name)}</code></h2><p>{escape(schema.get("description", ""))}</p>'
        + _table(("field", "type", "always there", "meaning"), fields)
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    if not rows:
        return ""
    lines = "".join(f"<tr><td><code>{escape(row[0])}</code></td>{_cells(row[1:], 'td')}</tr>" for row in rows)
    return f"<table><tr>{_cells(head, 'th')}</tr>{lines}</table>"


def _cells(texts: tuple[str, ...], tag: str) -> str:
    return "".join(f"<{tag}>{text}</{tag}>" for text in texts)


def _contents(response: dict[str, Any]) -> str:
    return ", ".join(_type(content.get("schema", {})) for content in response.get("content", {}).values())


def _type(schema: dict[str, Any]) -> str:
    """A type in words, as HTML."""
    if reference := schema.get("$ref"):
        name = escape(reference.rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if options := schema.get("anyOf"):
        return " or ".join(_type(option) for option in options)
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("type") == "object" and isinstance(inner := schema.get("additionalProperties"), dict):
        return f"map of {_type(inner)}"
    return escape(schema.get("format") or schema.get("type") or "any")


def _meaning(schema: dict[str, Any], description: str) -> str:
    """What is said of a value, its words and its bounds, as HTML."""
    return " ".join(filter(None, (escape(description), *_limits(schema))))


def _limits(schema: dict[str, Any]) -> Iterator[str]:
    for option in schema.get("anyOf", (schema,)):
        if words := option.get("enum"):
            yield "One of " + ", ".join(f"<code>{escape(word)}</code>" for word in words) + "."
        bounds = {
            name: option[name]
            for name in ("minimum", "maximum", "minLength", "maxLength", "maxProperties", "pattern")
            if name in option
        }
        if bounds:
            yield f"<code>{escape(json.dumps(bounds))}</code>"
