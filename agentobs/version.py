"""The version of this package: on spans, in /metrics and with each run."""

from importlib import metadata
from typing import Final

__version__: Final = metadata.version("agentobs")
