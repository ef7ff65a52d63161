"""The ``medvit`` command. Each verb imports what it needs, so that help and refusals come at once."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from medvit import NOTICE, __version__
from medvit.cli_archive import add_pull, add_push, pull, push
from medvit.cli_measure import add_cells, add_evaluate, add_explain, add_probe, evaluate, explain, probe
from medvit.cli_review import add_review, review
from medvit.command import DONE, NOTHING, PARTLY, WRONG, device_of, path_of, words
from medvit.errors import Halted, MedvitError
from medvit.memory import uncollected

WRITE = "csv,heat,sr,sc,geojson,gallery,png,nifti"
TOLD = ("mpp", "cells", "boxes", "points", "clean")  # options that a system takes, see `System.told`
MOST_WORKERS = 8  # by default; more of them wait for the network
EPILOG = f"""exit codes: 0 every input answered or skipped; 3 done, but some were rejected or failed;
2 the command is wrong; 1 nothing could be done.  {NOTICE}"""

log = logging.getLogger(__name__)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit code; errors of the user's are sentences, never tracebacks."""
    commands = parser()
    options, rest = commands.parse_known_args(argv)
    if rest and (not hasattr(options, "overrides") or any(word.startswith("-") for word in rest)):
        commands.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        options.overrides += rest  # argparse gives up on key=value words behind an option
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("medvit").setLevel(logging.INFO)  # of others warnings alone
    logging.captureWarnings(True)
    for chatty in ("py.warnings", "pydicom", "highdicom"):  # their texts quote values of headers
        quiet = logging.getLogger(chatty)
        quiet.disabled, quiet.propagate = True, False  # a level would be reset when pydicom is imported
        quiet.addHandler(logging.NullHandler())
    try:
        code: int = options.verb(options)
        sys.stdout.flush()
    except MedvitError as error:
        print(error, file=sys.stderr)
        return NOTHING if isinstance(error, Halted) else WRONG
    except BrokenPipeError:  # whoever reads, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return DONE
    except KeyboardInterrupt:
        print("Stopped. Go on with --resume." if hasattr(options, "resume") else "Stopped.", file=sys.stderr)
        return NOTHING
    return code


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        "medvit",
        description=f"Published medical-imaging systems around self-supervised Vision Transformers.\n{NOTICE}",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"medvit {__version__}. {NOTICE}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    _add_train(verbs)
    _add_predict(verbs)
    add_evaluate(_verb(verbs, "evaluate", evaluate, "Measure a checkpoint on labelled cases: report and model card."))
    add_explain(_verb(verbs, "explain", explain, "Show, and measure, what scores came from: maps by several methods."))
    _add_embed(verbs)
    add_probe(
        _verb(verbs, "probe", probe, "Say how well frozen features tell types of cells: linear probe and neighbours.")
    )
    add_review(
        _verb(
            verbs, "review", review, "Look at answers in the browser and decide about them; or check what was decided."
        )
    )
    add_pull(_verb(verbs, "pull", pull, "Fetch films from an archive (DICOMweb) into a folder, each one checked."))
    add_push(
        _verb(verbs, "push", push, "Send the DICOM objects of a prediction to an archive (DICOMweb) and verify them.")
    )
    _add_show(verbs)
    _add_doctor(verbs)
    return top


def _verb(verbs: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    verb: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=text, epilog=EPILOG, formatter_class=plain
    )
    verb.set_defaults(verb=run)
    return verb


def _add_train(verbs: Any) -> None:
    verb = _verb(verbs, "train", train, "Train a workflow, and first what it requires.")
    verb.add_argument("file", type=path_of, metavar="FILE", help="the workflow, such as workflows/thorax_mae.yaml")
    verb.add_argument("overrides", nargs="*", metavar="key=value", help="replace a key, such as trainer.max_epochs=3")
    verb.add_argument("-o", "--out", type=path_of, metavar="RUN", help="the run's folder (runs/<name of FILE>)")
    verb.add_argument("--resume", metavar="auto|CKPT", help="continue the run in its folder, or a checkpoint")
    verb.add_argument("--dry-run", action="store_true", help="check everything, build it, train nothing")
    verb.add_argument(
        "--folds", type=int, metavar="K", help="cross-validate: train K times, each tested on other patients"
    )
    verb.add_argument(
        "--allow-import", action="append", default=[], metavar="PACKAGE", help="allow classes of another package"
    )


