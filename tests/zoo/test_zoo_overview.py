import io

from rich.console import Console
from rich.table import Table
from zoo_helpers import classifier

from metazoo.report.zoo_tables import DomainRow, domain_rows, domain_table, model_rows, model_table
from metazoo.zoo import Zoo
from metazoo.zoo.contract_files import write_contract


def shown(table: Table) -> str:
    console = Console(file=io.StringIO(), width=160, force_terminal=False)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_row_for_every_model(zoo: Zoo) -> None:
    first, second = model_rows(zoo)
    assert (first.name, first.domain, first.architecture) == ("first", "pets", "conv4 width 4")
    assert (first.classes, first.input_size, first.channels, first.accuracy) == (2, 16, 3, 75.5)
    assert first.file_bytes == (zoo.folder / "models" / "first.safetensors").stat().st_size
    for row, contract in zip((first, second), zoo, strict=True):
        network = zoo.teacher(contract.name).classifier.network
        assert row.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert second.accuracy is None
    text = shown(model_table([first, second]))
    assert "75.5 %" in text
    assert f"{first.parameters:,}" in text
    assert text.count("unknown") == 1


def test_groups_are_counted_and_averaged(zoo: Zoo) -> None:
    names = ("a", "b", "c")
    for name, accuracy in (("x", 50.0), ("y", 70.0), ("z", None)):
        zoo.store(name, classifier(), class_names=names, domain="[red]letters", accuracy=accuracy)
    groups = domain_rows(zoo)
    assert groups == [
        DomainRow("[red]letters", "thin-resnet width 4", 3, 60.0),
        DomainRow("letters", "thin-resnet width 4", 1, None),
        DomainRow("pets", "conv4 width 4", 1, 75.5),
    ]
    text = shown(domain_table(groups))
    assert "60.0 %" in text
    assert "[red]letters" in text


def test_what_cannot_be_known_does_not_stop_it(zoo: Zoo) -> None:
    (zoo.folder / "models" / "first.safetensors").unlink()
    spec = zoo.contract("second").spec.model_copy(update={"architecture": "of-tomorrow"})
    write_contract(zoo.folder, zoo.contract("second").model_copy(update={"spec": spec}))
    first, second = model_rows(Zoo.open(zoo.folder))
    assert first.file_bytes is None
    assert second.parameters is None
    assert "missing" in shown(model_table([first, second]))


def test_an_empty_zoo(zoo: Zoo) -> None:
    zoo.remove(["first", "second"])
    assert model_rows(zoo) == domain_rows(zoo) == []
    assert "model" in shown(model_table([]))
    assert "domain" in shown(domain_table([]))
