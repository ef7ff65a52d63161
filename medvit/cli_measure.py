"""The verbs that measure a checkpoint and ask it for its reasons: ``medvit evaluate`` and ``medvit explain``."""

import argparse
import json
from pathlib import Path
from typing import Any

from medvit.errors import MedvitError


def add_cells(verb: argparse.ArgumentParser, of: str) -> None:
    """The word that makes pictures of cells of one folder, or of one patient of a table, one case."""
    text = f"pictures (PNG, JPEG, BMP, TIFF) show a cell each; those of one {of} are one case"
    verb.add_argument("--cells", action="store_const", const=of, default="", help=text)


def add_evaluate(verb: argparse.ArgumentParser) -> None:
    """The words of ``medvit evaluate``."""
    verb.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="best.ckpt or model.safetensors of a run")
    verb.add_argument(
        "table", type=Path, metavar="TABLE", help="a CSV of path, patient_id, split and a column a finding"
    )
    verb.add_argument(
        "-o", "--out", type=Path, metavar="OUT", help="the folder (out/evaluation/<name of CHECKPOINT's folder>)"
    )
    verb.add_argument("--split", default="test", choices=("train", "val", "test"), help="what is measured (test)")
    verb.add_argument(
        "--against", type=Path, metavar="CHECKPOINT", help="another checkpoint, compared on the same cases"
    )
    verb.add_argument(
        "--by", default="", metavar="A,B", help="columns for subgroups (sex, age, view, device, site, modality)"
    )
    verb.add_argument("--draws", type=int, default=1_000, help="of patients, for every interval (1000)")
    verb.add_argument("--data-licence", default="", metavar="TEXT", help="for the model card")
    verb.add_argument("--weights-licence", default="", metavar="TEXT", help="for the model card")
    verb.add_argument("--workers", type=int, default=1, help="guarded processes that read (1); 0 guards nothing")
    verb.add_argument("--batch-size", type=int, default=16, help="cases answered at once (16)")
    verb.add_argument("--mpp", default="", metavar="UM|TABLE", help="micrometres a pixel of slides that do not say")
    add_cells(verb, "patient")
    verb.add_argument("--device", default="auto", help="cpu, cuda, … (auto)")
    verb.add_argument("--json", action="store_true", help="print evaluation.json")


def evaluate(options: argparse.Namespace) -> int:
    """``medvit evaluate``."""
    for path in (options.checkpoint, options.table, *filter(None, [options.against])):
        if not path.is_file():
            raise MedvitError(f"{path} is not there. Give a checkpoint, then a table of labelled cases.")
    if options.workers < 0 or options.batch_size < 1 or options.draws < 1:
        raise MedvitError("--workers must be at least 0, --batch-size and --draws at least 1.")
    from medvit.evaluation import Asked
    from medvit.evaluation import evaluate as measure

    device = device_of(options.device)
    system, identity = _opened(options.checkpoint, options.mpp, options.cells)
    unknown = {name: told for name, told in
               (("data_licence", options.data_licence), ("weights_licence", options.weights_licence)) if told}  # fmt: skip
    asked = Asked(
        options.split, words(options.by), options.draws, options.workers, options.batch_size, device, **unknown
    )
    out = options.out or Path("out", "evaluation", options.checkpoint.resolve().parent.name)
    against = _opened(options.against, options.mpp, options.cells) if options.against else None
    told = measure(system, identity, options.table, out, asked, against)
    print(json.dumps(told, indent=2) if options.json else text(told, out))
    return 0


def _opened(path: Path, mpp: str, cells: str) -> tuple[Any, dict[str, Any]]:
    from medvit import weights, workflow

    card, state = weights.read_own(path)
    system = workflow.build_system(card, state, path)
    for option, text in (("mpp", mpp), ("cells", cells)):
        if text:
            system.told(option, text)
    return system, {"name": path.name, "sha256": weights.file_digest(path), **card}


