"""Linear discriminant analysis, registered as the head `discriminant`."""

from typing import final

import torch
from torch import Tensor
from torch.nn import functional

import metazoo
from metazoo.features.heads import FeatureHead, FittedHead


@metazoo.register_head
@final
class Discriminant(FeatureHead):
    """Normal distributions with one covariance, shrunk towards a multiple of the identity.

    With class means m_k and covariance C within the classes, the scores are x C⁻¹ m_k - m_k C⁻¹ m_k / 2: a fitted head
    of the form `linear`.
    """

    name = "discriminant"
    shrinkage = 0.5

    def fit_features(self, support_features: Tensor, support_labels: Tensor, ways: int) -> FittedHead:
        """Fit means and covariance; see `FeatureHead.fit_features`."""
        members = functional.one_hot(support_labels, ways).to(support_features)
        means = (members / members.sum(0)).mT @ support_features
        residuals = support_features - members @ means
        images, size = support_features.shape[-2:]
        covariance = residuals.mT @ residuals / images
        variance = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        # With one image per class the variance is 0; any multiple of the identity gives the nearest mean.
        ridge = torch.where(variance > 0, self.shrinkage * variance, 1.0)
        shrunk = (1 - self.shrinkage) * covariance + ridge * torch.eye(size).to(support_features)
        weight = torch.linalg.solve(shrunk, means.mT).mT
        return FittedHead("linear", weight, -(weight * means).sum(-1) / 2)
