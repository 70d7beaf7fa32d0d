import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from adapt_helpers import NAMES, content, edit_json, edit_weights, made, network, predicted
from error_checks import raises
from torch import Tensor

from metazoo.adapt import FewShotClassifier, bundle
from metazoo.errors import ArtefactError, UsageError
from metazoo.storage.artefacts import sha256_of_file

DESCRIPTION, WEIGHTS, CARD = "bundle.json", "model.safetensors", "README.md"

FILES = (DESCRIPTION, WEIGHTS, CARD)

HOSTILE_NAMES = (
    "../../etc/passwd",
    "/etc/passwd",
    "<script>alert(1)</script>",
    "[bold red]x[/]",
    "=1+1",
    "a\nb\r\x1b[31m",
    '"quoted", too',
    "\u202eright to left",
    "é",
    "e\u0301",
    "\udcff",
    " ",
    "",
    "\x00",
    "__metadata__",
)


def full(*_: object) -> str:
    raise ArtefactError("the disk is full")


def test_hostile_class_names_are_harmless(tmp_path: Path) -> None:
    count = len(HOSTILE_NAMES)
    images = torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    given = {"support_images": images, "support_labels": torch.arange(count), "class_names": HOSTILE_NAMES}
    made(head="nearest-mean", **given).save(tmp_path / "c")
    assert content(tmp_path).keys() == {f"c/{name}" for name in FILES}
    loaded = FewShotClassifier.load(tmp_path / "c")
    assert loaded.class_names == HOSTILE_NAMES
    assert loaded.predict(images).names == list(HOSTILE_NAMES)


def test_saving_makes_parents_and_leaves_three_files(tmp_path: Path) -> None:
    made().save(tmp_path / "a" / "b" / "c")
    assert content(tmp_path).keys() == {f"a/b/c/{name}" for name in FILES}


def test_equal_classifiers_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        made().save(tmp_path / name)
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_a_folder_can_be_moved(saved: Path, tmp_path: Path) -> None:
    expected = predicted(FewShotClassifier.load(saved))
    saved.rename(tmp_path / "elsewhere")
    assert torch.equal(predicted(FewShotClassifier.load(tmp_path / "elsewhere")), expected)


