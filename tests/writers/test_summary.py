"""The page of a run, read back by the parser of the standard library."""

import html
import re
import time
import tracemalloc
from base64 import b64decode, b64encode
from hashlib import sha256
from html.parser import HTMLParser
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from medvit.case import digest
from medvit.writers.mask_tally import LABELS, OTHERS, WORST, MaskTally
from medvit.writers.summary import write_summary
from medvit.writers.tally import A_LABEL, BINS, SLOWEST, STRONGEST

THRESHOLDS = {"Mass": 0.4, "Effusion": 0.25, "Nodule": 0.5}
RUN: dict[str, Any] = {
    "settings": {
        "system": "ThoraxMAE 0.1.0", "precision": "bf16", "write": ["csv", "heat"],
        "checkpoint": {"name": "best.ckpt", "sha256": "0123456789abcdef" * 4},
    },
    "medvit": "0.1.0", "device": "cpu", "started": "2026-11-21T23:10:04Z", "seconds": 60.0,
    "versions": {"python": "3.11.7"}, "counts": {},
}  # fmt: skip
REFUSED = (
    ("skipped", "modality", "Its modality is MR."),
    ("rejected", "truncated", "It holds 5 bytes of 9."),
    ("failed", "oom", "It took too much memory."),
    ("rejected", "a_new_reason", "Nobody foresaw it."),
)
VOID = {"meta", "img"}


