"""The verbs that measure a checkpoint and ask it for its reasons: ``medvit evaluate``, ``explain`` and ``probe``."""

import argparse
import json
from pathlib import Path
from typing import Any

from medvit.command import DONE, NOTHING, PARTLY, device_of, path_of, words
from medvit.errors import MedvitError
from medvit.memory import uncollected


def add_cells(verb: argparse.ArgumentParser, of: str) -> None:
    """The word that makes pictures of cells of one folder, or of one patient of a table, one case."""
    text = f"pictures (PNG, JPEG, BMP, TIFF) show a cell each; those of one {of} are one case"
    verb.add_argument("--cells", action="store_const", const=of, default="", help=text)


def add_evaluate(verb: argparse.ArgumentParser) -> None:
    """The words of ``medvit evaluate``."""
    verb.add_argument("checkpoint", type=path_of, metavar="CHECKPOINT", help="best.ckpt or model.safetensors of a run")
    verb.add_argument(
        "table",
        type=path_of,
        metavar="TABLE",
        help="a CSV of path, patient_id, split and a column a finding; for masks a column mask, or a folder",
    )
    verb.add_argument(
        "-o", "--out", type=path_of, metavar="OUT", help="the folder (out/evaluation/<name of CHECKPOINT's folder>)"
    )
    verb.add_argument("--split", default="test", choices=("train", "val", "test"), help="what is measured (test)")
    verb.add_argument(
        "--against", type=path_of, metavar="CHECKPOINT", help="another checkpoint, compared on the same cases"
    )
    verb.add_argument(
        "--by", default="", metavar="A,B", help="columns for subgroups (sex, age, view, device, site, modality)"
    )
    verb.add_argument("--draws", type=int, default=1_000, help="of patients, for every interval (1000)")
    verb.add_argument(
        "--protocol", default="slices", choices=("slices", "carried", "paper"),
        help="for masks: boxes on every slice (slices), one box carried through the volume, or DB-SAM's own protocol",
    )  # fmt: skip
    verb.add_argument(
        "--boxes",
        type=path_of,
        metavar="TABLE",
        help="where findings lie on films, for FROC; for masks the boxes to carry",
    )
    verb.add_argument(
        "--mask-values", default="", metavar="2,3", help="for FROC of slides: what in the table's masks is a lesion"
    )
    verb.add_argument(
        "--silence-um", type=float, default=746.0, metavar="UM", help="for FROC: a detection silences this square (746)"
    )
    verb.add_argument(
        "--structures", default="", metavar="1=liver,2=spleen", help="for masks: what their numbers are called"
    )
    verb.add_argument(
        "--tolerance-mm", type=float, default=2.0, metavar="MM", help="for masks: within which surfaces agree (2)"
    )
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
    for path in (options.checkpoint, *filter(None, [options.against, options.boxes])):
        if not path.is_file():
            raise MedvitError(f"{path} is not there. Give a checkpoint, then a table of labelled cases.")
    if not options.table.exists():
        raise MedvitError(f"{options.table} is not there. Give a checkpoint, then a table of labelled cases.")
    if options.workers < 0 or options.batch_size < 1 or options.draws < 1:
        raise MedvitError("--workers must be at least 0, --batch-size and --draws at least 1.")
    with uncollected():
        from medvit.evaluation import Asked
        from medvit.evaluation import evaluate as measure
        from medvit.tasks.segmentation import Segmentation

    device = device_of(options.device)
    system, identity = _opened(options.checkpoint, options.mpp, options.cells)
    if isinstance(system, Segmentation):
        return _evaluate_masks(options, system, identity, device)
    if options.structures or options.protocol != "slices":
        raise MedvitError("--protocol and --structures are for systems that answer masks.")
    if not options.table.is_file():
        raise MedvitError(f"{options.table} is no file. Give a table of labelled cases.")
    asked = Asked(
        **_asking(options, device), batch_size=options.batch_size, boxes=options.boxes,
        mask_values=numbers(options.mask_values), silence_um=options.silence_um,
    )  # fmt: skip
    out = _out(options)
    against = _opened(options.against, options.mpp, options.cells) if options.against else None
    told = measure(system, identity, options.table, out, asked, against)
    print(json.dumps(told, indent=2) if options.json else text(told, out))
    return DONE


