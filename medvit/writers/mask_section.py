"""What ``report.html`` says of masks: how many, what they measure, what was asked, and those to look at first."""

from collections.abc import Mapping

from medvit.writers.markup import plain, section, shown, table
from medvit.writers.mask_tally import PIXELS, MaskTally, Measure, Outlined, Shaky


def mask_sections(tally: MaskTally, pictures: Mapping[str, str]) -> str:
    """The parts of the page about masks; nothing where there are none.

    Args:
        tally: The masks, counted.
        pictures: ``data:`` URIs of ``masks.png`` by case.
    """
    if not tally.labels:
        return ""
    ordered = sorted(tally.labels.items(), key=lambda item: (-item[1].masks, item[0]))
    rows = [_row(name, label) for name, label in ordered]
    columns = ("label", "masks#", "empty#", "score, mean#", "lowest#", "size, mean#", "from, to#", "asked by")
    spacings = "; ".join(f"{shown(name)}: {count:,}" for name, count in sorted(tally.spacings.items()) if count)
    said = (
        '<p class="soft">A score is what the network itself expects of a mask (the overlap with the truth, 0 to 1), no '
        "probability of a finding. Sizes are in millimetres only where the source says how far its pixels lie apart. "
        f"Cases by where that comes from: {spacings}.</p>"
    )
    cards = "".join(_card(one, pictures.get(one.case, "")) for one in sorted(tally.worst, reverse=True))
    return section("masks", "Masks", said + table(columns, rows)) + section(
        "shaky",
        "Masks with the lowest scores",
        '<p class="soft">To look at first. A picture shows every mask of its case; every mask is in masks.csv.</p>'
        f'<div class="cards">{cards}</div>',
    )


def _row(name: str, label: Outlined) -> str:
    prompts = ", ".join(f"{shown(how or 'not recorded')} {count:,}" for how, count in sorted(label.prompts.items()))
    means, spans = [], []
    for unit, (count, total, least, most) in sorted(label.sizes.items()):
        means.append(_size(Measure(total / count, unit)))
        spans.append(f"{_number(least)} to {_number(most)}")
    cells = (
        f"{label.masks:,}", f"{label.empty:,}", f"{label.score / label.masks:.2f}", f"{label.lowest:.2f}",
        "<br>".join(means), "<br>".join(spans),
    )  # fmt: skip
    numbers = "".join(f'<td class="n">{cell}</td>' for cell in cells)
    return f'<tr><th scope="row">{shown(name)}</th>{numbers}<td>{prompts}</td></tr>'


def _card(one: Shaky, picture: str) -> str:
    seen = (
        f'<img src="{picture}" alt="Masks of the case {plain(one.case)}">'
        if picture
        else '<div class="none">no picture written</div>'
    )
    told = [_size(one.measure), f"spacing: {shown(one.spacing)}", f"asked by {shown(one.prompt or 'nothing recorded')}"]
    if one.stopped:
        told.append(f"ends {shown(one.stopped)}")
    soft = "".join(f'<span class="soft">{text}</span>' for text in told)
    return (
        f'<figure>{seen}<figcaption><b>{shown(one.label)}</b><span class="n">{-one.sureness:.3f}</span>{soft}'
        f"<code>{shown(one.case)}</code></figcaption></figure>"
    )


def _size(measure: Measure) -> str:
    unit = "pixels, no mm" if measure.unit == PIXELS else measure.unit
    return f"{_number(measure.value)} {unit}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
