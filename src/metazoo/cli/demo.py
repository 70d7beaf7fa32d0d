"""`metazoo demo`: the complete workflow on embedded data."""

import shutil
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from rich.table import Table
from rich.text import Text

from metazoo.adapt import FewShotClassifier, load_support_folder
from metazoo.cli.feature_source import open_source
from metazoo.cli.output import print_table
from metazoo.cli.run_output import print_sections
from metazoo.data import ImageSet, assert_disjoint, load_images
from metazoo.evaluate import evaluate, results_table
from metazoo.execution.executor import default_workers, executor_for
from metazoo.execution.progress import Progress
from metazoo.execution.signals import graceful
from metazoo.execution.threads import torch_threads
from metazoo.report import write_report
from metazoo.report.zoo_tables import model_rows, model_table
from metazoo.runs.record import Run
from metazoo.runs.train import train
from metazoo.zoo import TrainingConfig, Zoo, build_zoo

SCRIPTS = ("latin", "cyrillic", "georgian")
UNSEEN = "glyphs:greek,armenian,tifinagh"
NEW_SCRIPT = "lao"
# Architecture, ways and input size.
FAMILIES = (("conv4", 5, 32), ("thin-resnet", 8, 24))
MODELS_PER_FAMILY = 2
EPISODES = 400
_IMAGES_PER_CLASS = 100
# The published procedures are slower; they are meant for five times as many images.
TRAINING = TrainingConfig(epochs=15, batch_size=32, optimiser="adam", learning_rate=0.003)
# The default preset, reduced to a few minutes on two cores. Guides bring nothing in so short a time.
CONFIG = {
    "recovery": {"iterations": 80, "guide_all": False},
    "budget": {"images_per_class": 30},
    "probe": {"steps": 100},
    "grouping": {"groups": 3},
    "learning": {"steps": 300, "views": 1280, "steps_per_views": 150},
}


def demo(options: Namespace) -> None:
    """Build, train, evaluate, adapt and predict; a later call resumes."""
    start = time.monotonic()
    out = Path(options.out)
    with graceful() as stop:
        models = len(SCRIPTS) * len(FAMILIES) * MODELS_PER_FAMILY
        _say(f"A zoo of {models} models, each of one script: {', '.join(SCRIPTS)}")
        zoo = _build(out / "zoo", options)
        print_table(model_table(model_rows(zoo)))
        _say("One meta-model from these models, without data: recovered images, task space, groups, learning (tgr)")
        run = _train(zoo, "tgr", out / "run", CONFIG, options)
        print_sections(run, zoo, about_models=False)
        _say("The same images, without task space, groups and regularisation (zoo-distillation)")
        shared = {section: values for section, values in CONFIG.items() if section not in ("probe", "grouping")}
        distilled = _train(zoo, "zoo-distillation", out / "zoo-distillation", shared, options, run)
        _say(f"Evaluation on scripts that no model has seen: {UNSEEN.removeprefix('glyphs:')}")
        unseen = load_images(UNSEEN, images_per_class=40)
        assert_disjoint({name for contract in zoo for name in contract.class_names}, unseen.class_names)
        sources = [open_source(str(path)) for path in (run.path, distilled.path)]
        subjects = [*sources[0].table(options.seed), sources[1].subject()]
        with torch_threads(1), Progress("evaluating", len(subjects) * 2 * EPISODES) as bar:

            def advance(episodes: int) -> None:
                stop.check()
                bar.advance(episodes)

            results = evaluate(
                subjects, unseen, episodes=EPISODES, out=out / "result.json", overwrite=True, advance=advance
            )
        print_table(results_table(results))
        _say(f"A new script, {NEW_SCRIPT}: adapt to five images per class, then predict held-back images")
        _adapt_and_predict(out, run)
    report = write_report(run, out / "report.html", results=[out / "result.json"], zoo=zoo)
    print(f"\n{out} holds zoo, run (meta-model, card, recovered images), zoo-distillation (the second run),")
    print("result.json and classifier.")
    print(f"Done in {(time.monotonic() - start) / 60:.1f} min. Open {report}, a page on the complete run, or try")
    print(f"  metazoo evaluate {run.path} --data {UNSEEN} --head fine-tune --episodes 100")


def _say(text: str) -> None:
    print(f"\n== {text}", flush=True)


def _train(
    zoo: Zoo, method: str, out: Path, config: dict[str, Any], options: Namespace, reuse_images: Run | None = None
) -> Run:
    return train(
        zoo,
        method,
        out=out,
        config=config,
        seed=options.seed,
        resume=True,
        workers=options.workers,
        progress=True,
        reuse_images=reuse_images,
    )


def _build(folder: Path, options: Namespace) -> Zoo:
    with executor_for("local", options.workers or default_workers()) as executor:
        for script in SCRIPTS:
            images = load_images(f"glyphs:{script}", images_per_class=_IMAGES_PER_CLASS)
            for architecture, ways, side in FAMILIES:
                build_zoo(
                    folder,
                    images,
                    architecture,
                    MODELS_PER_FAMILY,
                    ways,
                    options.seed,
                    config=TRAINING,
                    input_size=side,
                    executor=executor,
                    progress=True,
                )
    return Zoo.open(folder)


def _adapt_and_predict(out: Path, run: Run) -> None:
    script = load_images(f"glyphs:{NEW_SCRIPT}", images_per_class=15, side=64)
    chosen = script.select_classes(range(0, 25, 5))
    support, query = out / "new-script" / "support", out / "new-script" / "query"
    for folder, first, last in ((support, 0, 5), (query, 5, 15)):
        _write_pictures(folder, chosen, first, last)
    meta_model = run.meta_model
    shown = load_support_folder(support, meta_model.spec.input_size)
    classifier = meta_model.adapt(shown.images, shown.labels, shown.class_names)
    classifier.save(out / "classifier")
    held_back = load_support_folder(query, classifier.side)
    prediction = FewShotClassifier.load(out / "classifier").predict(held_back.images)
    right = prediction.labels == held_back.labels
    table = Table(caption=f"{int(right.sum())} of {len(right)} held-back images right; chance is {len(right) // 5}")
    for column in ("class", "right", "confused with"):
        table.add_column(column)
    for index, name in enumerate(held_back.class_names):
        own = held_back.labels == index
        wrong = sorted({prediction.names[number] for number in torch.nonzero(own & ~right).flatten().tolist()})
        table.add_row(Text(name), f"{int(right[own].sum())} of {int(own.sum())}", Text(", ".join(wrong) or "-"))
    print_table(table)


def _write_pictures(folder: Path, images: ImageSet, first: int, last: int) -> None:
    """Write one folder per class with images `first` to `last` - 1, replacing existing ones."""
    shutil.rmtree(folder, ignore_errors=True)
    for index, name in enumerate(images.class_names):
        target = folder / name.rpartition("/")[2].lower().replace(" ", "-")
        target.mkdir(parents=True)
        for number, image in enumerate(images.images[images.indices_of(index)[first:last]], start=first):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(target / f"{number:02d}.png")
