"""The house as it is built: which room may know which, how long a file may be, and what no file does."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import metazoo
from metazoo.methods import METHODS

PACKAGE = Path(metazoo.__file__).parent
FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
LONGEST_FILE = 400

# Rooms that a room may import, besides itself and what all may. One that is not listed may import everything.
KNOWS: dict[str, set[str]] = {
    "choices": set(),
    "errors": set(),
    "text": set(),
    "plugins": set(),
    "notebook": set(),
    "renamed": set(),
    "storage": set(),
    "execution": {"storage"},
    "tracking": {"execution", "storage"},
    "models": set(),
    "data": {"execution", "storage"},
    "bank": {"data", "execution", "storage"},
    "zoo": {"models", "data", "execution", "storage"},
    "recover": {"zoo", "bank", "models", "data", "execution", "storage"},
    "taskspace": {"models", "bank", "data", "execution", "storage"},
    "audit": {"zoo", "bank", "models", "data", "execution", "storage"},
    "features": {"models", "data", "execution", "storage"},
    "fusion": {"zoo", "models", "execution", "storage"},
    "learn": {"features", "taskspace", "bank", "models", "data", "execution", "storage"},
    "evaluate": {"features", "fusion", "zoo", "data", "models", "execution", "storage"},
    "adapt": {"features", "zoo", "data", "models", "execution", "storage"},
    "export": {"adapt", "features", "data", "models", "execution", "storage"},
}
KNOWS["pipeline"] = {*KNOWS} - {"evaluate", "adapt", "export"}
KNOWS["methods"] = {*KNOWS} - {"evaluate", "adapt", "export"}
KNOWS["runs"] = {*KNOWS} - {"evaluate", "export"}
KNOWS["report"] = {*KNOWS}
KNOWS["hub"] = {"report", "runs", "adapt", "pipeline", "zoo", "storage"}
# Reading these can run code. What travels between this program's own processes may be pickled.
CODE_BEARING = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
PICKLING = {"execution/tasks.py"}


def imports_of(source: str, name: str) -> Iterator[str]:
    """Every module that a file imports, anywhere and for type checkers too, in full; `from a import b` is a.b."""
    package = ["metazoo", *Path(name).parent.parts]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*start, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def forbidden_rooms(source: str, name: str) -> set[str]:
    room = Path(name).parts[0].removesuffix(".py")
    if room not in KNOWS:
        return set()
    # `import metazoo` alone, or a name from it, could be anything.
    modules = [f"{module}.".split(".") for module in imports_of(source, name)]
    seen = {room for package, room, *_ in modules if package == "metazoo"}
    return seen - KNOWS[room] - {room, "choices", "errors", "text", "plugins", "notebook", "renamed"}


def unsafe_reads(source: str, name: str) -> list[str]:
    imported = set(imports_of(source, name))
    roots = set() if name in PICKLING else CODE_BEARING & {module.split(".")[0] for module in imported}
    found = sorted(roots | imported & {"torch.load", "torch.hub", "yaml.load", "numpy.load"})
    safe_loaders = {"yaml.SafeLoader", "yaml.CSafeLoader", "yaml.BaseLoader"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and node.bases and {ast.unparse(base) for base in node.bases} <= safe_loaders:
            safe_loaders.add(node.name)
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if (
            (called == "torch.load" and keywords.get("weights_only") != "True")
            or (called in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False")
            or (called == "yaml.load" and keywords.get("Loader") not in safe_loaders)
            or called in ("yaml.load_all", "yaml.full_load", "yaml.unsafe_load")
            or called in ("torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "eval", "exec")
        ):
            found.append(ast.unparse(node))
    return found


def text_of(name: str) -> str:
    return FILES[name].read_text(encoding="utf-8")


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_short_knows_lower_rooms_only_and_reads_nothing_that_runs_code(name: str) -> None:
    text = text_of(name)
    assert len(text.splitlines()) <= LONGEST_FILE
    assert forbidden_rooms(text, name) == set()
    assert unsafe_reads(text, name) == []


def test_no_method_imports_another_method() -> None:
    homes = {type(method).__module__ for method in METHODS}
    assert len(homes) == len([*METHODS])
    for home in homes:
        name = home.removeprefix("metazoo.").replace(".", "/") + ".py"
        others = tuple(f"{other}." for other in {*homes, "metazoo.methods.registry"} - {home})
        assert [module for module in imports_of(text_of(name), name) if f"{module}.".startswith(others)] == []


def test_no_name_stands_for_two_things() -> None:
    """Modules by stem, public classes and functions by name; commands are called what the functions they call are."""
    homes: dict[tuple[str, str], set[str]] = {}
    for name in FILES:
        found = [("module", Path(name).stem)]
        if not name.startswith("cli/"):
            nodes = ast.parse(text_of(name)).body
            found += [("name", node.name) for node in nodes if isinstance(node, ast.ClassDef | ast.FunctionDef)]
        for kind, one in found:
            if not one.startswith("_") and one != "registry":
                homes.setdefault((kind, one), set()).add(name)
    assert {one: found for one, found in homes.items() if len(found) > 1} == {}


@pytest.mark.parametrize(
    ("name", "source", "rooms"),
    [
        ("storage/lock.py", "from metazoo.errors import RunError\nfrom metazoo.storage import manifest", set()),
        ("storage/lock.py", "def late():\n    from metazoo.data.images import ImageSet", {"data"}),
        ("learn/losses.py", "from ..zoo import Zoo\nfrom . import embedders", {"zoo"}),
        ("learn/losses.py", "from .. import zoo, bank", {"zoo"}),
        ("recover/pixels.py", "import metazoo.features.heads as heads", {"features"}),
        ("data/load.py", "import metazoo", {""}),
        ("errors.py", "import metazoo.storage", {"storage"}),
        ("cli.py", "import metazoo.storage, metazoo.learn", set()),
    ],
)
def test_a_forbidden_room_is_seen(name: str, source: str, rooms: set[str]) -> None:
    assert forbidden_rooms(source, name) == rooms


@pytest.mark.parametrize(
    ("source", "safe"),
    [
        ("import pickle", False),
        ("from joblib import load", False),
        ("torch.load(path)", False),
        ("torch.load(path, weights_only=False)", False),
        ("torch.load(path, weights_only=True)", True),
        ("from torch import load", False),
        ("yaml.load(text, yaml.Loader)", False),
        ("yaml.load(text, Loader=yaml.FullLoader)", False),
        ("yaml.safe_load(text)", True),
        ("class Plain(yaml.SafeLoader):\n    pass\n\nyaml.load(text, Loader=Plain)", True),
        ("class Plain(yaml.Loader):\n    pass\n\nyaml.load(text, Loader=Plain)", False),
        ("np.load(path, allow_pickle=trusted)", False),
        ("np.load(path, allow_pickle=False)", True),
    ],
)
def test_an_unsafe_read_is_seen(source: str, safe: bool) -> None:
    assert (unsafe_reads(source, "zoo/files.py") == []) == safe