class Page(HTMLParser):
    """What a page holds: its tables by section, its tags with attributes, its text; open tags must be closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.text = self.style = ""
        self.open: list[str] = []
        self.section = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = str(dict(attrs)["id"])
            self.tables[self.section] = []
        if tag == "tr":
            self.tables[self.section].append([])
        if tag in ("td", "th"):
            self.tables[self.section][-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            self.style += data
            return
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.tables[self.section][-1][-1] += data


def finding(label: str, probability: float) -> dict[str, Any]:
    threshold = THRESHOLDS[label]
    return {"label": label, "code": "SCT:1", "probability": probability, "threshold": threshold,
            "positive": probability >= threshold}  # fmt: skip


def record(number: int, findings: dict[str, float] | None = None, **more: Any) -> dict[str, Any]:
    header = {"study_uid": f"1.{number // 2}", "series_uid": f"2.{number}", "sop_uid": "3", "modality": "DX"}
    return {
        "key": digest(str(number)), "source": f"/in/{number}.dcm", "case": digest(f"case {number}"), "status": "ok",
        "reason": "", "message": "", "seconds": 0.1, "header": header, "origin": {},
        "findings": [finding(*pair) for pair in (findings or {}).items()], **more,
    }  # fmt: skip


def refused(number: int, kind: tuple[str, str, str], **more: Any) -> dict[str, Any]:
    status, reason, message = kind
    return record(number, status=status, reason=reason, message=message, **more)


def read(records, out, **run: Any) -> Page:
    write_summary(records, {**RUN, **run}, out)
    return Page((out / "report.html").read_text(encoding="utf-8"))


def night(count: int, seed: int = 0):
    """Records of a mixed night, one at a time."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        if number % 10 == 0:
            yield refused(number, REFUSED[number // 10 % len(REFUSED)])
        else:
            yield record(number, {name: round(float(rng.beta(1, 5)), 6) for name in THRESHOLDS})


def test_the_counts_add_up_to_the_inputs_and_the_reasons_to_the_unanswered(tmp_path) -> None:
    page = read(night(1000), tmp_path)
    rows = {row[0]: int(row[1].replace(",", "")) for row in page.tables["accounting"]}
    assert rows == {"answered": 900, "skipped": 25, "rejected": 50, "failed": 25, "inputs": 1000}
    reasons = {row[0]: int(row[1]) for row in page.tables["reasons"][1:]}
    assert reasons == {"modality": 25, "truncated": 25, "oom": 25, "a_new_reason": 25}
    assert "900 of 1,000 inputs answered" in page.text


def test_inputs_that_a_stopped_run_did_not_reach_are_counted_as_such(tmp_path) -> None:
    page = read(night(100), tmp_path, counts={"inputs": 130})
    rows = {row[0]: int(row[1]) for row in page.tables["accounting"]}
    assert rows["not reached"] == 30 and rows["inputs"] == 130


def test_every_reason_says_what_is_wrong_and_what_to_do_and_failures_come_first(tmp_path) -> None:
    rows = read(night(1000), tmp_path).tables["reasons"][1:]
    assert [row[2] for row in rows] == ["failed", "rejected", "rejected", "skipped"]
    for reason, _, status, wrong, advice in rows:
        assert (status, reason, wrong) in REFUSED and len(advice) > 10


def test_modalities_studies_and_series_are_counted_and_no_free_text_is_taken_for_a_modality(tmp_path) -> None:
    odd = [
        refused(number, REFUSED[0], header={"modality": name})
        for number, name in enumerate(("MR", "MR", "DOE^JANE", ""), 100)
    ]
    page = read([*night(20), *odd], tmp_path)
    assert page.tables["material"][1:] == [
        ["DX", "20", "18"], ["MR", "2", "0"], ["none stated", "1", "0"], ["other", "1", "0"],
    ]  # fmt: skip
    assert "10 studies,\n20 series" in page.text
    assert "DOE" not in page.text


def test_histograms_hold_every_answer_once_and_positive_ones_from_the_threshold_on(tmp_path) -> None:
    values = {"Mass": [0.0, 0.02, 0.39, 0.4, 0.41, 1.0], "Effusion": [0.1] * 5 + [0.9]}
    records = [record(n, {name: values[name][n] for name in values}) for n in range(6)]
    page = read(records, tmp_path)
    drawn = [attributes["aria-label"] for tag, attributes in page.tags if tag == "svg" and "aria-label" in attributes]
    assert drawn == ["3 of 6 cases positive for Mass", "1 of 6 cases positive for Effusion"]
    assert "threshold 0.400" in page.text
    drawing = (tmp_path / "report.html").read_text()
    mass, effusion = drawing.split('<figure class="label">')[1:3]
    bins = re.findall(r'<rect class="(\w+)" x="([\d.]+)"[^>]*><title>[\d.]+ to [\d.]+: (\d+)</title>', mass)
    assert [(name, round(float(x) // 10), int(n)) for name, x, n in bins] == [
        ("below", 0, 2), ("below", 7, 1), ("ok", 8, 2), ("ok", BINS - 1, 1),
    ]  # fmt: skip
    line = re.search(r'class="line" d="M([\d.]+) 0', mass)
    assert line and float(line[1]) == pytest.approx(200 * THRESHOLDS["Mass"])
    tall = [float(x) for x in re.findall(r'<rect class="\w+"[^>]*height="([\d.]+)"', effusion)]
    assert tall[0] == pytest.approx(tall[1] * 5**0.5, rel=0.01)  # heights are square roots


def test_the_strongest_findings_come_first_and_no_label_takes_all_the_room(tmp_path) -> None:
    page = read(night(2000), tmp_path)
    cards = re.findall(r"([A-Z]\w+)(0\.\d{3})\s+threshold 0\.\d{3}([0-9a-f]{16})", page.text)
    assert len(cards) == min(STRONGEST, A_LABEL * len(THRESHOLDS))
    assert [float(card[1]) for card in cards] == sorted((float(card[1]) for card in cards), reverse=True)
    for label in THRESHOLDS:
        every = sorted(
            (f["probability"] for r in night(2000) for f in r["findings"] if f["label"] == label), reverse=True
        )
        assert [float(p) for name, p, _ in cards if name == label] == pytest.approx(every[:A_LABEL], abs=6e-4)


def test_a_thumbnail_is_a_small_picture_without_the_texts_of_the_written_one(tmp_path) -> None:
    case = record(1, {"Mass": 0.9, "Effusion": 0.8})
    folder = tmp_path / "cases" / case["case"]
    folder.mkdir(parents=True)
    info = PngInfo()
    info.add_text("Description", "ZZSECRET")
    Pillow.fromarray(np.full((900, 700, 3), (200, 30, 30), np.uint8)).save(folder / "heat_Mass.png", pnginfo=info)
    page = read([case], tmp_path)
    sources = [str(attributes["src"]) for tag, attributes in page.tags if tag == "img"]
    assert len(sources) == 1 and sources[0].startswith("data:image/jpeg;base64,")
    content = b64decode(sources[0].partition(",")[2], validate=True)
    assert b"ZZSECRET" not in content
    with Pillow.open(BytesIO(content)) as small:
        assert small.format == "JPEG" and small.size == (199, 256)
        red, green, _ = small.convert("RGB").getpixel((100, 100))  # type: ignore[misc]
        assert red > 150 > green
    assert "no heat map written" in page.text


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\nbroken", b"GIF89a"])
def test_a_damaged_heat_map_costs_its_thumbnail_alone(tmp_path, content) -> None:
    case = record(1, {"Mass": 0.9})
    folder = tmp_path / "cases" / case["case"]
    folder.mkdir(parents=True)
    (folder / "heat_Mass.png").write_bytes(content)
    assert "no heat map written" in read([case], tmp_path).text


def test_a_case_that_is_no_key_leads_to_no_file(tmp_path) -> None:
    (tmp_path / "elsewhere").mkdir()
    Pillow.new("RGB", (8, 8)).save(tmp_path / "elsewhere/heat_Mass.png")
    page = read([record(1, {"Mass": 0.9}, case="../elsewhere")], tmp_path)
    assert [tag for tag, _ in page.tags if tag == "img"] == []


HOSTILE = (
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</style></title><b>", "&lt;i&gt;", "=HYPERLINK(1)",
    "@SUM(A1)", "a\x00b\x1b[31mred\x7f", "\u202egpj.exe", "\u2066x\u2069", "\ud800", "x\r\ny", "<!--", "]]>", "x" * 60_000,
)  # fmt: skip


def seeded(text: str, out) -> Page:
    """A page with the text wherever a record or a run has one."""
    good = record(0, {"Mass": 0.9}, case=text, header={"modality": text, "study_uid": text})
    good["findings"][0]["label"] = text
    bad = refused(1, ("rejected", text, text), case=text)
    settings = {"system": text, "precision": text, "write": [text], "checkpoint": {"name": text, "sha256": text}}
    return read([good, bad], out, settings=settings, medvit=text, device=text, started=text, versions={text: text})


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_stays_text_wherever_it_turns_up(tmp_path, text) -> None:
    harmless, page = seeded("word", tmp_path / "harmless"), seeded(text, tmp_path / "odd")
    assert [(tag, list(attributes)) for tag, attributes in page.tags] == [
        (tag, list(attributes)) for tag, attributes in harmless.tags
    ]
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]", page.text)
    assert (tmp_path / "odd/report.html").stat().st_size < 60_000
    cells = [cell for rows in page.tables.values() for row in rows for cell in row]
    assert len(cells) > 20 and not any(cell.startswith(("=", "+", "-", "@", "\t")) for cell in cells)
    said = html.escape(text[:100])
    if text.isprintable():
        assert said in (tmp_path / "odd/report.html").read_text()


def test_the_page_refers_to_nothing_outside_and_forbids_scripts(tmp_path) -> None:
    write_summary(night(500), RUN, tmp_path)
    text = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?:|//\w|url\(|@import|<script|<link|<iframe|\bon\w+=|\bstyle=", text)
    page = Page(text)
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    style = b64encode(sha256(page.style.encode()).digest()).decode()
    assert (
        policy == f"default-src 'none'; style-src 'sha256-{style}'; img-src data:; base-uri 'none'; form-action 'none'"
    )
    assert "Research use only" in page.text and "0123456789ab" in page.text and "/in/" not in page.text


def test_the_same_records_in_any_order_give_the_same_bytes(tmp_path) -> None:
    records = list(night(400))
    write_summary(records, RUN, tmp_path / "one")
    write_summary(records[::-1], RUN, tmp_path / "two")
    assert (tmp_path / "one/report.html").read_bytes() == (tmp_path / "two/report.html").read_bytes()


def test_the_slowest_inputs_are_shown_and_the_speed(tmp_path) -> None:
    records = [record(number, {"Mass": 0.1}, seconds=0.1 + number / 100) for number in range(60)]
    page = read([*records, refused(99, REFUSED[1], case="", seconds=30.0)], tmp_path)
    slow = page.tables["timing"][1:]
    assert len(slow) == SLOWEST
    assert slow[0] == ["no case; see inputs.csv", "30.0 s", "DX", "rejected (truncated)"]
    assert [row[1] for row in slow[1:4]] == ["0.69 s", "0.68 s", "0.67 s"]
    assert "1.0 answers a second" in page.text
    half = re.search(r"half within ([\d.]+) s", page.text)
    assert half and 0.39 <= float(half[1]) <= 0.45


def test_a_run_without_inputs_has_a_page_too(tmp_path) -> None:
    page = read([], tmp_path, seconds=0.0)
    assert [row[1] for row in page.tables["accounting"]] == ["0"] * 5
    assert "No case was answered." in page.text and "No finding reaches its threshold." in page.text


def test_a_run_that_says_little_of_itself_has_a_page_too(tmp_path) -> None:
    write_summary(night(10), {}, tmp_path)
    assert "9 of 10 inputs answered" in Page((tmp_path / "report.html").read_text()).text


def test_a_run_without_positive_findings_says_so(tmp_path) -> None:
    page = read([record(n, {"Mass": 0.1}) for n in range(5)], tmp_path)
    assert "No finding reaches its threshold." in page.text
    assert "0 of 5 positive" in page.text and not any(tag == "img" for tag, _ in page.tags)


def test_memory_and_size_stay_small_for_fifty_thousand_inputs(tmp_path) -> None:
    started = time.process_time()
    write_summary(night(2_000), RUN, tmp_path)
    small = (tmp_path / "report.html").stat().st_size
    tracemalloc.start()
    write_summary(night(50_000), RUN, tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25e6  # the UIDs of 75,000 studies and series take most of it
    assert (tmp_path / "report.html").stat().st_size < small + 5_000
    assert time.process_time() - started < 60


def mask(label: str, score: float, **more: Any) -> dict[str, Any]:
    return {"label": label, "code": "99:1", "score": score, "pixels": 50, "area_mm2": None, "volume_ml": None,
            "prompt": "box", **more}  # fmt: skip


def outlined(number: int, masks: list[dict[str, Any]], spacing: str = "affine of the file") -> dict[str, Any]:
    return record(number, masks=masks, origin={"spacing": spacing})


def test_masks_are_counted_measured_and_the_least_sure_ones_shown_with_what_was_asked(tmp_path) -> None:
    proposed = "proposed: bright part 1 of 3 on slice 5"
    records = [
        outlined(0, [mask("liver", 0.9, volume_ml=1200.0), mask("spleen", 0.4, volume_ml=0.25, pixels=0)]),
        outlined(1, [mask("liver", 0.7, volume_ml=800.0, stopped="upwards: slice 9: nothing found")]),
        outlined(2, [mask("<b>liver", 0.2, prompt=proposed)], spacing="none in the file"),
    ]
    folder = tmp_path / "cases" / records[2]["case"]
    folder.mkdir(parents=True)
    Pillow.fromarray(np.zeros((40, 30, 3), np.uint8)).save(folder / "masks.png")
    page = read(records, tmp_path)
    rows = {row[0]: row[1:] for row in page.tables["masks"][1:]}
    assert rows["liver"] == ["2", "0", "0.80", "0.70", "1,000 ml", "800 to 1,200", "box 2"]
    assert rows["spleen"][:2] == ["1", "1"] and rows["spleen"][4] == "0.25 ml"
    assert rows["<b>liver"][4:] == ["50 pixels, no mm", "50 to 50", "proposed 1"]
    assert "affine of the file: 2; none in the file: 1" in page.text
    order = [page.text.index(score) for score in ("0.200", "0.400", "0.700", "0.900")]
    assert order == sorted(order)
    assert f"asked by {proposed}" in page.text and "ends upwards: slice 9" in page.text
    assert sum(tag == "img" for tag, _ in page.tags) == 1 and page.text.count("no picture written") == 3
    assert "Strongest findings" not in page.text and "No case was answered" not in page.text
    assert "none; masks have scores of their own" in page.text


def test_a_run_without_masks_says_nothing_of_them_and_one_with_both_shows_both(tmp_path) -> None:
    assert "masks" not in read(night(20), tmp_path).tables
    both = [record(0, {"Mass": 0.9}, masks=[mask("mass", 0.5)])]
    tables = read(both, tmp_path).tables
    assert "masks" in tables and "strongest" in tables and "labels" in tables


def test_masks_of_thousands_of_labels_take_bounded_room(tmp_path) -> None:
    tally = MaskTally()
    for number in range(3 * LABELS):
        tally.add(outlined(number, [mask(f"thing {number}", number / (3 * LABELS))]))
    assert len(tally.labels) == LABELS + 1 and tally.labels[OTHERS].masks == 2 * LABELS
    assert len(tally.worst) == WORST and max(-one.sureness for one in tally.worst) < 0.03
