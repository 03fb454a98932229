"""Workflows that ship with agentobs. Importing this package registers them all."""

from agentobs.examples import article, release_notes, report, triage

__all__ = ["article", "release_notes", "report", "triage"]
