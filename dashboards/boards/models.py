"""Models and agents: what becomes of the requests to the provider."""

from __future__ import annotations

from agentobs.records import AGENT as AGENT_KIND
from agentobs.records import OK, SUCCEEDED
from agentobs.telemetry import names
from dashboards.alerts import RETRIED
from dashboards.board import board, row
from dashboards.boards.queries import (
    MODEL,
    WHO,
    WORKFLOW,
    gauge,
    grown,
    per_minute,
    quantile,
    rate,
    share,
    some,
)
from dashboards.colours import BAD, GOOD, WARN
from dashboards.ids import Models
from dashboards.panels import COUNT, PER_MINUTE, SECONDS, SHARE, Face, Query, bars, coloured, lines, number
from dashboards.promql import one_of
from dashboards.thresholds import RATE_LIMIT_LEFT, REFUSED, RETRIES_PER_SUCCESS, STREAMS_CUT

OF_MODEL = 'gen_ai_request_model=~"$model"'
BY = ("model",)
CUT = one_of("outcome", ("stream_truncated", "stream_error"))
ANSWERED = (names.STEPS, WORKFLOW, f'kind="{AGENT_KIND}"', 'name=~"$agent"', f'outcome="{SUCCEEDED}"')


def _of_all(*outcomes: str) -> str:
    """The share of attempts with these outcomes, by model."""
    return share(rate(names.ATTEMPTS, *WHO, *outcomes, by=BY), rate(names.ATTEMPTS, *WHO, by=BY))


def _by_agent(steps: str) -> str:
    """Agent steps have the agent as their name."""
    return f'label_replace({steps}, "agent", "$1", "name", "(.*)")'


