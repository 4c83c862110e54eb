"""The ridge regression that heads are compared with is scikit-learn's, on standardized values."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from allophone.run.ridge import fit_ridge, ridge_vectors


@pytest.mark.parametrize("dims", [1, 3])
def test_it_predicts_what_scikit_learn_does(dims: int) -> None:
    features, asked = torch.randn(40, 5) * 7 + 3, torch.randn(6, 5)
    targets = np.random.default_rng(0).normal(size=(40, dims)) + features[:, :dims].numpy()
    peer = make_pipeline(StandardScaler(), RidgeCV(alphas=np.logspace(0, 5, 11))).fit(features.double(), targets)
    expected = peer.predict(asked.double().numpy()).reshape(6, dims)
    np.testing.assert_allclose(fit_ridge(features, targets)(asked), expected, rtol=1e-6)
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(ridge_vectors(features, targets, asked), unit, rtol=1e-5)
