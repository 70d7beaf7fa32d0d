"""DRO: a hyper-network from task embeddings to parameters, learned to be robust to shifts of the tasks.

Wang et al., Meta-learning without data via Wasserstein distributionally-robust model fusion, UAI 2022. See
`metazoo.fusion.robust_initialisation` for the maps, which are never stored: since they are linear, the meta-model is a
weighted sum of the models. Most weight is on the models of the outer step, a fifth of the zoo, which alone the maps are
fitted to. Choices where the paper states nothing, and deviations:

- the maps start at the mean of all models, and embeddings as normal numbers of variance 1 / embedding size (not given);
- sigma is, for each layer, the spread of the models times the root of the number of layers (not given), so that the
  published step size 0.03 of the outer step is independent of the scale of the weights;
- the step size of the inner step is 0.1, the best of four configurations on validation classes (not given);
- the adversary descends with step size 1 / (2 gamma) (not given). From the embedding itself, a single step of another
  size would not depend on gamma at all;
- the penalty is gamma |e - e'|^2, as the definition of the Wasserstein distance implies; algorithm 1 has e for e';
- embeddings of the models of the outer step are learned with the same step size as the maps, others keep their start;
- buffers, such as batch-norm statistics, are averaged over all models, and the class head is zero.

All weights of the zoo are in memory at once.
"""

from collections.abc import Mapping
from typing import ClassVar, final

import torch
from pydantic import BaseModel, ConfigDict, Field

from metazoo.errors import MetazooError
from metazoo.execution.randomness import generator
from metazoo.fusion import RobustInitialisation, check_same_features, layers_of, scaled_products, weighted_sum
from metazoo.methods.base import Method, Requirements
from metazoo.models import ImageClassifier
from metazoo.pipeline.workspace import Workspace
from metazoo.zoo import Zoo


class DroConfig(BaseModel):
    """Options of the hyper-network and of its learning."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    embedding_size: int = Field(default=50, ge=1, le=10_000, description="length of the task embeddings")
    gamma: float = Field(default=2.0, gt=0, description="price of moving an embedding; large: no adversary")
    epochs: int = Field(default=100, ge=0, le=1_000_000, description="passes over the models of the outer step")
    learning_rate: float = Field(default=0.03, gt=0, description="step size of the outer step")
    inner_rate: float = Field(default=0.1, ge=0, description="step size of the inner step")
    inner_share: float = Field(
        default=0.8, gt=0, lt=1, description="share of the models of the inner step; all others are of the outer step"
    )


@final
class Dro(Method):
    """Distributionally robust fusion, the method `dro`."""

    name = "dro"
    title = "Distributionally robust model fusion"
    reference = "Wang et al., Wasserstein distributionally-robust model fusion, UAI 2022"
    uses = "weights"
    presets: ClassVar[Mapping[str, BaseModel]] = {"default": DroConfig()}
    requires = Requirements(one_architecture=True)

    def check(self, zoo: Zoo, config: DroConfig, seed: int) -> None:  # noqa: D102
        check_same_features(zoo)

    def train(self, workspace: Workspace, config: DroConfig) -> ImageClassifier:  # noqa: D102
        zoo, models = workspace.zoo, len(workspace.zoo)
        teachers = zoo.teachers_in_turn()
        products = scaled_products(layers_of(teacher.classifier for teacher in teachers))
        random = generator(workspace.seed, self.name, "learning")
        shuffled = torch.randperm(models, generator=random)
        fitted = min(max(round(config.inner_share * models), 1), models - 1)
        learner = RobustInitialisation(
            products,
            shuffled[:fitted],
            shuffled[fitted:],
            torch.randn(models, config.embedding_size, generator=random) / config.embedding_size**0.5,
            gamma=config.gamma,
            inner_rate=config.inner_rate,
            learning_rate=config.learning_rate,
        )
        with workspace.progress_of("learning", config.epochs) as advance:
            for _ in range(config.epochs):
                learner.step(random)
                advance()
        fused = weighted_sum((teacher.classifier for teacher in teachers), learner.weights, zoo.contracts[0].spec)
        assert fused is not None  # see `check`
        # Finite weights of the models can overflow as float32.
        if not all(bool(tensor.isfinite().all()) for tensor in fused.network.state_dict().values()):
            distances = products.diagonal().sqrt()
            farthest = int(distances.argmax())
            problem = (
                f"diverged in {config.epochs} epochs; model {zoo.contracts[farthest].name!r} is the farthest from the "
                f"mean of the models, {float(distances[farthest] / distances.median()):.1f} times the median distance"
            )
            remedy = "lower learning_rate or inner_rate, raise gamma, or omit this model if it is far off"
            raise MetazooError(self.name, problem, remedy)
        return fused.requires_grad_(False)
