"""`agentobs audit`."""
