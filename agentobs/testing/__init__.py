"""Test your own workflow: a scripted model, a journal in memory, and every signal captured.

    model = ScriptedModel({"researcher": "Tea is a leaf.", "writer": [failure("overloaded"), "Drink it."]})
    result = await run_workflow(brief, "tea", model=model)
    assert result.output == "Drink it."

Engine, journal and telemetry are those of the service; the model is scripted, and a wait passes at once. Nothing is
read from the environment, sent anywhere, or left behind. Works under any test runner: `asyncio.run(run_workflow(…))`.
"""

from __future__ import annotations

from agentobs.telemetry.spans import SpanData
from agentobs.testing.result import Result
from agentobs.testing.running import run_workflow
from agentobs.testing.script import Answer, Call, ScriptedModel, answer, failure

__all__ = ["Answer", "Call", "Result", "ScriptedModel", "SpanData", "answer", "failure", "run_workflow"]
