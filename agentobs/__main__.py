"""`python -m agentobs`: the command line."""

from agentobs.cli.main import app

app()
