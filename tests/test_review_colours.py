"""The app's colours as people see them who lack one kind of cone; and that no colour ever speaks alone.

Simulation: Machado, Oliveira and Fernandes 2009, "A Physiologically-based Model for Simulation of Color Vision Deficiency"
(IEEE TVCG 15, 6), the matrices of severity 1.0 for linear RGB. Differences: CIE 1976 in L*a*b* (D65). Contrast: WCAG 2.2, 1.4.3
and 1.4.11.
"""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from apps.review.readings import OPEN, PARTLY, READ
from apps.review.worklist import STATE_WORDS

COMPONENTS = Path(__file__).parents[1] / "apps/review/components"
STYLE, SHARED = ((COMPONENTS / name).read_text(encoding="utf-8") for name in ("style.css", "shared.js"))
SEEN = {
    "all cones": np.eye(3),
    "protanopia": np.array([
        (0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998),
    ]),
    "deuteranopia": np.array([
        (0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881),
    ]),
    "tritanopia": np.array([
        (1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900),
    ]),
}  # fmt: skip
XYZ = np.array([
    (0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041),
])  # fmt: skip
WHITE = XYZ.sum(axis=1)
TOLD_APART = 20.0  # in L*a*b*; about 2 can just be told apart side by side
BACKGROUND = "#0e1114"


def linear(colour):
    """sRGB, as #rrggbb or three numbers up to 255, to linear RGB."""
    if isinstance(colour, str):
        colour = [int(colour[place : place + 2], 16) for place in (1, 3, 5)]
    share = np.array(colour, float) / 255
    return np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)


def lab(colour, eyes):
    """L*, a*, b* of a colour as those eyes see it."""
    value = XYZ @ (SEEN[eyes] @ linear(colour)).clip(0, 1) / WHITE
    root = np.where(value > (6 / 29) ** 3, np.cbrt(value), value / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def contrast(one, other, eyes):
    light, dark = sorted(((SEEN[eyes] @ linear(each)).clip(0, 1) @ XYZ[1] for each in (one, other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def colour_of(rule):
    """The colour or background that the style sheet gives a class."""
    (body,) = re.findall(re.escape(rule) + r" \{([^}]*)\}", STYLE)
    return re.search(r"(?:^|[ ;])(?:color|background): (#[0-9a-f]{6}|#fff)", body)[1].replace("#fff", "#ffffff")[:7]


ACCEPT, REJECT, UNCERTAIN = (colour_of(rule) for rule in (".accept", ".reject", ".uncertain"))
FILL, POSITIVE, TRACK = (colour_of(rule) for rule in (".fill", ".fill.positive", ".track"))


def ramp():
    """The heat map's colours at 64 steps, as the browser mixes them."""
    steps = np.array(re.findall(r"\[(\d+), (\d+), (\d+)\]", SHARED[SHARED.index("INFERNO = ") :])[:9], float)
    from_place, share = (float(text) for text in re.search(r"place = \(([\d.]+) \+ ([\d.]+) \*", SHARED).groups())
    places = (from_place + share * np.linspace(0, 1, 64)) * 8
    return np.stack([np.interp(places, np.arange(9), steps[:, channel]) for channel in range(3)], axis=1)


def test_the_simulation_leaves_greys_alone_and_takes_red_and_green_from_who_lacks_their_cones():
    for eyes in SEEN:
        grey = lab("#808080", eyes)
        assert abs(grey[0] - 53.59) < 0.5 and np.abs(grey[1:]).max() < 1
    red, green = "#c80000", "#409000"
    assert np.linalg.norm(lab(red, "all cones") - lab(green, "all cones")) > 100
    assert np.linalg.norm(lab(red, "deuteranopia") - lab(green, "deuteranopia")) < 40
    assert np.linalg.norm(lab("#0050ff", "tritanopia") - lab("#007060", "tritanopia")) < 60


@pytest.mark.parametrize("eyes", SEEN)
def test_states_are_told_apart_and_read_on_the_dark_page(eyes):
    for one, other in itertools.combinations((ACCEPT, REJECT, UNCERTAIN), 2):
        assert np.linalg.norm(lab(one, eyes) - lab(other, eyes)) > TOLD_APART, (one, other)
    for colour in (ACCEPT, REJECT, UNCERTAIN, colour_of(".soft")):
        assert contrast(colour, BACKGROUND, eyes) >= 4.5, colour
    assert np.linalg.norm(lab(FILL, eyes) - lab(POSITIVE, eyes)) > TOLD_APART
    for bar in (FILL, POSITIVE):
        assert contrast(bar, TRACK, eyes) >= 3


@pytest.mark.parametrize("eyes", SEEN)
def test_the_heat_maps_colours_rise_in_lightness_for_all_eyes_and_every_tenth_is_told_apart(eyes):
    seen = np.array([lab(colour, eyes) for colour in ramp()])
    assert (np.diff(seen[:, 0]) > 0).all()
    tenths = seen[np.linspace(0, 63, 11).round().astype(int)]
    assert np.linalg.norm(np.diff(tenths, axis=0), axis=1).min() > 5
    assert seen[0, 0] > 10  # nothing that is shown is as dark as a film's ground
    line = lab("#56b4e9", eyes)  # an outline over the map keeps its dark seam, and differs from what it lies on
    assert np.linalg.norm(seen - line, axis=1).min() > 15


def test_every_state_is_a_word_and_a_sign_too():
    assert len({STATE_WORDS[state] for state in (OPEN, PARTLY, READ)}) == 3
    findings = (COMPONENTS / "findings.js").read_text(encoding="utf-8")
    signs = dict(re.findall(r'(\w+): "([^"]+)"', re.search(r"SIGNS = \{(.*?)\}", findings)[1]))
    assert len({signs[name].strip() for name in ("accept", "reject", "uncertain")}) == 3
    assert "${SIGNS[one.sign]}${one.verdict}" in findings  # sign and word, in that colour
    assert "▲" in findings and "▲" in (COMPONENTS / "worklist.js").read_text(encoding="utf-8")
    assert "repeating-linear-gradient" in STYLE[STYLE.index(".uncertain") :][:200]
    assert "setLineDash(one.own ? []" in (COMPONENTS / "film.js").read_text(encoding="utf-8")  # and each says its name
