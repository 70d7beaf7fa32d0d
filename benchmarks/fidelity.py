"""Fidelity: what a student can learn of a teacher from recovered images alone, beside what it can from real ones.

For every teacher a fresh Conv4 is distilled on the images of each way to recover them, and on as many real ones of the
teacher's classes, all in the same way; it is measured on real images of these classes that nobody has seen. The
fidelity of a way is its accuracy relative to that of real images, and it stands beside the seconds an image took.

    python -m benchmarks.fidelity --zoo ZOO --data SOURCE --out JSON [--models 3] [--images-per-class 60] [--steps 600]
        [--ways pixels:50,pixels:100,pixels:200,generator:200] [--device DEVICE] [--precision PRECISION]

SOURCE is what the teachers were trained on. Of a way, the number is that of its iterations; `pixels` and `generator`
are the presets `default` and `published` of TGR. One teacher and one process at a time; seconds are those of the
processor on a CPU, and by the clock on a GPU, the start of CUDA and of its libraries not counted.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from metazoo.data import ImageSet, load_images, split_images
from metazoo.data.augment import ShiftAndFlip
from metazoo.data.images import first_of_each
from metazoo.execution.compute import Compute
from metazoo.execution.process_memory import keep_freed_memory
from metazoo.execution.randomness import generator
from metazoo.execution.repeat import Repeated
from metazoo.features.batch_norm import batch_statistics, calibrate_statistics
from metazoo.learn.losses import distillation_loss
from metazoo.models import ClassifierSpec, build_classifier
from metazoo.recover import GeneratorConfig, RecoveryBudget, RecoveryConfig
from metazoo.recover.adam import PlainAdam
from metazoo.recover.budget import plan_buckets
from metazoo.recover.pixels import cosine_decay
from metazoo.zoo import WhiteBoxTeacher, Zoo

BATCH, RATE, SEED = 64, 5e-3, 0


def config_of(way: str) -> RecoveryConfig | GeneratorConfig:
    """`pixels:200`, for example."""
    kind, iterations = way.split(":")
    return {"pixels": RecoveryConfig(), "generator": GeneratorConfig()}[kind].model_copy(
        update={"iterations": int(iterations)}
    )


def recovered(
    teacher: WhiteBoxTeacher, config: RecoveryConfig | GeneratorConfig, per_class: int, compute: Compute
) -> tuple[Tensor, float]:
    """Images uint8 [n, 3, side, side] in the buckets that a run has, and the seconds that they took."""
    contract = teacher.contract
    buckets = plan_buckets(contract.spec.classes, RecoveryBudget(images_per_class=per_class), SEED, contract.name)
    # Through a generator all buckets go together; in pixels each stands alone.
    together = [buckets] if isinstance(config, GeneratorConfig) else [[bucket] for bucket in buckets]
    clock = time.process_time if compute.device == "cpu" else time.perf_counter
    start = clock()
    with compute.mixed():
        parts = [
            inversion.run().best().images
            for place, own in enumerate(together)
            for inversion in config.inversions(teacher, own, generator(SEED, "fidelity", contract.name, place))
        ]
    return torch.cat(parts), clock() - start


def accuracy_of_student(teacher: WhiteBoxTeacher, images: Tensor, judged_on: ImageSet, steps: int) -> float:
    """Percent on `judged_on` of a Conv4 that was distilled on `images` (uint8 [n, 3, side, side])."""
    device, spec = next(teacher.parameters()).device, teacher.contract.spec
    student_spec = ClassifierSpec(
        architecture="conv4", classes=spec.classes, input_size=images.shape[-1], mean=spec.mean, std=spec.std
    )
    student = build_classifier(student_spec, generator(SEED, "fidelity", "student")).to(device)
    augmentation, random = ShiftAndFlip(round(images.shape[-1] / 8)), generator(SEED, "fidelity", "draws")
    shown = images.to(device)
    places = torch.randint(len(images), (steps, BATCH), generator=random).to(device)
    draws = torch.stack([augmentation.draw(BATCH, random) for _ in range(steps)]).to(device)
    parameters = {name: value.detach().requires_grad_(True) for name, value in student.named_parameters()}
    values = list(parameters.values())
    optimiser = PlainAdam(values, (0.9, 0.999), [RATE * cosine_decay(step / steps) for step in range(steps)])

    def views(step: Tensor) -> Tensor:
        chosen = shown[places.index_select(0, step).squeeze(0)].float() / 255
        return augmentation.apply(chosen, draws.index_select(0, step).squeeze(0))

    def learn() -> None:
        seen = views(optimiser.steps_done)
        with torch.no_grad():
            taught = teacher(seen)
        loss = distillation_loss(functional_call(student, parameters, (seen,)), taught, (spec.classes,))
        optimiser.step(torch.autograd.grad(loss, values))

    repeated = Repeated(learn, device)
    with batch_statistics(student):
        for _ in range(steps):
            repeated()
    last = torch.arange(max(0, steps - 20), steps, device=device)
    calibrate_statistics(student, [views(step) for step in last.split(1)])
    with torch.no_grad():
        right = student.eval()(judged_on.images.to(device).float() / 255).argmax(1).cpu() == judged_on.labels
    return 100 * right.double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("zoo", "data", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--models", type=int, default=3)
    parser.add_argument("--images-per-class", type=int, default=60)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--ways", default="pixels:50,pixels:100,pixels:200,generator:200")
    parser.add_argument("--device")
    parser.add_argument("--precision")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed_memory()
    compute, data = Compute.choose(options.device, options.precision), load_images(options.data)
    rows: list[dict[str, Any]] = []
    for contract in [*Zoo.open(options.zoo)][: options.models]:
        teacher = Zoo(options.zoo, [contract]).teacher(contract.name).to(compute.device)
        chosen = data.select_classes([data.class_names.index(name) for name in contract.class_names])
        learned, held_out = split_images(chosen, 0.8)
        real = learned.images[first_of_each(learned.labels, options.images_per_class)]
        if compute.device != "cpu":
            recovered(teacher, RecoveryConfig(iterations=5), options.images_per_class, compute)
        row: dict[str, Any] = {"model": contract.name, "teacher": contract.accuracy}
        row["real"] = accuracy_of_student(teacher, real, held_out, options.steps)
        for way in options.ways.split(","):
            images, seconds = recovered(teacher, config_of(way), options.images_per_class, compute)
            accuracy = accuracy_of_student(teacher, images, held_out, options.steps)
            row[way] = {"accuracy": accuracy, "images_per_second": len(images) / seconds}
        rows.append(row)
        print(json.dumps(row), flush=True)
    options.out.write_text(json.dumps(rows, indent=2))
    print("student of real images", f"{sum(row['real'] for row in rows) / len(rows):.1f} %")
    for way in options.ways.split(","):
        accuracy = sum(row[way]["accuracy"] for row in rows) / len(rows)
        speed = len(rows) / sum(1 / row[way]["images_per_second"] for row in rows)
        fidelity = 100 * accuracy * len(rows) / sum(row["real"] for row in rows)
        print(f"{way}: {accuracy:.1f} %, fidelity {fidelity:.1f} %, {speed:.1f} images a second")


if __name__ == "__main__":
    main()
