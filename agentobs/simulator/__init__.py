"""A stand-in for the Messages API, with faults on demand and a bill of what a provider would charge.

Start it in a test with `Simulator`, or as a process with `serve`. Official SDKs of any language can call it.
"""

from .bill import Bill, Line, Usage
from .faults import FaultRuleError
from .server import Simulator, serve

__all__ = ["Bill", "FaultRuleError", "Line", "Simulator", "Usage", "serve"]
