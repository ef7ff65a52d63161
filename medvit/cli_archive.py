"""The verbs that speak with an archive: ``medvit pull`` and ``medvit push``."""

import argparse
import json
import sys

from medvit.command import DONE, NOTHING, PARTLY, path_of, words


def add_pull(verb: argparse.ArgumentParser) -> None:
    """The words of ``medvit pull``."""
    _add_archive(verb)
    verb.add_argument("-o", "--out", type=path_of, required=True, metavar="FOLDER", help="the folder for the films")
    verb.add_argument("--study", default="", metavar="UID", help="of this study")
    verb.add_argument("--series", default="", metavar="UID", help="of this series of the study")
    verb.add_argument(
        "--patient-id", default="", metavar="ID", help="of this patient; - reads the ID from standard input"
    )
    verb.add_argument("--modality", default="", metavar="CR,DX", help="of these modalities")
    verb.add_argument("--date", default="", metavar="FROM-TO", help="of studies of this time, as 20260101-20260131")
    verb.add_argument("--limit", type=int, metavar="N", help="fetch at most so many")


def add_push(verb: argparse.ArgumentParser) -> None:
    """The words of ``medvit push``."""
    verb.add_argument("out", type=path_of, metavar="OUT", help="the folder that `medvit predict` wrote")
    _add_archive(verb)


def _add_archive(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("url", metavar="URL", help="root of the archive's DICOMweb service, as https://pacs/dicom-web")
    verb.add_argument(
        "--ca", type=path_of, metavar="FILE", help="certificates (PEM) to trust instead of the usual ones"
    )
    verb.add_argument("--insecure", action="store_true", help="allow http:// to another machine: data in clear text")
    verb.add_argument("--json", action="store_true", help="print the counts as JSON")
    verb.epilog = f"""{verb.epilog}
user and password, or a token, come from the environment: MEDVIT_DICOMWEB_USER and MEDVIT_DICOMWEB_PASSWORD, or
MEDVIT_DICOMWEB_TOKEN."""


def pull(options: argparse.Namespace) -> int:
    """``medvit pull``."""
    from medvit.archive import Archive
    from medvit.pull import Query
    from medvit.pull import pull as fetch

    patient = sys.stdin.readline().strip() if options.patient_id == "-" else options.patient_id
    query = Query(options.study, options.series, patient, words(options.modality), options.date)
    return _moved(options, fetch(Archive(options.url, options.insecure, options.ca), options.out, query, options.limit))


def push(options: argparse.Namespace) -> int:
    """``medvit push``."""
    from medvit.archive import Archive
    from medvit.push import push as send

    return _moved(options, send(Archive(options.url, options.insecure, options.ca), options.out))


def _moved(options: argparse.Namespace, counts: dict[str, int]) -> int:
    """Tell what became of the objects; the exit code."""
    told = "  ".join(f"{name} {count}" for name, count in counts.items())
    print(json.dumps(counts) if options.json else f"{told}  in {options.out}")
    good = ("fetched", "kept", "verified")
    if all(not count for name, count in counts.items() if name not in good):
        return DONE
    return PARTLY if any(counts.get(name) for name in good) else NOTHING
