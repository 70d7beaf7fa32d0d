"""One zoo of eight models of six families, from files of weights to a measured meta-model, beside Conv4 alone.

Small models of other families are trained on some classes each, stored as their users would have them (safetensors
under the library's names, with a file that describes them), and go the way of `metazoo zoo add --from-folder`,
`zoo verify`, `train` and `evaluate`, with two Conv4 of `build_zoo`. The second zoo has a Conv4 for each of the eight
lists of classes. What is learned has 32 pixels; from the images of the mixed zoo another one is learned, of 64 pixels.
What was done already is not done again.

    python -m benchmarks.mixed_families --train PACK --other PACK --validation PACK [PACK ...] --out FOLDER
        [--only MODEL] [--steps 800] [--large-steps 800] [--seed 0]
"""

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import yaml
from safetensors.torch import save_file

from benchmarks.ablation import learned
from metazoo.adapt import MetaModel
from metazoo.cli import main as metazoo
from metazoo.data import ImageSet, load_images
from metazoo.data.splits import split_images
from metazoo.evaluate import Result
from metazoo.execution.randomness import generator
from metazoo.models import ClassifierSpec, ImageClassifier, LibraryNetwork
from metazoo.runs.record import Run
from metazoo.zoo import TrainingConfig, Zoo, build_zoo
from metazoo.zoo.building.classifier_training import train_classifier, with_pixel_statistics

LARGE_SIDE = 64
_CONV4_EPOCHS = 8


@dataclass(frozen=True)
class Kind:
    """One model; the first of `classes` that no other has, of the pack `other` if `other` is set."""

    name: str
    architecture: str
    side: int
    classes: int
    epochs: int
    learning_rate: float
    arguments: dict[str, int] = field(default_factory=dict)
    channels: Literal[1, 3] = 3
    other: bool = False


