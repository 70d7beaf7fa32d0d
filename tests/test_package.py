"""What `import metazoo` offers, and what it costs."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import metazoo

ROOT = Path(__file__).parent.parent


def run_python(*lines: str) -> str:
    command = [sys.executable, "-c", "\n".join(lines)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()


@pytest.mark.parametrize("name", metazoo.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert name in dir(metazoo)
    value = getattr(metazoo, name)
    assert value is getattr(metazoo, name)
    home = metazoo._HOMES.get(name)
    if home is not None:
        assert value is getattr(sys.modules[home], name)
    elif isinstance(value, ModuleType):
        assert value.__name__ == f"metazoo.{name}"


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse(Path(metazoo.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    declared = {
        (alias.name, node.module) for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    rooms = [name for name in metazoo.__all__ if isinstance(getattr(metazoo, name), ModuleType)]
    assert "adapt" in rooms
    assert declared == {*metazoo._HOMES.items(), *((room, "metazoo") for room in rooms)}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'metazoo' has no attribute 'zebra'"):
        _ = metazoo.zebra  # pyright: ignore[reportAttributeAccessIssue]
    assert not hasattr(metazoo, "__wrapped__")


def test_importing_the_package_and_what_starts_a_worker_is_cheap() -> None:
    heavy = "print(sorted({'torch', 'numpy', 'pydantic', 'rich', 'matplotlib', 'sklearn'} & set(sys.modules)))"
    assert run_python("import sys, metazoo", heavy) == "[]"
    assert (
        run_python("import sys, metazoo.execution.executor, metazoo.storage.artefacts, metazoo.storage.lock", heavy)
        == "[]"
    )


def test_the_lock_file_and_the_citation_belong_to_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert metazoo.__version__ == project["project"]["version"]
    assert f"\nversion: {metazoo.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    packages = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    (locked,) = (package for package in packages if package["name"] == "metazoo")
    assert locked["version"] == metazoo.__version__
    extras = project["project"]["optional-dependencies"]
    everything = [*project["project"]["dependencies"], *(one for extra in extras.values() for one in extra)]
    asked = {requirement.split(">")[0].split("[")[0].strip() for requirement in everything}
    assert {requirement["name"] for requirement in locked["metadata"]["requires-dist"]} == asked
    assert set(locked["optional-dependencies"]) == set(extras)
    assert "torchvision" not in {dependency["name"] for dependency in locked["dependencies"]}
    for group, requirements in project["dependency-groups"].items():
        asked = {requirement.split(">")[0].split("[")[0].strip() for requirement in requirements}
        assert {entry["name"] for entry in locked["metadata"]["requires-dev"][group]} == asked