def train(options: argparse.Namespace) -> int:
    """``medvit train``."""
    from medvit.workflow import open_workflow

    if options.folds is not None and not options.dry_run:
        with uncollected():
            from medvit.folds import train_folds

        allow = options.allow_import
        print(train_folds(options.file, options.folds, options.overrides, options.out, allow, options.resume))
        return DONE
    workflow = open_workflow(options.file, options.overrides, options.out, options.allow_import)
    with uncollected():
        from medvit import train as training

    if options.dry_run:
        training.rehearse(workflow)
        print(f"{options.file} can be trained into {workflow.run}.")
        return DONE
    print(training.train(workflow, options.resume))
    return DONE


def _add_predict(verbs: Any) -> None:
    verb = _verb(verbs, "predict", predict, "Answer files and folders of cases.")
    verb.add_argument("checkpoint", type=path_of, metavar="CHECKPOINT", help="best.ckpt or model.safetensors of a run")
    verb.add_argument(
        "inputs", nargs="+", type=path_of, metavar="INPUT", help="DICOM, PNG, JPEG or NIfTI files, folders, zips"
    )
    verb.add_argument(
        "-o", "--out", type=path_of, required=True, help="the folder for tables, pictures and DICOM objects"
    )
    verb.add_argument("--write", default=WRITE, help=f"what to write: {WRITE} (default), also pm and seg")
    verb.add_argument(
        "--synthetic-geometry", action="store_true", help="let pm and seg of radiographs carry an invented plane"
    )
    verb.add_argument("--modality", default="", metavar="CR,DX", help="answer these modalities only")
    verb.add_argument("--series", default="", metavar="UID,UID", help="answer these series only")
    verb.add_argument("--shard", default="1/1", metavar="I/N", help="answer the I-th of N parts of the inputs")
    verb.add_argument(
        "--boxes", default="", metavar="CSV", help="what to outline: path, label, x_min, y_min, x_max, y_max[, slice]"
    )
    verb.add_argument(
        "--points", default="", metavar="CSV", help="path, label, x, y, inside[, slice], inside being 1 or 0"
    )
    verb.add_argument(
        "--clean", default="", metavar="largest,N", help="keep the largest part of a mask, drop parts below N pixels"
    )
    _add_work(verb)
    verb.add_argument("--batch-size", type=int, default=16, help="cases answered at once (16)")
    verb.add_argument("--on-error", choices=("skip", "stop"), default="skip", help="what a bad input does (skip)")


def _add_work(verb: argparse.ArgumentParser) -> None:
    """How to work through many inputs."""
    verb.add_argument(
        "--workers",
        type=int,
        default=min(len(os.sched_getaffinity(0)), MOST_WORKERS),
        help="guarded processes that read and write, as many as cores by default; 0 guards nothing",
    )
    verb.add_argument(
        "--mpp",
        default="",
        metavar="UM|TABLE",
        help="micrometres a pixel of slides that do not say, or a CSV of path, mpp",
    )
    add_cells(verb, "folder")
    verb.add_argument(
        "--precision", choices=("auto", "32", "bf16"), default="auto", help="of the network: bf16 where that is fast"
    )
    verb.add_argument("--device", default="auto", help="cpu, cuda, … (auto)")
    verb.add_argument("--resume", action="store_true", help="go on with the run in the folder")
    verb.add_argument("--json", action="store_true", help="print the counts as JSON")


def _refuse_paths(options: argparse.Namespace) -> None:
    for path in (options.checkpoint, *options.inputs):
        if not path.exists():
            raise MedvitError(f"{path} is not there. Give an existing checkpoint, then files or folders of inputs.")
    if options.out.resolve() in (path.resolve() for path in options.inputs):
        raise MedvitError(
            f"{options.out} is an input, and what is written there would become one. Choose another folder."
        )


