"""`metazoo zoo ...`."""

import csv
import json
import sys
from argparse import Namespace
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import asdict, fields
from pathlib import Path

from rich.table import Table
from rich.text import Text

from metazoo.cli.output import print_table
from metazoo.cli.run_output import print_sections
from metazoo.data import load_images
from metazoo.errors import UsageError, ZooError
from metazoo.execution.bounded import Limits
from metazoo.execution.progress import message
from metazoo.execution.signals import graceful
from metazoo.report.zoo_tables import ModelRow, class_table, domain_rows, domain_table, model_rows, model_table
from metazoo.runs.record import Run
from metazoo.text import printable, some_of
from metazoo.zoo import (
    Finding,
    Preview,
    TrainingConfig,
    Zoo,
    add_folder,
    add_model,
    build_zoo,
    preview_model,
    verify_zoo,
)
from metazoo.zoo.checking.duplicates import duplicate_models
from metazoo.zoo.checking.verify import duplicate_text
from metazoo.zoo.importing.model_sources import IMAGENET, imagenet_classes

_LARGEST_CLASS_FILE = 20_000_000
_DEFAULT_WAYS = 5


def build(options: Namespace) -> None:
    """Build models of one domain and architecture."""
    images = load_images(options.data, side=options.input_size, images_per_class=options.images_per_class)
    for names in images.equal_classes():
        message(f"note: classes {', '.join(map(printable, names))} of {printable(images.name)} have the same images")
    zoo = build_zoo(
        options.out,
        images,
        options.arch,
        options.models,
        _DEFAULT_WAYS if options.ways is None and options.classes_file is None else options.ways,
        options.seed,
        classes=options.classes_file,
        domain=options.domain,
        config=TrainingConfig(
            epochs=options.epochs,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            largest_shift=options.shift,
        ),
        channels=options.channels,
        width=options.width,
        recovered_images=options.recovered_images,
        workers=options.workers,
        executor=options.executor,
        device=options.device,
        control=options.control,
        progress=True,
    )
    print_table(domain_table(domain_rows(zoo)))
    _note_duplicates(zoo)


def add(options: Namespace) -> None:
    """Add one model or a folder of models; a ZooError if a file of the folder cannot be added."""
    fields_of_contract = (
        "name",
        "arguments",
        "input_size",
        "channels",
        "mean",
        "std",
        "domain",
        "licence",
        "recovered_images",
        "state_dict",
    )
    given = {field: getattr(options, field) for field in fields_of_contract} | {"architecture": options.arch}
    given["classes"] = None if options.classes is None else _classes(options.classes)
    given = {field: value for field, value in given.items() if value is not None}
    if (options.source is None) == (options.from_folder is None):
        problem = "missing" if options.source is None else "both are given"
        raise UsageError("SOURCE or --from-folder", problem, "give one of them; see `metazoo zoo add --help`")
    if options.from_folder is None:
        given |= {"weights": options.weights, "pretrained": options.pretrained, "by_order": options.by_order}
        if options.dry_run:
            _print_preview(preview_model(options.zoo, options.source, **given))
            return
        contract = add_model(options.zoo, options.source, **given)
        added = {contract.name}
    else:
        for flag in ("--weights", "--pretrained", "--by-order", "--dry-run"):
            if getattr(options, flag.strip("-").replace("-", "_")):
                raise UsageError(flag, "does not apply to --from-folder", f"omit {flag}, or add files one by one")
        additions = add_folder(options.zoo, options.from_folder, **given)
        rows = [(addition.file, addition.status, addition.text) for addition in additions]
        _print_findings(("file", "status", "model or problem"), rows)
        problems = sum(addition.status == "problem" for addition in additions)
        if problems:
            raise ZooError(options.from_folder, f"{problems} of {len(additions)} files not added", "see the table")
        added = {addition.text for addition in additions}
    zoo = Zoo.open(options.zoo)
    print_table(model_table(row for row in model_rows(zoo) if row.name in added))
    _note_batch_norm(zoo, added)
    _note_duplicates(zoo, added)


def _print_preview(preview: Preview) -> None:
    """Print the tensors of a file beside those of the network that they become."""
    tensors = preview.tensors
    rows = [
        (tensors.sources.get(name, "(added)"), name, "x".join(map(str, tensor.shape)) or "1")
        for name, tensor in tensors.state.items()
    ]
    _print_findings(("file", "network", "shape"), [*rows, *((name, "(dropped)", "") for name in tensors.dropped)])
    spec = preview.spec
    given = ",".join(f"{key}={value}" for key, value in spec.arguments.items())
    print(
        f"{preview.name}: {spec.architecture}{f' ({given})' if given else ''} with {spec.classes} classes: "
        f"{len(tensors.sources)} tensors, {len(tensors.added)} added, {len(tensors.dropped)} dropped; nothing written"
    )


