"""Arguments of `metazoo evaluate`, `compare`, `report` and `track`. It imports nothing heavy."""

from typing import Any

from metazoo.cli import options
from metazoo.cli.options import command, numbers, path, positive


def add_commands(commands: Any) -> None:
    """Add the commands of the group."""
    _evaluate(commands)
    _compare(commands)
    _report(commands)
    _track(commands)


def _evaluate(commands: Any) -> None:
    evaluate = command(
        commands,
        "evaluate",
        "measure_commands:evaluate",
        "Measure a run or an untrained zoo on unseen classes",
        "Measure N-way K-shot accuracy. A zoo is measured as its untrained ensemble.",
    )
    evaluate.argument("subject", "RUN_OR_ZOO", "Folder of a run, a zoo or a meta-model, or hf:OWNER/NAME[@REVISION]")
    options.data(evaluate, text="Images of classes that no model has seen", required=True)
    evaluate.option("--ways", "Classes per episode", positive, 5)
    evaluate.option("--shots", "Support images per class", numbers, (1, 5))
    evaluate.option("--queries", "Query images per class", positive, 15)
    evaluate.option("--episodes", "Episodes for each number of shots", positive, 1000)
    options.head(evaluate)
    options.seed(evaluate)
    evaluate.switch("--baselines", "Add the baselines of the zoo to the table")
    evaluate.option("--zoo", "Zoo folder, if it has moved since the run", path)
    evaluate.option(
        "--image-size",
        "Side of the images in pixels (default: side of a pack or cifar-fs, else of the largest model input)",
        positive,
    )
    options.images_per_class(evaluate)
    evaluate.switch(
        "--exclude-known",
        "Leave out classes that a model of the zoo was trained on, by name",
    )
    options.threads(evaluate)
    options.device(evaluate)
    evaluate.option("--out", "Result file to write, with accuracies per episode beside it", path, metavar="RESULT.json")
    evaluate.switch("--overwrite", "Replace an existing result file")


def _compare(commands: Any) -> None:
    compare = command(
        commands,
        "compare",
        "measure_commands:compare_results",
        "Compare results on the same episodes",
        "Compare result files of `metazoo evaluate --out` on the same episodes, by paired differences.",
    )
    compare.argument(
        "rows",
        "[NAME=]FILE[,FILE...]",
        "Result files, one row per argument; several files of a row, such as training seeds, are averaged",
        nargs="+",
    )
    compare.option(
        "--against",
        "Reference row (default: the last row of the first file)",
        metavar="NAME",
    )
    options.output_format(compare, "table", "csv")


def _report(commands: Any) -> None:
    report = command(
        commands,
        "report",
        "measure_commands:report",
        "Write an HTML report on a run",
        "Write one HTML file on a run: its zoo, recovered images, groups, learning and accuracy. The file needs no "
        "other files and no network.",
    )
    report.argument("run", "RUN", "Folder of a run, finished or not")
    report.argument("results", "RESULT", "Result files of `metazoo evaluate --out`", nargs="*")
    report.option("--out", "HTML file to write; replaces an existing report (default: RUN/report.html)", path)
    report.option("--zoo", "Zoo folder, if it has moved since the run", path)
    report.switch("--no-images", "Show no recovered images", dest="images", action="store_false")


def _track(commands: Any) -> None:
    track = command(
        commands,
        "track",
        "track_command:track",
        "Send a run to TensorBoard, trackio or MLflow",
        "Send the metrics of a run, and results, to trackers. What a tracker has already is not sent again. See also "
        "`metazoo train --track`.",
    )
    track.argument("run", "RUN", "Folder of a run, finished or not")
    track.argument("results", "RESULT", "Result files of `metazoo evaluate --out`", nargs="*")
    options.trackers(track, "--to", "Tracker", required=True)
