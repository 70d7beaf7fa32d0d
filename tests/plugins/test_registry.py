"""Tests of registries: registration, entry points and errors."""

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from error_checks import raises
from plugin_helpers import call, done, refused, without_plugins

import metazoo
from metazoo.errors import UsageError
from metazoo.methods import METHODS
from metazoo.models.architectures import ARCHITECTURES
from metazoo.plugins import Registry, load_plugin, registered_modules

MODULES = ("first_plugin", "second_plugin", "third_plugin")
ARCHITECTURE = """
    import metazoo
    from metazoo.models.conv4 import Conv4

    @metazoo.register_architecture("{name}")
    class Own(Conv4):
        pass
    """


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(tmp_path)
    with without_plugins(*MODULES):
        yield


def write(folder: Path, module: str, text: str) -> None:
    path = folder / f"{module.replace('.', '/')}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(text))


def install(folder: Path, name: str, **entry_points: str) -> None:
    """Write the metadata of an installed package."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"[metazoo.{group}]\n{line}\n" for group, line in entry_points.items()]
    (info / "entry_points.txt").write_text("".join(lines))


def test_a_registry_keeps_names_in_the_order_of_registration() -> None:
    registry: Registry[int] = Registry("number", values={"one": 1})
    assert registry.register("two", 2) == 2
    assert registry.register("a.b_c-3")(3) == 3
    assert registry.names() == ("one", "two", "a.b_c-3")
    assert [*registry] == [1, 2, 3]
    assert (registry.find("two"), registry.find("four"), registry.get("one")) == (2, None, 1)
    assert registry.validate("two") == "two"


@pytest.mark.parametrize("name", ["", " a", "a ", "a:b", "a\n", "\x1b[31m", "a" * 101])
def test_a_name_is_plain(name: str) -> None:
    with raises(UsageError, subject="number 1", problem=repr(name[:100])):
        Registry("number").register(name, 1)


def test_an_unknown_name_is_explained() -> None:
    registry: Registry[int] = Registry("number", values={"one": 1, "two": 2}, also=("big:N",))
    with raises(UsageError, subject="number", problem="'twoo'", remedy="one, two, big:N (did you mean two?)"):
        registry.get("twoo")
    with pytest.raises(ValueError, match=r"'twoo'.*one, two, big:N \(did you mean two\?\).*--plugin PACKAGE"):
        registry.validate("twoo")
    with raises(UsageError, problem=r"'x\x1b'", remedy="one, two, big:N, or"):
        registry.get("x\x1b")


def test_a_name_belongs_to_the_module_that_has_registered_it(tmp_path: Path) -> None:
    write(tmp_path, "first_plugin", ARCHITECTURE.format(name="own"))
    write(tmp_path, "second_plugin", ARCHITECTURE.format(name="own"))
    write(tmp_path, "third_plugin", ARCHITECTURE.format(name="conv4"))
    load_plugin("first_plugin")
    load_plugin("first_plugin")
    first = ARCHITECTURES.get("own")
    with raises(
        UsageError, subject="'second_plugin'", problem="architecture 'own': is already registered by first_plugin"
    ):
        load_plugin("second_plugin")
    with raises(UsageError, subject="'third_plugin'", problem="'conv4': is already registered by metazoo"):
        load_plugin("third_plugin")
    assert ARCHITECTURES.get("own") is first
    assert registered_modules() == ("first_plugin",)
    # A module that is imported again replaces its own registrations.
    del sys.modules["first_plugin"]
    load_plugin("first_plugin")
    assert ARCHITECTURES.get("own") is not first


def test_modules_are_recorded_that_register_and_no_others(tmp_path: Path) -> None:
    (tmp_path / "first_plugin").mkdir()
    write(tmp_path, "first_plugin.__init__", "from . import deep")
    write(tmp_path, "first_plugin.deep", ARCHITECTURE.format(name="own"))
    # The registering module is the one whose function runs, not its caller.
    write(tmp_path, "second_plugin", "import metazoo\ndef late(): metazoo.register_grouping('late', lambda *_: None)")
    write(tmp_path, "third_plugin", "import second_plugin\nsecond_plugin.late()")
    assert registered_modules() == ()
    load_plugin("first_plugin")
    assert registered_modules() == ("first_plugin.deep", "first_plugin")
    load_plugin("third_plugin")
    assert registered_modules() == ("first_plugin.deep", "first_plugin", "second_plugin", "third_plugin")


def test_objects_of_a_script_belong_to_main(tmp_path: Path) -> None:
    write(tmp_path, "script", f"{ARCHITECTURE}\n    from metazoo.plugins import registered_modules".format(name="own"))
    with (tmp_path / "script.py").open("a") as file:
        file.write("\nprint(registered_modules())\n")
    command = [sys.executable, str(tmp_path / "script.py")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert printed == "('__main__',)\n"


def test_a_module_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    write(tmp_path, "first_plugin", "raise ZeroDivisionError('no\\nluck')")
    write(tmp_path, "second_plugin", "import sys\nsys.exit(0)")
    with raises(UsageError, subject="'first_plugin'", problem="(ZeroDivisionError: no luck)"):
        load_plugin("first_plugin")
    with raises(UsageError, subject="'second_plugin'", problem="(SystemExit: 0)"):
        load_plugin("second_plugin")
    for name in ("", ".relative", "third_plugin", "third-plugin.py"):
        with raises(UsageError, subject=repr(name), problem="Error"):
            load_plugin(name)
    assert registered_modules() == ()


METHOD = """
    from metazoo.methods.base import Method

    class Idle(Method):
        name = "idle"
        title = reference = "Doing nothing"
        presets = {}

        def check(self, zoo, config, seed):
            pass

        def train(self, workspace, config):
            raise NotImplementedError
    """


def test_entry_points_are_loaded_when_their_name_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path, "first_plugin", "from metazoo.models.conv4 import Conv4\nclass Own(Conv4): pass")
    write(tmp_path, "second_plugin", METHOD)
    install(tmp_path, "of_architectures", architectures="own = first_plugin:Own")
    install(tmp_path, "of_methods", methods="idle = second_plugin:Idle")
    assert "own" in ARCHITECTURES.names()
    assert METHODS.names()[-1] == "idle"
    assert ARCHITECTURES.get("conv4") is not None
    assert not {"first_plugin", "second_plugin"} & {*sys.modules}
    network = metazoo.models.build_network("own", classes=3, channels=3, input_size=16, arguments={"width": 4})
    assert type(network).__module__ == "first_plugin"
    assert (METHODS.get("idle").name, METHODS.get("idle")) == ("idle", METHODS.get("idle"))
    assert registered_modules() == ("first_plugin", "second_plugin")


def test_an_entry_point_may_register_itself_too(tmp_path: Path) -> None:
    write(tmp_path, "first_plugin", ARCHITECTURE.format(name="own"))
    install(tmp_path, "of_architectures", architectures="own = first_plugin:Own")
    assert ARCHITECTURES.get("own") is sys.modules["first_plugin"].Own
    assert ARCHITECTURES.names().count("own") == 1


def test_an_entry_point_that_is_wrong_is_named_with_its_package(tmp_path: Path) -> None:
    write(tmp_path, "first_plugin", "raise OSError('gone')")
    write(tmp_path, "second_plugin", METHOD)
    install(tmp_path, "one", architectures="broken = first_plugin:Own\ntwice = first_plugin:Own")
    install(tmp_path, "two", architectures="twice = second_plugin:Own", methods="lazy = second_plugin:Idle")
    with raises(UsageError, subject="architecture 'broken'", problem="first_plugin:Own (OSError: gone)"):
        ARCHITECTURES.get("broken")
    with raises(UsageError, subject="architecture 'twice'", problem="first_plugin:Own, second_plugin:Own"):
        ARCHITECTURES.get("twice")
    with raises(UsageError, subject="method 'lazy'", problem="Method"):
        METHODS.get("lazy")


def test_a_plug_in_that_fails_leaves_no_registration(tmp_path: Path) -> None:
    failures = {"first_plugin": "raise OSError('late')", "second_plugin": "import sys; sys.exit(3)",
                "third_plugin": "def again(): again()\n    again()"}  # fmt: skip
    for module, failure in failures.items():
        write(tmp_path, module, f"{ARCHITECTURE.format(name=f'of-{module}')}\n    {failure}")
    install(tmp_path, "some", architectures="\n".join(f"of-{module} = {module}:Own" for module in failures))
    before = ARCHITECTURES.names()
    for module, error in zip(failures, ("OSError: late", "SystemExit: 3", "RecursionError"), strict=True):
        with raises(UsageError, subject=f"'of-{module}'", problem=f"{module}:Own ({error}", remedy="that package"):
            ARCHITECTURES.get(f"of-{module}")
        with raises(UsageError, subject=repr(module), problem=error):
            load_plugin(module)
        assert module not in sys.modules
    assert ARCHITECTURES.names() == before
    assert not {f"of-{module}" for module in failures} & {*ARCHITECTURES._values}
    assert registered_modules() == ()


def test_heads_and_methods_are_objects_of_their_class() -> None:
    with raises(UsageError, subject="head 'x'", problem="Head"):
        metazoo.register_head(type("X", (), {"name": "x"}))
    with raises(UsageError, subject="method <class 'int'>", problem="''"):
        metazoo.register_method(int)


def test_the_command_line_loads_plug_ins(tmp_path: Path) -> None:
    write(tmp_path, "second_plugin", f"{METHOD}\n    import metazoo\n    metazoo.register_method(Idle)")
    write(tmp_path, "first_plugin", ARCHITECTURE.format(name="own"))
    assert "unknown method 'idle'; choose one of tgr" in refused(2, "methods", "idle")
    assert "idle" not in done("methods")
    assert "idle" in done("methods", "--plugin=second_plugin", "--plugin", "first_plugin")
    assert registered_modules() == ("second_plugin", "first_plugin")
    assert "--plugin: expected one argument; see `metazoo --help`" in refused(2, "methods", "--plugin")
    assert "plug-in 'no_plugin': cannot be imported (ModuleNotFoundError" in refused(
        2, "--plugin", "no_plugin", "train"
    )
    traced = call("methods", "--plugin", "no_plugin", "--debug").err
    assert traced.startswith("Traceback")
