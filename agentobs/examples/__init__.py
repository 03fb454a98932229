"""Workflows that ship with agentobs; the service always registers them."""
