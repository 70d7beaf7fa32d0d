import copy
import csv
import errno
import io
import json
import re
import shutil
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from cli_helpers import Outcome, Workshop, call, content, edit_json, edit_tensors
from image_folders import write_images
from PIL import Image
from torch import Tensor

from metazoo.adapt import FewShotClassifier, MetaModel
from metazoo.cli.predict_command import _folder_names
from metazoo.data import decoded_or_errors, load_images
from metazoo.errors import MetazooError
from metazoo.features.domain_router import DomainRecogniser
from metazoo.features.embedders import MultiDomainClassifier, count_parameters

Cli = Callable[..., Outcome]
Refused = Callable[..., str]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_a_run_becomes_a_classifier(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    outcome = cli("adapt", workshop.run, "--support", workshop.support, "--out", own.new)
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith(f"{own.new}: a classifier of 3 classes, made from 6 images\n")
    assert content(own.new) == content(own.classifier)
    assert f"| made from | {workshop.run.name} |" in (own.new / "README.md").read_text().replace("\\", "")
    card = FewShotClassifier.load(own.new).description
    assert (card.class_names, card.joint) == (("colour-20", "colour-21", "colour-22"), False)
    assert card.source == workshop.run.name


def test_a_mirrored_classifier_predicts_the_same_of_mirror_images(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    words = ("--support", workshop.support, "--out", own.new, "--mirror")
    assert cli("adapt", workshop.run, *words).code == 0
    classifier, images = FewShotClassifier.load(own.new), load_images(workshop.unseen, side=16).images[:6]
    assert classifier.description.mirrored
    found, again = (classifier.predict(some).probabilities for some in (images, images.flip(3)))
    torch.testing.assert_close(found, again)
    assert content(own.new) != content(own.classifier)


def test_a_meta_model_without_its_run_becomes_the_same_classifier(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    for folder in (own.run, own.run / "meta-model"):
        assert cli("adapt", folder, "--support", workshop.support, "--out", own.new, "--overwrite").code == 0
        assert (own.new / "model.safetensors").read_bytes() == (own.classifier / "model.safetensors").read_bytes()


def test_adapt_names_the_domains_of_the_images(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    plain = MetaModel.load(workshop.run / "meta-model")
    weight = torch.zeros(3 * plain.networks[0].network.feature_size + 1, 3)
    weight[-1] = torch.tensor([0.0, 1.0, -2.0])  # the same for all images
    recogniser = DomainRecogniser(("birds", "ships", "[bold]"), weight)
    module = MultiDomainClassifier([copy.deepcopy(plain.networks[0]) for _ in range(3)], recogniser)
    MetaModel(module, method="tgr", preset="default", seed=0).save(own.folder / "several")
    words = ("adapt", own.folder / "several", "--support", workshop.support, "--out", own.new)
    outcome = cli(*words)
    made = f"{own.new}: a classifier of 3 classes, made from 6 images, domains ships (95 %), birds (5 %)"
    assert (outcome.code, outcome.err, outcome.out.partition("\n")[0]) == (0, "", made)
    assert FewShotClassifier.load(own.new).description.domains.keys() == {"birds", "ships", "[bold]"}
    assert cli("predict", own.new, workshop.support).code == 0
    known = cli(*words, "--overwrite", "--domain", "[bold]")
    assert known.out.partition("\n")[0].endswith("domains [bold] (100 %)")
    unknown = cli(*words, "--overwrite", "--domain", "cars")
    assert unknown.code == 2
    assert "'cars'" in unknown.err
    words = ("--ways", 3, "--shots", 1, "--queries", 5, "--episodes", 4)
    table = cli("evaluate", own.folder / "several", "--data", workshop.unseen, *words).out
    assert f" {count_parameters(module):,} │" in table
    table = cli("evaluate", own.folder / "several", "--data", workshop.unseen, *words, "--domain", "[bold]").out
    assert "known domain [bold]" in " ".join(table.split())


@pytest.mark.parametrize("head", ["nearest-mean", "ridge", "soft-k-means-balanced", "fine-tune"])
@pytest.mark.parametrize("mode", ["running", "support", "query"])
def test_a_zoo_becomes_a_classifier_of_all_its_models(
    cli: Cli, workshop: Workshop, own: Workshop, head: str, mode: str
) -> None:
    words = ("--head", head, "--batch-norm", mode)
    assert cli("adapt", workshop.zoo, "--support", workshop.support, "--out", own.new, *words).code == 0
    card = FewShotClassifier.load(own.new).description
    assert (card.joint, len(card.networks), card.head, card.batch_norm) == (True, 2, head, mode)
    outcome = cli("predict", own.new, workshop.support, "--format", "csv")
    assert outcome.code == 0
    assert len(rows(outcome.out)) == 6
    # The models of this zoo have batch norm.
    assert ("predicts all images together" in outcome.err) == (mode == "query" or head == "soft-k-means-balanced")


def test_a_transductive_classifier_predicts_all_images_together_with_one_note(
    cli: Cli, workshop: Workshop, own: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("metazoo.cli.predict_command._FILES_AT_ONCE", 5)
    for prior in ("balanced", "free"):
        words = ("--support", workshop.support, "--out", own.new, "--overwrite", "--head", f"soft-k-means-{prior}")
        assert cli("adapt", workshop.run, *words).code == 0
        classifier = FewShotClassifier.load(own.new)
        files = sorted(workshop.unseen.rglob("*.png"))
        outcome = cli("predict", own.new, *files, "--format", "jsonl")
        records = [json.loads(line) for line in outcome.out.splitlines()]
        expected = classifier.predict(files)
        assert [record["class"] for record in records] == expected.names
        assert outcome.err.startswith(f"note: this classifier (head soft-k-means-{prior}, batch norm running) ")
        assert outcome.err.count("\n") == 1
        assert ("per class" in outcome.err) == (prior == "balanced")


def test_predictions_are_those_of_the_library(cli: Cli, workshop: Workshop) -> None:
    files = sorted(workshop.unseen.rglob("*.png"))
    classifier = FewShotClassifier.load(workshop.classifier)
    expected = classifier.predict(files)
    outcome = cli("predict", workshop.classifier, *files, "--format", "jsonl")
    assert (outcome.code, outcome.err) == (0, "")
    records = [json.loads(line) for line in outcome.out.splitlines()]
    assert [record["image"] for record in records] == [str(file) for file in files]
    assert [record["class"] for record in records] == expected.names
    for record, row in zip(records, expected.probabilities.tolist(), strict=True):
        assert list(record["probabilities"]) == list(classifier.class_names)
        assert list(record["probabilities"].values()) == pytest.approx(row)


def test_support_images_are_recognised(cli: Cli, workshop: Workshop) -> None:
    table = rows(cli("predict", workshop.classifier, workshop.support, "--format", "csv").out)
    assert len(table) == 6
    assert all(Path(row["image"]).parent.name == row["class"] for row in table)
    assert all(1 / 3 < float(row["probability"]) <= 1 for row in table)


def test_predictions_as_a_table(cli: Cli, workshop: Workshop) -> None:
    outcome = cli("predict", workshop.classifier, workshop.support)
    assert (outcome.code, outcome.err) == (0, "")
    for name in ("colour-20", "colour-21", "colour-22"):
        # Paths are not wrapped, so that they can be searched.
        assert re.search(rf"│ {workshop.support / name / '0.png'} +│ {name} +│ +0\.\d{{3}} │", outcome.out)


def test_folders_are_searched_at_any_depth_except_hidden_ones(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    picture = next(workshop.support.rglob("*.png"))
    for name in ("b/c/d/2.PNG", "a/1.png", "0.png", ".trash/x/9.png", "a/.thumbs/9.png", ".9.png", "b/notes.txt"):
        (own.new / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, own.new / name)
    outcome = cli("predict", own.classifier, own.new, picture, own.new / "a", "--format", "csv")
    names = [own.new / "0.png", own.new / "a/1.png", own.new / "b/c/d/2.PNG", picture, own.new / "a/1.png"]
    assert [row["image"] for row in rows(outcome.out)] == [str(name) for name in names]


def test_many_images_are_predicted_in_parts(cli: Cli, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = cli("predict", workshop.classifier, workshop.unseen, "--format", "csv").out
    monkeypatch.setattr("metazoo.cli.predict_command._FILES_AT_ONCE", 5)
    parts = cli("predict", workshop.classifier, workshop.unseen, "--format", "csv").out
    for part, row in zip(rows(parts), rows(whole), strict=True):
        assert (part["image"], part["class"]) == (row["image"], row["class"])
        # Sums are rounded differently in batches of another size.
        assert float(part["probability"]) == pytest.approx(float(row["probability"]), abs=1e-5)


def test_odd_names_of_classes_stay_names(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    names = ("[red]x[bold]", "a,b", 'say "é"', "=1+1", "x\ny\x1b[31m")
    write_images(own.new, len(names), 1)
    for number, name in enumerate(names):
        (own.new / f"colour-{number}").rename(own.new / name)
    assert cli("adapt", workshop.run, "--support", own.new, "--out", own.other).code == 0
    for name in names:
        words = ("predict", own.other, own.new / name / "0.png", "--format")
        assert rows(cli(*words, "csv").out)[0]["class"] == name
        assert json.loads(cli(*words, "jsonl").out)["class"] == name
    table = cli("predict", own.other, own.new).out
    assert "│ [red]x[bold] " in table
    assert r"│ x\ny\x1b[31m " in table
    assert "\x1b" not in table


@pytest.mark.parametrize("form", ["csv", "table", "jsonl"])
def test_file_names_of_any_bytes_are_printed_in_any_encoding(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    odd = shutil.copy(next(workshop.support.rglob("*.png")), tmp_path / "odd-\udcff-é.png")
    with monkeypatch.context() as patch:
        written = io.BytesIO()
        stdout = io.TextIOWrapper(written, encoding="ascii")
        patch.setattr("sys.stdout", stdout)
        assert call("predict", workshop.classifier, odd, "--format", form) == 0
        text = written.getvalue().decode("ascii")
    if form == "jsonl":
        assert json.loads(text)["image"] == str(odd)
    else:
        assert r"odd-\udcff-\xe9.png" in text


def test_overwrite_replaces_a_classifier(cli: Cli, refused: Refused, workshop: Workshop, own: Workshop) -> None:
    write_images(own.new, 2, 1, first=30)
    words = ("adapt", workshop.run, "--support", own.new, "--out", own.classifier)
    before = content(own.classifier)
    assert f"{own.classifier}: already holds a classifier" in refused(2, *words)
    assert content(own.classifier) == before
    assert cli(*words, "--overwrite").code == 0
    assert FewShotClassifier.load(own.classifier).class_names == ("colour-30", "colour-31")


def test_other_folders_are_not_overwritten(refused: Refused, own: Workshop) -> None:
    before = content(own.folder)
    for out in (own.support, own.run, own.zoo, own.config):
        error = refused(2, "adapt", own.run, "--support", own.support, "--out", out)
        assert f"{out}: exists and is not a classifier folder" in error
    assert content(own.folder) == before


def test_a_support_folder_that_cannot_be_used_is_named(refused: Refused, own: Workshop) -> None:
    def adapt(code: int, support: Path) -> str:
        return refused(code, "adapt", own.run, "--support", support, "--out", own.new)

    assert "none: is not a folder; give a folder with one folder of images per class" in adapt(2, own.none)
    assert "colour-20: no class folders" in adapt(2, own.support / "colour-20")
    (own.support / "empty").mkdir()
    assert f"{own.support / 'empty'}: class folder without images" in adapt(1, own.support)
    (own.support / "empty").rmdir()
    corrupt = own.support / "colour-21" / "1.png"
    whole = corrupt.read_bytes()
    for rubbish in (b"", b"not an image", whole[: len(whole) // 2]):
        corrupt.write_bytes(rubbish)
        assert str(corrupt.relative_to(own.support)) in adapt(1, own.support)
    for name in ("colour-21", "colour-22"):
        shutil.rmtree(own.support / name)
    assert "support: holds the one class 'colour-20'; give at least two class folders" in adapt(2, own.support)
    assert not own.new.exists()


def test_folders_and_patterns_without_images_are_named(refused: Refused, own: Workshop) -> None:
    own.new.mkdir()
    assert "new: holds no image" in refused(2, "predict", own.classifier, own.support, own.new)
    assert "*.png: matches no file" in refused(2, "predict", own.classifier, own.new / "*.png")
    assert "--copy-to" in refused(2, "predict", own.classifier, own.support, "--copy-to", own.config)
    inside = own.support / "sorted"
    assert "whose images are classified" in refused(2, "predict", own.classifier, own.support, "--copy-to", inside)
    assert "given twice" in refused(2, "predict", own.classifier, "-", "-")


@pytest.mark.parametrize("head", ["nearest-mean", "soft-k-means-free"])
def test_a_bad_image_loses_only_its_own_answer(cli: Cli, workshop: Workshop, own: Workshop, head: str) -> None:
    words = ("--support", workshop.support, "--out", own.new, "--head", head)
    assert cli("adapt", workshop.run, *words).code == 0
    good = sorted(workshop.unseen.rglob("*.png"))[:7]
    half = own.folder / "half.png"
    half.write_bytes(good[0].read_bytes()[:100])
    (own.other / "raw").mkdir(parents=True)
    raw = shutil.copy(half, own.other / "raw" / "x.ppm")
    images = (*good[:3], half, own.none, "a" * 5000, *good[3:])
    assert rows(cli("predict", own.new, own.other, "--format", "csv").out)[0]["image"] == str(raw)
    expected = rows(cli("predict", own.new, *good, "--format", "csv").out)
    outcome = cli("predict", own.new, *images, "--format", "csv")
    assert outcome.code == 1
    assert "3 of 10 images could not be read" in outcome.err
    found = rows(outcome.out)
    assert [row["image"] for row in found] == [str(image) for image in images]
    assert [row["error"] == "" for row in found] == [True] * 3 + [False] * 3 + [True] * 4
    readable = [row for row in found if not row["error"]]
    assert [row["class"] for row in readable] == [row["class"] for row in expected]
    assert {row["class"] for row in found if row["error"]} == {""}
    records = [json.loads(line) for line in cli("predict", own.new, *images, "--format", "jsonl").out.splitlines()]
    assert [sorted(record) for record in records[2:5]] == [
        ["class", "image", "probabilities", "unknown"],
        *[["error", "image"]] * 2,
    ]
    assert records[4]["error"] == "does not exist; give the path of an image"
    assert re.search(rf"│ {half} +│ error: ", cli("predict", own.new, *good, half).out)


def test_an_image_may_come_from_standard_input(cli: Cli, workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = next(workshop.unseen.rglob("*.png"))
    expected = json.loads(cli("predict", workshop.classifier, picture, "--format", "jsonl").out)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(picture.read_bytes())))
        outcome = cli("predict", workshop.classifier, "-", "--format", "jsonl")
    assert outcome.code == 0
    assert json.loads(outcome.out) == expected | {"image": "-"}


def test_standard_input_without_an_image_is_an_error_of_its_own(
    cli: Cli, workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = next(workshop.unseen.rglob("*.png"))
    for stdin in (None, io.TextIOWrapper(io.BytesIO(b"")), io.TextIOWrapper(io.BytesIO(b"no image"))):
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdin", stdin)
            outcome = cli("predict", workshop.classifier, picture, "-", "--format", "csv")
        assert outcome.code == 1
        assert [row["error"] == "" for row in rows(outcome.out)] == [True, False]


def test_few_pictures_are_in_memory_at_once(
    cli: Cli, workshop: Workshop, own: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive, most = set[int](), 0

    def counted(sources: Sequence[Path]) -> Iterator[Tensor | MetazooError]:
        nonlocal most
        for number, found in enumerate(decoded_or_errors(sources)):
            alive.add(number)
            weakref.finalize(found, alive.discard, number)
            most = max(most, len(alive))
            yield found
            del found

    own.new.mkdir()
    for number in range(12):
        Image.new("RGB", (90, 70), (number, 0, 0)).save(own.new / f"{number}.png")
    monkeypatch.setattr("metazoo.cli.predict_command.decoded_or_errors", counted)
    assert cli("predict", workshop.classifier, own.new, "--format", "csv").code == 0
    assert most <= 3


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("a/b", "a:b", "a_b"), ["a_b", "a_b-2", "a_b-3"]),
        (("..", ".", "Cat", "cat"), ["_", "_-2", "Cat", "cat-2"]),
        (("con", "NUL.txt", "console"), ["_con", "_NUL.txt", "console"]),
        (("x" * 300, "x" * 299), ["x" * 100, "x" * 100 + "-2"]),
    ],
)
def test_classes_have_different_folders(names: tuple[str, ...], expected: list[str]) -> None:
    assert [*_folder_names(names).values()] == expected


def test_a_copy_that_fails_leaves_nothing_and_loses_no_answer(
    cli: Cli, workshop: Workshop, own: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(source: Path, target: Path) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    outcome = cli("predict", workshop.classifier, workshop.support, "--format", "csv", "--copy-to", own.new)
    assert outcome.code == 1
    assert len(rows(outcome.out)) == 6
    assert "6 of 6 images could not be copied" in outcome.err
    assert not [path for path in own.new.rglob("*") if path.is_file()]


def test_patterns_are_expanded_where_the_shell_did_not(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    found = rows(cli("predict", workshop.classifier, workshop.unseen / "*" / "1.png", "--format", "csv").out)
    assert [row["image"] for row in found] == [str(file) for file in sorted(workshop.unseen.glob("*/1.png"))]
    assert len(found) > 1
    odd = own.folder / "[1].png"  # a file wins over a pattern
    shutil.copy(found[0]["image"], odd)
    assert rows(cli("predict", workshop.classifier, odd, "--format", "csv").out)[0]["image"] == str(odd)


def test_images_are_copied_to_one_folder_per_class(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    bad = own.folder / "bad.png"
    bad.write_bytes(b"")
    words = ("predict", workshop.classifier, workshop.support, bad, "--format", "csv", "--copy-to", own.new)
    found = rows(cli(*words).out)
    copies = {file.relative_to(own.new): file.read_bytes() for file in own.new.rglob("*.png")}
    assert len(copies) == 6
    for row in found[:6]:
        source = Path(row["image"])
        assert copies[Path(row["class"], source.name)] == source.read_bytes()
    assert cli(*words).code == 1
    assert len([*own.new.rglob("*.png")]) == 12  # nothing was replaced
    assert all(file.read_bytes() == copies[Path(file.parent.name, "0.png")] for file in own.new.rglob("0-2.png"))


def test_bad_support_images_are_skipped_if_asked(cli: Cli, workshop: Workshop, own: Workshop) -> None:
    (own.support / "colour-20" / "9.png").write_bytes(b"no image")
    words = ("adapt", workshop.run, "--support", own.support, "--out", own.new)
    refused = cli(*words)
    assert refused.code == 1
    assert f"1 of 7 images cannot be used: {Path('colour-20', '9.png')}" in refused.err
    skipped = cli(*words, "--skip-bad")
    assert (skipped.code, skipped.err.startswith(f"skipped: {Path('colour-20', '9.png')}: ")) == (0, True)
    weights = "model.safetensors"
    assert (own.new / weights).read_bytes() == (own.classifier / weights).read_bytes()


def test_export_names_options_and_subjects_that_do_not_fit(refused: Refused, workshop: Workshop, own: Workshop) -> None:
    page, package = own.folder / "page.html", own.folder / "none.tgz"
    assert "--outputs: has no meaning for a page" in refused(
        2, "export", workshop.classifier, page, "--outputs", "features"
    )
    assert "--precision: has no meaning" in refused(2, "export", workshop.classifier, page, "--precision", "int8")
    assert "--runtime: is for a page" in refused(
        2, "export", workshop.classifier, own.folder / "model.onnx", "--runtime", package
    )
    assert "is a zoo" in refused(2, "export", workshop.zoo, page)
    assert "is not a folder" in refused(2, "export", own.folder / "none", page)
    assert "head logistic" in refused(2, "export", workshop.classifier, page)
    assert f"{package}: does not exist" in refused(2, "export", workshop.run, page, "--runtime", package)
    assert not page.exists()


def test_export_writes_a_file_that_agrees(cli: Cli, refused: Refused, workshop: Workshop, own: Workshop) -> None:
    out = own.folder / "model.pt2"
    outcome = cli("export", workshop.classifier, out, "--check", workshop.unseen)
    assert outcome.code == 0
    images = len([*workshop.unseen.rglob("*.png")])
    assert f"and {images} of yours, no class differs" in outcome.out
    assert f"{out}: exists" in refused(2, "export", workshop.classifier, out)
    module = torch.export.load(out).module()
    picture = load_images(workshop.unseen, side=16).images[:3]
    expected = FewShotClassifier.load(workshop.classifier).predict(picture).probabilities
    torch.testing.assert_close(module(picture)[0], expected)


def test_a_classifier_that_cannot_be_used_is_named(refused: Refused, own: Workshop) -> None:
    def predict(code: int) -> str:
        return refused(code, "predict", own.classifier, own.support)

    assert "none: is not a folder" in refused(2, "predict", own.none, own.support)
    own.new.mkdir()
    assert "bundle.json: is missing" in refused(1, "predict", own.new, own.support)
    assert "run: is a run, not a classifier" in refused(2, "predict", own.run, own.support)
    sha256 = edit_tensors(own.classifier / "model.safetensors", lambda t: t["head.weight"].fill_(torch.nan))
    assert "model.safetensors: has changed" in predict(1)
    edit_json(own.classifier / "bundle.json", lambda card: card.update(weights_sha256=sha256))
    assert "not finite in tensor head.weight" in predict(1)
    (own.classifier / "bundle.json").write_text("{")
    assert "bundle.json: is not valid JSON" in predict(1)
