"""The only reader of the environment: every setting with its type, default, unit and one sentence.

The table in docs/settings.md is made from it (setting_docs.py).
"""

from __future__ import annotations

import difflib
import os
import re
import socket
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import Field, PrivateAttr, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from agentobs.errors import InvalidSettings
from agentobs.setting_types import (
    SQLITE,
    Compression,
    Count,
    DatabaseUrl,
    Flag,
    Headers,
    Hosts,
    Milliseconds,
    Modules,
    Pairs,
    Seconds,
    WebUrl,
    WorkerName,
    is_loopback,
    masked,
    pairs,
)

MIB: Final = 1024 * 1024
# What variables that ask for prompts and answers in telemetry are called, and how they say that they do not.
_CONTENT: Final = re.compile(r"(OTEL|AGENTOBS)_.*(CAPTURE_.*(CONTENT|MESSAGE|BODY)|GENAI_(UPLOAD_|COMPLETION_HOOK)).*")
# Compose and Kubernetes mount secrets here, readable by all: only the one container sees them.
_MOUNTED: Final = Path("/run/secrets")
_NO_CONTENT: Final = frozenset({"false", "0", "no", "off", "none", "no_content", "no_op"})


@dataclass(frozen=True, kw_only=True)
class TraceExport:
    """Where and how spans are sent, from the OTEL_ variables; those for traces alone have won."""

    endpoint: str
    headers: Mapping[str, str]
    timeout_s: float
    compression: Compression
    certificate: Path | None
    client_certificate: Path | None
    client_key: Path | None


def _setting(default: Any, description: str, name: str | None = None, *, shown: str | None = None) -> Any:
    """`name`: the variable's, where it is not AGENTOBS_ and the field's; `shown`: how the docs put the default."""
    return Field(
        default, description=description, validation_alias=name, json_schema_extra={"shown": shown} if shown else None
    )


def _otlp(suffix: str, description: str, default: Any = None) -> Any:
    return _setting(default, description, f"OTEL_EXPORTER_OTLP_{suffix}")


NO_MODEL_KEY: Final = "ANTHROPIC_API_KEY is not set: every call of a model will fail as 'authentication'"


