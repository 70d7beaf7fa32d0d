"""`metazoo adapt` and `metazoo export`."""

from argparse import Namespace
from pathlib import Path

from metazoo import choices
from metazoo.adapt import FewShotClassifier, MetaModel, SupportSet, load_support_folder
from metazoo.adapt import adapt as adapt_module
from metazoo.adapt.adaptation import AUTO
from metazoo.adapt.bundle import ClassifierDescription, check_out
from metazoo.cli.feature_source import FeatureSource, open_source
from metazoo.cli.predict_command import images_of
from metazoo.cli.support_report import cost_text, held_out_text, print_support_report
from metazoo.errors import UsageError
from metazoo.execution.compute import Compute
from metazoo.execution.progress import message
from metazoo.execution.threads import torch_threads
from metazoo.export import export_classifier, export_web_page
from metazoo.export.web_page import PAGE_SUFFIX
from metazoo.features.embedders import JointFeatures, MetaModelModule
from metazoo.text import printable
from metazoo.zoo.importing.hub_files import is_hub_name


def adapt(options: Namespace) -> None:
    """Make a classifier folder, as `metazoo adapt`."""
    check_out(options.out, ClassifierDescription, overwrite=options.overwrite)
    source = open_source(options.subject)
    other = None if options.compare is None else open_source(options.compare)
    module, side = _module(source)
    support = load_support_folder(options.support, side, skip_bad=options.skip_bad)
    for reason in support.skipped:
        message(f"skipped: {printable(reason)}")
    device = Compute.choose(options.device).device
    with torch_threads(options.threads):
        classifier = _adapted(options, source, module.to(device), support, options.domain)
        # Before anything is written, since it may fail as well.
        beside = None
        if other is not None:
            module, side = _module(other)
            same = load_support_folder(options.support, side, skip_bad=options.skip_bad)
            beside = _adapted(options, other, module.to(device), same, None)
        classifier.save(options.out)
        classes, images = len(support.class_names), len(support.images)
        print(f"{options.out}: a classifier of {classes} classes, made from {images} images{_domains(classifier)}")
        if options.head == AUTO:
            print(f"head {classifier.description.head}, batch norm {classifier.description.batch_norm}")
        if options.keep_support and not classifier.description.has_support_images:
            message("note: a transductive classifier stores no support images")
        print_support_report(classifier)
        print(cost_text(classifier))
        if beside is not None:
            print(f"beside it, {options.compare}: {held_out_text(beside)}; {cost_text(beside)}")


def _module(source: FeatureSource) -> tuple[MetaModelModule, int]:
    """Module of a meta-model, or the joint features of all models of a zoo, and the side of its input."""
    if source.meta_model is not None:
        return source.meta_model.module, source.meta_model.spec.input_size
    networks = [teacher.classifier for teacher in source.teachers()]
    return JointFeatures(networks), max(network.spec.input_size for network in networks)


def _adapted(
    options: Namespace, source: FeatureSource, module: MetaModelModule, support: SupportSet, domain: str | None
) -> FewShotClassifier:
    return adapt_module(
        module,
        support.images,
        support.labels,
        support.class_names,
        head=options.head,
        batch_norm=options.batch_norm,
        mirrored=options.mirror,
        domain=domain,
        source=source.record,
        licences=source.licences(),
        image_names=support.image_names,
        false_rejection=options.false_rejection,
        keep_images=options.keep_support,
    )


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
        classifier = FewShotClassifier.from_pretrained(options.subject)
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
        return FewShotClassifier.from_pretrained(folder)
    except UsageError:
        if not is_hub_name(folder) and not Path(folder).is_dir():
            raise
    meta_model = open_source(folder).meta_model
    if meta_model is None:
        raise UsageError(folder, "is a zoo", "adapt it with head nearest-mean first, or train a meta-model")
    return meta_model
