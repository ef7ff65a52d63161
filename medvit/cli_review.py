"""The verb of the app: ``medvit review``, and what it says of the log of decisions."""

import argparse
import json

from medvit.command import DONE, NOTHING, path_of, words
from medvit.errors import MedvitError


def add_review(verb: argparse.ArgumentParser) -> None:
    """The words of ``medvit review``."""
    verb.add_argument(
        "out", nargs="+", type=path_of, metavar="OUT", help="folders that `medvit predict` wrote or is writing"
    )
    verb.add_argument(
        "--inputs", action="append", default=[], type=path_of, metavar="FOLDER", help="where relative paths start"
    )
    verb.add_argument("--blind", action="store_true", help="decide first, then see what the AI says")
    verb.add_argument("--readers", type=int, default=1, metavar="N", help="how many readers a case is for (1)")
    verb.add_argument("--reviewers", default="", metavar="A,B", help="who gets a link beside you")
    verb.add_argument("--show-identity", action="store_true", help="show patients' names and numbers")
    verb.add_argument("--address", default="127.0.0.1", help="where to listen (127.0.0.1); another one needs --login")
    verb.add_argument("--port", type=int, default=8501, help="where to listen (8501)")
    verb.add_argument("--login", type=path_of, metavar="FILE", help="a TOML file that says how people log in (OIDC)")
    verb.add_argument("--workers", type=int, default=2, help="guarded processes that open pictures (2)")
    verb.add_argument(
        "--segment", type=path_of, metavar="CHECKPOINT", help="of DBSAM: outlines what is in a reader's box"
    )
    verb.add_argument(
        "--evaluation", action="append", default=[], type=path_of, metavar="FILE",
        help="a report of medvit evaluate, for the analysis page (one beside OUT)",
    )  # fmt: skip
    verb.add_argument("--verify", action="store_true", help="check the log of decisions and end")
    verb.add_argument("--head", default="", metavar="COUNT:HASH", help="what the log must hold, as an export said")
    verb.add_argument("--export", type=path_of, metavar="FOLDER", help="write decisions (CSV, JSON) and masks, and end")
    verb.add_argument("--json", action="store_true", help="print the check as JSON")


def review(options: argparse.Namespace) -> int:
    """``medvit review``."""
    if options.verify:
        return _verified(options)
    if options.export:
        return _exported(options)
    if options.readers < 1 or options.workers < 1:
        raise MedvitError("--readers and --workers must be at least 1.")
    try:
        from apps.review import serve
    except ModuleNotFoundError as error:
        raise MedvitError(f"The app needs {error.name}. Install it by `pip install medvit[app]`.") from error
    from apps.review.desk import Settings

    settings = Settings(
        tuple(str(out) for out in options.out),
        tuple(str(base.resolve()) for base in options.inputs),
        options.blind,
        options.readers,
        options.show_identity,
        options.workers,
        str(options.segment.resolve()) if options.segment else "",
        serve.digest_of(options.segment) if options.segment else "",
        tuple(str(file.resolve()) for file in options.evaluation),
    )
    serve.start(settings, words(options.reviewers), options.address, options.port, options.login)
    return DONE


def _exported(options: argparse.Namespace) -> int:
    from apps.review.desk import Desk, Settings
    from apps.review.export import export, hand_out
    from apps.review.serve import starter

    bases = tuple(str(base.resolve()) for base in options.inputs)
    desk = Desk(Settings(tuple(map(str, options.out)), bases, workers=1))
    for run in desk.runs.values():
        head = export(run, desk.boards[run.key], desk.stores[run.key], options.export, starter())
        print(f"{options.export / f'decisions_{run.name}.csv'} and .json, head {head}")
        folder = options.export / f"masks_{run.name}"
        written, faults = hand_out(desk, run, folder, starter())
        if written:
            print(f"{folder}: readers' masks of {written} cases as NIfTI, and as DICOM SEG where the source is DICOM")
        for fault, count in faults.items():
            print(f"{count} times: {fault}")
    desk.pool.close()
    return DONE


def _verified(options: argparse.Namespace) -> int:
    from apps.review.verify import verify

    verdicts = {str(out): verify(out, options.head) for out in options.out}
    if options.json:
        print(json.dumps({out: verdict._asdict() for out, verdict in verdicts.items()}))
    for out, (rows, head, faults) in () if options.json else verdicts.items():
        print(*faults, f"{out}: {rows} rows, {'whole' if not faults else 'NOT whole'}, head {rows}:{head}", sep="\n")
    return NOTHING if any(verdict.faults for verdict in verdicts.values()) else DONE
