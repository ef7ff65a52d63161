"""The HTML of ``evaluation.html``: one file, no script, no address outside it, drawings as inline SVG."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from medvit.writers import charts
from medvit.writers.markup import plain, shown
from medvit.writers.style import document

FOREST_MOST = 60  # rows of a forest plot
WORDS = {
    "auroc": "AUROC", "auprc": "AUPRC", "brier": "Brier score", "ece": "Calibration error (ECE)",
    "sensitivity": "Sensitivity", "specificity": "Specificity", "balanced_accuracy": "Balanced accuracy",
    "ppv": "Positive predictive value", "npv": "Negative predictive value",
}  # fmt: skip

FOOT = """<p>Every number of this page is in <b>evaluation.json</b>, every answer in <b>TABLE</b>. Intervals are 95 %,
by drawing patients anew. Cases go by the key that they have in TABLE; this page names no patient.</p>
"""


def evaluation_page(told: Mapping[str, Any], pictures: Mapping[tuple[str, str], str]) -> str:
    """The whole page.

    Args:
        told: What ``evaluation.json`` holds.
        pictures: ``data:`` URIs of the worst errors, by case and label.
    """
    sections = [_overview(told), _summary(told), *(_label(name, one) for name, one in told["labels"].items())]
    sections += [_places(told), _groups(told), _against(told), _worst(told, pictures), _attention(told)]
    return whole_page(told, sections, "answers.csv")


def whole_page(told: Mapping[str, Any], sections: Sequence[str], table: str) -> str:
    """A page of sections, with what was measured in its head and the name of the table of answers in its foot."""
    title = f"{plain(told['system'])}: {told['cases']:,} cases of split {plain(told['split'])}"
    by = f"{shown(told['checkpoint']['name'])} · {shown(told['table'])} · medvit {shown(told['medvit'])}"
    foot = FOOT.replace("TABLE", table)
    return document(title, by, [part for part in sections if part], foot, more_css=charts.CSS)


def number(told: Sequence[float | None] | None) -> str:
    """A value with its interval."""
    if not told or told[0] is None:
        return "not defined"
    value, low, high = told
    return f"{value:.3f}" + (f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else "")


def short(told: Sequence[float | None] | None) -> str:
    """A value with its interval in two digits."""
    if not told or told[0] is None:
        return "not defined"
    value, low, high = told
    return f"{value:.2f}" + (f" ({low:.2f} to {high:.2f})" if low is not None and high is not None else "")


def _overview(told: Mapping[str, Any]) -> str:
    far = told["out_of_distribution"]
    facts = {
        "Cases": f"{told['cases']:,} of {told['patients']:,} patients",
        "Not answered": f"{told['unanswered']['count']:,}"
        + "".join(f", {shown(reason)} {count}" for reason, count in told["unanswered"]["reasons"].items()),
        "Operating points": shown(told["points_from"]),
        "Calibration": shown(told["calibration"]),
        "Unlike training": f"{far['over']:,} of {far['known']:,} cases"
        if far["known"]
        else "not known of this checkpoint",
        "Intervals": f"95 %, {told['draws']:,} draws of patients",
        "Checkpoint": f"<code>{shown(told['checkpoint']['sha256'][:16])}</code>",
    }
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items())
    return f'<section id="what"><h2>What was measured</h2><dl>{rows}</dl></section>'


def _summary(told: Mapping[str, Any]) -> str:
    measures = ("auroc", "auprc", "brier", "ece")
    head = "".join(f'<th scope="col" class="n">{WORDS[name]}</th>' for name in measures)
    rows = []
    for name, one in {**told["labels"], "mean": None}.items():
        values = told["mean"] if one is None else one["measures"]
        count = "" if one is None else f"{one['positives']:,} of {one['known']:,}"
        warned = one is not None and one["positives"] < 20
        few = ' <span class="warn">few</span>' if warned else ""
        cells = "".join(f'<td class="n">{number(values.get(measure))}</td>' for measure in measures)
        rows.append(f'<tr><th scope="row">{shown(name)}</th><td class="n">{count}{few}</td>{cells}</tr>')
    return f"""<section id="summary"><h2>Labels</h2><table><thead><tr><th scope="col">label</th>
