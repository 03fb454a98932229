"""The options of `agentobs audit`. Whatever takes time to import is imported when it is called."""

from __future__ import annotations

from typing import Annotated

import typer

from agentobs.cli.options import AsJson, Server, settings, wait


def audit(
    bill: Annotated[
        str | None,
        typer.Option(
            "--bill", metavar="FILE|URL", help="The simulator's bill, or a file with Anthropic's usage report."
        ),
    ] = None,
    reprice: Annotated[
        bool, typer.Option("--reprice", help="Instead: what the history would cost at today's prices. Changes nothing.")
    ] = False,
    server: Server = None,
    as_json: AsJson = False,
) -> None:
    """Recompute the books from the journal file and hold them against each other, and against the provider's bill.

    Reads the file of AGENTOBS_DATABASE_URL, beside a running service too, and makes the result a record: of the service
    that owns the journal, which shows it as a metric, else of this process. Exit code 4: something differs; 3: there is
    no journal, the bill cannot be had, or the owner does not take the result.
    """
    if reprice and bill is not None:
        raise typer.BadParameter("it compares nothing, so that no bill is of use", param_hint="--reprice")
    if reprice:
        from agentobs.cli.auditing.reprice import reprice as estimate  # noqa: PLC0415

        estimate(settings(), as_json=as_json)
        return
    from agentobs.cli.auditing import command  # noqa: PLC0415

    raise typer.Exit(wait(command.audit(settings(), bill, server, as_json=as_json)))
