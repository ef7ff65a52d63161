"""What a run says against what its readers say: counts by finding, shares with intervals, agreement beyond chance."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from apps.review.kappa import Kappa, cohen, wilson
from apps.review.readings import Board, Decision
from apps.review.runs import NONE, Run

KINDS = ("present", "absent")
BINS = 5

Readings = Mapping[str, Mapping[str, Mapping[str, tuple[str, bool]]]]  # finding, case, reviewer: reading, blind


class Against(NamedTuple):
    """A finding: how often AI and readers say it. Readers' majority; ties and doubt are counted as unclear.

    Args:
        finding: Its label.
        both: Cases in which both say it.
        ai_only: In which the AI alone does.
        readers_only: In which the readers alone do.
        neither: In which neither does.
        unclear: Decided, but not by a majority for present or absent.
        blind: Of all decided cases those in which every reader had not yet seen the AI's answer.
        kappa: Cohen's, of the AI and the readers' majority.
    """

    finding: str
    both: int
    ai_only: int
    readers_only: int
    neither: int
    unclear: int
    blind: int
    kappa: Kappa

    @property
    def decided(self) -> int:
        """Cases that somebody decided about."""
        return self.both + self.ai_only + self.readers_only + self.neither + self.unclear

    @property
    def sensitivity(self) -> tuple[float, float, float]:
        """Of what readers say is there, the share that the AI says too, with Wilson's interval."""
        return wilson(self.both, self.both + self.readers_only)

    @property
    def specificity(self) -> tuple[float, float, float]:
        """Of what readers say is not there, the share that the AI leaves alone, with Wilson's interval."""
        return wilson(self.neither, self.neither + self.ai_only)

    @property
    def confirmed(self) -> tuple[float, float, float]:
        """Of what the AI says, the share that readers confirm, with Wilson's interval."""
        return wilson(self.both, self.both + self.ai_only)


def readings(run: Run, board: Board) -> Readings:
    """What every reader says of every finding, by what they decided and by what they wrote that it should be.

    Accepting that nothing is above its threshold says that every finding of the case is absent; "it should be …" says that the
    finding named there is present. A decision about a finding itself counts before both.
    """
    told: dict[str, dict[str, dict[str, tuple[str, bool]]]] = defaultdict(lambda: defaultdict(dict))
    direct: list[tuple[str, str, str, Decision]] = []
    for case, who, finding, made in board.everything():
        if case not in run.rows:
            continue
        direct.append((case, who, finding, made))
        if finding == NONE and made.verdict == "accept":
            for said in run.rows[case].said:
                told[said.label][case][who] = ("absent", made.blind)
    for case, who, finding, made in direct:
        corrected = board.remark(case, who, finding).corrected
        if corrected and run.rows[case].finding(corrected):
            told[corrected][case][who] = ("present", made.blind)
    for case, who, finding, made in direct:
        if finding != NONE and run.rows[case].finding(finding):
            told[finding][case][who] = (made.reading, made.blind)
    return told


def majority(said: Sequence[str]) -> str:
    """What most readers say: present or absent; "" where they are undecided or balanced."""
    counted = Counter(said)
    return "" if counted["present"] == counted["absent"] else max(KINDS, key=counted.__getitem__)


def against(run: Run, told: Readings) -> list[Against]:
    """Every finding that was decided about."""
    found = []
    for finding, cases in sorted(told.items()):
        ai: list[str] = []
        readers: list[str] = []
        unclear = blind = 0
        for case, people in cases.items():
            said = run.rows[case].finding(finding)
            most = majority([reading for reading, _ in people.values()])
            blind += all(is_blind for _, is_blind in people.values())
            if said and most:
                ai.append("present" if said.positive else "absent")
                readers.append(most)
            else:
                unclear += 1
        counted = Counter(zip(ai, readers, strict=True))
        both, ai_only = counted["present", "present"], counted["present", "absent"]
        readers_only, neither = counted["absent", "present"], counted["absent", "absent"]
        kappa = cohen(ai, readers, KINDS)
        found.append(Against(finding, both, ai_only, readers_only, neither, unclear, blind, kappa))
    return found


def calibration(run: Run, told: Readings) -> list[tuple[str, int, float, float]]:
    """Range of probability, decided findings, their mean probability, and the share that readers hold for present."""
    bins: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for finding, cases in told.items():
        for case, people in cases.items():
            said = run.rows[case].finding(finding)
            most = majority([reading for reading, _ in people.values()])
            if said and most:
                bins[min(int(said.probability * BINS), BINS - 1)].append((said.probability, most == "present"))
    return [
        (
            f"{place / BINS:.1f} to {(place + 1) / BINS:.1f}",
            len(held),
            sum(p for p, _ in held) / len(held),
            sum(is_there for _, is_there in held) / len(held),
        )
        for place, held in sorted(bins.items())
    ]


def apart(one: tuple[float, float, float], other: tuple[float, float, float]) -> str:
    """How a share lies to another by their intervals: below, above, or "" where they overlap or one is not defined."""
    if any(math.isnan(number) for number in (*one, *other)):
        return ""
    return "below" if one[2] < other[1] else "above" if one[1] > other[2] else ""
