"""What the verbs of the command share: exit codes, lists of words, the device."""

import argparse
from pathlib import Path

from medvit.errors import MedvitError

DONE, NOTHING, WRONG, PARTLY = 0, 1, 2, 3


def device_of(asked: str) -> str:
    """The device to compute on, once it has proved to be there."""
    import torch

    device = asked if asked != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise MedvitError(f"--device {device} cannot be used here: {str(error).splitlines()[0]}.") from error
    return device


def path_of(text: str) -> Path:
    """A path of the command line; an empty one, as an unset variable of a script gives, is not the working directory."""
    if not text:
        raise argparse.ArgumentTypeError("it is empty; is a variable of your script not set?")
    return Path(text)


def words(text: str) -> tuple[str, ...]:
    """The words of a list with commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())