def made() -> str:
    return board(
        Models,
        "What becomes of the requests to the provider, by model and agent: outcomes, retries, waits, limits.",
        ("workflow", "agent", "model"),
        row(
            4,
            number(
                Face(
                    id=Models.OK_NOW,
                    title="Attempts answered",
                    about="Share of the requests in the time shown that were answered with something usable; when it "
                    "falls, the outcomes below say whether the provider, the network or the request is at fault.",
                    unit=SHARE,
                    none="no attempt",
                ),
                Query(share(grown(names.ATTEMPTS, *WHO, f'outcome="{OK}"'), grown(names.ATTEMPTS, *WHO))),
                (0, BAD),
                (0.8, WARN),
                (0.95, GOOD),
                decimals=1,
            ),
            number(
                Face(
                    id=Models.RETRIES_NOW,
                    title="Retries per successful step",
                    about="Failed requests that are tried again for each agent call that succeeded in the time shown; "
                    "above 1 each answer takes more than two requests: see which outcome is behind it.",
                    unit=COUNT,
                    none="no step",
                ),
                Query(share(grown(names.ATTEMPTS, *WHO, RETRIED), grown(*ANSWERED))),
                (0, GOOD),
                (0.2, WARN),
                (RETRIES_PER_SUCCESS, BAD),
                decimals=2,
            ),
            number(
                Face(
                    id=Models.FIRST_CHUNK_NOW,
                    title="p95 to the first chunk",
                    about="One streamed answer in 20 began later in the time shown; when it grows the provider is "
                    "slow or requests are retried.",
                    unit=SECONDS,
                    none="no stream",
                ),
                Query(quantile(0.95, names.FIRST_CHUNK_SECONDS, OF_MODEL, whole=True)),
            ),
            number(
                Face(
                    id=Models.HEADROOM_NOW,
                    title="Least rate limit left",
                    about="What the latest answers told to be left of the tightest limit; near 0 the provider answers "
                    "429: spread runs over time or ask for a higher limit.",
                    unit=SHARE,
                    none="not told",
                ),
                Query(gauge("min", names.RATE_LIMIT, MODEL)),
                (0, BAD),
                (RATE_LIMIT_LEFT, WARN),
                (0.3, GOOD),
            ),
        ),
        row(
            9,
            coloured(
                bars(
                    Face(
                        id=Models.ATTEMPTS,
                        title="Attempts, by outcome",
                        about="Green is answered, orange and yellow the provider's fault, purple the network's, red a "
                        "wrong request, blue an answer that cannot be used; click a dot for such an attempt's trace.",
                        unit=PER_MINUTE,
                    ),
                    Query(some(per_minute(names.ATTEMPTS, *WHO, by=("outcome",))), "{{outcome}}", exemplar=True),
                ),
                names.ATTEMPT_OUTCOMES,
            ),
            lines(
                Face(
                    id=Models.FAILING,
                    title="Attempts that fail, by model",
                    about="Share of requests with another outcome than ok; one model alone is that model's trouble, "
                    "all at once the network's, the key's or the provider's.",
                    unit=SHARE,
                ),
                Query(_of_all(f'outcome!="{OK}"'), "{{model}}"),
                top=1,
            ),
        ),
        row(
            8,
            lines(
                Face(
                    id=Models.RETRIES,
                    title="Retries per successful step, by agent",
                    about="Failed requests that are tried again for each call of the agent that succeeds; above the "
                    "dashed line it is a retry storm: see the outcomes above, and lower the load if it is 429 or 529.",
                    unit=COUNT,
                ),
                Query(
                    share(
                        rate(names.ATTEMPTS, *WHO, RETRIED, by=("agent",)),
                        f"sum by (agent) ({_by_agent(rate(*ANSWERED, by=('name',)))})",
                    ),
                    "{{agent}}",
                ),
                limit=RETRIES_PER_SUCCESS,
            ),
            lines(
                Face(
                    id=Models.RETRY_WAIT,
                    title="Retry wait: calls waiting, by agent",
                    about="How many of the agent's calls wait for their next attempt at a time, on average; what "
                    "waits makes runs slow: see which outcome is retried.",
                    unit=COUNT,
                ),
                Query(rate(names.RETRY_WAIT_SECONDS, *WHO, by=("agent",)), "{{agent}}", exemplar=True),
            ),
            lines(
                Face(
                    id=Models.RATE_LIMIT,
                    title="Rate limit left",
                    about="What the latest answer of each model told to be left; below the dashed line a burst is "
                    "answered with 429: spread runs over time or ask the provider for more.",
                    unit=SHARE,
                    none="The provider told none",
                ),
                Query(gauge("min", names.RATE_LIMIT, MODEL, by=("model", "kind")), "{{model}} {{kind}}"),
                limit=RATE_LIMIT_LEFT,
                below=True,
                top=1,
            ),
            widths=(7, 7, 10),  # three limits a model: the last has the longest legend
        ),
        row(
            8,
            lines(
                Face(
                    id=Models.FIRST_CHUNK,
                    title="p95 to the first chunk, by model",
                    about="How long a streamed answer lets one caller in 20 wait for its beginning; when it grows the "
                    "provider is slow: click a dot for such a call's trace.",
                    unit=SECONDS,
                    none="No streamed answer",
                ),
                Query(
                    quantile(0.95, names.FIRST_CHUNK_SECONDS, OF_MODEL, by=("gen_ai_request_model",)),
                    "{{gen_ai_request_model}}",
                    exemplar=True,
                ),
            ),
            lines(
                Face(
                    id=Models.ANSWERS,
                    title="p95 of answers, by model",
                    about="One model answer in 20 takes longer, retries included; when it grows while first chunks "
                    "do not, answers have become longer or are retried.",
                    unit=SECONDS,
                ),
                Query(
                    quantile(0.95, names.INFERENCE_SECONDS, OF_MODEL, by=("gen_ai_request_model",)),
                    "{{gen_ai_request_model}}",
                    exemplar=True,
                ),
            ),
            lines(
                Face(
                    id=Models.REFUSALS,
                    title="Refusals, by model",
                    about="Share of requests that the model refuses, which are paid and not tried again; above the "
                    "dashed line a prompt or a model was changed for the worse: look at such a run.",
                    unit=SHARE,
                ),
                Query(_of_all('outcome="refusal"'), "{{model}}"),
                limit=REFUSED,
            ),
            lines(
                Face(
                    id=Models.CUT_STREAMS,
                    title="Cut streams, by model",
                    about="Share of requests whose answer broke off in the middle, paid in part and asked for again; "
                    "above the dashed line look at proxies and timeouts between here and the provider.",
                    unit=SHARE,
                ),
                Query(_of_all(CUT), "{{model}}"),
                limit=STREAMS_CUT,
            ),
        ),
    )
