"""The dashboards against Grafana's own types, and against what a real service shows."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.acceptance import node
from tests.acceptance.harness import world
from tests.boards import BOARDS, OTHERS, queries, selectors

pytestmark = pytest.mark.slow

PACKAGES = Path(__file__).parent / "grafana"
COMPILE_S = 120.0
# Of each kind of panel, the module with the types of its options.
KINDS = {
    "heatmap": "heatmap/panelcfg/x/HeatmapPanelCfg",
    "stat": "stat/panelcfg/x/StatPanelCfg",
    "state-timeline": "statetimeline/panelcfg/x/StateTimelinePanelCfg",
    "table": "table/panelcfg/x/TablePanelCfg",
    "timeseries": "timeseries/panelcfg/x/TimeSeriesPanelCfg",
}
# `Plain`: text stands for the members of an enum, as it does in JSON. Annotations have fields of their data source.
TYPES = """
type Plain<T> = T extends string ? `${T}`
  : T extends number ? (`${T}` extends `${infer N extends number}` ? N : T)
  : T extends boolean | null | undefined ? T
  : { [K in keyof T]: Plain<T[K]> };
type Marked = NonNullable<NonNullable<Dashboard['annotations']>['list']>[number];
type OfPrometheus = { expr: string; step: string; titleFormat: string; textFormat: string; useValueForTime?: boolean };
type Board = Plain<Omit<Dashboard, 'annotations'>> & { annotations: { list: (Plain<Marked> & OfPrometheus)[] } };
"""


def compiled(folder: Path, packages: Path, boards: dict[str, dict]) -> str:
    """What Grafana's types have against the boards; empty where it is nothing."""
    text = ["import type { Dashboard } from '@grafana/schema';", TYPES]
    text += [
        f"import type * as {kind.replace('-', '_')} from '@grafana/schema/dist/esm/raw/composable/{module}_types.gen';"
        for kind, module in KINDS.items()
    ]
    for name, board in boards.items():
        text.append(f"export const {name}: Board = {json.dumps(board, indent=1)};")
        for panel in board["panels"]:
            kind, place = panel["type"].replace("-", "_"), f"{name}_{panel['id']}"
            text.append(f"export const {place}: Plain<Partial<{kind}.Options>> = {json.dumps(panel['options'])};")
            if custom := panel["fieldConfig"]["defaults"].get("custom"):
                text.append(f"export const {place}_: Plain<Partial<{kind}.FieldConfig>> = {json.dumps(custom)};")
    (folder / "boards.ts").write_text("\n".join(text))
    link = folder / "node_modules"
    if not link.exists():
        link.symlink_to(packages)
    options = ("--noEmit", "--strict", "--skipLibCheck", "--preserveSymlinks", "--target", "es2022")
    done = subprocess.run(
        ["node", packages / "typescript/bin/tsc", *options, "--module", "nodenext", "boards.ts"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=COMPILE_S,
        check=False,
    )
    assert (done.returncode == 0) == (done.stdout == ""), done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def packages() -> Path:
    return node.required_packages(PACKAGES)


def test_the_boards_are_what_grafanas_types_say(packages: Path, tmp_path: Path):
    assert compiled(tmp_path, packages, BOARDS) == ""


def test_grafanas_types_find_what_is_wrong(packages: Path, tmp_path: Path):
    (board,) = (json.loads(json.dumps(board)) for name, board in BOARDS.items() if name == "overview")
    line, stat = (next(p for p in board["panels"] if p["type"] == kind) for kind in ("timeseries", "stat"))
    line["fieldConfig"]["defaults"]["custom"]["drawStyle"] = "lines"  # it is called line
    line["gridPos"]["width"] = 8  # it is called w
    stat["options"]["colorMode"] = "values"  # it is called value
    board["tags"] = "agentobs"
    found = compiled(tmp_path, packages, {"overview": board})
    assert all(word in found for word in ('"lines"', '"width"', '"values"', "string[]")), found


def test_every_name_of_ours_in_a_query_is_a_metric_of_a_running_service(tmp_path: Path):
    with world(tmp_path) as here:
        text = here.service.call("GET", "/metrics").text
    shown = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")}
    parts = {"", *("_bucket", "_count", "_sum")}
    asked = {name for query in queries() for name, _ in selectors(query.expr)} - set(OTHERS)
    assert asked, "no query was found"
    lacking = {name for name in asked if not any(name.removesuffix(part) in shown for part in parts)}
    assert lacking == set()