def text(told: dict[str, Any], out: Path) -> str:
    """The numbers for a terminal."""
    from medvit.writers.evaluation_page import number

    lines = [
        f"{told['cases']} cases of {told['patients']} patients, split {told['split']}; thresholds from {told['points_from']}"
    ]
    for name, one in {**told["labels"], "mean": {"measures": told["mean"]}}.items():
        positives = f"  {one['positives']} of {one['known']} positive" if "known" in one else ""
        lines.append(f"{name:28} AUROC {number(one['measures'].get('auroc'))}{positives}")
    for name, one in told.get("against", {}).get("labels", {}).items():
        lines.append(f"{name:28} difference {number(one['difference'])}")
    return "\n".join([*lines, f"{out}/evaluation.html  model_card.md  evaluation.json  answers.csv", told["notice"]])


def add_explain(verb: argparse.ArgumentParser) -> None:
    """The words of ``medvit explain``."""
    verb.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="best.ckpt or model.safetensors of a run")
    verb.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help="files and folders; with --score a table")
    verb.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="the folder for maps or scores")
    verb.add_argument(
        "--method", default="", metavar="A,B", help="which methods (all); a wrong name tells which there are"
    )
    verb.add_argument("--labels", default="", metavar="A,B", help="which labels (those at or above their threshold)")
    verb.add_argument("--score", action="store_true", help="measure the methods on a table of labelled cases instead")
    verb.add_argument(
        "--mask-values", default="", metavar="2,3", help="with --score: what in the table's masks is the finding"
    )
    verb.add_argument("--boxes", type=Path, metavar="TABLE", help="with --score: a CSV of where findings lie")
    verb.add_argument(
        "--split", default="test", choices=("train", "val", "test"), help="with --score: of the table (test)"
    )
    verb.add_argument(
        "--most", type=int, default=40, metavar="N", help="with --score: findings that are asked about (40)"
    )
    verb.add_argument("--mpp", default="", metavar="UM|TABLE", help="micrometres a pixel of slides that do not say")
    add_cells(verb, "folder")
    verb.add_argument(
        "--workers", type=int, default=1, help="guarded processes that read and write (1); 0 guards nothing"
    )
    verb.add_argument("--device", default="auto", help="cpu, cuda, … (auto)")
    verb.add_argument("--json", action="store_true", help="print the result as JSON")


def explain(options: argparse.Namespace) -> int:
    """``medvit explain``."""
    for path in (options.checkpoint, *options.inputs, *filter(None, [options.boxes])):
        if not path.exists():
            raise MedvitError(f"{path} is not there. Give a checkpoint, then cases, or with --score a table of them.")
    if options.score and (len(options.inputs) != 1 or not options.inputs[0].is_file()):
        raise MedvitError("--score takes one table of labelled cases.")
    from medvit import explanation

    system, identity = _opened(options.checkpoint, options.mpp, options.cells)
    system.to(device_of(options.device))
    methods = words(options.method)
    values = words(options.mask_values)
    if not all(value.isdecimal() for value in values):
        raise MedvitError(f"--mask-values {options.mask_values}: give whole numbers, such as 2.")
    if options.score:
        told = explanation.score(system, options.inputs[0], options.out, options.split, methods, options.boxes,
                                 options.workers, options.most, tuple(map(int, values)))  # fmt: skip
        print(json.dumps(told, indent=2) if options.json else explanation.text(told))
        return 0
    methods = methods or tuple(explanation.methods_of(system))
    counts = explanation.explain(
        system, options.inputs, options.out, methods, words(options.labels), options.workers, identity["sha256"]
    )
    print(json.dumps(counts) if options.json else f"explained {counts['explained']}  refused {counts['refused']}")
    return 0 if counts["explained"] and not counts["refused"] else 3 if counts["explained"] else 1


def device_of(asked: str) -> str:
    """The device to compute on, once it has proved to be there."""
    import torch

    device = asked if asked != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise MedvitError(f"--device {device} cannot be used here: {str(error).splitlines()[0]}.") from error
    return device


def words(text: str) -> tuple[str, ...]:
    """The words of a list with commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())