def _asking(options: argparse.Namespace, device: str) -> dict[str, Any]:
    """What every evaluation is asked; licences that nobody told keep the words that say so."""
    licences = {name: getattr(options, name) for name in ("data_licence", "weights_licence")}
    told = {name: licence for name, licence in licences.items() if licence}
    shared = {"split": options.split, "by": words(options.by), "draws": options.draws, "workers": options.workers}
    return {**shared, "device": device, **told}


def _out(options: argparse.Namespace) -> Path:
    return options.out or Path("out", "evaluation", options.checkpoint.resolve().parent.name)


def _evaluate_masks(options: argparse.Namespace, system: Any, identity: dict[str, Any], device: str) -> int:
    with uncollected():
        from medvit.mask_evaluation import AskedMasks, evaluate_masks
    from medvit.writers.evaluation_page import number

    if options.boxes and options.protocol != "carried":
        raise MedvitError("--boxes are carried through volumes: add --protocol carried.")
    if not 0 < options.tolerance_mm < float("inf"):
        raise MedvitError("--tolerance-mm must be a length above 0.")
    asked = AskedMasks(
        **_asking(options, device), protocol=options.protocol, structures=structures_of(options.structures),
        tolerance_mm=options.tolerance_mm,
    )  # fmt: skip
    against = _opened(options.against, "", "") if options.against else None
    if against and not isinstance(against[0], type(system)):
        raise MedvitError(f"{options.against} answers no masks, so there is nothing to compare.")
    for one in (system, against and against[0]):
        if one and options.boxes:
            one.told("boxes", str(options.boxes))
    out = _out(options)
    told = evaluate_masks(system, identity, options.table, out, asked, against)
    if options.json:
        print(json.dumps(told, indent=2))
        return DONE
    print(f"{told['cases']} cases of {told['patients']} patients, {told['split']}; {told['protocol_is']}")
    for name, one in {**told["structures"], "mean": told["mean"]}.items():
        print(f"{name:20} Dice {number(one['dice'])}  NSD within {told['tolerance']} {number(one['nsd'])}")
    for name, one in told.get("against", {}).get("structures", {}).items():
        print(f"{name:20} difference of Dice {number(one['dice'])}")
    print(f"{out}/evaluation.html  model_card.md  evaluation.json  masks.csv\n{told['notice']}")
    return DONE


def structures_of(text: str) -> dict[int, str]:
    """What ``--structures`` says: names by the numbers of masks.

    Raises:
        MedvitError: For anything but ``1=liver,2=spleen``.
    """
    pairs = [word.partition("=") for word in words(text)]
    named = {int(number): name.strip() for number, _, name in pairs if number.strip().isdecimal() and name.strip()}
    if len(named) < len(pairs) or len(set(named.values())) < len(named):
        raise MedvitError(
            f"--structures {text}: give numbers of the masks and names, each once, such as 1=liver,2=spleen."
        )
    return named


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
    for name, by_method in told["froc"].items():
        lines += [
            f"{name:28} FROC {number(one['score'])}, {one['lesions']} lesions, {how}" for how, one in by_method.items()
        ]
    for name, one in told.get("against", {}).get("labels", {}).items():
        lines.append(f"{name:28} difference {number(one['difference'])}")
    return "\n".join([*lines, f"{out}/evaluation.html  model_card.md  evaluation.json  answers.csv", told["notice"]])


