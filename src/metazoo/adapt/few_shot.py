"""Few-shot classifiers, made from a few images per class."""

import warnings
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional

from metazoo.adapt.bundle import Bundle, ClassifierDescription, read_bundle
from metazoo.adapt.card import classifier_card
from metazoo.adapt.few_shot_module import FewShotModule, current_support
from metazoo.adapt.fitting import networks_of
from metazoo.adapt.held_out import HeldOut
from metazoo.adapt.prediction import Neighbour, Prediction
from metazoo.adapt.pretrained import downloaded_bundle
from metazoo.adapt.support import checked_images
from metazoo.errors import UsageError
from metazoo.execution.compute import Compute
from metazoo.features.batch_norm import has_batch_norm
from metazoo.features.embedders import JointFeatures, SideBySide, device_of
from metazoo.features.heads import FittedHead
from metazoo.features.heads.fitted import scaled
from metazoo.features.heads.head import checked, in_batches
from metazoo.models import ImageClassifier
from metazoo.notebook import ShownInNotebook
from metazoo.zoo.importing.hub_files import is_hub_name


@final
class FewShotClassifier(ShownInNotebook):
    """Few-shot classifier: networks and a head that has learned a task. Made by `adapt` or `load`.

    Attributes:
        description: content of its `bundle.json`: head, batch norm, class names, networks, calibration and versions.
        support_features: features of the support images of all versions, as the head takes them before its scale; None
            for a transductive classifier and for one of version 0.1.
        support_images: support images, uint8; None if they are not kept.
        held_out: predictions for support images by classifiers fitted without them; None if there are none, and after
            loading.
    """

    def __init__(
        self,
        module: ImageClassifier | SideBySide,
        fitted: FittedHead,
        description: ClassifierDescription,
        support_features: Float[Tensor, "rows features"] | None = None,
        support_images: UInt8[Tensor, "rows 3 side side"] | None = None,
        held_out: HeldOut | None = None,
    ) -> None:
        self.description, self.support_features, self.support_images = description, support_features, support_images
        self.held_out = held_out
        self._module = FewShotModule(module, fitted, description, support_features).eval()

    @property
    def card(self) -> ClassifierDescription:
        """Former name of `description`."""
        text = "FewShotClassifier.card is now description; the former name will be removed in the next minor version"
        warnings.warn(text, FutureWarning, stacklevel=2)
        return self.description

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.description.class_names

    @property
    def side(self) -> int:
        """Height and width of the input in pixels: the largest input of the networks."""
        return self._module.side

    @property
    def feature_size(self) -> int:
        """Number of features of an image."""
        return self._module.fitted.weight.shape[-1]

    @property
    def transductive(self) -> bool:
        """Whether the prediction for an image depends on the other images of the same call.

        This is so with soft k-means heads, which refine the classes by the images of a call, and with batch norm
        `query`, which normalises images by the statistics of a call.
        """
        by_batch_norm = self.description.batch_norm == "query" and has_batch_norm(self._module.embedder)
        return self._module.fitted.transductive or by_batch_norm

    def __repr__(self) -> str:
        networks = ", ".join(spec.architecture for spec in self.description.networks)
        return f"FewShotClassifier({', '.join(self.class_names[:10])}: head {self.description.head} on {networks})"

    @torch.no_grad()
    def predict(self, images: Any) -> Prediction:
        """Classify images, each on its own unless the classifier is `transductive`.

        Args:
            images: batch [n, 3, h, w] or [n, h, w, 3] of any size, uint8 or float in [0, 1], a tensor or a NumPy array;
                or a sequence of paths, PIL images, tensors or arrays, of any sizes; or one PIL image. The same pixels
                give the same probabilities in every form.

        Raises:
            UsageError: a file does not exist.
            DataError: no image, a wrong shape, type or range, or a file that cannot be read.
        """
        parts = [self._module.with_familiarity(part) for part in self._in_batches(images)]
        familiar = [own for _, own in parts if own is not None]
        return Prediction(
            self.class_names,
            checked(torch.cat([own for own, _ in parts])).cpu(),
            torch.cat(familiar).cpu() if familiar else None,
            self.description.threshold,
        )

    @torch.no_grad()
    def embed(self, images: Any) -> Float[Tensor, "n features"]:
        """Features of images on the CPU, of length 1, such that similar images have a large inner product.

        Args:
            images: images in any form that `predict` takes.

        Raises:
            UsageError, DataError: see `predict`.
        """
        return checked(torch.cat([self._module.embed(part) for part in self._in_batches(images)])).cpu()

    def nearest(self, images: Any, count: int = 3) -> list[list[Neighbour]]:
        """Support images that are most similar to each image, the most similar first, as an explanation.

        Args:
            images: images in any form that `predict` takes.
            count: number of support images for each, at least 1; fewer are returned if there are fewer.

        Raises:
            UsageError: the classifier stores no features of its support images, or `count` is not positive.
            UsageError, DataError: see `predict`.
        """
        if self.support_features is None:
            remedy = "adapt again with head logistic and batch norm running"
            raise UsageError("classifier", "stores no features of its support images", remedy)
        if count < 1:
            raise UsageError("count", f"{count} images", "give at least 1")
        rows, labels = current_support(self.description)
        own = scaled(self.support_features[rows], self._module.fitted.scale)
        cosines = self.embed(images) @ functional.normalize(own, dim=1).T
        found = cosines.topk(min(count, len(rows)), dim=1)
        return [
            [
                Neighbour(
                    self.description.support[rows[index]].name,
                    self.class_names[int(labels[index])],
                    similarity,
                    None if self.support_images is None else self.support_images[rows[index]],
                )
                for similarity, index in zip(similarities, indices, strict=True)
            ]
            for similarities, indices in zip(found.values.tolist(), found.indices.tolist(), strict=True)
        ]

    def _in_batches(self, images: Any) -> list[Tensor]:
        squares = checked_images(images, self.side).to(device_of(self._module.embedder) or "cpu")
        return [squares] if self.transductive else list(in_batches(squares))

    def as_module(self) -> FewShotModule:
        """Module that `predict` uses, from decoded images to probabilities.

        It shares its weights with the classifier. Copy it before training or moving it.
        """
        return self._module

    def to(self, device: str | torch.device) -> "FewShotClassifier":
        """Move the classifier to a device and return it.

        Raises:
            UsageError: the device is a GPU that does not exist.
        """
        if torch.device(device).type == "cuda":
            Compute.choose(str(device))
        self._module.to(device)
        return self

    def save(self, folder: Path | str) -> None:
        """Write the bundle completely or not at all, and replace an earlier classifier.

        Raises:
            UsageError: the folder holds something other than a classifier.
            ArtefactError: the folder cannot be written.
        """
        tensors = {f"head.{name}": tensor for name, tensor in self._module.fitted.tensors.items()}
        stored = (("support.features", self.support_features), ("support.images", self.support_images))
        tensors |= {name: tensor for name, tensor in stored if tensor is not None}
        card = classifier_card(self._module.embedder, self.description, transductive=self.transductive)
        Bundle(self.description, networks_of(self._module.embedder), tensors, card).write(folder)

    @classmethod
    def from_pretrained(cls, source: Path | str) -> "FewShotClassifier":
        """Load a bundle from a folder or, as hf:OWNER/NAME or hf:OWNER/NAME@REVISION, from the Hugging Face Hub.

        Raises:
            UsageError, ArtefactError: see `MetaModel.from_pretrained`.
        """
        if not is_hub_name(source):
            return cls.load(source)
        with downloaded_bundle(str(source), ClassifierDescription) as (folder, _):
            return cls.load(folder)

    @classmethod
    def load(cls, folder: Path | str) -> "FewShotClassifier":
        """Load a bundle, also of version 0.1, to the CPU.

        Raises:
            UsageError: the folder does not exist, or is a run, a zoo or a meta-model.
            ArtefactError: a file is missing, damaged or changed, or does not fit the other.
        """
        bundle = read_bundle(folder, ClassifierDescription)
        description = bundle.description
        several = JointFeatures if description.joint else SideBySide if description.is_weighted else None
        module = bundle.networks[0] if several is None else several(bundle.networks).eval()
        tensors = dict(bundle.tensors)
        support = tensors.pop("support.features", None), tensors.pop("support.images", None)
        head = {name.removeprefix("head."): tensor for name, tensor in tensors.items()}
        fitted = FittedHead(description.head_kind, **head, temperature=description.temperature)
        return cls(module, fitted, description, *support)
