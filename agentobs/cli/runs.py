"""`agentobs runs …`: the options of its commands. Whatever takes time to import is imported when it is called."""

from __future__ import annotations

from typing import Annotated, Any, TypeAlias, TypeGuard

import typer

from agentobs.cli.groups import group
from agentobs.cli.options import AsJson, RunId, Server, settings, wait
from agentobs.errors import UsageError

runs_app = group("The runs of a service, or of the journal file where no service answers.")

Workflow: TypeAlias = Annotated[str | None, typer.Option("--workflow")]
ErrorType: TypeAlias = Annotated[str | None, typer.Option("--error-type", help="Such as rate_limited.")]
Tag: TypeAlias = Annotated[str | None, typer.Option("--tag", metavar="KEY:VALUE")]
Since: TypeAlias = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="Created then or later; ISO 8601, UTC.")
]
Until: TypeAlias = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Created before.")]
OneOrNone: TypeAlias = Annotated[
    str | None, typer.Argument(metavar="[ID]", help="One run, by its id or trace id; else the filters.")
]
All: TypeAlias = Annotated[bool, typer.Option("--all", help="No filter is meant: every run.")]
Yes: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun: TypeAlias = Annotated[bool, typer.Option("--dry-run", help="Tell how many runs fit; do nothing.")]


@runs_app.command("list")
def list_runs(
    workflow: Workflow = None,
    status: Annotated[str | None, typer.Option(help="queued running waiting succeeded failed cancelled")] = None,
    error_type: ErrorType = None,
    tag: Tag = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(help="How many at most, up to 200.")] = 50,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first."""
    given = {
        "workflow": workflow,
        "status": status,
        "error_type": error_type,
        "tag": tag,
        "since": since,
        "until": until,
        "limit": limit,
        "cursor": cursor,
    }
    from agentobs.cli import showing  # noqa: PLC0415

    wait(showing.list_runs(settings(), server, given, as_json=as_json))


@runs_app.command("show", short_help="Show a run as a waterfall, with its totals.")
def show_run(
    run_id: RunId,
    logs: Annotated[bool, typer.Option("--logs", help="Its log lines again, from the journal file.")] = False,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Show a run as a waterfall of its steps and attempts, with its totals."""
    from agentobs.cli import showing  # noqa: PLC0415

    if logs:
        wait(showing.show_logs(settings(), server, run_id, as_json=as_json))
    else:
        wait(showing.show_run(settings(), server, run_id, as_json=as_json))


@runs_app.command("tail", short_help="Follow a run to its end.")
def tail_run(
    run_id: RunId,
    server: Server = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a line for each event.")] = False,
) -> None:
    """Follow a run to its end: its waterfall as it grows, or lines where that is not a terminal."""
    from agentobs.cli.tailing import tail  # noqa: PLC0415

    raise typer.Exit(wait(tail(settings(), server, run_id, as_json=as_json)))


@runs_app.command("cancel", short_help="Stop runs and their spending.")
def cancel_run(
    run_id: OneOrNone = None,
    workflow: Workflow = None,
    status: Annotated[str | None, typer.Option(help="queued running waiting; else any of them.")] = None,
    error_type: ErrorType = None,
    tag: Tag = None,
    since: Since = None,
    until: Until = None,
    every: All = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Stop a run and its spending, or all runs that fit the filters. Needs the service that owns the journal."""
    from agentobs.cli import bulk, showing  # noqa: PLC0415

    given = _selection(workflow, status, error_type, tag, since, until, every)
    if _one(run_id, given, dry_run=dry_run):
        wait(showing.cancel_run(settings(), server, run_id, as_json=as_json))
    else:
        wait(bulk.act(settings(), server, bulk.CANCEL, given, yes=yes, dry_run=dry_run, as_json=as_json))


@runs_app.command("resume", short_help="Run failed or cancelled runs again.")
def resume_run(
    run_id: OneOrNone = None,
    workflow: Workflow = None,
    status: Annotated[str | None, typer.Option(help="failed (without it) or cancelled.")] = None,
    error_type: ErrorType = None,
    tag: Tag = None,
    since: Since = None,
    until: Until = None,
    every: All = False,
    yes: Yes = False,
    dry_run: DryRun = False,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Run a failed or cancelled run again, or all that fit the filters: only what failed or never ran is paid.

    Needs the service that owns the journal.
    """
    from agentobs.cli import bulk, showing  # noqa: PLC0415

    given = _selection(workflow, status, error_type, tag, since, until, every)
    if _one(run_id, given, dry_run=dry_run):
        wait(showing.resume_run(settings(), server, run_id, as_json=as_json))
    else:
        wait(bulk.act(settings(), server, bulk.RESUME, given, yes=yes, dry_run=dry_run, as_json=as_json))


@runs_app.command("fork", short_help="Begin a run anew from one of its steps.")
def fork_run(
    run_id: RunId,
    from_step: Annotated[int, typer.Option("--from-step", min=1, help="What succeeded before it began is reused.")],
    given: Annotated[
        str | None, typer.Option("--input", metavar="JSON|@FILE|-", help="Another input; else that of the run.")
    ] = None,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Start a new run that reuses, unpaid, what of this one had succeeded before a step began. Needs the service."""
    from agentobs.cli import inputs, showing  # noqa: PLC0415

    body: dict[str, Any] = {"from_step": from_step}
    if given is not None:
        body["input"] = inputs.run_input(given, ())
    wait(showing.fork_run(settings(), server, run_id, body, as_json=as_json))


def _selection(
    workflow: str | None,
    status: str | None,
    error_type: str | None,
    tag: str | None,
    since: str | None,
    until: str | None,
    every: bool,
) -> dict[str, Any]:
    given = {
        "workflow": workflow,
        "status": status,
        "error_type": error_type,
        "tag": tag,
        "since": since,
        "until": until,
        "all": every or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def _one(run_id: str | None, given: dict[str, Any], *, dry_run: bool) -> TypeGuard[str]:
    """Whether one run is meant. Raises `UsageError` unless either that or filters are given."""
    if run_id is not None and (given or dry_run):
        raise UsageError("an ID and filters are given; expected one run by its ID, or filters such as --error-type")
    if run_id is None and not given:
        raise UsageError(
            "no run is named; expected an ID, filters (--status, --error-type, --workflow, --since, --until, --tag), "
            "or --all"
        )
    return run_id is not None
