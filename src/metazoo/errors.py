"""Errors of metazoo.

The message of an error is made from its fields: `subject: problem; remedy`. The command line prints it and ends with
`exit_code`: 2 for wrong use, 1 for a failed job.
"""


class MetazooError(Exception):
    """Base class of all errors: a failed job.

    Args:
        subject: file, model, option or argument at fault, such as `--ways` or `zoo/models/a.json`; or the complete
            message, if nothing else is given.
        problem: problem with the subject, such as `must be 2 or more, not 1`.
        remedy: advice in the imperative, such as `choose one of adapt, evaluate`.
    """

    exit_code = 1

    def __init__(self, subject: object, problem: str = "", remedy: str = "") -> None:
        super().__init__(str(subject), problem, remedy)
        self.subject, self.problem, self.remedy = str(subject), problem, remedy

    def __str__(self) -> str:
        """Message in one line."""
        message = f"{self.subject}: {self.problem}" if self.problem else self.subject
        return f"{message}; {self.remedy}" if self.remedy else message


class UsageError(MetazooError):
    """Wrong use: an unknown option value, a path that does not exist, an impossible N-way K-shot."""

    exit_code = 2


class ArtefactError(MetazooError):
    """A file is missing, damaged or changed, or cannot be written."""


class DataError(MetazooError):
    """Images or labels cannot be used."""


class ZooError(MetazooError):
    """A zoo or one of its models is unsound."""


class QueryBudgetError(ZooError):
    """A request exceeds the query budget of a teacher; no image was sent."""

    def __init__(self, teacher: str, budget: int, queries: int, asked: int) -> None:
        super().__init__(
            f"teacher {teacher!r}",
            f"{asked} images exceed the {budget - queries} queries left of its budget of {budget}",
            "raise the budget or ask for fewer images",
        )
        self.args = teacher, budget, queries, asked
        self.teacher, self.budget, self.queries, self.asked = teacher, budget, queries, asked


class RunError(MetazooError):
    """A run folder is in use or incomplete, or holds another run."""


class Interrupted(MetazooError):  # noqa: N818 - like KeyboardInterrupt, it is not a mistake
    """The user or the system stopped the process; finished work is kept."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.args = message, exit_code
        self.exit_code = exit_code


def shown(value: object) -> str:
    """Text of a foreign value for an error, with at most 80 characters, all printable."""
    return repr(str(value)[:80])[1:-1]


def only_printable(text: str, most: int) -> str:
    """First `most` characters of a foreign text, with `?` for unprintable characters."""
    return "".join(character if character.isprintable() else "?" for character in text[:most])
