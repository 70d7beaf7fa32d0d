"""Distributionally robust initialisation (Wang et al., UAI 2022), in coordinates of the models.

A hyper-network gives the parameters of all models from embeddings of their tasks: for each layer l a linear map
f_l(e) = W_l e + b_l. It is learned so that it fits one part of the models after a gradient step on another part, at
embeddings that are moved adversarially; the initialisation of a new task is its value at the mean embedding.

The maps have one row for each parameter of a model. Yet every residual f(e) - theta_j, and with it every update of W
and b, is a combination of the parameter vectors of the models, if the maps start as one. So f(e) = Theta (A e + c),
where the columns of Theta are the models. A and c are the same for all layers, since the embeddings are, and all that
learning needs of Theta are the scalar products of its columns. The result is the same in the memory of models instead
of parameters times embedding size, and it is a weighted sum of the models, with the weights A e + c.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import final

import torch
from torch import Tensor

from metazoo.fusion.average import HEAD, feature_tensors, mean_classifier
from metazoo.models import ClassifierSpec, ImageClassifier


@final
class RobustInitialisation:
    """Learner of the weights of the models, whose sum is 1; all arithmetic is float64.

    The likelihood of model j is log P(theta_j | e) = -|f(e) - theta_j|^2 / sigma^2, in the norm of `products`.

    Args:
        products: scalar products of the models' parameters minus their mean, divided by sigma^2, [models, models].
        fitted: indices of the models of the inner step; two models or more in total, `fitted` and `predicted`.
        predicted: indices of the models of the outer step.
        embeddings: initial embeddings [models, embedding size].
        gamma: price of moving an embedding, above 0.
        inner_rate: step size of the inner step.
        learning_rate: step size of the outer step.
    """

    def __init__(
        self,
        products: Tensor,
        fitted: Tensor,
        predicted: Tensor,
        embeddings: Tensor,
        *,
        gamma: float = 2.0,
        inner_rate: float = 0.03,
        learning_rate: float = 0.03,
    ) -> None:
        models, size = embeddings.shape
        self.products, self.embeddings = products.double(), embeddings.double().clone()
        self.fitted, self.predicted = fitted.tolist(), predicted.tolist()
        self.slopes = torch.zeros(models, size, dtype=torch.float64)
        self.offsets = torch.full((models,), 1 / models, dtype=torch.float64)
        self._gamma, self._inner_rate, self._rate = gamma, inner_rate, learning_rate

    @property
    def weights(self) -> Tensor:
        """Weight of every model in the initialisation f(mean embedding), float64 [models]."""
        return self.slopes @ self.embeddings.mean(0) + self.offsets

    def step(self, random: torch.Generator) -> float:
        """Do one step for each of `predicted`, in a random order; return their mean log-likelihood before it."""
        total = 0.0
        for position in torch.randperm(len(self.predicted), generator=random).tolist():
            drawn = int(torch.randint(len(self.fitted), (1,), generator=random))
            total += self.update(self.fitted[drawn], self.predicted[position])
        return total / len(self.predicted)

    def update(self, fitted: int, predicted: int) -> float:
        """Fit `fitted`, find the adversarial embedding of `predicted`, and ascend its likelihood there.

        Returns:
            Log-likelihood of `predicted` at the adversarial embedding, after the inner step.
        """
        embedding = self.embeddings[fitted]
        residual = self._residual(self.slopes, self.offsets, embedding, fitted)
        # The gradient of -|W e + b - theta|^2 is -2 (residual) e^T for W and -2 (residual) for b.
        slopes = self.slopes - 2 * self._inner_rate * residual.outer(embedding)
        offsets = self.offsets - 2 * self._inner_rate * residual
        moved = self._adversarial(slopes, offsets, predicted)
        residual = self._residual(slopes, offsets, moved, predicted)
        ascent = -2 * slopes.T @ self.products @ residual
        # First order: the gradients at the moved point are applied to the original one.
        self.slopes -= 2 * self._rate * residual.outer(moved)
        self.offsets -= 2 * self._rate * residual
        self.embeddings[predicted] += self._rate * ascent
        return -float(residual @ self.products @ residual)

    def _adversarial(self, slopes: Tensor, offsets: Tensor, model: int) -> Tensor:
        """Embedding that lowers log P(theta_j | e) + gamma |e - e_j|^2: one step of size 1 / (2 gamma) from e_j.

        With a log-likelihood that is linear around e_j, this is the minimum.
        """
        embedding = self.embeddings[model]
        residual = self._residual(slopes, offsets, embedding, model)
        return embedding + slopes.T @ self.products @ residual / self._gamma

    @staticmethod
    def _residual(slopes: Tensor, offsets: Tensor, embedding: Tensor, model: int) -> Tensor:
        """Coordinates of f(embedding) - theta of a model."""
        residual = slopes @ embedding + offsets
        residual[model] -= 1
        return residual


def scaled_products(layers: Iterable[Tensor]) -> Tensor:
    """Scalar products [models, models] of models relative to their mean, summed over layers.

    Each layer is divided by its spread among the models, so that all layers count alike: sigma^2 of a layer is the
    number of layers times the mean squared distance of the models from their mean. At the mean of all models,
    the log-likelihood of a model is then -1 on average. Layers that are equal in all models count 0.

    Args:
        layers: parameters of each of one layer or more, [models, parameters of the layer].
    """
    total, count = torch.zeros(()), 0
    for count, layer in enumerate(layers, 1):  # noqa: B007 - used after the loop
        centred = layer.to(torch.float64, copy=True)
        centred -= centred.mean(0)
        products = centred @ centred.T
        total = total + products / (float(products.trace()) / len(layer) or 1.0)
    return total / count


def weighted_sum(
    classifiers: Iterable[ImageClassifier], weights: Tensor, spec: ClassifierSpec
) -> ImageClassifier | None:
    """Classifier of `spec` with the weighted sum of the parameters and the mean of the buffers of all classifiers.

    Buffers are averaged because a variance must not become negative, which weights below 0 would allow. See
    `metazoo.fusion.average.mean_classifier` for the head, the pixels, and the result None.

    Args:
        classifiers: classifiers with the same features.
        weights: weight of each of them, [classifiers].
        spec: specification of the result.
    """

    def weighted(classifier: ImageClassifier, weight: float) -> dict[str, Tensor]:
        tensors, factor = feature_tensors(classifier), len(weights) * weight
        parameters = {name for name, _ in classifier.network.named_parameters()}
        return {name: tensor * factor if name in parameters else tensor for name, tensor in tensors.items()}

    parts = zip(classifiers, weights.tolist(), strict=True)
    return mean_classifier(((each.spec, weighted(each, weight)) for each, weight in parts), spec)


def layers_of(classifiers: Iterable[ImageClassifier]) -> Iterator[Tensor]:
    """Parameters of each layer of the features of all classifiers, float32 [classifiers, parameters of the layer].

    A layer is no longer held once the next one is asked for.
    """
    rows: dict[str, list[Tensor]] = defaultdict(list)
    for classifier in classifiers:
        own: dict[str, list[Tensor]] = defaultdict(list)
        for name, parameter in classifier.network.named_parameters():
            if not name.startswith(HEAD):
                own[name.rpartition(".")[0]].append(parameter.detach().cpu().flatten())
        for layer, tensors in own.items():
            rows[layer].append(torch.cat(tensors))
    while rows:
        yield torch.stack(rows.pop(next(iter(rows))))
