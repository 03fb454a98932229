"""The command line. Each command turns its arguments into a call of the service or of its HTTP API.

Whatever takes time to import is imported by the command that needs it: `agentobs --help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agentobs.cli.auditing.options import audit
from agentobs.cli.drill.options import drill
from agentobs.cli.groups import group
from agentobs.cli.options import AsJson, Server
from agentobs.cli.options import settings as _settings
from agentobs.cli.options import wait as _wait
from agentobs.cli.runs import runs_app
from agentobs.cli.terminal import document, note, show
from agentobs.runtime.loop import run_loop

if TYPE_CHECKING:
    from agentobs.settings import Settings

app = group(
    "Durable, observable multi-agent Claude workflows.\n\n"
    "Exit codes: 0 done, 1 the run failed, 2 wrong use, 3 no service answers, 4 a check found a difference.\n\n"
    "Begin with 'agentobs demo'."
)
app.add_typer(runs_app, name="runs", short_help="List, show, follow, cancel, resume and fork runs.")


def _version(asked: bool) -> None:
    if asked:
        from agentobs.version import __version__  # noqa: PLC0415

        typer.echo(f"agentobs {__version__}")
        raise typer.Exit


@app.callback()
def _agentobs(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    del version


# ---- processes that stay ----


@app.command(short_help="Serve the HTTP API and execute runs.")
def serve(
    no_run: Annotated[bool, typer.Option("--no-run", help="The API alone: runs are accepted and wait.")] = False,
) -> None:
    """Serve the HTTP API and execute runs, until SIGTERM or Ctrl-C.

    What it serves and where is set by variables: AGENTOBS_WORKFLOWS names modules of yours, AGENTOBS_HOST and
    AGENTOBS_PORT the address (127.0.0.1, 8080). All of them: agentobs settings.
    """
    settings = _settings()
    from agentobs.service import serve_http  # noqa: PLC0415

    def ready(url: str) -> None:
        # To stdout: stderr is the log's.
        typer.echo(f"agentobs at {url}, journal {settings.sqlite_path.absolute()}")
        sys.stdout.flush()

    run_loop(serve_http(settings, run=not no_run, ready=ready))


@app.command(short_help="A stand-in for the Messages API, with faults and a bill.")
def simulate(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 9100,
    seed: Annotated[int, typer.Option(help="The same seed and request: the same answer.")] = 1,
    latency_s: Annotated[float, typer.Option("--latency-s", min=0, help="How long a short answer takes.")] = 0.2,
    host: Annotated[str, typer.Option(help="The address on which it listens.")] = "127.0.0.1",
) -> None:
    """Run a stand-in for the Messages API, with faults and a bill on demand. It costs nothing."""
    from agentobs.errors import UsageError  # noqa: PLC0415
    from agentobs.simulator import serve as serve_simulator  # noqa: PLC0415

    def ready(url: str) -> None:
        typer.echo(f"simulator at {url}; use it with ANTHROPIC_BASE_URL={url} ANTHROPIC_API_KEY=any agentobs serve")
        typer.echo(f"  faults: PUT, GET, DELETE {url}/_faults    bill: GET, DELETE {url}/_bill    see docs/simulate.md")
        sys.stdout.flush()

    try:
        serve_simulator(host, port, seed=seed, latency_s=latency_s, ready=ready)
    except OSError as error:
        raise UsageError(
            f"--host {host!r:.80} and --port {port} cannot be listened on ({error.strerror}); stop what uses it, or "
            "choose another port"
        ) from None


@app.command(short_help="Show it all in ten seconds, on a simulated API.")
def demo(
    real: Annotated[
        bool, typer.Option("--real", help="One run on the real API instead; needs ANTHROPIC_API_KEY, costs money.")
    ] = False,
) -> None:
    """Show it all: three runs on a simulated API, one retried, one failing, and what can be seen of them."""
    from agentobs.cli.demo import demo as show_demo  # noqa: PLC0415

    raise typer.Exit(show_demo(real=real))


@app.command(short_help="Send mixed runs to a service, from a seed.")
def traffic(
    rate: Annotated[float, typer.Option(help="Runs a minute; they arrive at random.")] = 6.0,
    for_s: Annotated[float | None, typer.Option("--for", metavar="SECONDS", help="Else until it is stopped.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed: the same runs.")] = None,
    simulator: Annotated[
        str | None, typer.Option(metavar="URL", help="The simulator that the service calls; its bill has to show it.")
    ] = None,
    fault_share: Annotated[float, typer.Option(help="Let this share of requests fail there, 0.02 for example.")] = 0.0,
    spend_real_money: Annotated[
        bool, typer.Option("--spend-real-money", help="Instead of --simulator: pay for every run.")
    ] = False,
    server: Server = None,
) -> None:
    """Send runs of the example workflows to a service, and print once a minute how they ended. SIGTERM ends it."""
    from agentobs.cli import traffic as sending  # noqa: PLC0415
    from agentobs.cli.http import client  # noqa: PLC0415

    plan = sending.Plan(
        rate=rate,
        for_s=for_s,
        seed=seed,
        simulator=simulator,
        fault_share=fault_share,
        spend_real_money=spend_real_money,
    )
    _wait(sending.traffic(client(_settings(), server), plan))


# ---- runs ----


@app.command(short_help="Run a workflow and wait for its end.")
def run(
    workflow: Annotated[str, typer.Argument(metavar="WORKFLOW")],
    given: Annotated[
        str | None, typer.Option("--input", metavar="JSON|@FILE|-", help="Its input; - reads standard input.")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Set a field of the input; may be repeated, a.b=1 nests."),
    ] = None,
    tags: Annotated[list[str] | None, typer.Option("--tag", metavar="KEY=VALUE", help="May be repeated.")] = None,
    server: Annotated[
        str | None, typer.Option("--server", metavar="URL", help="Run it at this service, not in this process.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run a workflow and wait for its end. Without --server this process owns the journal meanwhile."""
    from agentobs.cli import inputs  # noqa: PLC0415

    value, labels = inputs.run_input(given, assignments or ()), inputs.tags(tags or ())
    settings = _settings()
    from agentobs.cli import running  # noqa: PLC0415

    if server is None:
        ended = run_loop(running.run_here(settings, workflow, value, labels))
    else:
        from agentobs.cli.http import client  # noqa: PLC0415

        ended = _wait(running.run_there(client(settings, server), workflow, value, labels))
    raise typer.Exit(running.finish(ended, as_json=as_json))


