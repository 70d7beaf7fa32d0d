"""Arguments and options by their names in version 0.1 work, with a warning that names the new one."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from training_helpers import OPTIONS, coloured_images, untrained

from metazoo.errors import UsageError
from metazoo.renamed import renamed_arguments
from metazoo.runs.config import resolve_config
from metazoo.runs.plan import plan_run
from metazoo.runs.record import Run
from metazoo.runs.train import train
from metazoo.storage.run_folder import RunFolder
from metazoo.zoo import build_zoo


@renamed_arguments(colour="shade", size="side")
def picture(name: str, *, shade: str = "red", side: int = 1) -> tuple[str, str, int]:
    """Draw."""
    return name, shade, side


def test_former_arguments_are_passed_on_with_a_warning() -> None:
    former: Callable[..., Any] = picture
    assert picture("a", shade="blue", side=2) == ("a", "blue", 2)
    with pytest.warns(FutureWarning, match=r"^colour= of picture\(\) is now shade=") as caught:
        assert former("a", colour="blue") == ("a", "blue", 1)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(FutureWarning, match=r"= of picture") as caught:
        assert former("a", colour="blue", size=3) == ("a", "blue", 3)
    assert len(caught) == 2
    with pytest.raises(TypeError, match="got shade and its former name colour"):
        former("a", colour="blue", shade="green")
    assert [*inspect.signature(picture).parameters] == ["name", "shade", "side"]
    assert picture.__doc__ == "Draw."


def test_the_python_names_of_the_first_version_work(tmp_path: Path) -> None:
    former: dict[str, Callable[..., Any]] = {"resolve": resolve_config, "train": train, "plan": plan_run}
    with pytest.warns(FutureWarning, match="setting= .* preset="):
        assert former["resolve"](setting="thorough") == resolve_config(preset="thorough")
    zoo = untrained(tmp_path / "zoo")
    for name, more in (("train", {"out": tmp_path / "run"}), ("plan", {})):
        with (
            pytest.warns(FutureWarning, match="setting= .* preset="),
            pytest.raises(UsageError, match="unknown preset none"),
        ):
            former[name](zoo, setting="none", **more)
    build: Callable[..., Any] = build_zoo
    with (
        pytest.warns(FutureWarning, match="recipe= .* config="),
        pytest.raises(UsageError, match="6 classes of colours, not 9"),
    ):
        build(tmp_path / "none", coloured_images(6, 16), "conv4", 1, 9, recipe=None)


def test_a_config_file_of_the_first_version_is_read_with_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("setting: thorough\n")
    assert resolve_config(path) == resolve_config(preset="thorough")
    assert capsys.readouterr().err.startswith(f"warning: {path}: setting is now called preset; ")
    path.write_text("setting: thorough\npreset: default\n")
    with pytest.raises(UsageError, match="unknown option setting"):
        resolve_config(path)


def test_a_run_of_the_first_version_opens_and_resumes_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zoo = untrained(tmp_path / "zoo")
    run = train(zoo, out=tmp_path / "run", preset="thorough", config=OPTIONS, workers=1)
    folder = RunFolder(run.path)
    stored = yaml.safe_load(folder.read_text("config.yaml"))
    former = {("setting" if key == "preset" else key): value for key, value in stored.items()}
    folder.write_text("config.yaml", yaml.safe_dump(former, sort_keys=False))
    capsys.readouterr()
    assert Run.open(run.path).config == run.config
    assert train(zoo, out=run.path, resume=True, workers=1).config.preset == "thorough"
    assert capsys.readouterr().err == ""
