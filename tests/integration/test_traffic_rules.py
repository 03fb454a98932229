"""Each rule that recorded traffic taught is held by a test: without the rule's code, that test is red.

The rules are those of the code's own words (`models/usage.py`, `classify.py`, `pricing.py`, `stream.py`,
`runtime/retry.py`). Each is taken out of a copy of the package, and the exchanges of `tests/fixtures/traffic` that
need it (or a test named in full) are run against the copy; those are to fail, and all are to pass without a change.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.mutants import Mutants

pytestmark = pytest.mark.slow

REPLAY = "tests/integration/test_recordings.py::test_an_exchange_is_read_as_it_was_meant"
USAGE, PRICING, STREAM = "models/usage.py", "models/pricing.py", "models/stream.py"
CLIENT, CLASSIFY, DIRECT, RETRY = "models/anthropic.py", "models/classify.py", "models/direct.py", "runtime/retry.py"


@dataclass(frozen=True)
class Rule:
    """`old` in the file at `path` is the rule; with `new` in its place all of `red` fail."""

    says: str
    path: str
    old: str
    new: str
    red: tuple[str, ...]


def rule(says: str, path: str, old: str, new: str, *red: str) -> Rule:
    return Rule(says, path, old, new, red)


MERGE = "{**start, **{key: value for key, value in delta.items() if value is not None}}"
RULES = [
    # ---- usage and cost ----
    rule(
        "a stream's end replaces what its start told, and is never added to it",
        USAGE,
        MERGE,
        "{**start, **{k: v + (start.get(k) or 0) if type(v) is int else v for k, v in delta.items() if v is not None}}",
        "server-stream-totals-replaced",
        "stream",
    ),
    rule(
        "what the end leaves out keeps the value of the start",
        USAGE,
        MERGE,
        "{key: value for key, value in delta.items() if value is not None}",
        "cache-stream-2024",
    ),
    rule("null in the end says nothing", USAGE, MERGE, "{**start, **delta}", "cache-stream-nulls"),
    rule(
        "0 in the end is a number like any other",
        USAGE,
        MERGE,
        "{**start, **{key: value for key, value in delta.items() if value}}",
        "passes-none-listed-and-reads-taken-back",
    ),
    rule(
        "the split of cache writes comes at the start alone, and is kept",
        USAGE,
        MERGE,
        MERGE.replace("**start", '**{key: value for key, value in start.items() if key != "cache_creation"}'),
        "cache-stream-write-1h",
    ),
    rule(
        "writes that no split covers are for five minutes",
        USAGE,
        'one_hour = _count(_field(raw.get("cache_creation"), "ephemeral_1h_input_tokens")) or 0',
        'one_hour = cache_write - (_count(_field(raw.get("cache_creation"), "ephemeral_5m_input_tokens")) or 0)',
        "server-stream-write-without-split",
    ),
    rule(
        "one-hour writes have their own price",
        PRICING,
        "(usage.cache_write_1h, rates.cache_write_1h)",
        "(usage.cache_write_1h, rates.cache_write_5m)",
        "cache-write-1h",
        "cache-write-mixed",
    ),
    rule(
        "every pass is counted and priced, though the totals leave some out",
        USAGE,
        "if isinstance(iterations, list) and iterations:",
        "if False:",
        "passes-compaction",
        "passes-compaction-stream",
        "passes-advisor-stream",
    ),
    rule(
        "a second model's pass is priced as its own model",
        USAGE,
        '(_text(_field(each, "model")), ',
        "(None, ",
        "passes-advisor-stream",
    ),
    rule(
        "thinking is part of the output",
        USAGE,
        "output=told_output,",
        'output=told_output + (_count(_field(raw.get("output_tokens_details"), "thinking_tokens")) or 0),',
        "thinking",
        "thinking-stream",
    ),
    rule(
        "how much of the output was thinking is kept",
        USAGE,
        'reasoning=_count(_field(raw.get("output_tokens_details"), "thinking_tokens")) or 0,',
        "reasoning=0,",
        "thinking",
        "thinking-stream",
    ),
    rule(
        "thinking is told for the whole answer, not by pass",
        USAGE,
        "reasoning=total.reasoning,",
        "reasoning=sum(usage.reasoning for usage in usages),",
        "passes-advisor-stream",
    ),
    rule(
        "searches of the server are counted and paid",
        USAGE,
        'web_searches=_count(_field(raw.get("server_tool_use"), "web_search_requests")) or 0,',
        "web_searches=0,",
        "server-web-search",
        "pause-turn",
    ),
    rule("the batch tier costs half", PRICING, '"batch": {"processing": "batch"}', '"batch": {}', "text-batch-tier"),
    rule("fast speed has its own price", PRICING, '"fast": {"speed": "fast"}', '"fast": {}', "text-fast"),
    rule("inference in the US costs more", PRICING, '"us": Decimal("1.1"),', '"us": Decimal(1),', "text-geo-us"),
    rule("a region that is not told changes nothing", PRICING, '    "not_available": Decimal(1),\n', "", "text"),
    rule(
        "answers of 2024 have no fields for the cache",
        USAGE,
        'cache_read=_count(raw.get("cache_read_input_tokens")) or 0,',
        'cache_read=_count(raw["cache_read_input_tokens"]) or 0,',
        "text-2024",
    ),
    rule(
        "the model that answered sets the price",
        CLIENT,
        "wire.price(bill, agent, progress.response_model)",
        "wire.price(bill, agent, None)",
        "text-other-model-answered",
    ),
    rule(
        "a dated name has its model's price",
        PRICING,
        'models.get(name) or models.get(_SNAPSHOT.sub("", name))',
        "models.get(name)",
        "text",
    ),
    rule(
        "metrics are labelled by the model that was declared",
        "telemetry/metrics.py",
        "clean(attempt.model))",
        "clean(attempt.response_model or attempt.model))",
        "tests/unit/test_metrics.py",
    ),
    rule(
        "counters are labelled by the model that was declared",
        "telemetry/deltas.py",
        "clean(attempt.model), names.MODALITY)",
        "clean(attempt.response_model or attempt.model), names.MODALITY)",
        "tests/unit/test_deltas.py",
    ),
    rule(
        "what was counted beforehand is what is billed",
        "simulator/messages.py",
        '{"input_tokens": ask.prompt.tokens}',
        '{"input_tokens": ask.prompt.tokens + 1}',
        "tests/integration/test_simulator.py::test_counted_tokens_are_the_input_that_is_billed[text]",
    ),
    # ---- retries and errors ----
    rule(
        "a plain success means nothing by retry-after",
        CLIENT,
        "return _settle(json.loads(await response.aread()), agent, progress, EXACT, wire)",
        "import dataclasses\n"
        "        reply = _settle(json.loads(await response.aread()), agent, progress, EXACT, wire)\n"
        "        hints = classify.retry_hints(told, self._clock())\n"
        "        return dataclasses.replace(reply, should_retry=hints[0], retry_after_s=hints[1])",
        "text-retry-after-on-success",
    ),
    rule(
        "nor does a stream that breaks under a success",
        CLIENT,
        "return _broken_off(event, answer, progress)",
        "import dataclasses\n"
        "                        hints = classify.retry_hints(classify.headers_of(response.headers.raw), 0)\n"
        "                        return dataclasses.replace(\n"
        "                            _broken_off(event, answer, progress), retry_after_s=hints[1])",
        "sse-error-midway",
    ),
    rule(
        "a failure's retry-after is waited for",
        CLASSIFY,
        'after = _seconds(headers.get(b"retry-after"), 1)',
        "after = None",
        "error-429-retry-after",
    ),
    rule(
        "a rate limit is tried again",
        RETRY,
        '        "rate_limited",\n',
        "",
        "error-429-bare",
        "sse-error-first-rate-limit",
    ),
    rule(
        "x-should-retry is obeyed",
        RETRY,
        "reply.outcome in RETRYABLE if reply.should_retry is None else reply.should_retry",
        "reply.outcome in RETRYABLE",
        "error-429-should-retry-false",
        "error-500-should-retry-false",
    ),
    rule("x-should-retry: true is read", CLASSIFY, 'b"true": True, ', "", "error-429-no-retry-after", "error-529"),
    rule("529 is an overload", CLASSIFY, '    529: "overloaded",\n', "", "error-529", "error-529-stream"),
    rule("an overload is tried again", RETRY, '        "overloaded",\n', "", "error-529-2024", "sse-error-first"),
    rule("a server's failure is tried again", RETRY, '        "server_error",\n', "", "error-500", "error-502-page"),
    rule(
        "no request id is needed in an error's body",
        DIRECT,
        "return type(error).__name__",
        'return type(error).__name__ if error.body["request_id"] else ""',
        "error-529-2024",
        "error-403-forbidden",
    ),
    rule(
        "no frame is needed in an error's body",
        DIRECT,
        "return type(error).__name__",
        'return type(error).__name__ if error.body["type"] else ""',
        "error-413",
        "error-403-forbidden",
    ),
    rule(
        "a failure status costs nothing",
        CLIENT,
        "        if refused.status >= 400:\n            _bill_nothing(progress)\n",
        "",
        "error-400",
        "error-529",
    ),
    rule(
        "a stream under a success may tell an error",
        CLIENT,
        'elif kind == "error":',
        'elif kind == "none":',
        "sse-error-midway",
        "sse-error-first",
    ),
    rule(
        "an error as the first event stands for a failure status",
        CLIENT,
        '    if answer.started:\n        return Reply(outcome="stream_error")\n',
        '    if True:\n        return Reply(outcome="stream_error")\n',
        "sse-error-first",
    ),
    rule(
        "and costs nothing",
        CLIENT,
        '    _bill_nothing(progress)\n    error = event.get("error")',
        '    error = event.get("error")',
        "sse-error-first",
    ),
    rule(
        "its type says which",
        CLASSIFY,
        '    "overloaded_error": "overloaded",\n',
        "",
        "sse-error-first",
    ),
    rule("a stream that broke is tried again", RETRY, '        "stream_error",\n', "", "sse-error-midway"),
    rule("so is one that was cut", RETRY, '        "stream_truncated",\n', "", "cut-stream"),
    rule(
        "a stream without its last event is cut off, whatever it told",
        CLIENT,
        'return Reply(outcome="stream_truncated")',
        "return _settle(answer.finish(), agent, progress, answer.state)",
        "cut-stream-after-usage",
    ),
    rule(
        "no credit is a bad request like any other",
        CLASSIFY,
        '    400: "invalid_request",\n',
        '    400: "permission",\n',
        "error-400-credit",
    ),
    rule(
        "limits are told by some answers only",
        CLASSIFY,
        "limit, remaining = headers.get(limit_name), headers.get(remaining_name)",
        "limit, remaining = headers[limit_name], headers[remaining_name]",
        "error-500",
        "error-429-no-retry-after",
    ),
    rule(
        "and by failures too",
        CLIENT,
        "progress.rate_limits = classify.rate_limits(headers)",
        "progress.rate_limits = classify.rate_limits(headers) if status < 400 else ()",
        "error-429-retry-after",
    ),
    rule("413 is too large", CLASSIFY, '    413: "too_large",\n', "", "error-413"),
    rule(
        "403 is a permission, by whatever name",
        CLASSIFY,
        '    403: "permission",\n',
        "",
        "error-403-forbidden",
        "error-403-permission",
    ),
    rule(
        "a refusal is a success that is none",
        CLASSIFY,
        '    "refusal": "refusal",\n',
        "",
        "stop-refusal",
        "stream-refusal",
    ),
    # ---- content and streams ----
    rule(
        "an answer may be empty",
        CLIENT,
        "not isinstance(content, list)",
        "not content",
        "empty-content",
        "stream-empty-content",
        "stop-refusal",
    ),
    rule(
        "a call without arguments streams as nothing",
        STREAM,
        'json.loads(block["input"] or "{}")',
        'json.loads(block["input"])',
        "tool-stream-no-arguments",
    ),
    rule(
        "unknown fields of an answer are ignored",
        CLIENT,
        '    content, stop_reason = message.get("content"), message.get("stop_reason")\n',
        '    content, stop_reason = message.get("content"), message.get("stop_reason")\n'
        '    known = {"id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"}\n'
        "    if not message.keys() <= known:\n"
        '        return Reply(outcome="bad_response")\n',
        "unknown-fields",
        "stop-refusal",
        "stream-unknown-events",
    ),
    rule(
        "unknown fields of usage are ignored",
        USAGE,
        "    total = _tokens(raw, state)\n",
        '    total = None if "tides" in raw else _tokens(raw, state)\n',
        "unknown-fields",
        "stream-unknown-events",
    ),
    rule(
        "unknown fields of a block are ignored",
        STREAM,
        'self._blocks[event["index"]] = dict(event["content_block"])',
        'self._blocks[event["index"]] = dict(event["content_block"])\n'
        '            event["content_block"].keys() <= {"type", "id", "name", "input", "text"} or [][0]',
        "tool-stream",
    ),
    rule(
        "unknown events are ignored",
        STREAM,
        '        return kind if isinstance(kind, str) else ""',
        '        elif kind not in {"ping", "content_block_stop", "error"}:\n'
        "            raise ValueError(kind)\n"
        '        return kind if isinstance(kind, str) else ""',
        "stream-unknown-events",
    ),
    rule(
        "unknown deltas are ignored",
        STREAM,
        "            block[_SETS[kind]] = delta.get(_SETS[kind])\n",
        "            block[_SETS[kind]] = delta.get(_SETS[kind])\n        else:\n            raise ValueError(kind)\n",
        "stream-unknown-events",
    ),
    rule(
        "data lines are padded with blanks before their last brace",
        STREAM,
        'if line.startswith(b"data:")]',
        'if line.startswith(b"data:") and not line.endswith(b" }")]',
        "stream-padded",
    ),
]


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mutants]:
    with Mutants(tmp_path_factory.mktemp("mutants")) as running:
        yield running


def test_an_unchanged_copy_passes(mutants: Mutants):
    tests = sorted({name for each in RULES for name in each.red})
    tried = mutants.run([_test(name) for name in tests])
    assert (tried.code, tried.red) == (0, ()), tried.output


@pytest.mark.parametrize("rule", RULES, ids=[each.says.replace(" ", "_") for each in RULES])
def test_without_the_rule_a_test_is_red(rule: Rule, mutants: Mutants):
    tried = mutants.run([_test(name) for name in rule.red], rule.path, rule.old, rule.new)
    assert tried.code == 1, tried.output
    for name in rule.red:
        assert any(each.startswith(_test(name)) for each in tried.red), f"{name} passes without it\n{tried.output}"


def _test(name: str) -> str:
    return name if name.startswith("tests/") else f"{REPLAY}[written:{name}-1]"
