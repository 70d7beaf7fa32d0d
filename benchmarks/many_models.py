"""What the number of models costs: time and memory to build, list, verify, embed and ask zoos of 10, 100 and 1000.

Models are copies of Conv4 with weights of their own that were never trained, and their images are noise: neither
changes what is read, held and computed. Every stage runs in a process of its own, which is watched with its children:
seconds of processor, and the peak of their memory together.

    python -m benchmarks.many_models --out FOLDER [--models 10,100,1000]
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.peak_memory import PeakMemory
from metazoo.bank import Bank, ResidentBank
from metazoo.execution.bounded import Limits
from metazoo.execution.compute import CPU
from metazoo.execution.process_memory import keep_freed_memory
from metazoo.learn.augmented_images import add_teacher_outputs, draw_augmented_images
from metazoo.models import ClassifierSpec, build_classifier
from metazoo.pipeline.learning_stage import teacher_targets
from metazoo.report.zoo_tables import domain_rows, model_rows
from metazoo.storage.artefacts import write_json
from metazoo.storage.tensor_files import write_tensors
from metazoo.taskspace import FisherEmbeddings, ProbeConfig, similarity_matrix, train_probe, write_embeddings
from metazoo.zoo import Zoo, add_folder, verify_zoo

CLASSES, SIDE, IMAGES, VIEWS, FISHER_IMAGES = 5, 32, 60, 32, 4
POOL, EMBEDDINGS = 8192, "fisher.safetensors"
SPEC = ClassifierSpec(architecture="conv4", classes=CLASSES, input_size=SIDE, mean=(0.5,) * 3, std=(0.25,) * 3)


def build(folder: Path, count: int) -> None:
    """The zoo and its bank."""
    zoo, bank = Zoo.create(folder / "zoo"), Bank.open_or_create(folder / "bank")
    labels = torch.arange(IMAGES) % CLASSES
    with zoo.writing():
        for number in range(count):
            random, name = torch.Generator().manual_seed(number), f"model-{number:04d}"
            if number >= len(zoo):
                names = [f"class {number}-{index}" for index in range(CLASSES)]
                zoo.store(name, build_classifier(SPEC, random), class_names=names, domain="noise")
            images = torch.randint(0, 256, (IMAGES, 3, SIDE, SIDE), generator=random, dtype=torch.uint8)
            bank.add(name, 0, 0, images, labels)


def add(folder: Path, count: int) -> None:
    """Add a folder of as many small files of weights to a new zoo, as `metazoo zoo add --from-folder` does."""
    spec = SPEC.model_copy(update={"arguments": {"width": 4}})
    network = build_classifier(spec, torch.Generator().manual_seed(0)).network
    for number in range(count):
        write_tensors(folder / "files" / f"model-{number:04d}.safetensors", network.state_dict())
        said = {"architecture": "conv4", "arguments": {"width": 4}, "classes": list("abcde"), "input_size": SIDE}
        said |= {"mean": [0.5] * 3, "std": [0.25] * 3, "domain": "noise"}
        write_json(folder / "files" / f"model-{number:04d}.json", said)
    shutil.rmtree(folder / "added", ignore_errors=True)
    additions = add_folder(folder / "added", folder / "files")
    assert [addition.status for addition in additions] == ["added"] * count, additions[0]


def listing(folder: Path, count: int) -> None:
    """Open, and make the rows of `metazoo zoo inspect`."""
    zoo = Zoo.open(folder / "zoo")
    assert len(model_rows(zoo)) == count == sum(row.models for row in domain_rows(zoo))


def verify(folder: Path, count: int) -> None:
    """Check every model as `metazoo zoo verify` does."""
    findings = verify_zoo(Zoo.open(folder / "zoo"), limits=Limits())
    assert [finding.status for finding in findings] == ["sound"] * count


def embed(folder: Path, _: int) -> None:
    """Train a probe for a few steps and embed every model on a few images."""
    _embed(folder)


def compare(folder: Path, count: int) -> None:
    """The same, and the similarity of all pairs; the matrix is what it is, quadratic."""
    _embed(folder)
    assert similarity_matrix(FisherEmbeddings.load(folder / EMBEDDINGS)).shape == (count, count)


def ask(folder: Path, count: int) -> None:
    """Draw views of all models' images, and let every model judge each."""
    zoo = Zoo.open(folder / "zoo")
    bank = ResidentBank.load(Bank.open(folder / "bank"), [contract.name for contract in zoo], SIDE)
    random, number = torch.Generator().manual_seed(0), max(count, VIEWS)
    images, owners = draw_augmented_images(bank, [list(range(count))], number, random, shift=2, mix=True)
    targets = teacher_targets(zoo.teachers_in_turn(), CPU)
    add_teacher_outputs(images[:VIEWS], owners[:VIEWS], targets)


