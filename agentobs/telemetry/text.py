"""Text that came from outside, made fit for a span attribute or a metric label."""

from __future__ import annotations

from typing import Final

from agentobs.telemetry import names

_LONGEST: Final = 1024


def clean(text: str) -> str:
    """At most 1024 characters that UTF-8 can encode: protobuf and the text formats refuse lone surrogates."""
    if len(text) > _LONGEST:
        text = text[:_LONGEST]
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def provider_name(provider: str) -> str:
    """An attempt's provider by the conventions' word."""
    return clean(names.PROVIDER_NAMES.get(provider, provider))


def cleaned(text: str | None) -> str | None:
    return None if text is None else clean(text)