def test_any_flipped_or_missing_byte_of_the_weights_is_noticed(saved: Path) -> None:
    path = saved / WEIGHTS
    whole = path.read_bytes()
    random = torch.Generator().manual_seed(0)
    for position in [0, 8, len(whole) - 1, *torch.randint(len(whole), (20,), generator=random).tolist()]:
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with raises(ArtefactError, subject=str(path)):
            FewShotClassifier.load(saved)
    for damaged in (b"", whole[:-1], whole[: len(whole) // 2], whole + b"x"):
        path.write_bytes(damaged)
        with raises(ArtefactError, subject=str(path)):
            FewShotClassifier.load(saved)


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with raises(ArtefactError, subject=str(saved / name)):
        FewShotClassifier.load(saved)


def test_a_folder_that_is_not_a_classifier_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("file", "none"):
        with raises(UsageError, subject=str(tmp_path / name), problem="not a folder", remedy="metazoo adapt"):
            FewShotClassifier.load(tmp_path / name)
    with raises(ArtefactError, subject=DESCRIPTION):
        FewShotClassifier.load(tmp_path)


class _Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was read",))


def test_a_pickle_is_never_read(saved: Path) -> None:
    (saved / WEIGHTS).write_bytes(pickle.dumps(_Exploit()))
    sha256 = sha256_of_file(saved / WEIGHTS)
    edit_json(saved / DESCRIPTION, lambda card: card.update(weights_sha256=sha256))
    with raises(ArtefactError, subject=str(saved / WEIGHTS)) as caught:
        FewShotClassifier.load(saved)
    assert "pickle" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda t: t.pop("head.weight"), "head.weight"),
        (lambda t: t.pop("networks.0.head.bias"), "networks.0.head.bias"),
        (lambda t: t.clear(), "head.weight"),
        (lambda t: t.update(more=torch.zeros(1)), "'more'"),
        (lambda t: t.update({"head.bias": torch.zeros(3)}), "'head.bias'"),
        (lambda t: t.update({"head.weight": torch.zeros(2, 4)}), "float32 [2, 4]"),
        (lambda t: t.update({"head.weight": t["head.weight"].double()}), "float64"),
        (lambda t: t.update({"networks.0.blocks.0.0.weight": torch.zeros(4, 3, 1, 1)}), "float32 [4, 3, 1, 1]"),
        (lambda t: t["head.weight"].fill_(torch.nan), "head.weight"),
        (lambda t: t["networks.0.blocks.1.0.bias"][1:2].fill_(torch.inf), "blocks.1.0.bias"),
        (lambda t: t["networks.0.blocks.0.1.running_var"][0].fill_(-1), "running_var"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    saved: Path, change: Callable[[dict[str, Tensor]], object], problem: str
) -> None:
    edit_weights(saved, change)
    with raises(ArtefactError, subject=str(saved / WEIGHTS), problem=problem, remedy="adapt again"):
        FewShotClassifier.load(saved)


@pytest.mark.parametrize(
    ("change", "subject", "problem"),
    [
        ({"format": "other"}, DESCRIPTION, "(format: "),
        ({"format_version": 3}, DESCRIPTION, ""),
        ({"format_version": None}, DESCRIPTION, ""),
        ({"head_kind": "svm"}, DESCRIPTION, "(head_kind: "),
        ({"head_kind": "linear"}, WEIGHTS, "head.bias"),
        ({"head_kind": "soft-k-means-free"}, WEIGHTS, "head.counts"),
        ({"batch_norm": "none"}, DESCRIPTION, "(batch_norm: "),
        ({"class_names": ["a"]}, DESCRIPTION, "(class_names: "),
        ({"class_names": ["a", "b", "a"]}, DESCRIPTION, "'a'"),
        ({"class_names": ["a", "b", 3]}, DESCRIPTION, "(class_names.2: "),
        ({"class_names": ["a", "b"]}, DESCRIPTION, "other classes"),
        ({"versions": []}, DESCRIPTION, "without versions"),
        ({"threshold": "low"}, DESCRIPTION, "(threshold: "),
        ({"temperature": 0}, DESCRIPTION, "(temperature: "),
        ({"has_support_images": True}, WEIGHTS, "support.images"),
        ({"networks": []}, DESCRIPTION, "(networks: "),
        ({"joint": "perhaps"}, DESCRIPTION, "(joint: "),
        ({"code": "os.system"}, DESCRIPTION, "(code: "),
    ],
)
def test_a_description_that_does_not_fit_is_named(
    saved: Path, change: dict[str, Any], subject: str, problem: str
) -> None:
    edit_json(saved / DESCRIPTION, lambda card: card.update(change))
    with raises(ArtefactError, subject=str(saved / subject), problem=problem):
        FewShotClassifier.load(saved)


@pytest.mark.parametrize(
    ("change", "subject", "problem"),
    [
        ({"architecture": "os.system"}, DESCRIPTION, "'os.system'"),
        ({"arguments": {"depth": 3}}, DESCRIPTION, "depth"),
        ({"input_size": 8}, DESCRIPTION, "16 pixels"),
        ({"std": [0.3, 0, 0.3]}, DESCRIPTION, "std"),
        ({"arguments": {"width": 5}}, WEIGHTS, "[3, 5]"),
        # Would be 60 TB if it were built before it is compared with what the file holds.
        ({"arguments": {"width": 4096}, "input_size": 1024, "classes": 1_000_000}, WEIGHTS, "[3, 16777216]"),
    ],
)
def test_a_network_that_does_not_fit_is_named(saved: Path, change: dict[str, Any], subject: str, problem: str) -> None:
    edit_json(saved / DESCRIPTION, lambda card: card["networks"][0].update(change))
    with raises(ArtefactError, subject=str(saved / subject), problem=problem):
        FewShotClassifier.load(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '"x"', "[" * 100_000, "\ufeff{}", '{"a": NaN}'])
def test_a_damaged_description_is_an_error_that_names_it(saved: Path, text: str) -> None:
    (saved / DESCRIPTION).write_text(text, encoding="utf-8")
    with raises(ArtefactError, subject=str(saved / DESCRIPTION)):
        FewShotClassifier.load(saved)


def test_several_networks_need_joint_features(saved: Path) -> None:
    edit_json(saved / DESCRIPTION, lambda card: card.update(networks=card["networks"] * 2))
    with raises(ArtefactError, subject=DESCRIPTION, problem="joint"):
        FewShotClassifier.load(saved)


def test_an_earlier_classifier_is_replaced(saved: Path) -> None:
    other = made(module=network(1), class_names=("x", "y", "z"))
    other.save(saved)
    loaded = FewShotClassifier.load(saved)
    assert loaded.class_names == ("x", "y", "z")
    assert torch.equal(predicted(loaded), predicted(other))
    assert content(saved.parent).keys() == {f"classifier/{name}" for name in FILES}


