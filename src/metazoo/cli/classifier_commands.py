"""`metazoo adapt` and `metazoo export`."""

from argparse import Namespace
from pathlib import Path

from metazoo import choices
from metazoo.adapt import FewShotClassifier, MetaModel, load_support_folder
from metazoo.adapt import adapt as adapt_module
from metazoo.adapt.bundle import ClassifierDescription, check_out
from metazoo.cli.feature_source import open_source
from metazoo.cli.predict_command import images_of
from metazoo.errors import UsageError
from metazoo.execution.compute import Compute
from metazoo.execution.progress import message
from metazoo.execution.threads import torch_threads
from metazoo.export import export_classifier, export_web_page
from metazoo.export.web_page import PAGE_SUFFIX
from metazoo.features.embedders import JointFeatures
from metazoo.text import printable


def adapt(options: Namespace) -> None:
    """Make a classifier folder, as `metazoo adapt`."""
    check_out(options.out, ClassifierDescription, overwrite=options.overwrite)
    source = open_source(options.subject)
    if source.meta_model is not None:
        networks = source.meta_model.networks
        module = source.meta_model.module
    else:
        networks = [teacher.classifier for teacher in source.teachers()]
        module = JointFeatures(networks)
    side = max(network.spec.input_size for network in networks)
    support = load_support_folder(options.support, side, skip_bad=options.skip_bad)
    for reason in support.skipped:
        message(f"skipped: {printable(reason)}")
    device = Compute.choose(options.device).device
    module.to(device)
    with torch_threads(options.threads):
        classifier = adapt_module(
            module,
            support.images,
            support.labels,
            support.class_names,
            head=options.head,
            batch_norm=options.batch_norm,
            mirrored=options.mirror,
            domain=options.domain,
            source=str(options.subject),
        )
    classifier.save(options.out)
    classes, images = len(support.class_names), len(support.images)
    print(f"{options.out}: a classifier of {classes} classes, made from {images} images{_domains(classifier)}")


def _domains(classifier: FewShotClassifier) -> str:
    """Text on the domains of the images whose share is at least half a percent."""
    domains = sorted(classifier.description.domains.items(), key=lambda item: -item[1])
    named = [f"{printable(name)} ({100 * share:.0f} %)" for name, share in domains if share >= 0.005]
    return f", domains {', '.join(named)}" if named else ""


def export(options: Namespace) -> None:
    """Write a classifier to one file or page, as `metazoo export`."""
    files = [file for given in options.check or () for file in images_of(given)]
    is_page = Path(options.out).suffix.lower() == PAGE_SUFFIX
    _check_options(options, is_page)
    if is_page:
        subject = _classifier_or_meta_model(options.subject)
        with torch_threads(options.threads):
            agreement = export_web_page(
                subject, options.out, check=files, runtime=options.runtime, overwrite=options.overwrite
            )
        classes = len(subject.class_names) if isinstance(subject, FewShotClassifier) else "no"
        exported = f"a web page that starts from {classes} classes"
        pictures = agreement.generated + agreement.given
        found = (
            f"features of {pictures} pictures differ by at most {agreement.largest_difference:.1e} ({agreement.worst})"
        )
    else:
        classifier = FewShotClassifier.load(options.subject)
        with torch_threads(options.threads):
            agreement = export_classifier(
                classifier,
                options.out,
                outputs=options.outputs,
                precision=options.precision,
                check=files,
                overwrite=options.overwrite,
            )
        exported, found = f"{options.outputs} of {len(classifier.class_names)} classes", str(agreement)
    print(f"{options.out}: {exported}, {Path(options.out).stat().st_size / 1e6:.2f} MB")
    print(f"agreement with {options.subject}: {found}")


def _check_options(options: Namespace, is_page: bool) -> None:
    defaults = {"outputs": choices.EXPORTED_OUTPUTS[0], "precision": choices.EXPORTED_PRECISIONS[0], "runtime": None}
    for name, default in defaults.items():
        if getattr(options, name) != default and is_page != (name == "runtime"):
            problem = "has no meaning for a page" if is_page else f"is for a page, whose name ends in {PAGE_SUFFIX}"
            raise UsageError(f"--{name}", problem, "omit it, or choose another file name")


def _classifier_or_meta_model(folder: str) -> FewShotClassifier | MetaModel:
    try:
        return FewShotClassifier.load(folder)
    except UsageError as error:
        if not Path(folder).is_dir():
            raise error
    meta_model = open_source(folder).meta_model
    if meta_model is None:
        raise UsageError(folder, "is a zoo", "adapt it with head nearest-mean first, or train a meta-model")
    return meta_model
