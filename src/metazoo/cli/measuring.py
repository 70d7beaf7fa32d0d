"""What can be typed to measure, to compare and to report."""

from typing import Any

from metazoo.cli import options
from metazoo.cli.values import natural, numbers, positive


def measuring(commands: Any) -> None:
    """Add the commands."""
    _evaluate(commands)
    _compare(commands)
    _report(commands)


def _evaluate(commands: Any) -> None:
    evaluate = commands.add_parser(
        "evaluate",
        help="measure a run or an untrained zoo on unseen classes",
        description="Measure N-way K-shot accuracy. A zoo is measured as its untrained ensemble.",
    )
    evaluate.add_argument("subject", metavar="RUN_OR_ZOO", help="folder of a run, a zoo or a meta-model")
    evaluate.add_argument("--data", required=True, help=options.DATA_HELP + "; classes that no model has seen")
    evaluate.add_argument("--ways", type=positive, default=5, help="classes an episode (default: %(default)s)")
    evaluate.add_argument("--shots", type=numbers, default=(1, 5), help="support images a class (default: 1,5)")
    evaluate.add_argument("--queries", type=positive, default=15, help="query images a class (default: %(default)s)")
    evaluate.add_argument("--episodes", type=positive, default=1000, help="for each of --shots (default: %(default)s)")
    options.head(evaluate)
    evaluate.add_argument("--seed", type=natural, default=0, help="of the episodes (default: %(default)s)")
    evaluate.add_argument("--baselines", action="store_true", help="add the rows that any zoo offers")
    evaluate.add_argument(
        "--image-size",
        type=positive,
        help="side in pixels to read images at (default: that of a pack or cifar-fs, else the models' largest input)",
    )
    options.images_per_class(evaluate)
    evaluate.add_argument(
        "--exclude-known",
        action="store_true",
        help="leave out classes with the name of one that a model of the zoo was trained on, or the run selected by",
    )
    options.threads(evaluate)
    options.device(evaluate)
    evaluate.add_argument("--out", help="RESULT.json to write, with the episodes beside it")
    evaluate.add_argument("--overwrite", action="store_true", help="replace OUT where it is there already")
    evaluate.set_defaults(command="evaluation:evaluate")


def _compare(commands: Any) -> None:
    compare = commands.add_parser(
        "compare",
        help="compare what was measured on the same episodes, in pairs",
        description="Compare results that `metazoo evaluate --out` wrote, on the same episodes: differences in pairs.",
    )
    compare.add_argument(
        "rows",
        metavar="[NAME=]FILE[,FILE...]",
        nargs="+",
        help="RESULT.json; of several, such as those of other training seeds, the mean is compared",
    )
    compare.add_argument(
        "--against", metavar="NAME", help="row that all are compared with (default: the last one of the first file)"
    )
    compare.add_argument(
        "--format", choices=("table", "csv"), default="table", help="of the output (default: %(default)s)"
    )
    compare.set_defaults(command="comparison:compare_results")


def _report(commands: Any) -> None:
    report = commands.add_parser(
        "report",
        help="one HTML file on a run, to look at and to hand on",
        description="Write one HTML file on a run: its zoo, what it has recovered, grouped and learned, and how good "
        "that is. It needs nothing beside it, and no network.",
    )
    report.add_argument("run", metavar="RUN", help="folder of a run, finished or not")
    report.add_argument("results", metavar="RESULT", nargs="*", help="RESULT.json that `evaluate --out` has written")
    report.add_argument("--out", help="HTML file to write; replaces a report (default: report.html in RUN)")
    report.add_argument("--zoo", help="of the run, where it is not where it was any more")
    report.add_argument(
        "--no-images", dest="images", action="store_false", help="show no image that was recovered from a model"
    )
    report.set_defaults(command="reporting:report")
