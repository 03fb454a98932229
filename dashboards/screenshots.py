"""`python -m dashboards.screenshots FOLDER`: pictures of a running Grafana, as FOLDER/NAME.png.

Each board; the list of firing alerts, the one of `--alert NAME` opened; and with `--trace ID` that trace, its first
failed attempt opened. (As of Grafana 10: what opens these two has other names in other versions.)

    --grafana http://localhost:3000  --user admin:…  --chromium /usr/bin/chromium  --from now-15m  --only overview

Needs playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import base64
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

from playwright.sync_api import Locator, Page, sync_playwright

from dashboards.ids import UIDS

FLAGS: Final = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip
WIDTH: Final = 1480
HEIGHT: Final = 1200
TOP: Final = 41
"""Height of Grafana's own search bar, which no picture needs."""
MARGIN: Final = 20

Shot = Callable[[Page, Path], None]


def bottom(found: Locator) -> int:
    """Of the lowest of these elements."""
    return int(max(box["y"] + box["height"] for one in found.all() if (box := one.bounding_box())))


def cut(page: Page, file: Path, top: int, end: int) -> None:
    page.screenshot(path=file, clip={"x": 0, "y": top, "width": WIDTH, "height": end - top})


def board(uid: str, since: str, page: Page, file: Path) -> None:
    page.goto(f"/d/{uid}?from={since}&to=now")
    page.wait_for_selector(".react-grid-item")
    # Panels are drawn when they come into view: the window is as tall as the board.
    end = bottom(page.locator(".react-grid-item")) + MARGIN
    page.set_viewport_size({"width": WIDTH, "height": end})
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(2000)  # charts are drawn after their data came
    cut(page, file, TOP, end)


def alerts(name: str, page: Page, file: Path) -> None:
    page.set_viewport_size({"width": WIDTH, "height": 3 * HEIGHT})
    page.goto("/alerting/list?search=state:firing")
    page.get_by_role("button", name="Expand all").click()
    page.get_by_label("Close section navigation").click()
    rules = page.get_by_test_id("rules-table")
    rules.get_by_test_id("row").filter(has_text=name).get_by_label("Expand row").click()
    # A rule shows its texts as templates; an alert of it shows them filled in.
    rules.get_by_test_id("dynamic-table").last.get_by_label("Expand row").first.click()
    page.wait_for_timeout(1000)
    top = page.get_by_role("button", name="Collapse all").bounding_box()
    assert top
    cut(page, file, int(top["y"]) - MARGIN, bottom(rules) + MARGIN)


def trace(trace_id: str, page: Page, file: Path) -> None:
    query = {"refId": "A", "datasource": {"type": "jaeger", "uid": "jaeger"}, "query": trace_id}
    pane = {"datasource": "jaeger", "queries": [query], "range": {"from": "now-1h", "to": "now"}}
    page.set_viewport_size({"width": WIDTH, "height": 3 * HEIGHT})
    page.goto(f"/explore?left={quote(json.dumps(pane))}")
    spans = page.get_by_test_id("span-view")
    spans.first.wait_for()
    # Room for names, which the pane's default cuts off.
    edge = page.get_by_test_id("TimelineColumnResizer--dragger").bounding_box()
    assert edge
    page.mouse.move(edge["x"] + 1, edge["y"] + 1)
    page.mouse.down()
    page.mouse.move(edge["x"] + 140, edge["y"] + 1)
    page.mouse.up()
    page.locator('button[title="agentobs::POST"]:has([class*=errorIcon])').first.click()
    page.get_by_text("Attributes:").click()
    page.wait_for_timeout(1000)
    title = page.locator("h1", has_text="invoke_workflow").bounding_box()
    assert title
    cut(page, file, int(title["y"]) - MARGIN, bottom(page.locator("[data-item-key]")) + MARGIN)


def main() -> None:
    parser = argparse.ArgumentParser(description="Pictures of a running Grafana: boards, firing alerts, a trace.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--grafana", default="http://localhost:3000")
    parser.add_argument("--user", default="", help="name:password; none where anonymous access is on")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--from", dest="since", default="now-15m")
    parser.add_argument("--alert", default="AgentobsWatchdog", help="the firing one to open in the list")
    parser.add_argument("--trace", default="", help="the id of a run that has a failed attempt")
    parser.add_argument("--only", default="", help="one picture: the name of a board, alerts or trace")
    told = parser.parse_args()
    told.folder.mkdir(parents=True, exist_ok=True)
    shots: dict[str, Shot] = {uid.removeprefix("agentobs-"): partial(board, uid, told.since) for uid in UIDS.values()}
    shots["alerts"] = partial(alerts, told.alert)
    if told.trace:
        shots["trace"] = partial(trace, told.trace.replace("-", ""))
    if told.only not in ("", *shots):
        parser.error(f"--only is {told.only!r}; expected one of {', '.join(shots)} (trace needs --trace)")
    headers = {"Authorization": f"Basic {base64.b64encode(told.user.encode()).decode()}"} if told.user else {}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=told.chromium, args=list(FLAGS))
        page = browser.new_page(base_url=told.grafana, extra_http_headers=headers)
        for name in [told.only] if told.only else shots:
            page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
            shots[name](page, told.folder / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