def pool(folder: Path, count: int) -> None:
    """Make a pool of views with what all models say of them, and read one batch of it, as learning does."""
    zoo = Zoo.open(folder / "zoo")
    bank = ResidentBank.load(Bank.open(folder / "bank"), [contract.name for contract in zoo], SIDE)
    sizes = [teacher.classifier.network.feature_size for teacher in zoo.teachers_in_turn()]

    def targets(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        # Numbers in the place of the models' answers, which would take hours and are of the same size.
        return images.mean((1, 2, 3))[:, None].expand(-1, sum(sizes)), images.new_zeros(len(images), CLASSES * count)

    random = torch.Generator().manual_seed(0)
    images, owners = draw_augmented_images(bank, [list(range(count))], POOL, random, shift=2, mix=True)
    views = add_teacher_outputs(images, owners, targets, folder=folder)
    views.features[torch.randint(POOL, (128,), generator=random)].float()


def _embed(folder: Path) -> None:
    counts = {contract.name: contract.spec.classes for contract in Zoo.open(folder / "zoo")}
    bank = ResidentBank.load(Bank.open(folder / "bank"), list(counts), SIDE)
    probe = train_probe(bank, counts, ProbeConfig(steps=20), 0)
    places = {name: bank.indices_of(index) for index, name in enumerate(counts)}
    embeddings = (
        probe.embed(name, bank.images[own][:FISHER_IMAGES], bank.labels[own][:FISHER_IMAGES])
        for name, own in places.items()
    )
    write_embeddings(folder / EMBEDDINGS, list(counts), embeddings)


STAGES: dict[str, Callable[[Path, int], None]] = {
    stage.__name__: stage for stage in (build, add, listing, verify, embed, compare, ask, pool)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--models", default="10,100,1000")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    counts = [int(count) for count in options.models.split(",")]
    if options.one:
        keep_freed_memory()
        torch.set_num_threads(1)
        start = sum(os.times()[:4])
        with PeakMemory(0.05) as memory:
            STAGES[options.stages](options.out, counts[0])
            time.sleep(0.1)  # for a look at what is quick
        print(json.dumps([sum(os.times()[:4]) - start, memory.peak]))
        return
    rows = {}
    for stage in options.stages.split(","):
        figures = []
        for count in counts:
            folder = options.out / str(count)
            command = [sys.executable, "-m", "benchmarks.many_models", "--one", "--out", str(folder)]
            command += ["--models", str(count), "--stages", stage]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            figures.append(json.loads(done.stdout.splitlines()[-1]))
            seconds, peak = figures[-1]
            print(f"{stage:8} {count:5} models {seconds:8.1f} s {peak / 1e6:6.0f} MB", flush=True)
        rows[stage] = dict(zip(counts, figures, strict=True))
        if len(counts) > 1:
            exponent = math.log(figures[-1][0] / figures[-2][0]) / math.log(counts[-1] / counts[-2])
            print(f"{stage:8} grows with the power {exponent:.2f} of the number of models")
    (options.out / "many-models.json").write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
