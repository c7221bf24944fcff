"""Two-component mixtures of Gaussians in one dimension, fitted to many small groups at once."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ._inputs import on_host

MAX_ITERATIONS = 100
TOLERANCE = 1e-3
MIN_VARIANCE = 1e-6
"""scikit-learn's max_iter, tol and reg_covar."""

_LOG_2PI = math.log(2 * math.pi)
_TINY = 10 * torch.finfo(torch.float64).eps


class Mixture(NamedTuple):
    """The result of :func:`fit_mixture` for G groups of at most n values."""

    weights: Tensor
    """[G, 2] float64, of the components."""
    means: Tensor
    """[G, 2] float64."""
    variances: Tensor
    """[G, 2] float64."""
    component: Tensor
    """[G, n] int64: the likelier component of a value, 0 where both are equal."""
    log_likelihood: Tensor
    """[G, n] float64: the logarithm of the mixture's density."""


def fit_mixture(values: Tensor, valid: Tensor) -> Mixture:
    """Expectation maximization from the means (smallest value, largest value), variances 1 and weights 0.5.

    The steps and the end are those of scikit-learn's GaussianMixture with these starts and its defaults: a group is
    done when the mean log-likelihood changes by less than 0.001, or after 100 steps. All groups step together; a group
    that is done keeps its parameters. No host synchronization: on CUDA all 100 steps are queued, on a CPU the steps end
    with the last group.

    Args:
        values: [G, n] floating point. valid: [G, n] bool, the entries that belong to the group.

    Returns:
        :class:`Mixture`. A group without valid entries has unspecified values.

    Source: Dempster et al. 1977; scikit-learn's GaussianMixture.
    """
    x = torch.where(valid, values, 0).double()
    inside = valid.double()
    count = inside.sum(1)
    powers = torch.stack((inside, x, x * x), -1)  # [G, n, 3]
    low = torch.where(valid, x, torch.inf).amin(1)
    high = torch.where(valid, x, -torch.inf).amax(1)
    means = torch.stack((low, high), 1)
    weights, variances = torch.full_like(means, 0.5), torch.ones_like(means)
    previous = torch.full_like(low, -torch.inf)
    done = count == 0
    for _ in range(MAX_ITERATIONS):
        joint = _log_joint(x, weights, means, variances)
        total = torch.logaddexp(joint[:, 0], joint[:, 1])
        moments = torch.bmm((joint - total[:, None]).exp_(), powers)  # [G, 2, 3]
        mass = moments[..., 0] + _TINY
        new_means = moments[..., 1] / mass
        new_variances = moments[..., 2] / mass - new_means * new_means + MIN_VARIANCE
        running = ~done[:, None]
        means = torch.where(running, new_means, means)
        variances = torch.where(running, new_variances, variances)
        weights = torch.where(running, mass / mass.sum(1, keepdim=True), weights)
        bound = (total * inside).sum(1) / count
        done = done | ((bound - previous).abs() < TOLERANCE)
        previous = bound
        if on_host(done) and done.all():
            break
    joint = _log_joint(x, weights, means, variances)
    likelihood = torch.logaddexp(joint[:, 0], joint[:, 1])
    return Mixture(weights, means, variances, (joint[:, 1] > joint[:, 0]).long(), likelihood)


def _log_joint(x: Tensor, weights: Tensor, means: Tensor, variances: Tensor) -> Tensor:
    """[G, 2, n] log(weight * density) of each component and value."""
    distance = x[:, None] - means[..., None]
    scale = weights.log() - 0.5 * (_LOG_2PI + variances.log())
    return torch.addcmul(scale[..., None], distance, distance * (-0.5 / variances)[..., None])
