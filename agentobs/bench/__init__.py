"""What agentobs costs, measured against the bare SDK on the same machine (docs/performance.md).

Each system under test has a process of its own; the model's API and the OTLP endpoint are in a third.
"""
