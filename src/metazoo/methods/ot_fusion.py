"""Fusion by optimal transport: align the channels of all models with those of one of them, then average.

Singh and Jaggi, Model Fusion via Optimal Transport, NeurIPS 2020 (arXiv:1910.05653), as used as a baseline (*OTA*) of
data-free meta-learning by Wang et al., UAI 2022: the model to align with is drawn at random. Deviations:

- biases count in the distances, and biases and batch norm are permuted with the channels; the official code supports
  neither;
- the plan between layers of equal width is found by linear assignment, which is exact, and is a permutation;
- any network whose channels can be traced is aligned, such as residual, densely connected and depthwise ones;
- the class head is not transported but zero, since the heads of the models stand for different classes;
- the preset `default` then aligns every layer again, given the order of all others, until nothing changes (weight
  matching of Ainsworth et al., ICLR 2023); `published` does not.
"""

from collections.abc import Iterator, Mapping
from typing import ClassVar, final

import torch
from pydantic import BaseModel, ConfigDict, Field

from metazoo.execution.randomness import generator
from metazoo.fusion import channel_groups, check_same_features, fuse_by_transport
from metazoo.methods.base import Method, Requirements
from metazoo.models import ImageClassifier, build_classifier
from metazoo.pipeline.workspace import Workspace
from metazoo.zoo import Zoo


class TransportConfig(BaseModel):
    """Options of the alignment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sweeps: int = Field(
        default=0, ge=0, le=1000, description="most passes that align every layer again, given all others"
    )


@final
class OptimalTransportFusion(Method):
    """Average after alignment, the method `ot-fusion`."""

    name = "ot-fusion"
    title = "Fusion by optimal transport"
    reference = "Singh and Jaggi, Model Fusion via Optimal Transport, NeurIPS 2020"
    uses = "weights"
    presets: ClassVar[Mapping[str, BaseModel]] = {
        "default": TransportConfig(sweeps=20),
        "published": TransportConfig(),
    }
    requires = Requirements(one_architecture=True)

    def check(self, zoo: Zoo, config: TransportConfig, seed: int) -> None:  # noqa: D102
        check_same_features(zoo)
        channel_groups(build_classifier(zoo.contracts[0].spec, torch.Generator().manual_seed(0)))

    def train(self, workspace: Workspace, config: TransportConfig) -> ImageClassifier:  # noqa: D102
        zoo = workspace.zoo
        random = generator(workspace.seed, "ot-fusion", "reference")
        chosen = zoo.contracts[int(torch.randint(len(zoo), (1,), generator=random))].name

        def in_turn() -> Iterator[ImageClassifier]:
            for teacher in zoo.teachers_in_turn():
                workspace.check()
                yield teacher.classifier

        fused = fuse_by_transport(in_turn(), zoo.teacher(chosen).classifier, config.sweeps)
        assert fused is not None  # see `check`
        return fused.requires_grad_(False)
