"""What the masks of a run add up to, for its page; in bounded memory, as `medvit.writers.tally`."""

import heapq
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

WORST = 12  # masks shown
LABELS = 200  # counted by themselves, since a table of boxes may hold any; the others together
OTHERS = "all other labels"
MM2, ML, PIXELS = "mm²", "ml", "pixels"


class Measure(NamedTuple):
    """What a mask measures: pixels where nobody knows how far they lie apart."""

    value: float
    unit: str


class Shaky(NamedTuple):
    """A mask; the one with the lowest score of its own sorts last."""

    sureness: float  # the score, below zero
    case: str
    label: str
    measure: Measure
    prompt: str
    stopped: str
    spacing: str


@dataclass(slots=True)
class Outlined:
    """The masks of one label."""

    masks: int = 0
    empty: int = 0
    score: float = 0.0  # summed
    lowest: float = 1.0
    prompts: Counter[str] = field(default_factory=Counter)
    sizes: dict[str, list[float]] = field(default_factory=dict)  # unit to count, sum, least and most

    def add(self, mask: Mapping[str, Any]) -> None:
        """Count one."""
        score, size = float(mask["score"]), measured(mask)
        self.masks += 1
        self.empty += not mask["pixels"]
        self.score += score
        self.lowest = min(self.lowest, score)
        self.prompts[str(mask.get("prompt", "")).partition(":")[0]] += 1
        count, total, least, most = self.sizes.get(size.unit, (0, 0.0, size.value, size.value))
        self.sizes[size.unit] = [count + 1, total + size.value, min(least, size.value), max(most, size.value)]


@dataclass(slots=True)
class MaskTally:
    """All of them."""

    labels: dict[str, Outlined] = field(default_factory=dict)
    worst: list[Shaky] = field(default_factory=list)
    spacings: Counter[str] = field(default_factory=Counter)  # cases by where their millimetres come from

    def add(self, record: Mapping[str, Any]) -> None:
        """Count the masks of a record."""
        masks = record.get("masks", ())
        spacing = str(record.get("origin", {}).get("spacing", "not recorded"))
        self.spacings[spacing] += bool(masks)
        for mask in masks:
            label = str(mask["label"])
            name = label if label in self.labels or len(self.labels) < LABELS else OTHERS
            self.labels.setdefault(name, Outlined()).add(mask)
            prompt, stopped = str(mask.get("prompt", "")), str(mask.get("stopped", ""))
            one = Shaky(-float(mask["score"]), str(record["case"]), label, measured(mask), prompt, stopped, spacing)
            (heapq.heappush if len(self.worst) < WORST else heapq.heappushpop)(self.worst, one)


def measured(mask: Mapping[str, Any]) -> Measure:
    """Volume, area or pixels of a mask of a record."""
    for name, unit in (("volume_ml", ML), ("area_mm2", MM2)):
        if mask.get(name) is not None:
            return Measure(float(mask[name]), unit)
    return Measure(float(mask["pixels"]), PIXELS)
