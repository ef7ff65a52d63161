"""The model card of a checkpoint: what it is for, what it learned from, how well it answers, what it cannot do."""

from collections.abc import Mapping, Sequence
from typing import Any

from medvit import NOTICE
from medvit.writers.evaluation_page import number

FEW = 20  # positive cases or patients below which a measure is warned of
USE = """Research on the published system that it follows: comparing methods, building and testing software around them. It is
no medical device. Nobody may be diagnosed, treated or sent home by what it says."""
LIMITS = (
    "Measured on one table; other hospitals, devices and populations may differ, see the subgroups.",
    "Labels and masks are taken as the table has them; errors in them count as errors of the system, or hide some.",
)
OF_FINDINGS = (
    "Thresholds come from validation cases, and their sensitivity elsewhere from nowhere but the split measured here.",
    "Heat maps show regions that influenced a score, never where a disease is.",
)
OF_MASKS = (
    "Boxes were made from the true masks or by who drew the table of boxes; boxes drawn in a hurry will give worse masks.",
    "An outline is an answer to a prompt: it says nothing of what nobody asked about.",
)


def model_card(told: Mapping[str, Any]) -> str:
    """The card as Markdown, of what ``evaluation.json`` holds."""
    card = told["checkpoint"]
    lines = [
        f"# Model card: {_text(told['system'])}", "", f"**{NOTICE}**", "",
        "## Intended use", "", USE, "",
        "## The checkpoint", "",
        f"- file `{_text(card['name'])}`, SHA-256 `{card['sha256']}`",
        f"- trained by medvit {_text(card.get('version', 'unknown'))}; evaluated by medvit {told['medvit']}",
        *_answers(told), "",
        *_settings(card.get("arguments", {})),
        "## Data", "",
        f"- table `{_text(told['table'])}`, SHA-256 `{told['table_sha256']}`",
        *_splits(told["splits"]),
        f"- licence of the data: {_text(told['data_licence'])}",
        f"- licence of the weights: {_text(told['weights_licence'])}", "",
        f"## Measured on split {_text(told['split'])}", "",
        f"{told['cases']} cases of {told['patients']} patients, {told['unanswered']['count']} more were not answered. "
        f"95 % intervals by {told['draws']} draws of patients.", "",
        *(_masks(told) if "structures" in told else _measures(told)), "",
        *_groups(told["subgroups"]),
        "## Limits", "", *(f"- {limit}" for limit in (*_limits(told), *_found(told))), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _answers(told: Mapping[str, Any]) -> list[str]:
    if "structures" in told:
        return ["- answers: a mask for every box or set of points"]
    return [
        f"- answers: {', '.join(_text(name) for name in told['labels'])}",
        f"- calibration: {_text(told['calibration'])}",
    ]


def _limits(told: Mapping[str, Any]) -> tuple[str, ...]:
    return (*LIMITS, *(OF_MASKS if "structures" in told else OF_FINDINGS))


def _text(value: object) -> str:
    """A text on one line, without what Markdown or a reader's browser would take for more."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c if c.isprintable() else " " for c in str(value))[:300]


def _settings(arguments: Mapping[str, Any]) -> list[str]:
    rows = [
        f"| {_text(name)} | {_text(value)} |" for name, value in arguments.items() if name not in ("weights", "labels")
    ]
    return ["| setting | value |", "|---|---|", *rows, ""] if rows else []


def _splits(splits: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [
        f"- {split}: {one['cases']} cases of {one['patients']} patients" + _positives(one)
        for split, one in splits.items()
    ]


def _positives(one: Mapping[str, Any]) -> str:
    if "positives" not in one:
        return ""
    return "; positive: " + ", ".join(f"{_text(name)} {count}" for name, count in one["positives"].items())


def _measures(told: Mapping[str, Any]) -> list[str]:
    rows = [
        f"Operating points from {_text(told['points_from'])}.",
        "",
        "| label | positive | AUROC | AUPRC | Brier | ECE | sensitivity | specificity |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in {**told["labels"], "mean": {"measures": told["mean"]}}.items():
        measures: Mapping[str, Sequence[float | None]] = one["measures"]
        wanted = ("auroc", "auprc", "brier", "ece", "sensitivity@youden", "specificity@youden")
        count = f"{one['positives']} of {one['known']}" if "known" in one else ""
        rows.append(f"| {_text(name)} | {count} | {' | '.join(number(measures.get(key)) for key in wanted)} |")
    for name, each in told.get("froc", {}).items():
        rows += ["", *(f"FROC of {_text(name)} by {_text(how)}: {number(one['score'])}, {one['lesions']} lesions."
                       for how, one in each.items())]  # fmt: skip
    return rows


def _masks(told: Mapping[str, Any]) -> list[str]:
    """Dice and surface Dice by structure, and how they were asked for."""
    rows = [
        f"Prompts: {_text(told['prompts'])}. Protocol {_text(told['protocol'])}: {_text(told['protocol_is'])}.", "",
        f"| structure | cases | Dice | surface Dice within {_text(told['tolerance'])} |",
        "|---|---|---|---|",
    ]  # fmt: skip
    for name, one in {**told["structures"], "mean": told["mean"]}.items():
        rows.append(f"| {_text(name)} | {one.get('cases', '')} | {number(one['dice'])} | {number(one['nsd'])} |")
    return rows


def _groups(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    if not groups:
        return []
    if "label" not in groups[0]:
        named = [
            f"| {_text(one['column'])} {_text(one['group'])} | {one['cases']} | {number(one['dice'])} | {one['warning']} |"
            for one in groups
        ]
        return ["## Subgroups", "", "| group | cases | Dice | |", "|---|---|---|---|", *named, ""]
    rows = [
        f"| {_text(one['column'])} {_text(one['group'])} | {_text(one['label'])} | {one['cases']} | {one['positives']} | "
        f"{number(one['measures'].get('auroc'))} | {one['warning']} |"
        for one in groups
    ]
    return [
        "## Subgroups",
        "",
        "| group | label | cases | positive | AUROC | |",
        "|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def _found(told: Mapping[str, Any]) -> list[str]:
    """Limits that this evaluation itself shows."""
    if "structures" in told:
        few = [name for name, one in told["structures"].items() if one["patients"] < FEW]
        said = [f"Fewer than {FEW} patients show {', '.join(map(_text, few))}: read their numbers as anecdotes."]
        return said if few else []
    few = [name for name, one in told["labels"].items() if one["positives"] < FEW]
    far = told["out_of_distribution"]
    said = []
    if few:
        said.append(
            f"Fewer than {FEW} positive cases were there of {', '.join(map(_text, few))}: read their numbers as anecdotes."
        )
    if far["over"]:
        said.append(
            f"{far['over']} of {far['known']} cases lie further from the training cases than validation cases do."
        )
    if not told["subgroups"]:
        said.append("The table has no column by which subgroups could be measured.")
    return said