<th scope="col" class="n">positive</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>
<p class="soft">Few cases look worse calibrated than they are: the interval of the calibration error is about what it
would be of many, and may lie below the figure beside it.</p></section>"""


def _label(name: str, one: Mapping[str, Any]) -> str:
    said = plain(name)
    plots = (
        ("Sensitivity and 1 - specificity", charts.curve(
            one["roc"], f"ROC of {said}", ("1 - specificity", "sensitivity"), "rising")),
        ("Precision and recall", charts.curve(one["pr"], f"Precision and recall of {said}", ("recall", "precision"))),
        ("Reliability", charts.reliability(one["reliability"], f"Reliability of {said}")),
    )  # fmt: skip
    figures = "".join(f"<figure><figcaption>{title}</figcaption>{drawing}</figure>" for title, drawing in plots)
    rows = []
    for at, point in one["points"].items():
        cells = "".join(
            f'<td class="n">{short(one["measures"].get(f"{measure}@{at}"))}</td>'
            for measure in ("sensitivity", "specificity", "balanced_accuracy", "ppv", "npv")
        )
        counts = "".join(f'<td class="n">{point[cell]:,}</td>' for cell in ("tp", "fn", "fp", "tn"))
        rows.append(
            f'<tr><th scope="row">{shown(at)}</th><td class="n">{point["threshold"]:.3f}</td>{counts}{cells}</tr>'
        )
    columns = ("threshold", "true pos.", "missed", "false pos.", "true neg.", "sensitivity", "specificity",
               "balanced acc.", "PPV", "NPV")  # fmt: skip
    head = "".join(f'<th scope="col" class="n">{column}</th>' for column in columns)
    return f"""<section><h2>{shown(name)}</h2><div class="plots">{figures}</div>
<table class="points"><thead><tr><th scope="col">operating point</th>{head}</tr></thead>
<tbody>{"".join(rows)}</tbody></table></section>"""


def _places(told: Mapping[str, Any]) -> str:
    """FROC, where somebody drew where lesions lie."""
    found = [(name, how, one) for name, each in told.get("froc", {}).items() for how, one in each.items()]
    if not found:
        return ""
    alarms = list(found[0][2]["sensitivity"])
    head = "".join(f'<th scope="col" class="n">at {at}</th>' for at in alarms)
    rows = "".join(
        f'<tr><th scope="row">{shown(name)}</th><td class="word">{shown(how)}</td><td class="n">{one["lesions"]:,}</td>'
        f'<td class="n">{short(one["score"])}</td>'
        + "".join(f'<td class="n">{one["sensitivity"][at][0]:.2f}</td>' for at in alarms)
        + "</tr>"
        for name, how, one in found
    )
    most = float(alarms[-1])
    drawn = "".join(
        f"<figure><figcaption>{shown(name)}, {shown(how)}</figcaption>"
        + charts.steps([(x / most, y) for x, y in one["curve"]], f"FROC of {plain(name)}",
                       ("false alarms an image", "lesions found"), alarms[-1])
        + "</figure>"
        for name, how, one in found
    )  # fmt: skip
    return f"""<section id="places"><h2>Lesions found and false alarms (FROC)</h2><p class="soft">{shown(found[0][2]["is"])}
