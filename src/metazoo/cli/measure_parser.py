"""Arguments of `metazoo evaluate`, `compare` and `report`. Nothing heavy is imported here."""

from typing import Any

from metazoo.cli import options
from metazoo.cli.options import command, numbers, positive
from metazoo.text import local_path


def add_commands(commands: Any) -> None:
    """Add the commands of the group."""
    _evaluate(commands)
    _compare(commands)
    _report(commands)


def _evaluate(commands: Any) -> None:
    evaluate = command(
        commands,
        "evaluate",
        "measure_commands:evaluate",
        "Measure a run or an untrained zoo on unseen classes",
        "Measure N-way K-shot accuracy. A zoo is measured as its untrained ensemble.",
    )
    evaluate.add_argument(
        "subject", type=local_path, metavar="RUN_OR_ZOO", help="Folder of a run, a zoo or a meta-model"
    )
    options.data(evaluate, text="Images of classes that no model has seen", required=True)
    evaluate.add_argument("--ways", type=positive, default=5, help="Classes per episode (default: %(default)s)")
    evaluate.add_argument("--shots", type=numbers, default=(1, 5), help="Support images per class (default: 1,5)")
    evaluate.add_argument("--queries", type=positive, default=15, help="Query images per class (default: %(default)s)")
    evaluate.add_argument(
        "--episodes", type=positive, default=1000, help="Episodes for each number of shots (default: %(default)s)"
    )
    options.head(evaluate)
    options.seed(evaluate)
    evaluate.add_argument("--baselines", action="store_true", help="Baselines that every zoo offers, as further rows")
    evaluate.add_argument(
        "--image-size",
        type=positive,
        help="Side in pixels at which images are read (default: that of a pack or cifar-fs, else the largest input of "
        "the models)",
    )
    options.images_per_class(evaluate)
    evaluate.add_argument(
        "--exclude-known",
        action="store_true",
        help="Exclusion of classes whose name a model of the zoo was trained on, or by which the run selected models",
    )
    options.threads(evaluate)
    options.device(evaluate)
    evaluate.add_argument(
        "--out", type=local_path, metavar="RESULT.json", help="Result file to write, with the episodes beside it"
    )
    evaluate.add_argument("--overwrite", action="store_true", help="Replacement of an existing result file")


def _compare(commands: Any) -> None:
    compare = command(
        commands,
        "compare",
        "measure_commands:compare_results",
        "Compare results on the same episodes, in pairs",
        "Compare result files of `metazoo evaluate --out` on the same episodes, by paired differences.",
    )
    compare.add_argument(
        "rows",
        metavar="[NAME=]FILE[,FILE...]",
        nargs="+",
        help="Result files, one row per argument; of several files, such as those of other training seeds, the mean is "
        "compared",
    )
    compare.add_argument(
        "--against", metavar="NAME", help="Row with which all are compared (default: the last row of the first file)"
    )
    compare.add_argument(
        "--format", choices=("table", "csv"), default="table", help="Format of the output (default: %(default)s)"
    )


def _report(commands: Any) -> None:
    report = command(
        commands,
        "report",
        "measure_commands:report",
        "Write an HTML report on a run",
        "Write one HTML file on a run: its zoo, what it recovered, grouped and learned, and its accuracy. The file "
        "needs nothing beside it, and no network.",
    )
    report.add_argument("run", type=local_path, metavar="RUN", help="Folder of a run, finished or not")
    report.add_argument(
        "results", type=local_path, metavar="RESULT", nargs="*", help="Result files of `metazoo evaluate --out`"
    )
    report.add_argument(
        "--out",
        type=local_path,
        help="HTML file to write; replaces an existing report (default: RUN/report.html)",
    )
    report.add_argument("--zoo", type=local_path, help="Zoo folder, if it has moved since the run")
    report.add_argument(
        "--no-images", dest="images", action="store_false", help="No images that were recovered from a model"
    )