class Settings(BaseSettings):
    """All settings. Use `Settings.load()`; an empty variable counts as not set."""

    model_config = SettingsConfigDict(
        alias_generator=lambda name: f"AGENTOBS_{name.upper()}",
        case_sensitive=True,
        env_ignore_empty=True,
        extra="forbid",
        frozen=True,
        validate_by_name=True,
    )

    database_url: DatabaseUrl = _setting("sqlite:///agentobs.db", f"The journal: {SQLITE}.")
    workflows: Modules = _setting(
        (), "Python modules that register workflows, separated by commas.", shown="(built-ins only)"
    )
    host: str = _setting("127.0.0.1", "The address on which the service (or a worker's health and metrics) listens.")
    port: int = Field(8080, ge=0, le=65535, description="The port on which it listens; 0 takes a free one.")
    allowed_hosts: Hosts = _setting(
        (),
        "Host headers that are answered besides loopback names, separated by commas, without ports; * is any "
        "(with AGENTOBS_API_KEY_FILE or AGENTOBS_INSECURE=1 only).",
        shown="(loopback names)",
    )
    api_key_file: Path | None = _setting(
        None, "A file that holds the key which every call but health must then send as Authorization: Bearer."
    )
    insecure: bool = _setting(
        False, "Allows a bind other than loopback without a key; warned of at each start.", shown="0"
    )
    max_runs_in_flight: Count = _setting(1000, "Runs that execute at once in this process; further ones wait queued.")
    max_calls_in_flight: Count = _setting(1000, "Model requests at once in this process.")
    max_queued_runs: Count = _setting(100_000, "Queued runs beyond which POST /v1/runs answers 429.")
    max_input_bytes: Count = _setting(MIB, "The largest input of a run, in bytes of JSON.")
    max_output_bytes: Count = _setting(4 * MIB, "The largest output of a step, in bytes of JSON.")
    max_recoveries: int = Field(
        3, ge=0, description="How often the owner of a run may die before the run is parked as failed."
    )
    lease_s: Seconds = _setting(5, "An owner that is silent for more seconds is taken to be dead.")
    loop_stall_s: Seconds = _setting(10, "The process exits (70) when its event loop is blocked for more seconds.")
    drain_timeout_s: float = Field(
        20, ge=0, allow_inf_nan=False, description="How many seconds SIGTERM lets running work finish."
    )
    worker_name: WorkerName = Field(
        default_factory=socket.gethostname,
        description="A label for who ran an execution.",
        json_schema_extra={"shown": "(host name)"},
    )
    log_level: Literal["debug", "info", "warning", "error"] = _setting("info", "The lowest level that is logged.")
    log_format: Literal["json", "console"] | None = _setting(
        None, "How log lines are written.", shown="json (console on a terminal)"
    )
    log_file: Path | None = _setting(None, "Where log lines go; reopened on SIGHUP and when moved.", shown="(stderr)")
    trace_sample: float = Field(
        1, ge=0, le=1, description="The share of healthy runs whose traces are exported; other runs' always are."
    )
    trace_slow_s: Seconds = _setting(60, "A run that lasts as many seconds or more always has its trace exported.")
    url: WebUrl = _setting("http://127.0.0.1:8080", "Where the command line finds a service.")

    anthropic_api_key: SecretStr | None = _setting(None, "The key for the Anthropic API.", "ANTHROPIC_API_KEY")
    anthropic_api_key_file: Path | None = _setting(
        None, "A file that holds this key, instead of ANTHROPIC_API_KEY.", "ANTHROPIC_API_KEY_FILE"
    )
    anthropic_base_url: WebUrl = _setting(
        "https://api.anthropic.com", "Where the Anthropic API (or the simulator) is.", "ANTHROPIC_BASE_URL"
    )

    otlp_endpoint: WebUrl | None = _otlp(
        "ENDPOINT", "Where spans go, without /v1/traces. Not set: nothing is exported."
    )
    otlp_traces_endpoint: WebUrl | None = _otlp("TRACES_ENDPOINT", "The same as a full URL, used as it is; wins.")
    otlp_protocol: str = _otlp("PROTOCOL", "Only http/protobuf.", "http/protobuf")
    otlp_traces_protocol: str | None = _otlp("TRACES_PROTOCOL", "Only http/protobuf; wins.")
    otlp_headers: Headers | None = _otlp("HEADERS", "Headers sent with spans: name=value,… percent-encoded.")
    otlp_traces_headers: Headers | None = _otlp("TRACES_HEADERS", "The same for traces alone; wins.")
    otlp_timeout_ms: Milliseconds = _otlp("TIMEOUT", "How many milliseconds one export may take.", 10_000)
    otlp_traces_timeout_ms: Milliseconds | None = _otlp("TRACES_TIMEOUT", "The same for traces alone; wins.")
    otlp_compression: Compression = _otlp("COMPRESSION", "none, gzip or deflate.", "none")
    otlp_traces_compression: Compression | None = _otlp("TRACES_COMPRESSION", "The same for traces alone; wins.")
    otlp_certificate: Path | None = _otlp("CERTIFICATE", "PEM file of the authorities trusted for https endpoints.")
    otlp_traces_certificate: Path | None = _otlp("TRACES_CERTIFICATE", "The same for traces alone; wins.")
    otlp_client_certificate: Path | None = _otlp("CLIENT_CERTIFICATE", "PEM file of the client's certificate (mTLS).")
    otlp_traces_client_certificate: Path | None = _otlp("TRACES_CLIENT_CERTIFICATE", "The same for traces alone; wins.")
    otlp_client_key: Path | None = _otlp("CLIENT_KEY", "PEM file of the client's private key (mTLS).")
    otlp_traces_client_key: Path | None = _otlp("TRACES_CLIENT_KEY", "The same for traces alone; wins.")
    otel_service_name: str | None = _setting(
        None, "service.name of spans; wins over OTEL_RESOURCE_ATTRIBUTES.", "OTEL_SERVICE_NAME", shown="agentobs"
    )
    otel_resource_attributes: Pairs = _setting(
        "", "Further resource attributes of spans: name=value,… percent-encoded.", "OTEL_RESOURCE_ATTRIBUTES"
    )
    otel_sdk_disabled: Flag = _setting(False, "true turns span export off.", "OTEL_SDK_DISABLED", shown="false")
    otel_traces_exporter: Literal["otlp", "none"] = _setting(
        "otlp", "otlp, or none to turn span export off.", "OTEL_TRACES_EXPORTER"
    )

    _api_key: str | None = PrivateAttr(default=None)
    _model_key: str | None = PrivateAttr(default=None)
    _sdk_key: bool = PrivateAttr(default=False)
    _ignored: tuple[str, ...] = PrivateAttr(default=())
    _unknown: tuple[tuple[str, str | None], ...] = PrivateAttr(default=())
    _notes: list[str] = PrivateAttr(default_factory=list)

    @classmethod
    def load(cls) -> Self:
        """The settings of this process. Raises `InvalidSettings` with everything that is wrong, secrets masked."""
        try:
            settings = cls()
        except ValidationError as error:
            raise InvalidSettings("; ".join(_wrong(item) for item in error.errors())) from None
        found = {name: value for name, value in os.environ.items() if value}
        settings._sdk_key = "ANTHROPIC_AUTH_TOKEN" in found
        known = {variable(name) for name in cls.model_fields}
        wrong = [*_content_problems(found), *settings._problems()]
        if wrong:
            raise InvalidSettings("; ".join(wrong))
        content = {name for name in found if _CONTENT.fullmatch(name)}
        ours = sorted(name for name in found if name.startswith("AGENTOBS_") and name not in known | content)
        settings._unknown = tuple((name, _nearest(name, known)) for name in ours)
        settings._ignored = tuple(
            sorted(name for name in found if re.match("(FASTAPI_)?OTEL_", name) and name not in known | content)
        )
        if found.get("OTEL_SDK_DISABLED", "false").lower() not in ("true", "false"):
            settings._notes.append("OTEL_SDK_DISABLED is neither true nor false and counts as false")
        return settings

    def _problems(self) -> Iterator[str]:
        """What is wrong between settings; reads the key files on the way."""
        protocol = self.otlp_traces_protocol or self.otlp_protocol
        if protocol != "http/protobuf":
            variable = f"OTEL_EXPORTER_OTLP_{'TRACES_' if self.otlp_traces_protocol else ''}PROTOCOL"
            why = "; gRPC is refused since OTLP over HTTP alone tells which spans were taken" * (protocol == "grpc")
            yield f"{variable} is {protocol!r:.40}, expected http/protobuf (a Collector's port 4318){why}"
        if self.anthropic_api_key and self.anthropic_api_key_file:
            yield "ANTHROPIC_API_KEY and ANTHROPIC_API_KEY_FILE are both set; expected one of them"
        elif self.anthropic_api_key:
            self._model_key = self.anthropic_api_key.get_secret_value()
        try:
            self._api_key = self._key_in("AGENTOBS_API_KEY_FILE", self.api_key_file, 16)
        except ValueError as error:
            yield str(error)
        try:
            self._model_key = self._key_in("ANTHROPIC_API_KEY_FILE", self.anthropic_api_key_file, 1) or self._model_key
        except ValueError as error:
            yield str(error)
        if not self.api_key_file and (not is_loopback(self.host) or "*" in self.allowed_hosts):
            named = f"AGENTOBS_HOST is {self.host!r}" if not is_loopback(self.host) else "AGENTOBS_ALLOWED_HOSTS is '*'"
            if not self.insecure:
                yield (
                    f"{named}, so that others could reach the service without a key; set AGENTOBS_API_KEY_FILE to a "
                    "file that holds one, or AGENTOBS_INSECURE=1 to accept that"
                )
            self._notes.append(f"AGENTOBS_INSECURE=1: {named} and no key is asked for")

    def _key_in(self, name: str, path: Path | None, least: int) -> str | None:
        """The key of `least` characters or more in the file that the setting `name` names. Raises ValueError."""
        if path is None:
            return None
        try:
            key = path.read_text(encoding="ascii", errors="replace").strip()
            everyone = path.stat().st_mode & stat.S_IROTH
        except OSError as error:
            raise ValueError(f"{name} is {str(path)!r}: {error.strerror}; expected a file with one key") from None
        if len(key) < least or not re.fullmatch(r"[\x21-\x7e]+", key):
            length = f" of at least {least}" if least > 1 else " of"
            why = f"its content is not one line{length} visible ASCII characters" if key else "it is empty"
            raise ValueError(f"{name} is {str(path)!r}: {why}; expected a file with one key")
        if everyone and not path.resolve().is_relative_to(_MOUNTED):
            self._notes.append(f"{name} {str(path)!r} can be read by every user of this machine; chmod 600 it")
        return key

    @property
    def has_model_key(self) -> bool:
        """Whether the model client will find a key: ours, or one that its SDK reads by itself."""
        return self._model_key is not None or self._sdk_key

    @property
    def model_key(self) -> str | None:
        """The key for the Anthropic API, from whichever of the two settings; None: its SDK is left to find one."""
        return self._model_key

    @property
    def api_key(self) -> str | None:
        """What AGENTOBS_API_KEY_FILE held when the settings were loaded."""
        return self._api_key

    @property
    def sqlite_path(self) -> Path:
        return Path(self.database_url.removeprefix("sqlite:///"))

    @property
    def trace_endpoint(self) -> str | None:
        """The full URL for spans; None when nothing is to be exported."""
        if self.otel_sdk_disabled or self.otel_traces_exporter == "none":
            return None
        base = f"{self.otlp_endpoint.rstrip('/')}/v1/traces" if self.otlp_endpoint else None
        return self.otlp_traces_endpoint or base

    @property
    def trace_export(self) -> TraceExport | None:
        """How to reach `trace_endpoint`; None with it."""
        if (endpoint := self.trace_endpoint) is None:
            return None
        headers = self.otlp_traces_headers or self.otlp_headers or SecretStr("")
        return TraceExport(
            endpoint=endpoint,
            headers={name.lower(): value for name, value in pairs(headers.get_secret_value()).items()},
            timeout_s=(self.otlp_traces_timeout_ms or self.otlp_timeout_ms) / 1000,
            compression=self.otlp_traces_compression or self.otlp_compression,
            certificate=self.otlp_traces_certificate or self.otlp_certificate,
            client_certificate=self.otlp_traces_client_certificate or self.otlp_client_certificate,
            client_key=self.otlp_traces_client_key or self.otlp_client_key,
        )

    @property
    def resource(self) -> dict[str, str]:
        """Attributes of the spans' resource, service.name among them."""
        given = pairs(self.otel_resource_attributes)
        return given | {"service.name": self.otel_service_name or given.get("service.name") or "agentobs"}

    def ignored(self) -> tuple[str, ...]:
        """OpenTelemetry variables that are set and have no effect here."""
        return self._ignored

    def unknown(self) -> tuple[tuple[str, str | None], ...]:
        """AGENTOBS_ variables that are set and mean nothing, each with the nearest name that does."""
        return self._unknown

    def warnings(self) -> tuple[str, ...]:
        """One sentence for each thing that an operator should see at start."""
        unknown = (f"{name} is not a setting" + (f"; {near} is" if near else "") for name, near in self._unknown)
        return (*self._notes, *unknown, *(f"{name} is set and has no effect here" for name in self._ignored))


def variable(field: str) -> str:
    return str(Settings.model_fields[field].validation_alias)


def _nearest(name: str, known: set[str]) -> str | None:
    # Without what all of them begin with, which would make any two alike.
    ends = sorted(one.removeprefix("AGENTOBS_") for one in known if one.startswith("AGENTOBS_"))
    close = difflib.get_close_matches(name.removeprefix("AGENTOBS_"), ends, 1)
    return f"AGENTOBS_{close[0]}" if close else None


def _wrong(item: Mapping[str, Any]) -> str:
    name = str(item["loc"][0])
    name = variable(name) if name in Settings.model_fields else name
    expected = re.sub("^Input should be", "expected", str(item.get("ctx", {}).get("error") or item["msg"]))
    return f"{name} is {masked(name, item['input'])!r:.200}: {expected}"


def _content_problems(environ: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(filter(_CONTENT.fullmatch, environ)):
        if environ[name].strip().lower() not in _NO_CONTENT:
            yield (
                f"{name} asks for prompts and answers in telemetry. Content capture is refused until redaction exists: "
                "unset it"
            )
