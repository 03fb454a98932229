"""Every error that agentobs raises on purpose, in one tree.

    AgentobsError
    ├── UsageError                 the caller's declaration or argument is wrong; nothing was written or paid
    │   ├── UnknownWorkflow        no workflow is registered under that name
    │   ├── InvalidInput           the input does not fit the workflow's schema, or is too large
    │   ├── UndeclaredCall         run.call / run.step with an agent or step the workflow did not declare
    │   ├── InvalidSettings        a setting has a wrong value, or two contradict each other
    │   └── ProviderNotReady       what an agent's provider needs is missing: an extra, a region, a project
    │       └── CredentialsError   … or whatever it takes to authenticate
    ├── RequestError               a request of an API client that cannot be served as asked
    │   ├── NotFound               no such run
    │   ├── Conflict               the run's state, or an idempotency key's first body, forbids it
    │   └── QueueFull              more queued runs than AGENTOBS_MAX_QUEUED_RUNS
    ├── JournalError
    │   ├── JournalLocked          another process owns the journal
    │   ├── SchemaMismatch         the journal's schema is older, or newer by more than one version
    │   ├── JournalUnavailable     cannot be opened or written now: disk full, read-only, gone
    │   └── StaleOwner             the run has a newer owner; this one must stop
    ├── ClientError                what the command line meets when it talks to a service
    │   ├── Unreachable            no service answers
    │   └── Refused                the service answered with a problem
    └── StepFailed                 raised inside a workflow: a step failed after its retries

A message says what was found, what was expected and what to do. It never holds prompt, output, exception
or provider text, since messages reach logs, spans and HTTP problems.
"""

from __future__ import annotations


class AgentobsError(Exception):
    """Root of the tree.

    `problem` is the last part of the RFC 9457 problem type, `status` the HTTP status, `exit_code` the
    command line's exit status.
    """

    problem = "internal"
    title = "Internal error"
    status = 500
    exit_code = 1


class UsageError(AgentobsError):
    problem = "usage"
    title = "Wrong use"
    status = 422
    exit_code = 2


class UnknownWorkflow(UsageError):
    problem = "unknown-workflow"
    title = "Unknown workflow"
    status = 404


class InvalidInput(UsageError):
    """The input does not fit the workflow's schema; `fields` holds `(location, reason)` pairs without values."""

    problem = "invalid-input"
    title = "Invalid input"

    def __init__(self, message: str, fields: tuple[tuple[str, str], ...] = (), *, too_large: bool = False) -> None:
        super().__init__(message)
        self.fields = fields
        if too_large:
            self.status = 413
            self.problem = "too-large"
            self.title = "Too large"


class UndeclaredCall(UsageError):
    problem = "undeclared-call"
    title = "Undeclared agent or step"


class InvalidSettings(UsageError):
    problem = "invalid-settings"
    title = "Invalid settings"


class ProviderNotReady(UsageError):
    problem = "provider-not-ready"
    title = "Model provider not ready"


class CredentialsError(ProviderNotReady):
    title = "No credentials"


class RequestError(AgentobsError):
    problem = "bad-request"
    title = "Bad request"
    status = 400
    exit_code = 2


class NotFound(RequestError):
    problem = "not-found"
    title = "Not found"
    status = 404


class Conflict(RequestError):
    problem = "conflict"
    title = "Conflict"
    status = 409


class QueueFull(RequestError):
    problem = "queue-full"
    title = "Too many queued runs"
    status = 429
    exit_code = 1


class JournalError(AgentobsError):
    problem = "journal"
    title = "Journal error"
    status = 503


class JournalLocked(JournalError):
    problem = "journal-locked"
    title = "The journal has another owner"


class SchemaMismatch(JournalError):
    problem = "schema-mismatch"
    title = "The journal's schema does not fit this version"


class JournalUnavailable(JournalError):
    problem = "journal-unavailable"
    title = "The journal cannot be used now"


class StaleOwner(JournalError):
    problem = "stale-owner"
    title = "The run has a newer owner"
    status = 409


class ClientError(AgentobsError):
    problem = "client"
    title = "The service could not be used"


class Unreachable(ClientError):
    """No service answers, or what answers is none of ours."""

    problem = "unreachable"
    title = "Service not reachable"
    status = 503
    exit_code = 3


class Refused(ClientError):
    """The service answered with a problem; the exit code is that of the same error met in this process.

    `retry_after_s`: when it wants to be asked again, where it said so.
    """

    problem = "refused"
    title = "Refused by the service"

    def __init__(self, message: str, status: int, exit_code: int, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.exit_code = exit_code
        self.retry_after_s = retry_after_s


class StepFailed(AgentobsError):
    """A step failed after its retries; raised by `await run.call(…)` and `await run.step(…)`.

    `error_type` is one of `records.ERROR_TYPES`, `step` the step's number in its run, `name` the agent's or
    function's name. `text` is what the model answered where it was paid for (max_tokens, refusal,
    context_window, output_invalid), else "". It is not part of the message.
    """

    problem = "step-failed"
    title = "A step failed"

    def __init__(self, error_type: str, step: int, name: str = "", text: str = "") -> None:
        super().__init__(f"step {step} ({name or 'unnamed'}) failed: {error_type}")
        self.error_type = error_type
        self.step = step
        self.name = name
        self.text = text
