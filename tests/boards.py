"""The committed dashboards, and as much of PromQL as it takes to see which names and labels their queries use."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dashboards.__main__ import GENERATED

BOARDS: dict[str, dict[str, Any]] = {
    file.stem: json.loads(file.read_text()) for file in sorted(GENERATED.glob("*.json"))
}
# Metrics of Prometheus itself and of the servers beside ours, with the labels that queries may use.
OTHERS = {
    "ALERTS": {"alertname", "alertstate", "severity", "workflow", "agent", "model"},
    "ALERTS_FOR_STATE": {"alertname", "severity", "workflow", "agent", "model"},
    "up": {"job", "instance"},
    "otelcol_exporter_queue_size": {"exporter"},
}
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_LABELS = re.compile(r"\b(by|without|on|ignoring|group_left|group_right)\s*\(([^)]*)\)")
_SELECTOR = re.compile(r"([a-zA-Z_:][\w:]*)\s*(\{[^}]*\})?(?!\w|\s*\()")
_WORDS = {"and", "or", "unless", "bool", "offset", "inf", "nan"}


@dataclass(frozen=True)
class Query:
    """One PromQL expression, where it stands, and how its series are called."""

    where: str
    expr: str
    legend: str = ""
    exemplar: bool = False


def panels(name: str) -> list[dict[str, Any]]:
    return list(BOARDS[name]["panels"])


def queries() -> Iterator[Query]:
    """Of panels, variables and annotations."""
    for name, board in BOARDS.items():
        for panel in panels(name):
            for target in panel["targets"]:
                if target["datasource"]["type"] == "prometheus":
                    where = f"{name}/{panel['id']}{target['refId']}"
                    yield Query(where, target["expr"], target["legendFormat"], target["exemplar"])
        for variable in board["templating"]["list"]:
            inside = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
            assert inside, variable["query"]
            yield Query(f"{name}/${variable['name']}", f"count by ({inside[2]}) ({inside[1]})")
        for annotation in board["annotations"]["list"]:
            told = annotation["titleFormat"] + annotation["textFormat"]
            yield Query(f"{name}/{annotation['name']}", annotation["expr"], told)


def plain(expr: str) -> str:
    """PromQL without what Grafana fills in."""
    return re.sub(r"\$__(rate_interval|interval|range)\b", "5m", expr).replace('"$', '"').replace("$1", r"\1")


def selectors(expr: str) -> list[tuple[str, dict[str, tuple[str, str]]]]:
    """Each metric of a query with its matchers: label to operator and value."""
    strings = _STRING.findall(expr)
    text = _LABELS.sub(" ", _STRING.sub("§", expr))
    text = re.sub(r"\[[^\]]*\]|\boffset\s+\$?\w+", " ", text)
    left, found = iter(strings), []
    # Strings are told apart by their order: those in braces are matchers', the others functions' arguments.
    for piece in re.split(r"(\{[^}]*\}|§)", text):
        if piece == "§":
            next(left)
        elif piece.startswith("{"):
            matchers = re.findall(r"(\w+)\s*(=~|!~|!=|=)\s*§", piece)
            found[-1][1].update({label: (operator, next(left).strip('"')) for label, operator in matchers})
        else:
            names = (name for name, _ in _SELECTOR.findall(piece) if name.lower() not in _WORDS)
            found += [(name, {}) for name in names if not name.isdigit()]
    return found


def grouped(expr: str) -> set[str]:
    """Labels that a query aggregates by or matches series on."""
    return {label.strip() for _, labels in _LABELS.findall(expr) for label in labels.split(",") if label.strip()}


def made(expr: str) -> set[str]:
    """Labels that a query makes itself."""
    return set(re.findall(r'label_replace\(.*?, "(\w+)", "\$1"', expr))