def add_explain(verb: argparse.ArgumentParser) -> None:
    """The words of ``medvit explain``."""
    verb.add_argument("checkpoint", type=path_of, metavar="CHECKPOINT", help="best.ckpt or model.safetensors of a run")
    verb.add_argument(
        "inputs", nargs="+", type=path_of, metavar="INPUT", help="files and folders; with --score a table"
    )
    verb.add_argument("-o", "--out", type=path_of, required=True, metavar="OUT", help="the folder for maps or scores")
    verb.add_argument(
        "--method", default="", metavar="A,B", help="which methods (all); a wrong name tells which there are"
    )
    verb.add_argument("--labels", default="", metavar="A,B", help="which labels (those at or above their threshold)")
    verb.add_argument("--score", action="store_true", help="measure the methods on a table of labelled cases instead")
    verb.add_argument(
        "--mask-values", default="", metavar="2,3", help="with --score: what in the table's masks is the finding"
    )
    verb.add_argument("--boxes", type=path_of, metavar="TABLE", help="with --score: a CSV of where findings lie")
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
    with uncollected():
        from medvit import explanation

    system, identity = _opened(options.checkpoint, options.mpp, options.cells)
    system.to(device_of(options.device))
    methods = words(options.method)
    values = numbers(options.mask_values)
    if options.score:
        told = explanation.score(system, options.inputs[0], options.out, options.split, methods, options.boxes,
                                 options.workers, options.most, values)  # fmt: skip
        print(json.dumps(told, indent=2) if options.json else explanation.text(told))
        return DONE
    methods = methods or tuple(explanation.methods_of(system))
    counts = explanation.explain(
        system, options.inputs, options.out, methods, words(options.labels), options.workers, identity["sha256"]
    )
    print(json.dumps(counts) if options.json else f"explained {counts['explained']}  refused {counts['refused']}")
    return DONE if counts["explained"] and not counts["refused"] else PARTLY if counts["explained"] else NOTHING


def add_probe(verb: argparse.ArgumentParser) -> None:
    """The words of ``medvit probe``."""
    verb.add_argument("checkpoint", type=path_of, metavar="CHECKPOINT", help="of a system of smears")
    verb.add_argument("cells", type=path_of, metavar="CELLS", help="a folder or table of labelled cells")
    verb.add_argument(
        "--kind",
        choices=("folders", "table", "hicervix"),
        default="table",
        help="train/<class>_<n>.png under a folder, a CSV of path, split, class[, x, y, patient_id] (default), or HiCervix",
    )
    verb.add_argument("--classes", default="", metavar="A,B", help="the types that there may be (all that are found)")
    verb.add_argument("--group", default="", metavar="REGEX", help="of folders: what in a file's name is its source")
    verb.add_argument("--level", default="level_3", help="of HiCervix: the column that is the type (level_3)")
    verb.add_argument("--stains", choices=("one", "mixed"), default="one", help="mixed: the set is meant to mix stains")
    verb.add_argument("-o", "--out", type=path_of, help="a folder for probe.json")
    verb.add_argument("--json", action="store_true", help="print it as JSON")


def probe(options: argparse.Namespace) -> int:
    """``medvit probe``."""
    for path in (options.checkpoint, options.cells):
        if not path.exists():
            raise MedvitError(f"{path} is not there. Give a checkpoint, then a folder or table of cells.")
    with uncollected():
        from medvit import probe as probing
        from medvit.workflow import load_system

    classes = words(options.classes)
    told = probing.probe(load_system(options.checkpoint), options.kind, options.cells, classes, options.group,
                         options.level, options.stains)  # fmt: skip
    if options.out:
        probing.write(told, options.out)
    print(json.dumps(told, indent=2) if options.json else probing.text(told))
    return DONE


def numbers(text: str) -> tuple[int, ...]:
    """The whole numbers of ``--mask-values``.

    Raises:
        MedvitError: For anything else.
    """
    if not all(word.isdecimal() for word in words(text)):
        raise MedvitError(f"--mask-values {text}: give whole numbers, such as 2.")
    return tuple(map(int, words(text)))