def predict(options: argparse.Namespace) -> int:
    """``medvit predict``."""
    _refuse_paths(options)
    part, _, parts = options.shard.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and 1 <= int(part) <= int(parts)):
        raise MedvitError(f"--shard {options.shard} is no part of the whole; give for example 2/4.")
    if options.workers > 0:
        from medvit.guard import preload

        preload(["medvit.duties"])  # the workers' imports run beside ours, which take seconds
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # a waiting thread of the network leaves its core to them

    with uncollected():
        from medvit import doctor, weights, workflow
        from medvit.account import Options
        from medvit.duties import WRITERS
        from medvit.predict import predict as answer

    write = words(options.write)
    unknown = [name for name in write if name not in WRITERS]
    if unknown:
        raise MedvitError(f"--write knows {', '.join(WRITERS)}, not {', '.join(unknown)}.")
    if options.batch_size < 1 or options.workers < 0:
        raise MedvitError("--batch-size must be at least 1 and --workers at least 0.")
    device = device_of(options.device)
    card, state = weights.read_own(options.checkpoint)
    system = workflow.build_system(card, state, options.checkpoint)
    told = {name: system.told(name, getattr(options, name)) for name in TOLD if getattr(options, name)}
    identity = {"name": options.checkpoint.name, "sha256": weights.file_digest(options.checkpoint), **card}
    if not card.get("calibration"):
        log.info("%s is not calibrated, and knows no distance from its training cases.", options.checkpoint)
    how = Options(
        write=write,
        batch_size=options.batch_size,
        workers=options.workers,
        precision=doctor.precision(device) if options.precision == "auto" else options.precision,
        device=device,
        stop_on_error=options.on_error == "stop",
        resume=options.resume,
        modality=words(options.modality.upper()),
        series=words(options.series),
        shard=(int(part), int(parts)),
        synthetic_geometry=options.synthetic_geometry,
        told=told,
    )
    return _told(options, answer(system, identity, options.inputs, options.out, how))


def _add_embed(verbs: Any) -> None:
    verb = _verb(
        verbs, "embed", embed, "Describe the tiles of slides by a frozen network: a feature file (HDF5) a slide."
    )
    verb.add_argument(
        "checkpoint",
        type=path_of,
        metavar="CHECKPOINT|FILE",
        help="best.ckpt of a system of slides, or a workflow of one",
    )
    verb.add_argument("inputs", nargs="+", type=path_of, metavar="INPUT", help="slides, folders, zips")
    verb.add_argument("-o", "--out", type=path_of, required=True, help="the folder for features and tables")
    _add_work(verb)
    verb.add_argument("--half", action="store_true", help="store features as float16")
    verb.add_argument("--clam", action="store_true", help="write features for CLAM too, into clam/h5_files")


def embed(options: argparse.Namespace) -> int:
    """``medvit embed``."""
    _refuse_paths(options)
    if options.workers < 0:
        raise MedvitError("--workers must be at least 0.")
    with uncollected():
        from medvit import doctor, train, weights, workflow
        from medvit.account import Options
        from medvit.embed import embed as describe

    device = device_of(options.device)
    if options.checkpoint.suffix in (".yaml", ".yml"):
        system, _, _ = train.instantiate(workflow.open_workflow(options.checkpoint))
        identity = {"name": options.checkpoint.name, "sha256": weights.state_digest(system.state_dict())}
    else:
        system = workflow.load_system(options.checkpoint)
        identity = {"name": options.checkpoint.name, "sha256": weights.file_digest(options.checkpoint)}
    told = {name: system.told(name, getattr(options, name)) for name in ("mpp", "cells") if getattr(options, name)}
    how = Options(
        write=(),
        workers=options.workers,
        precision=doctor.precision(device) if options.precision == "auto" else options.precision,
        device=device,
        resume=options.resume,
        told=told,
    )
    return _told(options, describe(system, identity, options.inputs, options.out, how, options.half, options.clam))


def _told(options: argparse.Namespace, counts: dict[str, int]) -> int:
    if options.json:
        print(json.dumps(counts))
    else:
        print("  ".join(f"{name} {count}" for name, count in counts.items()), f" in {options.out}\n{NOTICE}")
    if not counts["ok"] and not counts["skipped"]:
        return NOTHING
    return PARTLY if counts["rejected"] or counts["failed"] else DONE


def _add_show(verbs: Any) -> None:
    verb = _verb(
        verbs, "show", show, "Show what a workflow says, with every key it could say, or what a checkpoint is."
    )
    verb.add_argument("file", type=path_of, metavar="CHECKPOINT|FILE")
    verb.add_argument("--json", action="store_true", help="print it as JSON")


def show(options: argparse.Namespace) -> int:
    """``medvit show``."""
    from medvit import show as shown

    told = shown.workflow(options.file) if options.file.suffix in (".yaml", ".yml") else shown.checkpoint(options.file)
    print(json.dumps(told, indent=2) if options.json else shown.text(told))
    return DONE


def _add_doctor(verbs: Any) -> None:
    verb = _verb(verbs, "doctor", doctor, "Say what this machine can do: versions, arithmetic, DICOM decoders.")
    verb.add_argument("--json", action="store_true", help="print it as JSON")


def doctor(options: argparse.Namespace) -> int:
    """``medvit doctor``."""
    from medvit import doctor as examined

    told = examined.examine()
    print(json.dumps(told, indent=2) if options.json else examined.text(told))
    return DONE if not told["problems"] else NOTHING
