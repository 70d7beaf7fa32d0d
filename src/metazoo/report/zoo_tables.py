"""Content of a zoo as plain rows and as tables. Weights are not read."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

from rich.table import Table
from rich.text import Text

from metazoo.errors import UsageError, ZooError
from metazoo.models import ClassifierSpec, is_library_name, network_without_weights
from metazoo.text import printable, some_of
from metazoo.zoo.contract import ModelContract, Permission
from metazoo.zoo.weights import weights_path
from metazoo.zoo.zoo_folder import Zoo

_MOST_NAMES, _LONGEST_NAME = 5, 20


@dataclass(frozen=True)
class ModelRow:
    """Row of one model.

    `accuracy` is in percent. None stands for unknown values (`file_bytes`: the file is missing). `recovered_images` is
    the permission of the contract; see `ModelContract`.
    """

    name: str
    domain: str
    architecture: str
    classes: int
    input_size: int
    channels: int
    accuracy: float | None
    parameters: int | None
    file_bytes: int | None
    recovered_images: Permission = "show"
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class DomainRow:
    """Row of the models of one domain and architecture; `accuracy` is the mean of known accuracies in percent."""

    domain: str
    architecture: str
    models: int
    accuracy: float | None


def model_rows(zoo: Zoo) -> list[ModelRow]:
    """Rows of all models, in the order of the contracts."""
    count = cache(_parameters)
    rows = []
    for contract in zoo:
        spec = contract.spec
        rows.append(
            ModelRow(
                name=contract.name,
                domain=contract.domain,
                architecture=_label(contract),
                classes=spec.classes,
                input_size=spec.input_size,
                channels=spec.channels,
                accuracy=contract.accuracy,
                parameters=count(spec.model_dump_json()),
                file_bytes=_file_bytes(zoo, contract.name),
                recovered_images=contract.recovered_images,
                class_names=contract.class_names,
            )
        )
    return rows


def domain_rows(zoo: Zoo) -> list[DomainRow]:
    """Rows of all pairs of domain and architecture, sorted."""
    groups: dict[tuple[str, str], list[float | None]] = {}
    for contract in zoo:
        groups.setdefault((contract.domain, _label(contract)), []).append(contract.accuracy)
    return [DomainRow(*key, len(values), _mean(values)) for key, values in sorted(groups.items())]


def model_table(rows: Iterable[ModelRow]) -> Table:
    """Table of `model_rows`, with a column of permissions if recovered images of any model may not be shown."""
    rows = list(rows)
    table = _table(
        ("model", "domain", "architecture"), ("classes", "pixels", "channels", "accuracy", "parameters", "file")
    )
    restricted = any(row.recovered_images != "show" for row in rows)
    if restricted:
        table.add_column("recovered images")
    for row in rows:
        file = "missing" if row.file_bytes is None else f"{row.file_bytes / 1e6:,.2f} MB"
        parameters = "unknown" if row.parameters is None else f"{row.parameters:,}"
        numbers = (row.classes, row.input_size, row.channels, _percent(row.accuracy), parameters, file)
        # `Text` keeps brackets in a name from acting as styles.
        cells = (row.name, row.domain, row.architecture, *map(str, numbers))
        table.add_row(*map(Text, (*cells, *([row.recovered_images] if restricted else []))))
    return table


def class_table(rows: Iterable[ModelRow]) -> Table:
    """Table of the class names of each model, in the order of its outputs, shortened."""
    table = _table(("model", "class names"), ())
    for row in rows:
        table.add_row(Text(row.name), Text(_shortened(row.class_names)))
    return table


def domain_table(rows: Iterable[DomainRow]) -> Table:
    """Table of `domain_rows`."""
    table = _table(("domain", "architecture"), ("models", "mean accuracy"))
    for row in rows:
        table.add_row(*map(Text, (row.domain, row.architecture, str(row.models), _percent(row.accuracy))))
    return table


def _table(words: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    table = Table()
    for header in words:
        table.add_column(header, overflow="fold")
    for header in numbers:
        table.add_column(header, justify="right")
    return table


def _shortened(names: tuple[str, ...]) -> str:
    shown = [printable(name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…") for name in names]
    return some_of(shown, _MOST_NAMES)


def _label(contract: ModelContract) -> str:
    """Architecture with its arguments and, for a control model, the name of the control."""
    spec, control = contract.spec, None if contract.training is None else contract.training.control
    arguments = {} if is_library_name(spec.architecture) or spec.graph is not None else spec.arguments
    label = " ".join([spec.architecture, *(f"{name} {value}" for name, value in sorted(arguments.items()))])
    return label if control is None else f"{label} ({control} control)"


def _parameters(spec: str) -> int | None:
    try:
        network = network_without_weights(ClassifierSpec.model_validate_json(spec))
    except UsageError:
        return None
    return sum(parameter.numel() for parameter in network.parameters())


def _file_bytes(zoo: Zoo, name: str) -> int | None:
    try:
        return weights_path(zoo.folder, name).stat().st_size
    except (OSError, ZooError):
        return None


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _percent(accuracy: float | None) -> str:
    return "unknown" if accuracy is None else f"{accuracy:.1f} %"
