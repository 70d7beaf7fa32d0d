"""Complete workflow with an architecture, a grouping, a head and a method of another package."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from disturbed_runs import disturbed
from error_checks import raises
from image_folders import SIDE, write_images
from plugin_helpers import done, refused, without_plugins
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from training_helpers import OPTIONS as TGR_OPTIONS
from training_helpers import content

import metazoo
from metazoo.errors import ArtefactError, ZooError
from metazoo.features.heads import NearestMeanEuclidean, get_head
from metazoo.models import ClassifierSpec, build_classifier, network_with_weights, network_without_weights
from metazoo.pipeline.layout import GROUPING
from metazoo.plugins import load_plugin, registered_modules
from metazoo.runs.record import Run
from metazoo.storage.run_folder import RunFolder
from metazoo.storage.tensor_files import write_tensors
from metazoo.taskspace import AffinityConfig, CheckedGrouping
from metazoo.zoo import Zoo

PLUGIN = ("--plugin", "sample_plugin")
OPTIONS = {
    "method": "sample-distillation",
    "recovery": {"iterations": 3},
    "budget": {"images_per_class": 4, "bucket_size": 8},
    "learning": {
        "steps": 8,
        "batch_size": 12,
        "warm_up_steps": 2,
        "views": 24,
        "steps_per_views": 4,
        "calibration_images": 32,
    },
}


def spec_of(classes: int, **arguments: int) -> ClassifierSpec:
    return ClassifierSpec(
        architecture="patch-mixer", arguments={**arguments}, classes=classes, input_size=SIDE,
        mean=(0.5,) * 3, std=(0.25,) * 3,
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def plugin() -> Iterator[None]:
    with without_plugins("sample_plugin"):
        load_plugin("sample_plugin")
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sample")


@pytest.fixture(scope="module")
def zoo(folder: Path) -> Zoo:
    """Zoo of a Conv4 built here and two patch mixers from files, one with a description."""
    path, seen = folder / "zoo", write_images(folder / "seen", classes=4, each=6)
    build = ("zoo", "build", path, "--data", seen, "--models", 1, "--ways", 3, "--width", 4, "--input-size", SIDE)
    done(*build, "--epochs", 1, "--workers", 1)
    for number, arguments in enumerate(({}, {"width": 8, "depth": 1})):
        network = build_classifier(spec_of(2, **arguments), torch.Generator().manual_seed(number)).network
        write_tensors(folder / f"mixer-{number}.safetensors", network.state_dict())
    known = ("--input-size", SIDE, "--mean", "0.5", "--std", "0.25", "--domain", "colours")
    add = ("zoo", "add", path, folder / "mixer-0.safetensors", *known, "--arch", "patch-mixer", "--classes", "a,b")
    done(*PLUGIN, *add)
    described = {"architecture": "patch-mixer", "arguments": {"width": 8, "depth": 1}, "classes": ["c", "d"]}
    (folder / "mixer-1.yaml").write_text(json.dumps(described))
    assert "mixer-1" in done("zoo", "add", path, folder / "mixer-1.safetensors", *known, *PLUGIN)
    return Zoo.open(path)


@pytest.fixture(scope="module")
def train(zoo: Zoo, folder: Path) -> tuple[object, ...]:
    (folder / "options.yaml").write_text(json.dumps(OPTIONS))
    config = ("--config", folder / "options.yaml", "--threads", 1)
    return ("train", *PLUGIN, "--zoo", zoo.folder, "--out", folder / "run", *config)


@pytest.fixture(scope="module")
def run(train: tuple[object, ...], folder: Path) -> Run:
    done(*train, "--workers", 1)
    return Run.open(folder / "run")


def test_the_zoo_is_inspected_and_its_models_are_loaded(zoo: Zoo) -> None:
    inspected = done("zoo", "inspect", zoo.folder, *PLUGIN)
    assert len(re.findall("patch-mixer", inspected)) >= 2
    assert zoo.contract("mixer-1").spec == spec_of(2, width=8, depth=1)
    images = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    made = build_classifier(spec_of(2), torch.Generator().manual_seed(0)).eval()
    with torch.no_grad():
        torch.testing.assert_close(zoo.teacher("mixer-0")(images), made(images), rtol=0, atol=0)


def test_models_are_verified_in_a_process_of_their_own(zoo: Zoo) -> None:
    assert "all 3 models are sound" in done("zoo", "verify", zoo.folder, *PLUGIN)


def test_models_of_the_architecture_are_trained(zoo: Zoo, folder: Path) -> None:
    build = ("zoo", "build", folder / "built", "--data", folder / "seen", "--arch", "patch-mixer", "--input-size", SIDE)
    done(*build, *PLUGIN, "--models", 1, "--ways", 3, "--width", 8, "--epochs", 2, "--workers", 1)
    (contract,) = Zoo.open(folder / "built")
    assert contract.spec.arguments == {"width": 8}
    unfit = refused(2, *build, *PLUGIN, "--models", 1, "--ways", 3, "--width", 6)
    assert "patch-mixer: cannot be built for 3 channels and 16 pixels, width 6 (width must be a multiple of 4" in unfit


def test_a_network_keeps_the_tables_that_are_no_weights() -> None:
    classifier = build_classifier(spec_of(4, width=8), torch.Generator().manual_seed(3))
    state = classifier.network.state_dict()
    assert "positions" not in state
    assert state.keys() == network_without_weights(classifier.spec).state_dict().keys()
    again = network_with_weights(classifier.spec, state)
    images = torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(images), classifier.network(images))


def test_a_run_is_planned(train: tuple[object, ...]) -> None:
    planned = done(*train, "--plan", "--workers", 1)
    assert re.search(r"time, recovery +│ +\d", planned)
    assert re.search(r"time, learning +│ +\d", planned)


def test_a_finished_run_is_found_finished(run: Run, train: tuple[object, ...]) -> None:
    assert "meta-model" in done(*train, "--resume", "--workers", 1)


def test_a_run_records_its_method(run: Run) -> None:
    assert (run.config.method.name, run.config.preset) == ("sample-distillation", "default")
    meta_model = run.meta_model
    assert (meta_model.method, meta_model.spec.architecture) == ("sample-distillation", "patch-mixer")
    assert meta_model.spec.arguments == {"width": 16}
    text = "".join(path.read_text() for path in run.path.glob("*.*"))
    assert "sample_plugin" not in text  # no file names code to import


# Two workers invert models, two of the plug-in's architecture, and leave an incomplete file. Then learning is killed.
CHAINS = {"killed": ("kill create bank/*.safetensors #4", "kill create checkpoints/* #2")}


@pytest.mark.slow
def test_a_run_that_is_killed_is_resumed_by_two_workers_and_ends_bit_equal(
    zoo: Zoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=":")
    outcomes = disturbed(zoo.folder, OPTIONS, tmp_path, CHAINS, workers=2, plugins=["sample_plugin"])["killed"]
    assert [outcome.code for outcome in outcomes] == [-9, -9, 0], outcomes
    assert {outcome.unsound for outcome in outcomes} == {""}
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


def test_a_run_is_measured_compared_and_reported(run: Run, folder: Path) -> None:
    unseen = write_images(folder / "unseen", classes=5, each=6, first=10)
    files = [folder / f"{head}.json" for head in ("discriminant", "nearest-mean")]
    for file in files:
        evaluate = ("evaluate", run.path, *PLUGIN, "--data", unseen, "--ways", 3, "--shots", "1,2", "--queries", 2)
        assert file.stem in done(*evaluate, "--episodes", 8, "--head", file.stem, "--out", file)
    rows = done("compare", f"own={files[0]}", f"usual={files[1]}", "--format", "csv", *PLUGIN).splitlines()
    assert {line.split(",")[1] for line in rows[1:]} == {"discriminant", "nearest-mean"}
    done("report", run.path, files[0], "--out", folder / "report.html", *PLUGIN)
    page = (folder / "report.html").read_text()
    for text in ("Distillation of the zoo", "patch-mixer", "mixer-1", "discriminant"):
        assert text in page


def test_a_classifier_of_the_head_predicts(run: Run, folder: Path) -> None:
    support = write_images(folder / "support", classes=3, each=3, first=20)
    classifier = folder / "classifier"
    done("adapt", run.path, "--support", support, "--out", classifier, "--head", "discriminant", *PLUGIN)
    printed = done("predict", classifier, support, "--format", "csv", *PLUGIN).splitlines()
    assert len(printed) == 1 + 9
    assert {line.split(",")[1] for line in printed[1:]} <= {f"colour-{number}" for number in range(20, 23)}
    with without_plugins("sample_plugin"):
        problem = refused(1, "predict", classifier, support)
        assert "architecture 'patch-mixer': is not registered" in problem
        assert "--plugin PACKAGE" in problem


def test_a_classifier_opens_without_the_package_of_its_head(zoo: Zoo, folder: Path) -> None:
    support = torch.rand(6, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    (conv4,) = (contract.name for contract in zoo if contract.spec.architecture == "conv4")
    classifier = metazoo.adapt.adapt(zoo.teacher(conv4), support, [0, 0, 1, 1, 2, 2], head="discriminant")
    classifier.save(folder / "plain")
    with without_plugins("sample_plugin"):
        again = metazoo.FewShotClassifier.load(folder / "plain")
        assert again.description.head == "discriminant"
        assert torch.equal(again.predict(support).probabilities, classifier.predict(support).probabilities)


def test_missing_packages_are_named(run: Run, zoo: Zoo, train: tuple[object, ...]) -> None:
    with without_plugins("sample_plugin"):
        words = [word for word in train if word not in PLUGIN]
        assert "patch-mixer" in done("zoo", "inspect", zoo.folder)
        assert "unknown method 'sample-distillation'; choose one of tgr" in refused(2, *words, "--resume")
        resumed = ("train", "--zoo", zoo.folder, "--out", run.path, "--resume")
        assert "unknown method 'sample-distillation'" in refused(1, *resumed)
        head = refused(2, "adapt", run.path, "--support", ".", "--out", "x", "--head", "discriminant")
        assert "invalid choice: 'discriminant'" in head
        unknown, load = "architecture 'patch-mixer': is not registered", "--plugin PACKAGE, metazoo.load_plugin"
        with raises(ZooError, subject="model 'mixer-0'", problem=unknown, remedy=load):
            zoo.teacher("mixer-0")
        with raises(ArtefactError, subject="bundle.json", problem=unknown, remedy=load):
            run.meta_model  # noqa: B018 - reads the bundle
        other = run.path.with_name("other")
        refusal = refused(2, "train", "--zoo", zoo.folder, "--out", other, "--workers", 1)
        assert f"model 'mixer-0' of {zoo.folder}: {unknown}; load" in refusal
        assert not other.exists()
        assert registered_modules() == ()


def test_the_head_is_discriminant_analysis() -> None:
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(4).repeat_interleave(6)
    features = torch.randn(2, 24, 5, generator=random, dtype=torch.float64) + labels[:, None] % 3
    queries = torch.randn(2, 7, 5, generator=random, dtype=torch.float64)
    head = get_head("discriminant")
    scores = head.fit_features(features, labels, 4).scores(queries)  # pyright: ignore[reportAttributeAccessIssue]
    for task in range(2):
        oracle = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=0.5, priors=[0.25] * 4)
        expected = torch.from_numpy(oracle.fit(features[task].numpy(), labels.numpy()).decision_function(queries[task]))
        # With equal priors, the oracle's scores differ by a constant.
        torch.testing.assert_close(scores[task] - scores[task, :, :1], expected - expected[:, :1])
    single = head.fit_features(features[:, ::6], labels[::6], 4)  # pyright: ignore[reportAttributeAccessIssue]
    nearest = NearestMeanEuclidean().fit_features(features[:, ::6], labels[::6], 4)
    assert torch.equal(single.scores(queries).argmax(-1), nearest.scores(queries).argmax(-1))


def test_a_run_learns_from_pairs_that_are_drawn_in_every_step(zoo: Zoo, tmp_path: Path) -> None:
    grouping = CheckedGrouping("drawn-pairs", 5, AffinityConfig())
    drawn = [grouping.draw(step, torch.Generator().manual_seed(step)).groups for step in range(4)]
    assert all([len(members) for members in groups] == [2, 2, 1] for groups in drawn)
    assert len({*drawn}) > 1
    config = {**TGR_OPTIONS, "grouping": {"strategy": "drawn-pairs"}}
    run = metazoo.train(zoo, "tgr", out=tmp_path / "run", config=config, workers=1)
    assert not RunFolder(run.path).has(GROUPING)


def test_the_page_on_extending_shows_these_files() -> None:
    page = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
    for name in ("architecture", "grouping", "head", "method"):
        source = (Path(__file__).parent / "sample_plugin" / f"{name}.py").read_text(encoding="utf-8")
        assert f"```python\n{source}```\n" in page
