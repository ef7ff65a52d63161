"""Screenshots of every page of the app, 1280 x 800, on folders that `medvit predict` left.

    python tests/benchmarks/review_pages.py PICTURES OUT… [--inputs FOLDER] [--segment CHECKPOINT]

Decisions that are there are shown; opening the pages leaves rows of kind entered and opened in each OUT/review.
"""

import argparse
import sys
import threading
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
from playwright.sync_api import Page, TimeoutError, sync_playwright  # noqa: E402
from review_runs import App  # noqa: E402

from apps.review.runs import Run  # noqa: E402

REST_MS = 5_000
TRIED = 20  # films that are opened in search of one with an earlier one


def shoot(page: Page, path: Path) -> None:
    """A screenshot once the page has come to rest."""
    page.wait_for_timeout(REST_MS)
    page.screenshot(path=path)
    print(path, flush=True)


def pages(app: App, runs: list[Run], pictures: Path, blind: bool) -> None:
    """Worklist, one case of each run, agreement, analysis, and what somebody without a key sees."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        stranger = browser.new_page(viewport={"width": 1280, "height": 800})
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        name = next(iter(app.links)) if not blind else "reader"
        page.goto(app.links[name])
        page.wait_for_selector("[role=row][data-case]", timeout=60_000)
        shoot(page, pictures / f"worklist{'_blind' if blind else ''}.png")
        for run in runs[:1] if blind else runs:
            row = max(
                run.rows.values(),
                key=lambda one: (len(one.positive) > 0, one.strongest.probability if one.strongest else 0),
            )
            page.goto(f"{app.root}/?view=case&run={run.key}&case={row.case}")
            page.wait_for_selector("[data-finding]", timeout=60_000)
            shoot(page, pictures / f"{run.kind(row)}{'_blind' if blind else ''}.png")
            if run.kind(row) == "film" and not blind:
                beside(app, page, run, pictures)
        if not blind:
            for title in ("Agreement", "Analysis"):
                page.get_by_role("button", name=title).click()
                shoot(page, pictures / f"{title.lower()}.png")
            stranger.goto(app.root)
            shoot(stranger, pictures / "without_key.png")
        browser.close()


def beside(app: App, page: Page, run: Run, pictures: Path) -> None:
    """A film with an earlier one of the patient beside it, where the run has such."""
    rows = sorted(run.rows.values(), key=lambda one: -max((said.probability for said in one.positive), default=0.0))
    for row in rows[:TRIED]:
        page.goto(f"{app.root}/?view=case&run={run.key}&case={row.case}")
        page.wait_for_selector("[data-finding]", timeout=60_000)
        if page.get_by_label("Beside it").first.is_disabled():
            continue
        page.get_by_label("Beside it").first.click()
        earlier = page.get_by_role("option", name="earlier")
        try:
            earlier.first.click(timeout=3_000)
        except TimeoutError:  # there is none
            page.keyboard.press("Escape")  # the list covers the page
            continue
        shoot(page, pictures / "film_beside.png")
        return


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("pictures", type=Path)
    words.add_argument("out", type=Path, nargs="+")
    words.add_argument("--inputs", type=Path, default=Path.cwd())
    words.add_argument("--segment", type=Path)
    given = words.parse_args()
    given.pictures.mkdir(parents=True, exist_ok=True)
    runs = [Run(out).refresh() for out in given.out]
    segment = ["--segment", given.segment] if given.segment else []
    for blind in (False, True):
        app = App(*given.out, "--reviewers", "reader", *(["--blind"] if blind else segment), inputs=given.inputs)
        threading.Thread(target=app.process.stdout.read, daemon=True).start()
        pages(app, runs, given.pictures, blind)
        app.close()


if __name__ == "__main__":
    main()
