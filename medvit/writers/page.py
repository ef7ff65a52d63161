"""The HTML of ``report.html``: no script, no address outside the file, every text escaped, drawings as inline SVG."""

from collections.abc import Mapping
from html import escape
from typing import Any

from medvit.writers.markup import plain, section, shown, table
from medvit.writers.mask_section import mask_sections
from medvit.writers.style import document
from medvit.writers.tally import BINS, Histogram, Slow, Strong, Tally

LABELS = 200  # histograms on a page
REASONS = 200
DAY, HOUR, MINUTE = 86_400, 3_600, 60
NO_PICTURES: Mapping[str, str] = {}

STATUSES = {
    "ok": ("answered", "results are written"),
    "skipped": ("skipped", "not this system's kind of input"),
    "rejected": ("rejected", "its kind, but not fit to be answered"),
    "failed": ("failed", "the fault is ours or the machine's"),
    "left": ("not reached", "the run was stopped before them"),
}
# What to do about a reason, where the message of a single input is not the whole story.
ADVICE = {
    "duplicate": "Nothing: the same file was answered under another name.",
    "modality": "Nothing, unless the modality is mislabelled at the device.",
    "body_part": "Nothing, unless the body part is mislabelled at the device.",
    "view": "Nothing: the system answers frontal films.",
    "filtered": "Nothing: --modality or --series left them out.",
    "link": "Nothing, if their targets lie in the folder too: links are not followed.",
    "results": "Nothing: what medvit wrote is no input.",
    "not_an_image": "Nothing: letters, spreadsheets and the like lie between the images.",
    "dicomdir": "Nothing: the files that it lists are found by themselves.",
    "truncated": "Send these again; the transfer broke off.",
    "not_dicom": "Send these through the PACS, or rewrite them with `dcmconv -f FILE NEW`.",
    "uid_conflict": "Ask the sender: two different files carry one SOP Instance UID.",
    "no_decoder": "Install the decoders (`pip install medvit[codecs]`) and go on with --resume.",
    "crashed": "Do not open these in other software before somebody has looked: they kill the decoder.",
    "changing": "Wait until the sender has finished, then go on with --resume.",
    "size_mismatch": "Ask the sender: header and pixels disagree about the size of these.",
    "zip_bomb": "Do not unpack these: they hold far more than they should.",
    "zip_encrypted": "Unpack these with their password and answer the folder.",
    "time_budget": "Look at these: they keep a decoder busy past its limit, as broken or hostile files do.",
    "oom": "Run these alone on a machine with more memory (--workers 1).",
    "unwritten": "Make room on the disk and go on with --resume.",
    "unreadable": "Check the rights and the disk, then go on with --resume.",
    "model": "Report these with run.json: the network should answer any film.",
    "not_finite": "Report these with run.json: the network should answer any film.",
}
OTHERWISE = {
    "skipped": "Nothing, if you did not expect an answer.",
    "rejected": "Look at one of them in inputs.csv; ask the sender for a sound copy.",
    "failed": "Go on with --resume; if it fails again, report it with run.json.",
}

FOOT = """<p>Cases go by the key that they have in <b>inputs.csv</b> and <b>results.csv</b> beside this page, where their files
and UIDs stand; results lie in <b>cases/</b>, and what answered is in <b>run.json</b>. This page names no patient.</p>
"""


def page(
    tally: Tally,
    run: Mapping[str, Any],
    pictures: Mapping[tuple[str, str], str],
    outlined: Mapping[str, str] = NO_PICTURES,
) -> str:
    """The whole page.

    Args:
        tally: The records, counted.
        run: What ``run.json`` holds.
        pictures: ``data:`` URIs of the strongest findings, by case and label.
        outlined: The same of masks over their case.
    """
    total = sum(_accounts(tally, run).values())
    answered = f"{tally.statuses['ok']:,} of {total:,} inputs answered"
    sections = (
        f'<div class="two">{_accounting(tally, run)}{_facts(tally, run)}</div>',
        mask_sections(tally.masks, outlined),
        *(() if tally.masks.labels and not tally.labels else (_strongest(tally, pictures), _histograms(tally))),
        _unanswered(tally),
        f'<div class="two">{_material(tally)}{_timing(tally, run)}</div>',
    )
    versions = shown(" · ".join(f"{name} {number}" for name, number in sorted(run.get("versions", {}).items())))
    by = f"{shown(_system(run))} · {_when(run)} · {_duration(_seconds(run))}"
    return document(f"medvit: {answered}", by, sections, f"{FOOT}<p>{versions}</p>", headline=answered)


def _accounts(tally: Tally, run: Mapping[str, Any]) -> dict[str, int]:
    """Inputs by status; they add up to all that were found."""
    counts = {name: tally.statuses[name] for name in STATUSES if name != "left"}
    found = int(run.get("counts", {}).get("inputs", 0))
    return counts | {"left": max(found - sum(counts.values()), 0)}


