"""Every exchange with the real API, replayed over HTTP, is read as a plain reading of its text says.

`recorded`: real traffic, which is not part of this repository: it lies beside it, or where AGENTOBS_RECORDINGS says.
`written`: an exchange of each kind, its words and numbers made up for these tests, in `tests/fixtures/traffic`.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import AsyncIterator
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import pytest

from agentobs.agents import Agent
from agentobs.models.anthropic import AnthropicModel
from agentobs.models.pricing import price
from agentobs.models.protocol import Progress, Reply
from agentobs.models.usage import Bill, Part, read_bill
from agentobs.records import EXACT
from agentobs.runtime.retry import verdict
from tests.integration import traffic
from tests.integration.canned_api import CannedApi, canned_api
from tests.integration.traffic import Exchange, Folder, look_through

WRITTEN = Path(__file__).parents[1] / "fixtures" / "traffic"
TOLD = os.environ.get("AGENTOBS_RECORDINGS")
RECORDED = Path(TOLD or Path(__file__).parents[2].parent / "shared" / "recordings")
FOLDERS = {"recorded": RECORDED, "written": WRITTEN}

# What the SDK calls an answer of this status.
ERROR_CLASS = {
    400: "BadRequestError",
    401: "AuthenticationError",
    402: "PaymentRequiredError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    409: "ConflictError",
    413: "ContentTooLargeError",
    429: "RateLimitError",
    500: "InternalServerError",
    502: "InternalServerError",
    503: "ServiceUnavailableError",
    504: "GatewayTimeoutError",
    529: "OverloadedError",
}
# Kinds that any folder of traffic is to hold; the errors are those that were ever recorded.
KINDS = {
    *("plain", "streamed", "tools", "tools without arguments", "thinking", "thinking tokens"),
    *("cache write", "cache write for an hour", "cache read", "server tools", "compaction", "advisor"),
    *("empty answer", "error event", "error 400", "error 401", "error 404", "error 429", "error 500", "error 529"),
}
TOKEN_CLASSES = ("input", "output", "cache_read", "cache_write", "cache_write_1h", "reasoning", "web_searches")


def exchanges() -> list[Any]:
    return [
        pytest.param(each, id=f"{origin}:{each.name}")
        for origin, folder in FOLDERS.items()
        for each in look_through(folder).exchanges
    ]


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest) -> Folder:
    path = FOLDERS[request.param]
    if not path.is_dir():
        if request.param == "recorded" and TOLD is None:
            pytest.skip(f"no recordings in {path} (AGENTOBS_RECORDINGS says where else they are)")
        pytest.fail(f"{path} is no folder; AGENTOBS_RECORDINGS names one that holds recordings")
    return look_through(path)


@pytest.fixture
async def api() -> AsyncIterator[CannedApi]:
    async with canned_api() as running:
        yield running


def test_a_folder_holds_nothing_that_would_be_passed_over(folder: Folder):
    assert folder.exchanges, "no exchange at all"
    assert folder.unknown == [], "what these files hold is written down nowhere in tests/integration/traffic.py"


def test_a_folder_holds_every_kind(folder: Folder):
    assert set().union(*map(traffic.kinds, folder.exchanges)) >= KINDS


def test_our_own_exchanges_are_read_as_their_author_meant():
    """The plain reading is held against words that were written down beside each exchange."""
    for each in look_through(WRITTEN).exchanges:
        expected = traffic.read(each)
        said = {"outcome": expected.outcome, "tokens": traffic.tokens(expected)}
        assert each.means == said | {"retry": str(traffic.decision(each, expected.outcome))}, each.name


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.yaml", "", "suffix '.yaml'"),
        ("a.json", "{", "not JSON"),
        ("a.json", "[]", "no object at its top"),
        ("a.json", "{}", "no `request`"),
        ("a.json", '{"exchanges": []}', "`exchanges`"),
        ("deep/er/a.json", '{"request": {}, "response": {}}', "no `path`"),
        ("a.json", {"path": "/v1/complete"}, "found POST /v1/complete"),
        ("a.json", {"method": "GET"}, "found GET /v1/messages"),
        ("a.json", {"body": {"model": 5}}, "no `model`"),
        ("a.json", {"status": "200"}, "no `status`"),
        ("a.json", {"answer": [1]}, "a body that is list"),
        ("a.json", {"answer": "a page"}, "a body that is str"),
    ],
)
def test_what_nobody_understands_is_named(tmp_path: Path, name: str, text: Any, told: str):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "INDEX.md").write_text("to be read")
    path.write_text(text if isinstance(text, str) else json.dumps(_pair(**text)))
    found = look_through(tmp_path)
    assert (found.exchanges, len(found.unknown)) == ([], 1)
    assert told in found.unknown[0]


def test_other_paths_are_left_out_by_name_and_a_query_is_no_other_path(tmp_path: Path):
    for number, path in enumerate(["/v1/messages/count_tokens", "/v1/messages/batches/b1/results", "/v1/messages?a=b"]):
        (tmp_path / f"{number}.json").write_text(json.dumps(_pair(path=path)))
    found = look_through(tmp_path)
    assert [len(each) for each in (found.exchanges, found.elsewhere, found.unknown)] == [1, 2, 0]


def _pair(
    *, path: str = "/v1/messages", method: str = "POST", body: Any = None, status: Any = 200, answer: Any = None
) -> dict[str, Any]:
    return {
        "request": {"method": method, "path": path, "body": body or {"model": "m"}},
        "response": {"status": status, "headers": {"content-type": "application/json"}, "body": answer or {}},
    }


@pytest.mark.parametrize("exchange", exchanges())
async def test_an_exchange_is_read_as_it_was_meant(exchange: Exchange, api: CannedApi):
    expected = traffic.read(exchange)
    api.will(traffic.replay(exchange))
    model = AnthropicModel(api_key="k", base_url=api.url)
    progress = Progress()
    agent = Agent(name="replayed", model=exchange.asked["model"], stream=bool(exchange.asked.get("stream")))
    reply = await model.send(agent, ({"role": "user", "content": "x"},), reference="r", progress=progress)
    await model.close()

    assert (reply.outcome, reply.stop_reason, reply.text) == (expected.outcome, expected.stop_reason, expected.text)
    assert tuple(part["type"] for part in reply.content) == expected.kinds
    assert tuple(part["input"] for part in reply.content if part["type"] == "tool_use") == expected.inputs
    assert reply.error_class == (ERROR_CLASS[exchange.status] if exchange.status >= 400 else None)
    assert (progress.http_status, progress.response_model) == (exchange.status, expected.model)
    assert progress.request_id == exchange.headers.get("request-id")
    assert (progress.first_chunk_at is not None) == (exchange.streamed and "content_block_delta" in exchange.body)
    _the_bill_is_right(progress, expected)
    _the_decision_is_right(reply, exchange)
    for kind in ("requests", "input_tokens", "output_tokens"):
        left = exchange.headers.get(f"anthropic-ratelimit-{kind.replace('_', '-')}-remaining")
        assert [each.remaining for each in progress.rate_limits if each.kind == kind] == ([int(left)] if left else [])


def _the_bill_is_right(progress: Progress, expected: traffic.Expected) -> None:
    """Tokens by class; the whole price; and that of every pass, by its own model."""
    used = progress.usage
    told = (used.input_uncached, used.output, used.cache_read, used.cache_write, used.cache_write_1h)
    assert used.state == expected.state
    assert dict(zip(TOKEN_CLASSES, (*told, used.reasoning, used.web_searches), strict=True)) == traffic.tokens(expected)
    costs = traffic.costs(expected)
    assert progress.price.pico == _whole(sum(costs) + traffic.search_cost(expected))
    bill = read_bill(expected.usage, EXACT)
    alone = [] if bill is None else [_alone(bill, part) for part in bill.parts]
    assert [price(each, expected.model or "").pico for each in alone] == [_whole(each) for each in costs]


def _alone(bill: Bill, part: Part) -> Bill:
    """A bill of one pass, without the searches, which are told for the whole answer."""
    usage = dataclasses.replace(part.usage, web_searches=0)
    return dataclasses.replace(bill, usage=usage, parts=(Part(part.model, usage),))


def _whole(pico: Decimal | int) -> int:
    return int(Decimal(pico).to_integral_value(ROUND_HALF_EVEN))


def _the_decision_is_right(reply: Reply, exchange: Exchange) -> None:
    failed = exchange.status >= 400
    word, after = (exchange.headers.get(name) if failed else None for name in ("x-should-retry", "retry-after"))
    assert reply.should_retry == (None if word is None else word == "true")
    assert reply.retry_after_s == (None if after is None else float(after))
    expected = traffic.decision(exchange, reply.outcome)
    first = verdict(reply, failures=1, allowed=3, seconds_left=3600).wait_s
    if not expected.again:
        assert first is None
        return
    assert first is not None
    if expected.after_s is None:
        assert 0.5 <= first <= 1.0
    else:
        assert first == expected.after_s
    assert verdict(reply, failures=3, allowed=3, seconds_left=3600).wait_s is None
    assert verdict(reply, failures=1, allowed=3, seconds_left=0.5 * first).wait_s is None