def test_a_link_to_a_classifier_stays_a_link(saved: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(saved)
    made(class_names=("x", "y", "z")).save(link)
    assert link.is_symlink()
    assert FewShotClassifier.load(saved).class_names == ("x", "y", "z")


def test_foreign_folders_and_files_are_left_alone(saved: Path, tmp_path: Path) -> None:
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.tex").write_text("x")
    (tmp_path / "file").write_text("x")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / DESCRIPTION).write_text("{}")
    (saved / "notes.txt").write_text("x")
    before = content(tmp_path)
    for folder, problem in (
        (thesis, "not a classifier"),
        (tmp_path / "file", "not a classifier"),
        (broken, "not a classifier"),
        (saved, "notes.txt"),
        (Path("/"), "a classifier"),
    ):
        with raises(UsageError, subject=str(folder), problem=problem, remedy="another folder"):
            made().save(folder)
        assert content(tmp_path) == before


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    made().save(tmp_path / "c")
    assert FewShotClassifier.load(tmp_path / "c").class_names == NAMES


def test_a_folder_within_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with raises(ArtefactError, subject=str(tmp_path / "file")):
        made().save(tmp_path / "file" / "c")


def test_the_earlier_classifier_stays_if_the_new_one_cannot_be_written(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(saved.parent)
    other = made(class_names=("x", "y", "z"))
    rename = Path.rename

    def second_time(path: Path, target: Path) -> Path:
        if path.name.endswith(".tmp"):
            raise OSError(5, "Input/output error")
        return rename(path, target)

    for owner, name, function in (
        (bundle, "write_tensors", full),
        (bundle, "write_json", full),
        (Path, "rename", second_time),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, function)
            with raises(ArtefactError) as caught:
                other.save(saved)
            assert "disk is full" in str(caught.value) or "Input/output error" in caught.value.problem
        assert content(saved.parent) == before


def test_a_living_writer_is_not_disturbed(saved: Path) -> None:
    beside = saved.parent / f".classifier.{os.getppid()}.tmp"
    beside.mkdir()
    (saved.parent / ".classifier.x.tmp").mkdir()
    (saved.parent / f".another.{os.getpid()}.tmp").mkdir()
    before = {path.name for path in saved.parent.iterdir()}
    made().save(saved)
    assert {path.name for path in saved.parent.iterdir()} == before


# One interpreter imports the library and forks a child a moment, so that the import is paid for once.
_HARNESS = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from adapt_helpers import made

classifier = made(class_names=("x", "y", "z"))

def arm(call, count, when):
    function, calls = getattr(os, call), []
    def patched(*arguments, **more):
        calls.append(1)
        if len(calls) == count and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        function(*arguments, **more)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
    setattr(os, call, patched)

for moment in sys.argv[3:]:
    call, count, when = moment.split("-")
    child = os.fork()
    if child == 0:
        arm(call, int(count), when)
        classifier.save(Path(sys.argv[2]) / moment / "classifier")
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1]), moment
"""
# The files take their names by `replace`, the folders by `rename`: the former one away, then the new one in.
MOMENTS = {
    "replace-1-before": "old",
    "replace-1-after": "old",
    "replace-2-before": "old",
    "replace-2-after": "old",
    "replace-3-before": "old",
    "replace-3-after": "old",
    "rename-1-before": "old",
    "rename-1-after": None,
    "rename-2-before": None,
    "rename-2-after": "new",
    "rmdir-1-before": "new",
}


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_a_killed_process_leaves_a_whole_classifier_and_the_next_one_tidies_up(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {moment: tmp_path / moment / "classifier" for moment in MOMENTS}
    for folder in folders.values():
        FewShotClassifier.load(saved).save(folder)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", _HARNESS, str(Path(__file__).parent)]
    done = subprocess.run([*command, str(tmp_path), *MOMENTS], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    names = {"old": NAMES, "new": ("x", "y", "z")}
    for moment, left in MOMENTS.items():
        folder = folders[moment]
        if left is None:
            with raises(UsageError, subject=str(folder), problem="not a folder"):
                FewShotClassifier.load(folder)
            # The former one comes back with the next call, even if that fails.
            with monkeypatch.context() as patch:
                patch.setattr(bundle, "write_tensors", full)
                with raises(ArtefactError, subject="the disk is full"):
                    made().save(folder)
        assert FewShotClassifier.load(folder).class_names == names[left or "old"]
        made(class_names=("p", "q", "r")).save(folder)
        assert FewShotClassifier.load(folder).class_names == ("p", "q", "r")
        assert content(folder.parent).keys() == {f"classifier/{name}" for name in FILES}
