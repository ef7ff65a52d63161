"""What can go wrong in a way that the user can understand and act on."""


class MedvitError(Exception):
    """A sentence for the user: what is wrong, in which file or key, and what to do.

    The command line prints it and exits with 2; nothing else is caught there.
    """


class Halted(MedvitError):
    """The command is right but cannot go on: the disk is full, a signal came. The command line exits with 1."""


class Unanswered(MedvitError):
    """An input that gets no answer, with the reason in one word for tables and the sentence for people.

    Args:
        reason: Short stable name, such as ``truncated``; it ends up in ``inputs.csv``.
        message: What is wrong with the input and what to do about it, without the file's name.
    """

    status = "failed"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.reason, str(self))  # both arguments survive the way out of a worker process


class Skipped(Unanswered):
    """Not this system's kind of input: another modality, a report, a text file."""

    status = "skipped"


class Rejected(Unanswered):
    """This system's kind of input, but not fit to be answered: truncated, without pixels, not decodable."""

    status = "rejected"


class Unreferable(Unanswered):
    """A case that no DICOM object can refer to; its answer stands in tables and pictures all the same."""
