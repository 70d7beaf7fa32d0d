"""Every error that metazoo raises on purpose.

The message is made from the fields: `subject: problem; remedy`. The command line prints it and ends with `exit_code`:
2 for wrong use, 1 for a job that failed.
"""


class MetazooError(Exception):
    """A job that could not be done.

    Args:
        subject: file, model, option or argument at fault, such as `--ways` or `zoo/models/a.json`; or the complete
            message, if nothing else is given.
        problem: what is wrong with it, such as `must be 2 or more, not 1`.
        remedy: what to do about it, in the imperative, such as `choose one of adapt, evaluate`.
    """

    exit_code = 1

    def __init__(self, subject: object, problem: str = "", remedy: str = "") -> None:
        super().__init__(str(subject), problem, remedy)
        self.subject, self.problem, self.remedy = str(subject), problem, remedy

    def __str__(self) -> str:
        """The message in one line."""
        message = f"{self.subject}: {self.problem}" if self.problem else self.subject
        return f"{message}; {self.remedy}" if self.remedy else message


class UsageError(MetazooError):
    """Wrong use: an unknown option value, a path that does not exist, an impossible N-way K-shot."""

    exit_code = 2


class ArtefactError(MetazooError):
    """A file that metazoo wrote or reads is missing, damaged, changed or cannot be written."""


class DataError(MetazooError):
    """Images or labels that cannot be used."""


class ZooError(MetazooError):
    """A zoo or one of its models is unsound."""


class QueryBudgetError(ZooError):
    """More images were asked of a query teacher than its budget leaves; none of them was sent."""

    def __init__(self, teacher: str, budget: int, queries: int, asked: int) -> None:
        super().__init__(
            f"teacher {teacher!r}",
            f"{asked} images exceed the {budget - queries} queries left of its budget of {budget}",
            "raise the budget or ask for fewer images",
        )
        self.args = teacher, budget, queries, asked
        self.teacher, self.budget, self.queries, self.asked = teacher, budget, queries, asked


class RunError(MetazooError):
    """A run folder is in use, incomplete or does not fit what was asked."""


class Interrupted(MetazooError):  # noqa: N818 - like KeyboardInterrupt, it reports no mistake
    """The user or the system asked the process to stop; what was finished is kept."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.args = message, exit_code
        self.exit_code = exit_code


def shown(value: object) -> str:
    """What an error may say of a value that comes from outside: its text, at most 80 characters, all printable."""
    return repr(str(value)[:80])[1:-1]


def only_printable(text: str, most: int) -> str:
    """The first `most` characters of a text from outside, with a question mark for each that cannot be printed."""
    return "".join(character if character.isprintable() else "?" for character in text[:most])
