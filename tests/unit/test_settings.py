"""Settings: what is read from the environment, what is refused, and what is said of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agentobs import settings as settings_module
from agentobs.errors import InvalidSettings
from agentobs.setting_docs import markdown, rows
from agentobs.settings import Settings

ROOT = Path(__file__).parents[2]
KEY = "correct-horse-battery-staple"


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("AGENTOBS_", "OTEL_", "ANTHROPIC_", "FASTAPI_")):
            monkeypatch.delenv(name)


@pytest.fixture
def load(monkeypatch):
    def load_with(**environ: str) -> Settings:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        return Settings.load()

    return load_with


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_text(KEY + "\n")
    path.chmod(0o600)
    return path


def refusal(load, **environ: str) -> str:
    with pytest.raises(InvalidSettings) as refused:
        load(**environ)
    return str(refused.value)


def test_without_any_variable_the_defaults_are_those_of_the_interface(load):
    settings = load()
    assert settings.database_url == "sqlite:///agentobs.db"
    assert settings.workflows == ()
    assert (settings.host, settings.port) == ("127.0.0.1", 8080)
    assert settings.allowed_hosts == ()
    assert settings.api_key_file is None
    assert settings.insecure is False
    assert (settings.max_runs_in_flight, settings.max_calls_in_flight, settings.max_queued_runs) == (1000, 1000, 100000)
    assert (settings.max_input_bytes, settings.max_output_bytes) == (1024**2, 4 * 1024**2)
    assert (settings.max_recoveries, settings.lease_s, settings.loop_stall_s) == (3, 5, 10)
    assert settings.drain_timeout_s == 20
    assert settings.worker_name
    assert (settings.log_level, settings.log_format, settings.log_file) == ("info", None, None)
    assert settings.url == "http://127.0.0.1:8080"
    assert settings.anthropic_api_key is None
    assert settings.trace_endpoint is None
    assert settings.trace_export is None
    assert settings.resource == {"service.name": "agentobs"}
    assert settings.warnings() == ()


def test_every_variable_of_the_interface_is_a_setting():
    names = {row.name for row in rows(Settings())}
    assert names >= {
        "AGENTOBS_DATABASE_URL",
        "AGENTOBS_WORKFLOWS",
        "AGENTOBS_HOST",
        "AGENTOBS_PORT",
        "AGENTOBS_ALLOWED_HOSTS",
        "AGENTOBS_API_KEY_FILE",
        "AGENTOBS_INSECURE",
        "AGENTOBS_MAX_RUNS_IN_FLIGHT",
        "AGENTOBS_MAX_CALLS_IN_FLIGHT",
        "AGENTOBS_MAX_QUEUED_RUNS",
        "AGENTOBS_MAX_INPUT_BYTES",
        "AGENTOBS_MAX_OUTPUT_BYTES",
        "AGENTOBS_MAX_RECOVERIES",
        "AGENTOBS_LEASE_S",
        "AGENTOBS_LOOP_STALL_S",
        "AGENTOBS_DRAIN_TIMEOUT_S",
        "AGENTOBS_WORKER_NAME",
        "AGENTOBS_LOG_LEVEL",
        "AGENTOBS_LOG_FORMAT",
        "AGENTOBS_LOG_FILE",
        "AGENTOBS_URL",
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_API_KEY_FILE",
        "ANTHROPIC_BASE_URL",
        "OTEL_SERVICE_NAME",
        "OTEL_RESOURCE_ATTRIBUTES",
        "OTEL_SDK_DISABLED",
        "OTEL_TRACES_EXPORTER",
        *(
            f"OTEL_EXPORTER_OTLP_{scope}{what}"
            for scope in ("", "TRACES_")
            for what in (
                *("ENDPOINT", "PROTOCOL", "HEADERS", "TIMEOUT", "COMPRESSION"),
                *("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY"),
            )
        ),
    }


def test_variables_are_read_with_their_types(load, tmp_path):
    settings = load(
        AGENTOBS_WORKFLOWS="billing.flows, support",
        AGENTOBS_PORT="0",
        AGENTOBS_ALLOWED_HOSTS="Agents.Example.com,obs",
        AGENTOBS_LEASE_S="2.5",
        AGENTOBS_LOG_FILE=str(tmp_path / "log"),
        AGENTOBS_WORKER_NAME="w-1",
        ANTHROPIC_API_KEY="sk-1",
    )
    assert settings.workflows == ("billing.flows", "support")
    assert settings.port == 0
    assert settings.allowed_hosts == ("agents.example.com", "obs")
    assert settings.lease_s == 2.5
    assert settings.log_file == tmp_path / "log"
    assert settings.worker_name == "w-1"
    assert settings.anthropic_api_key.get_secret_value() == "sk-1"


def test_an_empty_variable_counts_as_not_set(load):
    settings = load(AGENTOBS_PORT="", OTEL_EXPORTER_OTLP_ENDPOINT="", OTEL_TRACES_SAMPLER="", AGENTOBS_NONSENSE="")
    assert settings.port == 8080
    assert settings.trace_endpoint is None
    assert settings.warnings() == ()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("AGENTOBS_PORT", "eighty", "valid integer"),
        ("AGENTOBS_PORT", "70000", "less than or equal to 65535"),
        ("AGENTOBS_MAX_RUNS_IN_FLIGHT", "0", "greater than or equal to 1"),
        ("AGENTOBS_LEASE_S", "nan", "finite"),
        ("AGENTOBS_LEASE_S", "-1", "greater than 0"),
        ("AGENTOBS_LOG_LEVEL", "loud", "'debug', 'info', 'warning' or 'error'"),
        ("AGENTOBS_LOG_FORMAT", "xml", "'json' or 'console'"),
        ("AGENTOBS_URL", "localhost:8080", "http:// or https://"),
        ("AGENTOBS_URL", "http://localhost:port", "http:// or https://"),
        ("AGENTOBS_WORKFLOWS", "my-flows.py", "Python modules"),
        ("AGENTOBS_ALLOWED_HOSTS", "https://a.example", "without scheme or port"),
        ("AGENTOBS_INSECURE", "perhaps", "boolean"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "http:// or https://"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "'none', 'gzip' or 'deflate'"),
        ("OTEL_RESOURCE_ATTRIBUTES", "no-value", "name=value"),
        ("OTEL_TRACES_EXPORTER", "console", "'otlp' or 'none'"),
    ],
)
def test_a_wrong_value_is_refused_with_its_variable_what_was_found_and_what_was_expected(load, name, value, expected):
    said = refusal(load, **{name: value})
    assert name in said
    assert repr(value) in said
    assert expected in said


def test_all_wrong_values_are_named_at_once(load):
    said = refusal(load, AGENTOBS_PORT="x", AGENTOBS_LEASE_S="y")
    assert "AGENTOBS_PORT" in said
    assert "AGENTOBS_LEASE_S" in said


# ---- the journal's URL ----


def test_three_slashes_are_a_relative_path_and_four_an_absolute_one(load):
    assert load(AGENTOBS_DATABASE_URL="sqlite:///data/j.db").sqlite_path == Path("data/j.db")
    assert load(AGENTOBS_DATABASE_URL="sqlite:////var/lib/j.db").sqlite_path == Path("/var/lib/j.db")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("sqlite:///:memory:", "would lose every accepted run"),
        ("sqlite://", "sqlite:///path.db"),
        ("sqlite:///", "sqlite:///path.db"),
        ("sqlite:////", "sqlite:///path.db"),
        ("sqlite:///dir/", "the path of a file"),
        ("sqlite:///j.db?mode=ro", "the path of a file"),
        ("agentobs.db", "sqlite:///path.db"),
        ("mysql://h/db", "sqlite:///path.db"),
        ("postgresql://h/db", "PostgreSQL cannot hold the journal in this version yet"),
        ("postgres://h/db", "PostgreSQL cannot hold the journal in this version yet"),
        ("postgresql+psycopg://h/db", "PostgreSQL cannot hold the journal in this version yet"),
    ],
)
def test_a_database_url_that_cannot_hold_the_journal_is_refused_with_the_reason(load, url, why):
    assert why in refusal(load, AGENTOBS_DATABASE_URL=url)


# ---- secrets ----


@pytest.mark.parametrize(
    "environ",
    [
        {"AGENTOBS_DATABASE_URL": "postgresql://user:hunter2@host/db"},
        {"AGENTOBS_DATABASE_URL": "postgresql://user:a//hunter2@host/db//x"},
        {"AGENTOBS_DATABASE_URL": "postgresql://host/db?password=hunter2"},
        {"AGENTOBS_DATABASE_URL": "user:hunter2@host"},
        {"AGENTOBS_URL": "ftp://user:hunter2@host"},
        {"OTEL_EXPORTER_OTLP_HEADERS": "hunter2"},
        {"OTEL_EXPORTER_OTLP_TRACES_HEADERS": "hunter2"},
    ],
)
def test_a_refusal_never_shows_a_secret(load, environ):
    said = refusal(load, **environ)
    assert "hunter2" not in said
    assert next(iter(environ)) in said


def test_the_printed_rows_mask_secrets_and_name_each_origin(load, key_file):
    settings = load(
        ANTHROPIC_API_KEY="sk-hunter2",
        ANTHROPIC_BASE_URL="https://user:hunter2@proxy.example/v1",
        OTEL_EXPORTER_OTLP_HEADERS="authorization=Basic%20hunter2",
        OTEL_EXPORTER_OTLP_ENDPOINT="https://collector:4318",
        AGENTOBS_API_KEY_FILE=str(key_file),
    )
    found = {row.name: row for row in rows(settings)}
    assert found["ANTHROPIC_API_KEY"][1:3] == ("***", "environment")
    assert found["ANTHROPIC_BASE_URL"].value == "https://***@proxy.example/v1"
    assert found["OTEL_EXPORTER_OTLP_HEADERS"].value == "***"
    assert found["OTEL_EXPORTER_OTLP_ENDPOINT"].value == "https://collector:4318"
    assert found["AGENTOBS_PORT"][1:3] == ("8080", "default")
    assert all(row.description.endswith(".") for row in found.values())
    everything = repr(settings) + repr(list(found.values())) + " ".join(settings.warnings())
    assert "Basic" not in everything
    assert "sk-" not in everything
    assert KEY not in everything


# ---- who may reach the service ----


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "agents.example.com"])
def test_a_bind_other_than_loopback_needs_a_key_or_the_word_insecure(load, host, key_file):
    said = refusal(load, AGENTOBS_HOST=host)
    assert "AGENTOBS_API_KEY_FILE" in said
    assert "AGENTOBS_INSECURE=1" in said
    insecure = load(AGENTOBS_HOST=host, AGENTOBS_INSECURE="1")
    assert any("AGENTOBS_INSECURE=1" in warning for warning in insecure.warnings())
    keyed = load(AGENTOBS_HOST=host, AGENTOBS_API_KEY_FILE=str(key_file))
    assert keyed.api_key == KEY
    assert keyed.warnings() == ()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_a_loopback_bind_needs_no_key(load, host):
    assert load(AGENTOBS_HOST=host).api_key is None


def test_any_host_header_is_only_allowed_where_a_key_is_asked_for(load, key_file):
    assert "AGENTOBS_ALLOWED_HOSTS is '*'" in refusal(load, AGENTOBS_ALLOWED_HOSTS="*")
    assert load(AGENTOBS_ALLOWED_HOSTS="*", AGENTOBS_API_KEY_FILE=str(key_file)).allowed_hosts == ("*",)


@pytest.mark.parametrize(
    ("content", "why"),
    [("", "it is empty"), ("\n", "it is empty"), ("short", "at least 16"), ("two words are not a key", "at least 16")],
)
def test_a_key_file_without_a_usable_key_is_refused_and_its_content_not_shown(load, key_file, content, why):
    key_file.write_text(content)
    said = refusal(load, AGENTOBS_API_KEY_FILE=str(key_file))
    assert "AGENTOBS_API_KEY_FILE" in said
    assert why in said
    assert "words" not in said


def test_a_missing_key_file_is_refused(load, tmp_path):
    assert "No such file" in refusal(load, AGENTOBS_API_KEY_FILE=str(tmp_path / "none"))


def test_a_key_file_that_everyone_can_read_is_warned_of(load, key_file):
    key_file.chmod(0o644)
    settings = load(AGENTOBS_API_KEY_FILE=str(key_file))
    assert settings.api_key == KEY
    assert any("every user of this machine" in warning for warning in settings.warnings())


def test_a_secret_that_a_container_is_given_is_not_warned_of_though_everyone_can_read_it(load, key_file, monkeypatch):
    key_file.chmod(0o644)
    monkeypatch.setattr("agentobs.settings._MOUNTED", key_file.parent)
    link = key_file.with_name("link")
    link.symlink_to(key_file)
    assert load(AGENTOBS_API_KEY_FILE=str(key_file), ANTHROPIC_API_KEY_FILE=str(link)).warnings() == ()
    monkeypatch.undo()
    assert Path("/run/secrets/x").is_relative_to(settings_module._MOUNTED)


# ---- the model's key ----


def test_the_models_key_is_read_from_a_file_and_shown_nowhere(load, key_file):
    settings = load(ANTHROPIC_API_KEY_FILE=str(key_file))
    assert (settings.model_key, settings.has_model_key) == (KEY, True)
    assert settings.api_key is None
    found = {row.name: row for row in rows(settings)}
    assert found["ANTHROPIC_API_KEY_FILE"].value == str(key_file)
    assert KEY not in repr(settings) + repr(list(found.values()))
    key_file.write_text("x")  # what a key is, is up to ANTHROPIC_BASE_URL: the simulator takes any
    assert load(ANTHROPIC_API_KEY_FILE=str(key_file)).model_key == "x"


def test_the_models_key_is_given_once(load, key_file):
    said = refusal(load, ANTHROPIC_API_KEY="sk-hunter2", ANTHROPIC_API_KEY_FILE=str(key_file))
    assert "ANTHROPIC_API_KEY and ANTHROPIC_API_KEY_FILE are both set; expected one" in said
    assert "hunter2" not in said
    assert load(ANTHROPIC_API_KEY="sk-1", ANTHROPIC_API_KEY_FILE="").model_key == "sk-1"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("", "it is empty"),
        (" \n", "it is empty"),
        ("two words", "its content is not one line of visible"),
        ("a\nb", "its content is not one line of"),
    ],
)
def test_a_file_without_the_models_key_is_refused_and_its_content_not_shown(load, key_file, content, why):
    key_file.write_text(content)
    said = refusal(load, ANTHROPIC_API_KEY_FILE=str(key_file))
    assert f"ANTHROPIC_API_KEY_FILE is {str(key_file)!r}: {why}" in said
    assert "words" not in said


def test_every_unusable_key_file_is_told_at_once(load, tmp_path):
    none = str(tmp_path / "none")
    said = refusal(load, ANTHROPIC_API_KEY_FILE=none, AGENTOBS_API_KEY_FILE=none)
    assert said.count("No such file") == 2


def test_a_models_key_that_everyone_can_read_is_warned_of(load, key_file):
    key_file.chmod(0o644)
    (warning,) = load(ANTHROPIC_API_KEY_FILE=str(key_file)).warnings()
    assert warning.startswith("ANTHROPIC_API_KEY_FILE") and "every user" in warning


# ---- OpenTelemetry's own variables ----


def test_the_base_endpoint_gets_the_traces_path_and_the_traces_endpoint_is_used_as_it_is(load):
    assert load(OTEL_EXPORTER_OTLP_ENDPOINT="http://c:4318/").trace_endpoint == "http://c:4318/v1/traces"
    assert load(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="http://t/x").trace_endpoint == "http://t/x"


@pytest.mark.parametrize("off", [{"OTEL_SDK_DISABLED": "TRUE"}, {"OTEL_TRACES_EXPORTER": "none"}])
def test_export_can_be_turned_off_although_an_endpoint_is_set(load, off):
    assert load(OTEL_EXPORTER_OTLP_ENDPOINT="http://c:4318", **off).trace_endpoint is None


def test_only_true_disables_the_sdk_and_anything_odd_is_named(load):
    settings = load(OTEL_EXPORTER_OTLP_ENDPOINT="http://c:4318", OTEL_SDK_DISABLED="1")
    assert settings.trace_endpoint
    assert any("OTEL_SDK_DISABLED" in warning for warning in settings.warnings())


def test_variables_for_traces_alone_win(load):
    export = load(
        OTEL_EXPORTER_OTLP_ENDPOINT="http://c:4318",
        OTEL_EXPORTER_OTLP_HEADERS="a=1",
        OTEL_EXPORTER_OTLP_TRACES_HEADERS="Authorization=Basic%20YTpi,x=%2C",
        OTEL_EXPORTER_OTLP_TIMEOUT="5000",
        OTEL_EXPORTER_OTLP_COMPRESSION="deflate",
        OTEL_EXPORTER_OTLP_TRACES_COMPRESSION="gzip",
        OTEL_EXPORTER_OTLP_CERTIFICATE="ca.pem",
    ).trace_export
    assert export.headers == {"authorization": "Basic YTpi", "x": ","}
    assert export.timeout_s == 5
    assert export.compression == "gzip"
    assert export.certificate == Path("ca.pem")
    assert export.client_certificate is None


def test_grpc_is_refused_with_the_reason(load):
    for name in ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"):
        said = refusal(load, **{name: "grpc"})
        assert name in said
        assert "gRPC is refused since" in said
        os.environ.pop(name)


def test_grpc_for_other_signals_is_no_concern_of_ours(load):
    load(OTEL_EXPORTER_OTLP_PROTOCOL="grpc", OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="http/protobuf")


def test_a_timeout_in_seconds_is_refused_rather_than_taken_for_milliseconds(load):
    assert "milliseconds" in refusal(load, OTEL_EXPORTER_OTLP_TIMEOUT="10")


@pytest.mark.parametrize("value", ["SPAN_ONLY", "EVENT_ONLY", "SPAN_AND_EVENT", "true"])
def test_content_capture_is_refused_until_redaction_exists(load, value):
    said = refusal(load, OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT=value)
    assert "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT" in said
    assert "Content capture is refused until redaction exists" in said


def test_a_content_variable_that_asks_for_none_is_honoured(load):
    settings = load(OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="NO_CONTENT")
    assert settings.warnings() == ()


def test_the_service_name_variable_wins_over_the_resource_attributes(load):
    given = {"OTEL_RESOURCE_ATTRIBUTES": "service.name=a,deployment.environment.name=prod%20eu"}
    assert load(**given).resource == {"service.name": "a", "deployment.environment.name": "prod eu"}
    assert load(**given, OTEL_SERVICE_NAME="b").resource["service.name"] == "b"


def test_an_opentelemetry_variable_without_effect_is_named_as_ignored(load):
    settings = load(
        OTEL_TRACES_SAMPLER="always_off",
        OTEL_BSP_MAX_QUEUE_SIZE="1",
        OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT="1",
        FASTAPI_OTEL_AUTO_CONFIGURE="true",
        OTEL_SERVICE_NAME="a",
    )
    assert settings.ignored() == (
        "FASTAPI_OTEL_AUTO_CONFIGURE",
        "OTEL_BSP_MAX_QUEUE_SIZE",
        "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT",
        "OTEL_TRACES_SAMPLER",
    )
    assert "OTEL_TRACES_SAMPLER is set and has no effect here" in settings.warnings()


def test_a_misspelt_variable_is_named_with_the_nearest_one(load):
    settings = load(AGENTOBS_DATABASE_URI="sqlite:///x.db", AGENTOBS_QQQ="1")
    assert settings.unknown() == (("AGENTOBS_DATABASE_URI", "AGENTOBS_DATABASE_URL"), ("AGENTOBS_QQQ", None))
    assert "AGENTOBS_DATABASE_URI is not a setting; AGENTOBS_DATABASE_URL is" in settings.warnings()


@pytest.mark.generated
def test_the_settings_page_is_what_the_settings_generate():
    committed = (ROOT / "docs" / "settings.md").read_text()
    assert committed == markdown(), "run: python -m agentobs.setting_docs > docs/settings.md"
