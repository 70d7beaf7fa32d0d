"""Meta-models: load, adapt, save."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

from metazoo.adapt.adaptation import FALSE_REJECTION, adapt
from metazoo.adapt.bundle import DESCRIPTION, Bundle, MetaModelDescription, read_bundle
from metazoo.adapt.card import plain_card
from metazoo.adapt.few_shot import FewShotClassifier
from metazoo.adapt.front_matter import licences_of
from metazoo.adapt.pretrained import downloaded_bundle
from metazoo.data.unlabelled import use_of_data
from metazoo.errors import ArtefactError, UsageError
from metazoo.features.domain_router import DomainRecogniser
from metazoo.features.embedders import JointFeatures, MetaModelModule, MultiDomainClassifier, recogniser_of
from metazoo.features.heads import DEFAULT_HEAD
from metazoo.models import ClassifierSpec, ImageClassifier
from metazoo.notebook import ShownInNotebook
from metazoo.zoo.importing.hub_files import is_hub_name


@final
class MetaModel(ShownInNotebook):
    """Trained meta-model, from which few-shot classifiers are made.

    Attributes:
        module: embedder: an image classifier, one for each of several domains, or several side by side.
        method: name of the method that trained it.
        preset: name of the preset of this method.
        seed: seed of the run.
        card: Markdown text for the `README.md` of the bundle; a short one by default.
        unlabelled: number of unlabelled images that it learned from; 0 if there were none.
        validated: whether labelled validation images directed its run. With neither, it is data-free.
        sha256: SHA-256 of its weights file; None for a meta-model that was not loaded.
        origin: hf:OWNER/NAME@COMMIT that it was downloaded from; None for other meta-models.
    """

    def __init__(
        self,
        module: MetaModelModule,
        *,
        method: str,
        preset: str,
        seed: int,
        card: str = "",
        unlabelled: int = 0,
        validated: bool = False,
    ) -> None:
        self.module, self.method, self.preset, self.seed = module, method, preset, seed
        self.unlabelled, self.validated = unlabelled, validated
        self.card = card or plain_card(module, method, preset, seed, unlabelled, validated)
        self.sha256: str | None = None
        self.origin: str | None = None

    def __repr__(self) -> str:
        """Method, preset, seed, use of data, architecture, input size, features and domains, in one line."""
        recogniser = recogniser_of(self.module)
        domains = "" if recogniser is None else f", domains {', '.join(recogniser.domains)}"
        used = use_of_data(self.unlabelled, self.validated)
        return (
            f"MetaModel({self.method}, preset {self.preset}, seed {self.seed}"
            f"{f', {used}' if used else ''}: {self.spec.architecture} of "
            f"{self.spec.input_size} pixels, {self.networks[0].network.feature_size} features{domains})"
        )

    @property
    def networks(self) -> tuple[ImageClassifier, ...]:
        """All networks: a single one; those of the domains and the general one; or those side by side."""
        return (self.module,) if isinstance(self.module, ImageClassifier) else self.module.networks

    @property
    def spec(self) -> ClassifierSpec:
        """Architecture and input of the network with the largest input."""
        return max((own.spec for own in self.networks), key=lambda spec: spec.input_size)

    def adapt(
        self,
        support_images: Any,
        support_labels: Any,
        class_names: Sequence[str] | None = None,
        *,
        head: str = DEFAULT_HEAD,
        batch_norm: str = "running",
        mirrored: bool = False,
        domain: str | None = None,
        image_names: Sequence[str] | None = None,
        false_rejection: float = FALSE_REJECTION,
        keep_images: bool = False,
    ) -> FewShotClassifier:
        """Make a few-shot classifier of new classes from a few images of each.

        Args:
            support_images: n images: a batch [n, 3, h, w] or [n, h, w, 3] of any size, uint8 or float in [0, 1], a
                tensor or a NumPy array; or a sequence of paths, PIL images, tensors or arrays, of any sizes.
            support_labels: labels, one per image: whole numbers from 0 to ways - 1, or class names; a list, a tensor or
                an array. At least two classes are needed; they may have different numbers of images.
            class_names: names of the classes. None stands for their numbers, or for the sorted names in
                `support_labels`.
            head: `logistic`, `ridge`, `nearest-mean`, `nearest-mean-euclidean`, `soft-k-means-balanced`,
                `soft-k-means-free`, `fine-tune`, `fine-tune-own`, a registered head, or `auto`; see
                `metazoo.adapt.adapt`.
            batch_norm: statistics of batch normalisation: `running` (stored), `support` (of the support images) or
                `query` (of each batch; predictions then depend on each other).
            mirrored: whether features are means over an image and its mirror image.
            domain: known domain of the images, one of those of the meta-model; None recognises it from the images.
            image_names: names of the images, for explanations. None stands for the end of their paths, or numbers.
            false_rejection: share of the images of the classes that may be rejected as unknown, in (0, 1).
            keep_images: whether the classifier stores the support images, resized, beside their features.

        Returns:
            The classifier, on the device of the meta-model. The meta-model is not changed.

        Raises:
            UsageError: an unknown head, mode or domain, labels or names that do not fit, or a file that does not exist.
            DataError: no image, a wrong shape, type or range, or a file that cannot be read.
        """
        source = ", ".join(filter(None, (f"{self.method} ({self.preset})", f"seed {self.seed}", self.origin)))
        return adapt(
            self.module,
            support_images,
            support_labels,
            class_names,
            head=head,
            batch_norm=batch_norm,
            mirrored=mirrored,
            domain=domain,
            image_names=image_names,
            false_rejection=false_rejection,
            keep_images=keep_images,
            source=source,
            licences=licences_of(self.card),
        )

    def save(self, folder: Path | str) -> tuple[str, ...]:
        """Write the bundle completely or not at all, and replace an earlier meta-model.

        Returns:
            Names of its files.

        Raises:
            UsageError: the folder holds something other than a meta-model.
            ArtefactError: the folder cannot be written.
        """
        recogniser = recogniser_of(self.module)
        description = MetaModelDescription(
            joint=isinstance(self.module, JointFeatures),
            networks=tuple(own.spec for own in self.networks),
            method=self.method,
            preset=self.preset,
            seed=self.seed,
            unlabelled=self.unlabelled,
            validated=self.validated,
            domains=() if recogniser is None else recogniser.domains,
            general=recogniser.general if recogniser is not None and recogniser.is_general else (),
        )
        others = {} if recogniser is None else {"recogniser.weight": recogniser.weight}
        return Bundle(description, self.networks, others, self.card).write(folder)

    @classmethod
    def from_pretrained(cls, source: Path | str) -> "MetaModel":
        """Load a bundle from a folder or from the Hugging Face Hub, to the CPU.

        Args:
            source: folder, see `load`; or hf:OWNER/NAME or hf:OWNER/NAME@REVISION, a repository made by `push_bundle`,
                which is downloaded into the cache of the hub's library, or read from it without a connection.

        Raises:
            UsageError: the folder or repository does not exist or holds something else, the hub can neither be reached
                nor is the bundle in the cache, or the extra `hub` is not installed.
            ArtefactError: a file is missing, damaged or changed, or does not fit the other.
        """
        if not is_hub_name(source):
            return cls.load(source)
        with downloaded_bundle(str(source), MetaModelDescription) as (folder, origin):
            loaded = cls.load(folder)
        loaded.origin = origin
        return loaded

    @classmethod
    def load(cls, folder: Path | str) -> "MetaModel":
        """Load a bundle, also of version 0.1, to the CPU.

        Raises:
            UsageError: the folder does not exist, or is a run, a zoo or a classifier.
            ArtefactError: a file is missing, damaged or changed, or does not fit the other.
        """
        bundle = read_bundle(folder, MetaModelDescription)
        description, module = bundle.description, bundle.networks[0]
        if description.joint:
            module = JointFeatures(bundle.networks).eval()
        if description.domains:
            try:
                weight = bundle.tensors["recogniser.weight"]
                recogniser = DomainRecogniser(description.domains, weight, description.general or None)
                module = MultiDomainClassifier(bundle.networks, recogniser).eval()
            except UsageError as error:
                problem = f"does not describe a meta-model ({error})"
                raise ArtefactError(Path(folder) / DESCRIPTION, problem, description.remedy) from error
        names = ("method", "preset", "seed", "unlabelled", "validated")
        values = {name: getattr(description, name) for name in names}
        loaded = cls(module, card=bundle.card, **values)
        loaded.sha256 = description.weights_sha256 or None
        return loaded
