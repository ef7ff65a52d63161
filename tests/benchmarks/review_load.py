"""The app under load: 25 reviewers at once, a worklist of 10,000 cases, the next case, tiles of a slide of 40,000 pixels.

    python tests/benchmarks/review_load.py [REVIEWERS] [DECISIONS]

Reviewers speak Streamlit's own protocol over the live connection, as a browser does, and think half a second to two seconds
between keys. Times are those that a reader waits; beside them stands what the server's processes computed.
"""

import asyncio
import http.client
import json
import random
import re
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from urllib.parse import parse_qs

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]
import numpy as np  # noqa: E402
import review_runs  # noqa: E402
from conftest import _make_film  # noqa: E402
from streamlit.proto.BackMsg_pb2 import BackMsg  # noqa: E402
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg  # noqa: E402
from test_review_places import write_large  # noqa: E402
from websockets.asyncio.client import connect  # noqa: E402

from apps.review.runs import Run  # noqa: E402
from apps.review.store import Store  # noqa: E402
from apps.review.verify import verify  # noqa: E402

CASES, FILMS, TILES = 10_000, 14, 300
FILM = (2_500, 2_048)  # rows and columns, 12 bits


class Reviewer:
    """One live connection; knows the page's buttons by their keys and what the address says."""

    def __init__(self, app: review_runs.App, name: str) -> None:
        self.name, self.app = name, app
        self.key = app.links[name].partition("key=")[2]
        self.query, self.buttons, self.waited, self.decided = "", {}, [], []

    async def work(self, decisions: int, draw: random.Random) -> None:
        cookie = {"Cookie": f"medvit_review_{self.app.port}={self.key}"}
        url = f"ws://127.0.0.1:{self.app.port}/_stcore/stream"
        async with connect(url, additional_headers=cookie, subprotocols=["streamlit"], max_size=None) as line:
            await self.run(line)
            await self.click(line, "next_unread")
            while len(self.decided) < decisions:
                await asyncio.sleep(draw.uniform(0.5, 2.0))
                case = parse_qs(self.query)["case"][0]
                key = draw.choice(("do_accept", "do_reject", "do_uncertain"))
                begun = time.perf_counter()
                await self.click(line, key)
                self.waited.append(time.perf_counter() - begun)
                self.decided.append((case, key.removeprefix("do_")))
                await asyncio.sleep(draw.uniform(0.5, 2.0))
                begun = time.perf_counter()
                await self.click(line, "step1")
                self.waited.append(time.perf_counter() - begun)

    async def click(self, line: object, key: str) -> None:
        await self.run(line, self.buttons[key])

    async def run(self, line: object, pressed: str = "") -> None:
        """Have the page run, wait until it has finished, and take in what it shows; it may start anew by itself."""
        message = BackMsg()
        message.rerun_script.query_string = self.query
        if pressed:
            state = message.rerun_script.widget_states.widgets.add()
            state.id, state.trigger_value = pressed, True
        await line.send(message.SerializeToString())
        while True:
            told = ForwardMsg()
            told.ParseFromString(await asyncio.wait_for(line.recv(), 60))
            kind = told.WhichOneof("type")
            if kind == "delta" and told.delta.WhichOneof("type") == "new_element":
                button = told.delta.new_element.button
                if found := re.search(r"-([a-z_]+-?[01]?)$", button.id):
                    self.buttons[found[1]] = button.id
            elif kind == "page_info_changed":
                self.query = told.page_info_changed.query_string
            elif kind == "script_finished" and told.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:
                return


def people(app: review_runs.App, out: Path, count: int, decisions: int) -> None:
    """That many reviewers at once; what they waited, and whether the log says what they did."""
    before = len(Store(out).since())
    reviewers = [Reviewer(app, f"r{number:02d}") for number in range(count)]

    async def all_of_them() -> None:
        await asyncio.gather(*(one.work(decisions, random.Random(number)) for number, one in enumerate(reviewers)))

    begun, used = time.perf_counter(), processor_s(app)
    asyncio.run(all_of_them())
    seconds, used = time.perf_counter() - begun, processor_s(app) - used
    waited = np.array([wait for one in reviewers for wait in one.waited])
    wrote = Counter(
        (row.reviewer, row.case, row.said["verdict"]) for row in Store(out).since(before) if row.kind == "decision"
    )
    meant = Counter((one.name, *what) for one in reviewers for what in one.decided)
    lost, foreign = sum((meant - wrote).values()), sum((wrote - meant).values())
    print(
        f"{count} reviewers, {sum(meant.values())} decisions in {seconds:.0f} s: wait median {np.median(waited):.2f} s, "
        f"p95 {np.quantile(waited, 0.95):.2f} s, longest {waited.max():.2f} s; {lost} lost, {foreign} misattributed, "
        f"log faults {len(verify(out).faults)}; the server computed {used:.0f} s, {1000 * used / len(waited):.0f} ms a click"
    )


def processor_s(app: review_runs.App) -> float:
    """Seconds that the server and its workers have computed."""
    total, todo = 0.0, [app.process.pid]
    while todo:
        place = Path(f"/proc/{todo.pop()}")
        try:
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / 100
            todo += [int(pid) for task in (place / "task").iterdir() for pid in (task / "children").read_text().split()]
        except OSError:
            continue
    return total


