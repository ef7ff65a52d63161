"""``evaluation.html`` of a promptable system: Dice and surface Dice by structure, and the worst masks with their truth."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from scipy.ndimage import binary_erosion

from medvit.writers import charts
from medvit.writers.evaluation_page import number, whole_page
from medvit.writers.markup import plain, shown

SIDE = 256  # pixels of a small picture's longer side
LINE = 3  # pixels that an outline is wide there
LEAST = 24  # pixels of the source that are shown at least
TRUE, FOUND = (86, 180, 233), (230, 159, 0)  # Okabe and Ito: sky blue and orange
WORDS = {"dice": "Dice", "nsd": "Surface Dice (NSD)"}


def mask_page(told: Mapping[str, Any], pictures: Mapping[tuple[str, str], str]) -> str:
    """The whole page.

    Args:
        told: What ``evaluation.json`` holds.
        pictures: ``data:`` URIs of the worst masks, by case and structure.
    """
    return whole_page(
        told, [_overview(told), _structures(told), _groups(told), _against(told), _worst(told, pictures)], "masks.csv"
    )


def outlined(planes: NDArray[np.uint8], true: NDArray[np.bool_], found: NDArray[np.bool_]) -> str:
    """The part of a slice (C, H, W) of 0 to 255 around a true and a found mask (H, W), outlined, as a ``data:`` URI."""
    part = _around(true | found)
    seen = np.broadcast_to(planes, (3, *planes.shape[1:]))[:, *part].transpose(1, 2, 0)
    size = np.array(seen.shape[:2])
    rows, columns = (max(1, round(side)) for side in size * SIDE / size.max())
    pixels = np.array(Pillow.fromarray(np.ascontiguousarray(seen)).resize((columns, rows), Pillow.Resampling.BILINEAR))
    for mask, colour in ((true, TRUE), (found, FOUND)):
        large = np.asarray(Pillow.fromarray(mask[part]).resize((columns, rows), Pillow.Resampling.NEAREST))
        pixels[large & ~binary_erosion(large, iterations=LINE, border_value=1)] = colour
    small = BytesIO()
    Pillow.fromarray(pixels).save(small, "JPEG", quality=90, subsampling=0)
    return f"data:image/jpeg;base64,{b64encode(small.getvalue()).decode()}"


def _around(mask: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Rows and columns of a square around a mask, half as much again on each side, as far as the image reaches."""
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return slice(None), slice(None)
    ends = [(int(each[0]), int(each[-1]) + 1) for each in (rows, columns)]
    side = max(2 * max(last - first for first, last in ends), LEAST)
    top, left = (max(0, (first + last - side) // 2) for first, last in ends)
    return slice(top, top + side), slice(left, left + side)


def _overview(told: Mapping[str, Any]) -> str:
    refused = told["unanswered"]
    facts = {
        "Cases": f"{told['cases']:,} of {told['patients']:,} patients",
        "Not answered": f"{refused['count']:,}" + "".join(f", {shown(r)} {n}" for r, n in refused["reasons"].items()),
        "Prompts": shown(told["prompts"]),
        "Protocol": f"{shown(told['protocol'])}: {shown(told['protocol_is'])}",
        "NSD counts within": shown(told["tolerance"]),
        "Intervals": f"95 %, {told['draws']:,} draws of patients",
        "Checkpoint": f"<code>{shown(told['checkpoint']['sha256'][:16])}</code>",
    }
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts.items())
    return f'<section id="what"><h2>What was measured</h2><dl>{rows}</dl></section>'


def _structures(told: Mapping[str, Any]) -> str:
    head = "".join(f'<th scope="col" class="n">{word}</th>' for word in WORDS.values())
    rows = []
    for name, one in {**told["structures"], "mean of structures": told["mean"]}.items():
        count = f"{one['cases']:,} of {one['patients']:,} patients" if "cases" in one else ""
        cells = "".join(f'<td class="n">{number(one[measure])}</td>' for measure in WORDS)
        rows.append(f'<tr><th scope="row">{shown(name)}</th><td class="n">{count}</td>{cells}</tr>')
    drawn = [(plain(name[:44]), *one["dice"], False) for name, one in told["structures"].items()]
    return f"""<section id="structures"><h2>Structures</h2><table><thead><tr><th scope="col">structure</th>
<th scope="col" class="n">cases</th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>
<p class="soft">Dice with its interval:</p>{charts.forest(drawn, "Dice by structure")}</section>"""


def _groups(told: Mapping[str, Any]) -> str:
    if not told["subgroups"]:
        return ""
    drawn = [
        (plain(f"{one['column']} {one['group']}: {one['cases']} cases"[:44]), *one["dice"], bool(one["warning"]))
        for one in told["subgroups"]
    ]
    few = sum(bool(one["warning"]) for one in told["subgroups"])
    warned = f'<p class="warn">{few} of these have fewer than 20 cases (marked); read them as anecdotes.</p>'
    return f"""<section id="groups"><h2>Subgroups</h2>{warned if few else ""}<p>Mean Dice of structures.</p>
{charts.forest(drawn, "Dice by group")}</section>"""


def _against(told: Mapping[str, Any]) -> str:
    other = told.get("against")
    if not other:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{shown(name)}</th>{"".join(_cells(one))}</tr>'
        for name, one in {**other["structures"], "mean of structures": other["mean"]}.items()
    )
    head = "".join(f'<th scope="col" class="n">{word}, difference</th>' for word in WORDS.values())
    return f"""<section id="against"><h2>Against {shown(other["checkpoint"]["name"])}</h2><p>The same cases and draws.</p>
<table><thead><tr><th scope="col">structure</th>{head}</tr></thead><tbody>{rows}</tbody></table></section>"""


def _cells(one: Mapping[str, Sequence[float | None]]) -> list[str]:
    return [f'<td class="n">{number(one.get(measure))}</td>' for measure in WORDS]


def _worst(told: Mapping[str, Any], pictures: Mapping[tuple[str, str], str]) -> str:
    cards = []
    for one in told["worst"]:
        picture = pictures.get((one["case"], one["structure"]), "")
        seen = f'<img src="{picture}" alt="Outlines of {plain(one["structure"])}">' if picture else ""
        cards.append(
            f"<figure>{seen}<figcaption><b>{shown(one['structure'])}</b><span class='n'>{one['dice']:.3f}</span>"
            f'<span class="soft">Dice; {one["slices"]} slices</span><code>{shown(one["case"])}</code></figcaption></figure>'
        )
    said = "Blue: the true outline; orange: the answer's, also where they meet. Of a volume the slice with most of it."
    shown_cards = f'<div class="cards">{"".join(cards)}</div>'
    return f'<section id="worst"><h2>Lowest Dice</h2><p class="soft">{said}</p>{shown_cards}</section>'