The score is the mean share of lesions found at the false alarms an image named above the columns.</p>
<table class="points"><thead><tr><th scope="col">label</th><th scope="col">by</th><th scope="col" class="n">lesions</th>
<th scope="col" class="n">score</th>{head}</tr></thead><tbody>{rows}</tbody></table>
<div class="plots places">{drawn}</div></section>"""


def _groups(told: Mapping[str, Any]) -> str:
    if not told["subgroups"]:
        return ""
    parts = []
    for label in ("mean", *told["labels"]):
        rows = [one for one in told["subgroups"] if one["label"] == label]
        if label == "mean" and len(told["labels"]) == 1:
            continue
        drawn = []
        for one in rows[:FOREST_MOST]:
            value, low, high = one["measures"].get("auroc") or (None, None, None)
            words = f"{one['column']} {one['group']}: {one['positives']}/{one['known']}"
            drawn.append((plain(words[:44]), value, low, high, bool(one["warning"])))
        forest = charts.forest(drawn, f"AUROC of {plain(label)} by group")
        if label == "mean" or len(told["labels"]) == 1:
            parts.append(f"<p>AUROC, {shown(label)}; positive of known truths behind each group.</p>{forest}")
        else:
            parts.append(f"<details><summary>{shown(label)}</summary>{forest}</details>")
    few = sum(1 for one in told["subgroups"] if one["warning"])
    warned = (
        f'<p class="warn">{few} of these stand on fewer than 20 positive cases (marked); read them as anecdotes.</p>'
    )
    return f'<section id="groups"><h2>Subgroups</h2>{warned if few else ""}{"".join(parts)}</section>'


def _against(told: Mapping[str, Any]) -> str:
    other = told.get("against")
    if not other:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{shown(name)}</th><td class="n">{number([one["auroc"], None, None])}</td>'
        f'<td class="n">{number([one["auroc_against"], None, None])}</td><td class="n">{number(one["difference"])}</td>'
        f'<td class="n">{number([one["delong_p"], None, None])}</td></tr>'
        for name, one in other["labels"].items()
    )
    note = (
        "<p>Patients have several cases: trust the drawn interval, DeLong's test takes cases as independent.</p>"
        if other["patients_repeat"]
        else ""
    )
    return f"""<section id="against"><h2>Against {shown(other["checkpoint"]["name"])}</h2>{note}<table><thead><tr>
<th scope="col">label</th><th scope="col" class="n">AUROC</th><th scope="col" class="n">of the other</th>
<th scope="col" class="n">difference, paired draws</th><th scope="col" class="n">p (DeLong)</th></tr></thead>
<tbody>{rows}</tbody></table></section>"""


def _worst(told: Mapping[str, Any], pictures: Mapping[tuple[str, str], str]) -> str:
    cards = []
    for one in told["worst"]:
        picture = pictures.get((one["case"], one["label"]), "")
        seen = (
            f'<img src="{picture}" alt="Regions that influenced the score of {plain(one["label"])}">'
            if picture
            else '<div class="none">no map</div>'
        )
        said = "missed" if one["truth"] else "false alarm"
        cards.append(
            f"<figure>{seen}<figcaption><b>{shown(one['label'])}</b><span class='n'>{one['probability']:.3f}</span>"
            f'<span class="soft">{said}; threshold {one["threshold"]:.3f}</span><code>{shown(one["case"])}</code>'
            "</figcaption></figure>"
        )
    content = (
        '<p class="soft">Furthest from the truth at the point of the largest sensitivity + specificity. Coloured: regions that '
        f'influenced the score, not where a disease is.</p><div class="cards">{"".join(cards)}</div>'
        if cards
        else "<p>No error.</p>"
    )
    return f'<section id="worst"><h2>Worst errors</h2>{content}</section>'


def _attention(told: Mapping[str, Any]) -> str:
    found = told.get("attention")
    if not found:
        return ""
    figures = (
        ("How much the loss rises without a head, by layer (rows) and head", charts.matrix(
            found["importance"], "Importance of heads", ("head", "layer"))),
        ("Mean distance that a head attends over, as a share of the image, by layer", charts.lines(
            [(f"head {h}", [(layer, row[h]) for layer, row in enumerate(found["distance"])])
             for h in range(len(found["distance"][0]))], "Attention distance", ("layer", "distance"))),
        *((f"Pattern {index + 1}: {pattern['heads']} heads. A patch's attention, itself at the centre", charts.matrix(
            pattern["map"], f"Pattern {index + 1}", ("columns", "rows"))) for index, pattern in enumerate(found["patterns"])),
    )  # fmt: skip
    drawn = "".join(f"<figure><figcaption>{escape(title)}</figcaption>{figure}</figure>" for title, figure in figures)
    return f"""<section id="attention"><h2>What its attention does</h2><p class="soft">On {found["cases"]} cases.</p>
<div class="plots">{drawn}</div></section>"""
