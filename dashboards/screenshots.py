"""`python -m dashboards.screenshots FOLDER`: each board of a running Grafana as FOLDER/NAME.png.

    --grafana http://localhost:3000  --user admin:…  --chromium /usr/bin/chromium  --from now-15m  --only overview

Needs playwright and a Chromium.
"""

from __future__ import annotations

import argparse
import base64
from pathlib import Path
from typing import Final

from playwright.sync_api import Page, sync_playwright

from dashboards.ids import UIDS

FLAGS: Final = (
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync",
)  # fmt: skip
WIDTH: Final = 1600
# Panels are drawn when they come into view: the window is as tall as the board.
HEIGHT: Final = (
    "() => Math.max(...[...document.querySelectorAll('.react-grid-item')].map(e => e.getBoundingClientRect().bottom))"
)


def shoot(page: Page, url: str, file: Path) -> None:
    page.set_viewport_size({"width": WIDTH, "height": 1200})
    page.goto(url)
    page.wait_for_selector(".react-grid-item")
    page.set_viewport_size({"width": WIDTH, "height": int(page.evaluate(HEIGHT)) + 20})
    page.wait_for_load_state("networkidle")
    page.wait_for_timeout(2000)  # charts are drawn after their data came
    page.screenshot(path=file)


def main() -> None:
    parser = argparse.ArgumentParser(description="Screenshots of the boards of a running Grafana.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--grafana", default="http://localhost:3000")
    parser.add_argument("--user", default="", help="name:password; none where anonymous access is on")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--from", dest="since", default="now-15m")
    parser.add_argument("--only", default="", help="the name of one board, such as overview")
    told = parser.parse_args()
    told.folder.mkdir(parents=True, exist_ok=True)
    headers = {"Authorization": f"Basic {base64.b64encode(told.user.encode()).decode()}"} if told.user else {}
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=told.chromium, args=list(FLAGS))
        page = browser.new_page(extra_http_headers=headers)
        for uid in UIDS.values():
            name = uid.removeprefix("agentobs-")
            if told.only in ("", name):
                shoot(page, f"{told.grafana}/d/{uid}?from={told.since}&to=now", told.folder / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