def _accounting(tally: Tally, run: Mapping[str, Any]) -> str:
    counts = {name: count for name, count in _accounts(tally, run).items() if count or name != "left"}
    total = sum(counts.values())
    rows = [
        f'<tr class="{name}"><th scope="row">{_mark(name)}{STATUSES[name][0]}</th><td class="n">{count:,}</td>'
        f'<td class="n">{_share(count, total)}</td><td class="soft">{STATUSES[name][1]}</td></tr>'
        for name, count in counts.items()
    ]
    return f"""<section id="accounting"><h2>Every input accounted for</h2>{_bar(counts, total)}
<table><tbody>{"".join(rows)}</tbody><tfoot><tr><th scope="row">inputs</th><td class="n">{total:,}</td><td></td>
<td class="soft">every file that was found counts once</td></tr></tfoot></table></section>"""


def _bar(counts: Mapping[str, int], total: int) -> str:
    """One bar with a part a status, long enough to be seen where there is one input of it."""
    parts, x = [], 0.0
    wide = {name: max(1000 * count / total, 5) for name, count in counts.items() if count}
    for name, width in wide.items():
        share = 1000 * width / sum(wide.values())
        parts.append(f'<rect class="{name}" x="{x:.1f}" width="{share - 2:.1f}" height="14" rx="2"/>')
        x += share
    drawn = "".join(parts)
    return f'<svg class="bar" viewBox="0 0 1000 14" preserveAspectRatio="none" aria-hidden="true">{drawn}</svg>'


def _mark(name: str) -> str:
    square = f'<rect class="{name}" width="10" height="10" rx="2"/>'
    return f'<svg class="mark" viewBox="0 0 10 10" aria-hidden="true">{square}</svg>'


def _facts(tally: Tally, run: Mapping[str, Any]) -> str:
    settings = run.get("settings", {})
    checkpoint = settings.get("checkpoint", {})
    facts = {
        "System": shown(_system(run)),
        "Checkpoint": f"{shown(checkpoint.get('name', 'unknown'))} "
        f"<code>{shown(str(checkpoint.get('sha256', ''))[:12])}</code>",
        "Probabilities": "none; masks have scores of their own"
        if tally.masks.labels and not tally.labels
        else "calibrated on validation cases"
        if checkpoint.get("calibration")
        else "not calibrated",
        "Unlike training": f"{tally.far:,} of {tally.measured:,} cases, marked in results.csv"
        if tally.measured
        else "not known of this checkpoint",
        "Started": _when(run),
        "Took": _duration(_seconds(run)),
        "Device": shown(run.get("device") or settings.get("device") or "not recorded"),
        "Precision": shown({"32": "32-bit"}.get(str(settings.get("precision")), settings.get("precision") or "?")),
        "Written": shown(", ".join(map(str, settings.get("write", ()))) or "tables"),
        "medvit": shown(run.get("medvit", "?")),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items())
    return f'<section id="run"><h2>What answered</h2><dl>{rows}</dl></section>'


def _unanswered(tally: Tally) -> str:
    ends = ("failed", "rejected", "skipped")  # what asks for action first
    ordered = sorted(tally.reasons.items(), key=lambda item: (ends.index(item[0][0]), -item[1], item[0]))
    rows = []
    for (status, reason), count in ordered[:REASONS]:
        advice = ADVICE.get(reason, OTHERWISE[status])
        rows.append(
            f'<tr><th scope="row"><code>{shown(reason)}</code></th><td class="n">{count:,}</td>'
            f'<td class="word">{_mark(status)}{status}</td>'
            f"<td>{shown(tally.messages[status, reason])}</td><td>{escape(advice)}</td></tr>"
        )
    return section(
        "reasons",
        "Inputs without an answer",
        table(("reason", "inputs#", "status", "what is wrong, for example", "what to do"), rows)
        if rows
        else "<p>None: every input has an answer.</p>",
    )


def _strongest(tally: Tally, pictures: Mapping[tuple[str, str], str]) -> str:
    cards = "".join(_card(one, pictures.get((one.case, one.label), "")) for one in tally.strongest)
    return section(
        "strongest",
        "Strongest findings",
        f'<p class="soft">Coloured: regions that influenced this score. Not where a disease is.</p>'
        f'<div class="cards">{cards}</div>'
        if cards
        else "<p>No finding reaches its threshold.</p>",
    )


def _card(one: Strong, picture: str) -> str:
    name = shown(one.label)
    seen = (
        f'<img src="{picture}" alt="Regions that influenced the score of {plain(one.label)}">'
        if picture
        else '<div class="none">no heat map written</div>'
    )
    x = 100 * one.threshold
    return f"""<figure>{seen}<figcaption><b>{name}</b><span class="n">{one.probability:.3f}</span>
<svg class="meter" viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">
<rect class="track" width="100" height="6"/><rect class="ok" width="{100 * one.probability:.1f}" height="6"/>
<rect class="tick" x="{x - 0.5:.1f}" width="1" height="6"/></svg>
<span class="soft">threshold {one.threshold:.3f}</span><code>{shown(one.case)}</code></figcaption></figure>"""