# ---- around ----


@app.command(short_help="List what can be run.")
def workflows(server: Server = None, as_json: AsJson = False) -> None:
    """List what can be run: at the service, or in this environment where none answers."""
    from agentobs.cli import showing  # noqa: PLC0415

    _wait(showing.list_workflows(_settings(), server, as_json=as_json))


@app.command("settings", short_help="Print every setting, its value and where that is from.")
def list_settings(as_json: AsJson = False) -> None:
    """Print every setting with its value and where that comes from; secrets are masked."""
    settings = _settings()
    from agentobs.cli import tables  # noqa: PLC0415
    from agentobs.setting_docs import rows  # noqa: PLC0415

    found = rows(settings)
    if as_json:
        document({"settings": [row._asdict() for row in found], "warnings": list(settings.warnings())})
        return
    show(tables.settings([(row.name, row.value, row.origin) for row in found]))
    for warning in settings.warnings():
        note(f"note: {warning}")


@app.command("bench", short_help="Measure what agentobs costs on this machine.")
def run_bench(
    rows: Annotated[str | None, typer.Option(metavar="NAME,…", help="Only these rows; else all.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Interleaved rounds of each system.")] = 7,
    runs: Annotated[int, typer.Option(min=10, help="Runs a round at 50 at once; twice as many at 500.")] = 600,
    quick: Annotated[bool, typer.Option("--quick", help="A smoke test in some seconds; its figures say nothing.")] = (
        False
    ),
    as_json: AsJson = False,
) -> None:
    """Measure CPU, latency, memory and size of agentobs against the bare SDK, on a canned API. It costs nothing."""
    from agentobs.cli.bench import bench  # noqa: PLC0415

    bench(names=rows, quick=quick, pairs=pairs, runs=runs, as_json=as_json)


