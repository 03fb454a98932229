"""The types of settings: how the text of one variable becomes a value. Nothing here reads the environment.

A validator's message says what was expected; what was found is added, masked where need be, by settings.py.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Final, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import NoDecode

SQLITE: Final = "sqlite:///path.db (relative) or sqlite:////path.db (absolute)"


def is_loopback(host: str) -> bool:
    """Whether a bind address or host name can only mean this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def masked(name: str, value: object) -> str:
    """A value as text: secrets hidden, and in a URL what stands before its host or in its query."""
    if isinstance(value, SecretStr) or re.search("API_KEY$|HEADERS$", name):
        return "***"
    text = ",".join(value) if isinstance(value, tuple) else str(value)
    if not name.endswith(("URL", "ENDPOINT")):
        return text
    text, asked, _ = text.partition("?")
    scheme, slashes, rest = text.partition("//") if "//" in text else ("", "", text)
    user, at, host = rest.rpartition("@")
    return f"{scheme}{slashes}{'***' if user else ''}{at}{host}{asked}{'***' if asked else ''}"


def _listed(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


def _module(value: str) -> str:
    if not all(part.isidentifier() for part in value.split(".")):
        raise ValueError("expected comma-separated names of Python modules, such as 'billing.workflows'")
    return value


def _host_name(value: str) -> str:
    if value != "*" and not re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]", value):
        raise ValueError("expected comma-separated host names without scheme or port, such as 'agents.example.com'")
    return value.lower().rstrip(".")


def _web_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise ValueError("expected a URL that begins with http:// or https:// and names a host")
    return value


def _database_url(value: str) -> str:
    scheme, found, path = value.partition("://")
    if re.fullmatch(r"postgres(ql)?(\+\w+)?", scheme):
        raise ValueError(f"PostgreSQL cannot hold the journal in this version yet; expected {SQLITE}")
    if scheme != "sqlite" or not found or not path.startswith("/") or path in ("/", "//"):
        raise ValueError(f"expected {SQLITE}")
    if path == "/:memory:":
        raise ValueError(f"a journal in memory would lose every accepted run; expected {SQLITE}")
    if path.endswith("/") or re.search(r"[?#\0]", path):
        raise ValueError(f"expected {SQLITE}, the path of a file without '?' or '#'")
    return value


def _otel_true(value: object) -> object:
    # The OpenTelemetry specification: only "true", in any case, is true.
    return value.strip().lower() == "true" if isinstance(value, str) else value


def _timeout(value: int) -> int:
    if value < 100:
        raise ValueError("expected milliseconds (the OpenTelemetry specification's unit), at least 100: 10000 is 10 s")
    return value


def pairs(text: str) -> dict[str, str]:
    """`k1=v1,k2=v2`, percent-encoded, as the OpenTelemetry specification writes headers and attributes."""
    found_pairs = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, found, value = part.partition("=")
        if not found or not name.strip():
            raise ValueError("expected name=value pairs separated by commas, percent-encoded")
        found_pairs[unquote(name.strip())] = unquote(value.strip())
    return found_pairs


def _paired(value: str) -> str:
    pairs(value)
    return value


def _secret_paired(value: SecretStr) -> SecretStr:
    pairs(value.get_secret_value())
    return value


DatabaseUrl: TypeAlias = Annotated[str, AfterValidator(_database_url)]
Pairs: TypeAlias = Annotated[str, AfterValidator(_paired)]
WorkerName: TypeAlias = Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,128}$")]
Count: TypeAlias = Annotated[int, Field(ge=1)]
Seconds: TypeAlias = Annotated[float, Field(gt=0, allow_inf_nan=False)]
WebUrl: TypeAlias = Annotated[str, AfterValidator(_web_url)]
Flag: TypeAlias = Annotated[bool, BeforeValidator(_otel_true)]
Milliseconds: TypeAlias = Annotated[int, AfterValidator(_timeout)]
Headers: TypeAlias = Annotated[SecretStr, AfterValidator(_secret_paired)]
Compression: TypeAlias = Literal["none", "gzip", "deflate"]
Modules: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_module)], ...], NoDecode, BeforeValidator(_listed)]
Hosts: TypeAlias = Annotated[tuple[Annotated[str, AfterValidator(_host_name)], ...], NoDecode, BeforeValidator(_listed)]