def _histograms(tally: Tally) -> str:
    ordered = sorted(tally.labels.items(), key=lambda item: (item[1].place, item[0]))
    cards = "".join(_histogram(name, label) for name, label in ordered[:LABELS])
    more = f"<p>{len(ordered) - LABELS} more labels are in results.csv.</p>" if len(ordered) > LABELS else ""
    return section(
        "labels",
        "Probabilities by label",
        f'<p class="soft">From 0 to 1 in {BINS} bins, every answered case once; the line is the threshold, coloured what '
        f'reaches it. Heights are square roots of counts, so that single cases show.</p><div class="grid">{cards}</div>{more}'
        if cards
        else "<p>No case was answered.</p>",
    )


def _histogram(name: str, label: Histogram) -> str:
    positive = sum(label.positive)
    count = positive + sum(label.below)
    most = max(map(sum, zip(label.below, label.positive, strict=True)))
    bars = "".join(
        _column(place, low, high, most)
        for place, (low, high) in enumerate(zip(label.below, label.positive, strict=True))
    )
    x = 200 * label.threshold
    return f"""<figure class="label"><figcaption><b>{shown(name)}</b>
<span class="soft">threshold {label.threshold:.3f}</span></figcaption>
<svg viewBox="0 0 200 64" role="img" aria-label="{positive} of {count} cases positive for {plain(name)}">{bars}
<path class="axis" d="M0 60.5H200"/><path class="line" d="M{x:.1f} 0V64"/></svg>
<div class="scale"><span>0</span><span><b class="positive">{positive:,}</b> of {count:,} positive</span><span>1</span></div>
</figure>"""


def _column(place: int, below: int, positive: int, most: int) -> str:
    """One bin: what reaches the threshold stands on what does not."""
    if not below + positive:
        return ""
    height = max(58 * ((below + positive) / most) ** 0.5, 1.5)
    share = height * positive / (below + positive)
    said = f"<title>{place / BINS:.2f} to {(place + 1) / BINS:.2f}: {below + positive:,}</title>"
    parts = [
        f'<rect class="{name}" x="{place * 10 + 0.6:.1f}" y="{top:.1f}" width="8.8" height="{tall:.1f}">{said}</rect>'
        for name, top, tall in (("below", 60 - height + share, height - share), ("ok", 60 - height, share))
        if tall
    ]
    return "".join(parts)


def _material(tally: Tally) -> str:
    rows = [
        f'<tr><th scope="row">{shown(name or "none stated")}</th><td class="n">{count:,}</td>'
        f'<td class="n">{tally.answered[name]:,}</td></tr>'
        for name, count in sorted(tally.modalities.items(), key=lambda item: (-item[1], item[0]))
    ]
    listed = table(("modality", "inputs#", "answered#"), rows) if rows else "<p>Nothing was found.</p>"
    return f"""<section id="material"><h2>What came in</h2><p><b>{len(tally.studies):,}</b> studies,
<b>{len(tally.series):,}</b> series</p>{listed}</section>"""


def _timing(tally: Tally, run: Mapping[str, Any]) -> str:
    seconds = _seconds(run)
    answered = tally.statuses["ok"]
    rate = f"<b>{answered / seconds:,.1f}</b> answers a second" if seconds and answered else "Nothing was answered"
    within = " · ".join(
        f"{said} within {_brief(tally.within(share))}" for said, share in (("half", 0.5), ("99 %", 0.99))
    )
    rows = [_slow(one) for one in sorted(tally.slowest, key=lambda one: (-one.seconds, *one[1:]))]
    listed = table(("slowest", "took#", "modality", "ended"), rows) if rows else ""
    return f"""<section id="timing"><h2>How long it took</h2><p>{rate}{f"; of the inputs {within}" if rows else ""}</p>
{listed}</section>"""


def _slow(one: Slow) -> str:
    case = f"<code>{shown(one.case)}</code>" if one.case else '<span class="soft">no case; see inputs.csv</span>'
    end = f"{STATUSES.get(one.status, (one.status,))[0]}{f' ({one.reason})' if one.reason else ''}"
    return (
        f'<tr><th scope="row">{case}</th><td class="n">{_brief(one.seconds)}</td>'
        f"<td>{shown(one.modality)}</td><td>{shown(end)}</td></tr>"
    )


def _system(run: Mapping[str, Any]) -> str:
    return str(run.get("settings", {}).get("system", "medvit"))


def _seconds(run: Mapping[str, Any]) -> float:
    return float(run.get("seconds", 0))


def _when(run: Mapping[str, Any]) -> str:
    return shown(str(run.get("started", "time not recorded")).replace("T", " ").replace("Z", " UTC"))


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < MINUTE:
        return _brief(seconds)
    if whole < HOUR:
        return f"{whole // MINUTE} min {whole % MINUTE} s"
    days = f"{whole // DAY} d " if whole >= DAY else ""
    return f"{days}{whole % DAY // HOUR} h {whole % HOUR // MINUTE} min"


def _brief(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:,.1f} s"


def _share(count: int, total: int) -> str:
    return f"{100 * count / total:.1f} %" if total else ""
