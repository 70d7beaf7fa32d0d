"""The whole way on a real GPU, where steps are recorded and played back; skipped where there is none."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from training_helpers import OPTIONS, PUBLISHED_OPTIONS, PURER_OPTIONS, SIDE, build, coloured_images

from metazoo.adapt import adapt
from metazoo.evaluate import Subject, evaluate
from metazoo.execution import repeat
from metazoo.execution.process_memory import give_back_memory
from metazoo.features.embedders import MultiDomainClassifier
from metazoo.runs.config import merged
from metazoo.runs.train import train
from metazoo.zoo import TrainingConfig, Zoo, build_zoo

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

LONGER = merged(OPTIONS, {"recovery": {"iterations": 6}, "learning": {"steps": 30, "steps_per_views": 15}})
PUBLISHED = {"kind": "implicit", "differentiate_displacement": True, "every": 1}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return build(tmp_path_factory.mktemp("zoo") / "zoo", grey=2)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each step that was to be recorded could be."""
    found: list[bool] = []

    def watched(step: Callable[[], None], graph: repeat.Recording) -> bool:
        found.append(record(step, graph))
        return found[-1]

    record = repeat.record
    monkeypatch.setattr(repeat, "record", watched)
    return found


@pytest.mark.parametrize(
    ("setting", "config"),
    [
        ("default", LONGER),
        ("default", merged(LONGER, {"learning": {"regularisation": {"kind": "explicit", "every": 1}}})),
        ("default", merged(LONGER, {"learning": {"regularisation": PUBLISHED}})),
        ("default", merged(LONGER, {"domains": {"alike": 9.0}, "trust": {"mode": "weigh", "threshold": 1.0}})),
        ("published", merged(PUBLISHED_OPTIONS, {"recovery": {"iterations": 6}})),
        ("default", merged(PURER_OPTIONS, {"recovery": {"iterations": 6}})),
    ],
)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_finishes_and_all_its_steps_are_recorded(
    zoo: Zoo, tmp_path: Path, recorded: list[bool], setting: str, config: dict[str, Any], precision: str
) -> None:
    run = train(zoo, out=tmp_path / "run", preset=setting, config=config, device="cuda", precision=precision, workers=1)
    assert run.finished
    assert isinstance(run.meta_model.module, MultiDomainClassifier) == ("domains" in config)
    assert len(recorded) > 5
    assert all(recorded)


@pytest.mark.parametrize("learner", ["maml", "maml-first-order", "anil", "protonet"])
def test_every_learner_is_recorded(zoo: Zoo, tmp_path: Path, recorded: list[bool], learner: str) -> None:
    config = merged(PUBLISHED_OPTIONS, {"learning": {"replay": {"learner": learner, "episodes_per_update": 6}}})
    run = train(zoo, out=tmp_path / "run", preset="published", config=config, device="cuda", workers=1)
    assert run.finished
    assert all(recorded)


def test_processes_share_a_gpu_and_a_run_is_taken_up_there(zoo: Zoo, tmp_path: Path) -> None:
    stopped = tmp_path / "run"
    train(zoo, out=stopped, config=LONGER, device="cuda", workers=2)
    (stopped / "meta-model" / "bundle.json").unlink()
    assert train(zoo, out=stopped, config=LONGER, device="cuda", workers=2, resume=True).finished


@pytest.mark.parametrize(("architecture", "shift"), [("conv4", None), ("conv4", 2), ("thin-resnet", None)])
def test_models_are_trained_there_as_on_the_cpu(
    tmp_path: Path, recorded: list[bool], architecture: str, shift: int | None
) -> None:
    images = coloured_images(4, SIDE)
    config = TrainingConfig(epochs=8, batch_size=5, largest_shift=shift, milestones=(4,), learning_rate=0.003)
    here, there = (
        build_zoo(tmp_path / name, images, architecture, 1, 3, config=config, width=4, workers=1, device=name)
        for name in ("cpu", "cuda")
    )
    assert len(recorded) >= 2  # one for each learning rate
    assert all(recorded)
    # Not the weights: biases in front of batch norm have no gradient but rounding, which Adam follows.
    one, two = (zoo.teachers()[0](images.images / 255).softmax(1) for zoo in (here, there))
    torch.testing.assert_close(one, two, rtol=0, atol=0.1)


def test_what_is_evaluated_there_is_what_is_on_the_cpu(zoo: Zoo) -> None:
    images = coloured_images(6, SIDE)
    rows = [Subject.of("one", "best-teacher", zoo.teachers()[0].classifier)]
    accuracies = [
        evaluate([row.on(where) for row in rows], images, ways=3, shots=(1,), queries=2, episodes=50)[0].accuracy
        for where in ("cpu", "cuda")
    ]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=1)


def test_a_meta_model_that_learned_there_adapts_on_the_cpu_and_there(zoo: Zoo, tmp_path: Path) -> None:
    images = coloured_images(3, SIDE)
    meta_model = train(zoo, out=tmp_path / "run", config=LONGER, device="cuda", workers=1).meta_model
    for head in ("logistic", "fine-tune", "auto"):
        found = []
        for where in ("cpu", "cuda"):
            classifier = adapt(meta_model.module.to(where), images.images, images.labels.to(where), head=head)
            found.append(classifier.predict(images.images).probabilities)
            assert len(classifier.nearest(images.images[:2])) == 2
        torch.testing.assert_close(found[0], found[1], rtol=1e-2, atol=2e-2)


def test_memory_goes_back_once_most_of_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda")
    block = torch.empty(2**28, dtype=torch.uint8, device=device)
    kept = torch.cuda.memory_reserved(device)
    del block
    free, _ = torch.cuda.mem_get_info(device)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 3 * free))
    give_back_memory(device)
    assert torch.cuda.memory_reserved(device) <= kept - 2**28