def _note_batch_norm(zoo: Zoo, among: AbstractSet[str]) -> None:
    """State which ONNX models have batch norm, since exporters usually fold it into convolutions."""
    for contract in zoo:
        if contract.name in among and contract.spec.graph is not None:
            count = contract.spec.graph.batch_norm_layers
            text = "no batch-norm layer, or folded by its export; recovered as a model without batch norm"
            if count:
                text = f"{count} batch-norm layer{'' if count == 1 else 's'}, whose statistics recovery uses"
            message(f"note: {contract.name}: {text}")


def _note_duplicates(zoo: Zoo, among: AbstractSet[str] | None = None) -> None:
    for names in duplicate_models(zoo):
        if among is None or not among.isdisjoint(names):
            message(f"note: {some_of(names)}: {duplicate_text(names)}")


def inspect(options: Namespace) -> None:
    """List the models, and the records of a run on each."""
    zoo = Zoo.open(options.zoo)
    run = None if options.run is None else Run.open(options.run)
    if run is not None:
        if not run.model_names():
            raise UsageError(options.run, "has no records of its models yet", "continue it with train --resume")
        run.check_zoo(zoo)
    if options.format != "table":
        _write_models(zoo, options.format)
        return
    rows = model_rows(zoo)
    print_table(model_table(rows))
    print_table(class_table(rows))
    print_table(domain_table(domain_rows(zoo)))
    if run is not None:
        print_sections(run, zoo, about_models=True)


def _write_models(zoo: Zoo, form: str) -> None:
    """Print one record per model, as a JSON list or as CSV, where `|` separates class names."""
    records = [asdict(row) for row in model_rows(zoo)]
    if form == "json":
        print(json.dumps(records, indent=2, ensure_ascii=False))
        return
    writer = csv.DictWriter(sys.stdout, [field.name for field in fields(ModelRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows({**record, "class_names": "|".join(record["class_names"])} for record in records)


def verify(options: Namespace) -> None:
    """Check every model; a ZooError if one is unsound."""
    zoo = Zoo.open(options.zoo)
    images = None
    if options.images is not None and len(zoo):
        side = max(8, max(contract.spec.input_size for contract in zoo))
        images = load_images(options.images, side=side)
    limits = Limits(seconds=options.seconds, megabytes=options.memory)
    with graceful() as stop:
        findings = verify_zoo(zoo, stop.check, images=images, limits=limits)
    rows = [(finding.subject, finding.status, *_figures(finding), finding.text) for finding in findings]
    _print_findings(("subject", "status", "images/s", "MB", "finding"), rows)
    unsound = sum(finding.status == "problem" for finding in findings)
    if unsound:
        raise ZooError(options.zoo, f"{unsound} of {len(zoo)} models are unsound", "see the table")
    names = {contract.name for contract in zoo}
    wrong = sum(finding.status == "note" and finding.subject in names for finding in findings)
    doubt = f", but {wrong} may have a wrong mean or std" if wrong else ""
    print(f"{options.zoo}: all {len(zoo)} models are sound{doubt}")


def _figures(finding: Finding) -> tuple[str, str]:
    speed, memory = finding.images_per_second, finding.memory
    return "" if speed is None else f"{speed:,.0f}", "" if memory is None else f"{memory / 1e6:,.0f}"


def change(options: Namespace) -> None:
    """Change the permission of models."""
    zoo = Zoo.open(options.zoo)
    names = options.names or [contract.name for contract in zoo]
    zoo.permit(names, options.recovered_images)
    print(f"{options.zoo}: recovered images: {options.recovered_images}, for {', '.join(sorted(set(names)))}")


def remove(options: Namespace) -> None:
    """Remove models."""
    Zoo.open(options.zoo).remove(options.names)
    print(f"{options.zoo}: removed {', '.join(sorted(set(options.names)))}")


def _print_findings(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    """Print a table of texts that may come from foreign files."""
    table = Table()
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    print_table(table)


def _classes(given: str) -> tuple[str, ...]:
    """Class names from a list or a file."""
    if given == IMAGENET:
        return imagenet_classes()
    path = Path(given).expanduser()
    if "," in given and not path.is_file():
        return tuple(name.strip() for name in given.split(","))
    try:
        if path.stat().st_size > _LARGEST_CLASS_FILE:
            raise UsageError(path, f"has more than {_LARGEST_CLASS_FILE:,} bytes", "give a file of class names")
        text = path.read_text(encoding="utf-8")
        names = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    except (OSError, ValueError, RecursionError) as error:
        remedy = "give a list such as cat,dog or a file with one class per line"
        raise UsageError(f"--classes {given}", "cannot be read as class names", remedy) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(path, "is not a list of names", "give a file with one class per line, or a JSON list")
    return tuple(name.strip() for name in names if name.strip())
