"""The options of `agentobs drill`. Whatever takes time to import is imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from agentobs.cli.options import AsJson, Server, settings, wait


def drill(
    alerts: Annotated[
        str | None,
        typer.Option("--alerts", metavar="URL", help="Alertmanager or Grafana (http://USER@… with --alerts-secret)."),
    ] = None,
    alerts_secret: Annotated[
        Path | None,
        typer.Option("--alerts-secret", metavar="FILE", help="Holds the password of the URL's user, else a token."),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option("--listen", metavar="HOST:PORT", help="Be the webhook: an alert has to be delivered here."),
    ] = None,
    simulator: Annotated[str, typer.Option(metavar="URL", help="The simulator that the service calls.")] = (
        "http://127.0.0.1:9100"
    ),
    prometheus: Annotated[
        str | None, typer.Option(metavar="URL", help="Ask it first which alerts are loaded at all.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(metavar="ALERT", help="Only this one; may be repeated.")] = None,
    slow: Annotated[bool, typer.Option("--slow", help="Also alerts that have to hold for five minutes.")] = False,
    keep_going: Annotated[bool, typer.Option("--keep-going", help="Go on after an alert that did not pass.")] = False,
    timeout_s: Annotated[
        float, typer.Option("--timeout", min=1, help="Seconds that an alert may take to fire, and again to end.")
    ] = 900.0,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Make faults in the simulator, wait until their alerts fire, end the faults, wait until the alerts end.

    For a stack whose service calls the simulator: anything else is refused. It takes some ten minutes, and as long
    again with --slow. Exit code 4: an alert stayed silent or did not end, or another one fired; 3: something does not
    answer.
    """
    from agentobs.cli.drill import command  # noqa: PLC0415

    asked = command.Asked(
        alerts=alerts,
        secret=alerts_secret,
        listen=listen,
        simulator=simulator,
        prometheus=prometheus,
        only=tuple(only or ()),
        slow=slow,
        keep_going=keep_going,
        timeout_s=timeout_s,
        server=server,
    )
    raise typer.Exit(wait(command.drill(settings(), asked, as_json=as_json)))
