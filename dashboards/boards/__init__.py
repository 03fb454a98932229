"""One module a dashboard."""

from __future__ import annotations

from dashboards.boards import models, money, overview, service, workflow


def files() -> dict[str, str]:
    return {
        f"{name}.json": module.made()
        for name, module in (
            ("overview", overview),
            ("workflow", workflow),
            ("models", models),
            ("money", money),
            ("service", service),
        )
    }