def pages(app: review_runs.App, run: Run) -> None:
    """First paint of the worklist, and the next case, in Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        paints = []
        page.goto(app.links["r00"])
        page.wait_for_selector("[role=row][data-case]")
        for _ in range(5):
            used, begun = processor_s(app), time.perf_counter()
            page.goto(app.root)
            page.wait_for_selector("[role=row][data-case]")
            paints.append((time.perf_counter() - begun, processor_s(app) - used))
        print(
            f"worklist of {len(run.rows):,} cases, first paint: median {np.median(paints, 0)[0]:.2f} s, of which the server "
            f"computed {np.median(paints, 0)[1]:.2f} s"
        )
        page.locator("[role=row][data-case]").first.click()
        shown = "() => { const one = [...document.querySelectorAll('*')].map((e) => e.shadowRoot && e.shadowRoot.querySelector('[data-state]')).find(Boolean) || document.querySelector('[data-state]'); return one ? JSON.parse(one.dataset.state).case : '' }"  # noqa: E501
        page.wait_for_function(f"({shown})() !== ''")
        waits = []
        for _ in range(FILMS - 2):
            page.wait_for_timeout(1500)  # the reader looks; meanwhile the next film is fetched
            before = page.evaluate(shown)
            used, begun = processor_s(app), time.perf_counter()
            page.keyboard.press("j")
            page.wait_for_function(
                f"(before) => {{ const now = ({shown})(); return now !== '' && now !== before }}",
                arg=before,
                polling=10,
            )
            waits.append((time.perf_counter() - begun, processor_s(app) - used))
        waits.sort()
        print(
            f"next case, films of {FILM[1]} x {FILM[0]}: median {np.median(waits, 0)[0]:.2f} s, longest {waits[-1][0]:.2f} s, "
            f"of which the server computed {np.median(waits, 0)[1]:.2f} s"
        )
        browser.close()


def tiles(folder: Path) -> None:
    """Tiles of a slide one after the other, each for the first time."""
    out = review_runs.leave_slide(
        folder, write_large(folder / "large.tif"), np.array([(8_192, 4_096)]), 1024, np.ones(1, np.float32), 0.25
    )
    app = review_runs.App(out, "--reviewers", "r00", inputs=folder)
    run = Run(out).refresh()
    place, draw, waits = f"/review/tile/{run.key}/{next(iter(run.rows))}", random.Random(1), []
    line = http.client.HTTPConnection("127.0.0.1", app.port)
    cookie = {"cookie": f"medvit_review_{app.port}={app.links['r00'].partition('key=')[2]}"}
    used = 0.0
    for number in range(TILES + 5):
        level = draw.choice((16, 16, 15, 14, 13, 12))
        most = -(-40_000 // (256 * 2 ** (16 - level)))
        begun = time.perf_counter()
        line.request("GET", f"{place}/{level}/{draw.randrange(most)}_{draw.randrange(most)}.jpg", headers=cookie)
        answer = line.getresponse()
        answer.read()
        if number >= 5:
            waits.append(time.perf_counter() - begun)
        else:
            used = processor_s(app)
        assert answer.status == 200, answer.status
    used = processor_s(app) - used
    print(
        f"{TILES} tiles of a slide of 40,000 pixels: median {1000 * np.median(waits):.0f} ms, "
        f"p95 {1000 * np.quantile(waits, 0.95):.0f} ms; the server computed {1000 * used / TILES:.0f} ms a tile"
    )
    app.close()


def many(folder: Path) -> Path:
    """A run of 10,000 answered films, of which some are there to be looked at: those of the highest probability."""
    answers = [(0.99 - 0.001 * number, 0.2, 0.6) for number in range(FILMS)]
    draw = np.random.default_rng(1)
    review_runs.ROWS, review_runs.COLUMNS = FILM
    smooth = draw.normal(1800, 300, (FILM[0] // 8, FILM[1] // 8)).clip(0, 4095)
    pixels = (
        (np.kron(smooth, np.ones((8, 8))) + draw.normal(0, 20, (FILM[0] // 8 * 8, FILM[1])))
        .clip(0, 4095)
        .astype(np.uint16)
    )
    pixels = np.pad(pixels, ((0, FILM[0] - len(pixels)), (0, 0)), mode="edge")
    review_runs.film_pixels = lambda: pixels
    out = review_runs.leave_films(folder, _make_film, answers)
    records = [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]
    random.seed(2)
    for number in range(CASES - FILMS):
        chances = [round(random.uniform(0, 0.9), 6) for _ in range(3)]
        findings = [
            {**one, "probability": p, "positive": p >= 0.5}
            for one, p in zip(records[0]["findings"], chances, strict=True)
        ]
        key = f"{number:016x}"
        header = {**records[0]["header"], "study_uid": f"2.25.{10**9 + number}"}
        records.append(
            {
                **records[0],
                "key": key,
                "case": key,
                "source": f"films/{number}.dcm",
                "header": header,
                "findings": findings,
            }
        )
    review_runs.leave(out, "ThoraxMAE", records)
    return out


def main() -> None:
    given = [int(word) for word in sys.argv[1:3]]
    count, decisions = (*given, *(25, 12)[len(given) :])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out = many(folder / "many")
        app = review_runs.App(
            out, "--reviewers", ",".join(f"r{number:02d}" for number in range(count)), inputs=folder / "many"
        )
        threading.Thread(target=app.process.stdout.read, daemon=True).start()
        pages(app, Run(out).refresh())
        people(app, out, count, decisions)
        app.close()
        (folder / "slide").mkdir()
        tiles(folder / "slide")


if __name__ == "__main__":
    main()