KINDS = (
    Kind("conv4-a", "conv4", 32, 5, _CONV4_EPOCHS, 0.01),
    Kind("conv4-b", "conv4", 32, 5, _CONV4_EPOCHS, 0.01),
    Kind("resnet18", "resnet18", 32, 10, 12, 3e-3, {"width": 8}),
    Kind("mobilenet", "timm:mobilenetv3_small_050", 64, 5, 20, 3e-3),
    Kind("efficientnet", "timm:test_efficientnet", 64, 8, 14, 3e-3),
    Kind("convnext", "timm:test_convnext", 64, 5, 20, 1e-3),
    Kind(
        "vit",
        "timm:vit_tiny_patch16_224",
        32,
        5,
        16,
        1e-3,
        {"patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 2},
    ),
    Kind("grey-efficientnet", "timm:test_efficientnet", 32, 25, 8, 3e-3, channels=1, other=True),
)
"""Conv4 come from `build_zoo`, the others from files."""


def classes_of(kinds: tuple[Kind, ...], packs: dict[bool, ImageSet], seed: int) -> dict[str, ImageSet]:
    """The images of every model: classes drawn by seed, none for two models."""
    orders = {
        other: torch.randperm(len(pack.class_names), generator=generator(seed, "mixed families", pack.name)).tolist()
        for other, pack in packs.items()
    }
    sets = {}
    for kind in kinds:
        order = orders[kind.other]
        sets[kind.name] = packs[kind.other].select_classes(order[: kind.classes])
        orders[kind.other] = order[kind.classes :]
    return sets


def train_model(kind: Kind, images: ImageSet, folder: Path, seed: int) -> None:
    """Train one model and leave its weights in `folder`, with what must be known of it beside them."""
    training, validation = split_images(images)
    plain = ClassifierSpec(
        architecture=kind.architecture,
        arguments={**kind.arguments},
        classes=kind.classes,
        input_size=kind.side,
        channels=kind.channels,
        mean=(0.0,) * kind.channels,
        std=(1.0,) * kind.channels,
    )
    # The rate falls to a fifth twice, as nothing else of the config calms the last steps.
    milestones = (round(kind.epochs * 0.6), round(kind.epochs * 0.85))
    config = TrainingConfig(
        epochs=kind.epochs,
        batch_size=64,
        optimiser="adam",
        learning_rate=kind.learning_rate,
        gradient_norm=5,
        milestones=milestones,
    )
    random = generator(seed, "mixed families training", kind.name)
    spec = with_pixel_statistics(plain, training.images)
    classifier, accuracy = train_classifier(spec, training, validation, config, random, name=kind.name)
    said = spec.model_dump(mode="json", exclude={"classes"})
    said |= {"classes": list(images.class_names), "domain": images.name, "accuracy": round(accuracy, 2)}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{kind.name}.yaml").write_text(yaml.safe_dump(said))
    save_file(_as_stored_by_library(classifier), folder / f"{kind.name}.safetensors")


def _as_stored_by_library(classifier: ImageClassifier) -> dict[str, torch.Tensor]:
    network = classifier.network
    state = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    if not isinstance(network, LibraryNetwork):
        return state
    body = network.body
    last = body.get_classifier()  # pyright: ignore[reportCallIssue] - as every network of timm has
    head = next(name for name, part in body.named_modules() if part is last)
    return {
        f"{head}.{name.removeprefix('head.')}" if name.startswith("head.") else name.removeprefix("body."): tensor
        for name, tensor in state.items()
    }


def call(*words: object) -> None:
    """One command, as it is typed."""
    print("\n$ metazoo", *words, flush=True)
    code = metazoo([str(word) for word in words])
    if code:
        raise SystemExit(code)


@contextmanager
def timed(name: str, times: dict[str, float]) -> Iterator[None]:
    """Seconds of processors, of this process and of those that it waited for."""
    before = sum(os.times()[:4])
    yield
    times[name] = sum(os.times()[:4]) - before
    print(f"[{time.strftime('%H:%M:%S')}] {name}: {times[name]:.0f} s of processors", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("train", "other", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True, nargs="+")
    parser.add_argument("--only", help="train this model from a file, and nothing else")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--images-per-class", type=int, default=30)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--large-steps", type=int, default=800, help="of learning at 64 pixels")
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # as `train` learns unless told otherwise
    packs = {False: load_images(options.train), True: load_images(options.other)}
    sets = classes_of(KINDS, packs, options.seed)
    files, mixed, alone = (options.out / name for name in ("files", "mixed-zoo", "conv4-zoo"))
    times: dict[str, float] = {}
    for kind in KINDS:
        stored = (files / f"{kind.name}.safetensors").exists()
        if kind.architecture != "conv4" and not stored and options.only in (None, kind.name):
            with timed(f"training {kind.name}", times):
                train_model(kind, sets[kind.name], files, options.seed)
    if options.only:
        return
    with timed("training Conv4", times):
        for number, kind in enumerate(KINDS):
            zoos = (mixed, alone) if kind.architecture == "conv4" else (alone,)
            for zoo in zoos:
                images = sets[kind.name]
                config = TrainingConfig(epochs=_CONV4_EPOCHS, milestones=(5, 7))
                # Its seed is its number, so that every list of classes has a name of its own in the zoo.
                build_zoo(zoo, images, "conv4", 1, kind.classes, number, config=config, workers=1)
    with timed("adding and verifying", times):
        call("zoo", "add", mixed, "--from-folder", files)
        call("zoo", "verify", mixed)
    config = options.out / "config.yaml"
    changes = {
        "recovery": {"iterations": options.iterations},
        "budget": {"images_per_class": options.images_per_class},
        "learning": {"steps": options.steps},
    }
    config.write_text(yaml.safe_dump(changes))
    for name, zoo in (("mixed", mixed), ("conv4", alone)):
        out = options.out / f"run-{name}"
        with timed(f"run {name}", times):
            call("train", "--zoo", zoo, "--out", out, "--config", config, "--seed", options.seed, "--workers", 1,
                 "--resume")  # fmt: skip
        _measure(out, name, options)
    with timed("learning at 64 pixels", times):
        large = {"meta_model": {"input_size": LARGE_SIDE}, "learning": {"steps": options.large_steps}}
        run = Run.open(options.out / "run-mixed")
        classifier, _ = learned(run, Zoo.open(mixed), large, options.seed, options.out / "large")
    MetaModel(classifier, method="tgr", preset="default", seed=options.seed).save(options.out / "large-meta-model")
    _measure(options.out / "large-meta-model", "large", options)
    (options.out / "times.json").write_text(json.dumps(times, indent=2))
    _print(options, mixed)


def _measure(subject: Path, name: str, options: argparse.Namespace) -> None:
    for pack in options.validation:
        out = options.out / f"result-{name}-{pack.stem}.json"
        if not out.exists():
            more = [] if name == "large" else ["--baselines"]
            call("evaluate", subject, "--data", pack, "--episodes", options.episodes, *more, "--out", out)


def _print(options: argparse.Namespace, mixed: Path) -> None:
    """Tables for the page on results."""
    print("\n| model | family | pixels | channels | classes | accuracy |\n|---|---|---|---|---|---|")
    for contract in Zoo.open(mixed):
        spec = contract.spec
        shape = f"{spec.input_size} | {spec.channels} | {spec.classes}"
        print(f"| {contract.name} | {spec.architecture} | {shape} | {contract.accuracy:.1f} % |")
    for pack in options.validation:
        print(f"\n{pack.stem}, {options.episodes} episodes\n\n| zoo | subject | 1-shot | 5-shot |\n|---|---|---|---|")
        for name in ("mixed", "conv4", "large"):
            content = json.loads((options.out / f"result-{name}-{pack.stem}.json").read_text())
            results = [Result.model_validate(row) for row in content["results"]]
            for subject in dict.fromkeys(result.subject for result in results):
                cells = [f"{r.accuracy:.2f} ± {r.interval:.2f}" for r in results if r.subject == subject]
                print(f"| {name} | {subject} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