@app.command(short_help="Bring the journal to this version's schema.")
def migrate() -> None:
    """Bring the SQLite journal to this version's schema. No process may own it meanwhile."""
    settings = _settings()
    from agentobs.cli.migration import migrate_journal  # noqa: PLC0415

    before, after = migrate_journal(settings.sqlite_path, settings.worker_name)
    where = settings.sqlite_path.absolute()
    if before == after:
        typer.echo(f"{where} has schema version {after} already; nothing to do")
    else:
        typer.echo(f"{where} brought from schema version {before} to {after}")


# ---- a project of one's own ----


@app.command("init", short_help="Write a small project of your own.")
def init_project(
    target: Annotated[Path, typer.Argument(metavar="DIR", help="A new or an empty folder.")] = Path(),
    name: Annotated[str | None, typer.Option(help="The package's name; else the folder's.")] = None,
) -> None:
    """Write a small project of your own: a workflow, its tests, a compose override. Nothing is overwritten."""
    from agentobs.cli.init import init  # noqa: PLC0415

    init(target, name)


@app.command(short_help="Check a deploy: what would recorded runs pay again?")
def replay(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Runs by id; else the filters.")] = None,
    unfinished: Annotated[bool, typer.Option("--unfinished", help="Queued, running, waiting; the default.")] = False,
    workflow: Annotated[str | None, typer.Option()] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="Created then or later; ISO 8601, UTC.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many runs at most, the newest.")] = 1000,
    execution: Annotated[
        str, typer.Option("--as", metavar="next|resumed", help="resumed: as if resumed, when failed steps run again.")
    ] = "next",
    timeout_s: Annotated[float, typer.Option("--timeout-s", min=0.1, help="For each run.")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Run the workflow code of this environment against recorded runs: offline, nothing is sent, run or written.

    Exit code 4: a recorded step would be paid again, or code and record differ otherwise.
    """
    if execution not in {"next", "resumed"}:
        raise typer.BadParameter(f"{execution!r:.40} is not one of next, resumed", param_hint="--as")
    settings = _settings()
    from agentobs.cli import replaying  # noqa: PLC0415

    asked = replaying.Asked(
        ids=ids or (),
        unfinished=unfinished,
        workflow=workflow,
        since=since,
        limit=limit,
        resumed=execution == "resumed",
        timeout_s=timeout_s,
    )
    raise typer.Exit(_wait(replaying.replay(settings, asked, as_json=as_json)))


@app.command(short_help="Say what is wrong here, and what to do.")
def doctor(
    online: Annotated[bool, typer.Option("--online", help="Try the model key with a call that costs nothing.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Read the whole journal file (PRAGMA quick_check).")] = False,
    as_json: AsJson = False,
) -> None:
    """Check environment, keys, endpoints, clock, disk and journal. Writes nothing. Exit code 4: a problem was found."""
    from agentobs.cli.doctor import doctor as examine  # noqa: PLC0415
    from agentobs.errors import InvalidSettings  # noqa: PLC0415

    try:
        found: Settings | InvalidSettings = _settings()
    except InvalidSettings as error:
        found = error
    raise typer.Exit(examine(found, online=online, deep=deep, as_json=as_json))


app.command(short_help="A fire drill: does each alert fire, and end?")(drill)
app.command(short_help="Do journal, totals, spans and bill agree?")(audit)
