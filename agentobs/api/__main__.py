"""`python -m agentobs.api > docs/openapi.json`."""

from __future__ import annotations

import json
import sys
from typing import cast

from agentobs.api.app import create_app
from agentobs.api.port import ServicePort


def document() -> str:
    """The OpenAPI document as it is committed; no service is needed to describe one."""
    app = create_app(cast("ServicePort", None))
    app.key_needed = None
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
