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
    """Classes as normal distributions of one covariance, which is shrunk towards a multiple of the identity.

    With the means m_k and the covariance C within the classes, the scores are x C⁻¹ m_k - m_k C⁻¹ m_k / 2, which is the
    form `linear` of a fitted head.
    """

    name = "discriminant"
    shrinkage = 0.5

    def fit_features(self, support_features: Tensor, support_labels: Tensor, ways: int) -> FittedHead:
        """Fit the classes; see `FeatureHead.fit_features`."""
        members = functional.one_hot(support_labels, ways).to(support_features)
        means = (members / members.sum(0)).mT @ support_features
        residuals = support_features - members @ means
        images, size = support_features.shape[-2:]
        covariance = residuals.mT @ residuals / images
        variance = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        # One image a class has no variance; any multiple of the identity then gives the nearest mean.
        ridge = torch.where(variance > 0, self.shrinkage * variance, 1.0)
        shrunk = (1 - self.shrinkage) * covariance + ridge * torch.eye(size).to(support_features)
        weight = torch.linalg.solve(shrunk, means.mT).mT
        return FittedHead("linear", weight, -(weight * means).sum(-1) / 2)
