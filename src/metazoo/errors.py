"""Every error that metazoo raises on purpose.

A message names the thing (file, model, option) and the remedy in one plain sentence. The command line prints that
sentence and ends with `exit_code`: 2 for wrong use, 1 for a job that failed.
"""


class MetazooError(Exception):
    """A job that could not be done."""

    exit_code = 1


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
        super().__init__(teacher, budget, queries, asked)
        self.teacher, self.budget, self.queries, self.asked = teacher, budget, queries, asked

    def __str__(self) -> str:
        return (
            f"teacher {self.teacher!r} was asked for {self.asked} images, but only {self.budget - self.queries} of its "
            f"budget of {self.budget} queries are left; raise the budget or ask for fewer images"
        )


class RunError(MetazooError):
    """A run folder is in use, incomplete or does not fit what was asked."""


class Interrupted(MetazooError):  # noqa: N818 - like KeyboardInterrupt, it reports no mistake
    """The user or the system asked the process to stop; what was finished is kept."""

    def __init__(self, message: str, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def shown(value: object) -> str:
    """What an error may say of a value that comes from outside: its text, at most 80 characters, all printable."""
    return repr(str(value)[:80])[1:-1]


def only_printable(text: str, most: int) -> str:
    """The first `most` characters of a text from outside, with a question mark for each that cannot be printed."""
    return "".join(character if character.isprintable() else "?" for character in text[:most])
