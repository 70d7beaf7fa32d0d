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


def test_hostile_class_names_are_only_names(tmp_path: Path) -> None:
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
        with pytest.raises(ArtefactError, match=f"{path}: has changed since it was written"):
            FewShotClassifier.load(saved)
    for damaged in (b"", whole[:-1], whole[: len(whole) // 2], whole + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(ArtefactError, match=f"{path}: has changed since it was written"):
            FewShotClassifier.load(saved)


@pytest.mark.parametrize("name", [DESCRIPTION, WEIGHTS])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(ArtefactError, match=f"{saved / name}: is missing; restore it or make it again"):
        FewShotClassifier.load(saved)


def test_what_is_no_classifier_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for name in ("file", "none"):
        with pytest.raises(UsageError, match=f"{name} is not a folder; give a classifier folder as adapt writes it"):
            FewShotClassifier.load(tmp_path / name)
    with pytest.raises(ArtefactError, match=r"bundle.json: is missing"):
        FewShotClassifier.load(tmp_path)


class _Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("a pickle was read",))


def test_a_pickle_is_never_read(saved: Path) -> None:
    (saved / WEIGHTS).write_bytes(pickle.dumps(_Exploit()))
    sha256 = sha256_of_file(saved / WEIGHTS)
    edit_json(saved / DESCRIPTION, lambda card: card.update(weights_sha256=sha256))
    with pytest.raises(ArtefactError, match="is a pickle or zip archive, which is never read"):
        FewShotClassifier.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("head.weight"), "lacks tensor head.weight"),
        (lambda t: t.pop("networks.0.head.bias"), "lacks tensor networks.0.head.bias"),
        (lambda t: t.clear(), "lacks tensor head.weight"),
        (lambda t: t.update(more=torch.zeros(1)), "has a tensor 'more'"),
        (lambda t: t.update({"head.bias": torch.zeros(3)}), "has a tensor 'head.bias'"),
        (
            lambda t: t.update({"head.weight": torch.zeros(2, 4)}),
            r"bundle.json: it has tensor head.weight as float32 \[2, 4\], it must be float32 \[3, 4\]; adapt",
        ),
        (
            lambda t: t.update({"head.weight": t["head.weight"].double()}),
            r"head.weight as float64 .* must be float32",
        ),
        (
            lambda t: t.update({"networks.0.blocks.0.0.weight": torch.zeros(4, 3, 1, 1)}),
            r"networks.0.blocks.0.0.weight as float32 \[4, 3, 1, 1\]",
        ),
        (lambda t: t["head.weight"].fill_(torch.nan), "values in tensor head.weight that are not finite; adapt again"),
        (lambda t: t["networks.0.blocks.1.0.bias"][1:2].fill_(torch.inf), "blocks.1.0.bias that are not finite"),
        (
            lambda t: t["networks.0.blocks.0.1.running_var"][0].fill_(-1),
            "negative variance in .*running_var",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(
    saved: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    edit_weights(saved, change)
    with pytest.raises(ArtefactError, match=message):
        FewShotClassifier.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, r"does not describe a classifier \(format: "),
        ({"format_version": 3}, "has format version 3, this metazoo reads 2; update metazoo"),
        ({"format_version": None}, "has format version None"),
        ({"head_kind": "svm"}, r"does not describe a classifier \(head_kind: "),
        ({"head_kind": "linear"}, "lacks tensor head.bias"),
        ({"head_kind": "soft-k-means-free"}, "lacks tensor head.counts"),
        ({"batch_norm": "none"}, r"\(batch_norm: "),
        ({"class_names": ["a"]}, r"\(class_names: "),
        ({"class_names": ["a", "b", "a"]}, "a class name is there twice"),
        ({"class_names": ["a", "b", 3]}, r"\(class_names.2: "),
        ({"class_names": ["a", "b"]}, r"head.weight as float32 \[3, 4\], it must be float32 \[2, 4\]"),
        ({"networks": []}, r"\(networks: "),
        ({"joint": "perhaps"}, r"\(joint: "),
        ({"code": "os.system"}, r"\(code: is unknown\)"),
    ],
)
def test_a_description_that_does_not_fit_is_named(saved: Path, change: dict[str, Any], message: str) -> None:
    edit_json(saved / DESCRIPTION, lambda card: card.update(change))
    with pytest.raises(ArtefactError, match=message):
        FewShotClassifier.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "os.system"}, "cannot be built: unknown architecture 'os.system'"),
        ({"arguments": {"depth": 3}}, "cannot be built: .*no argument 'depth'"),
        ({"input_size": 8}, "cannot be built: conv4 needs images of at least 16 pixels"),
        ({"std": [0.3, 0, 0.3]}, "std must be positive"),
        ({"arguments": {"width": 5}}, "as float32"),
        # Would be 60 TB if it were built before it is compared with what the file holds.
        ({"arguments": {"width": 4096}, "input_size": 1024, "classes": 1_000_000}, "as float32"),
    ],
)
def test_a_network_that_does_not_fit_is_named(saved: Path, change: dict[str, Any], message: str) -> None:
    edit_json(saved / DESCRIPTION, lambda card: card["networks"][0].update(change))
    with pytest.raises(ArtefactError, match=message):
        FewShotClassifier.load(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "null", '"x"', "[" * 100_000, "\ufeff{}", '{"a": NaN}'])
def test_a_damaged_description_is_an_error_that_names_it(saved: Path, text: str) -> None:
    (saved / DESCRIPTION).write_text(text, encoding="utf-8")
    with pytest.raises(ArtefactError, match=f"{saved / DESCRIPTION} (is|does) not "):
        FewShotClassifier.load(saved)


def test_several_networks_must_stand_side_by_side(saved: Path) -> None:
    edit_json(saved / DESCRIPTION, lambda card: card.update(networks=card["networks"] * 2))
    with pytest.raises(ArtefactError, match="several networks must be joint"):
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
    for folder, message in (
        (thesis, "thesis exists and is not a classifier folder; choose another or remove it"),
        (tmp_path / "file", "file exists and is not a classifier folder"),
        (broken, "broken exists and is not a classifier folder"),
        (saved, r"holds notes.txt besides a classifier; choose another folder or move it away"),
        (Path("/"), "/ .*choose another"),
    ):
        with pytest.raises(UsageError, match=message):
            made().save(folder)
        assert content(tmp_path) == before


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    made().save(tmp_path / "c")
    assert FewShotClassifier.load(tmp_path / "c").class_names == NAMES


def test_a_folder_within_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtefactError, match=r"cannot write .*file"):
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
            with pytest.raises(ArtefactError, match=r"disk is full|cannot write .*: Input/output error"):
                other.save(saved)
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
            with pytest.raises(UsageError, match="is not a folder"):
                FewShotClassifier.load(folder)
            # The former one comes back with the next call, even if that fails.
            with monkeypatch.context() as patch:
                patch.setattr(bundle, "write_tensors", full)
                with pytest.raises(ArtefactError, match="disk is full"):
                    made().save(folder)
        assert FewShotClassifier.load(folder).class_names == names[left or "old"]
        made(class_names=("p", "q", "r")).save(folder)
        assert FewShotClassifier.load(folder).class_names == ("p", "q", "r")
        assert content(folder.parent).keys() == {f"classifier/{name}" for name in FILES}
