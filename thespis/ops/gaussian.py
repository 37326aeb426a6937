"""The tanh-Gaussian: u ~ N(mean, std), a = tanh(u) (Haarnoja et al. 2018, appendix C)."""

import math

import torch
from torch import Tensor
from torch.nn.functional import softplus


def squashed_sample(mean: Tensor, log_std: Tensor) -> tuple[Tensor, Tensor]:
    """A reparameterised action in (-1, 1), shaped as mean (..., A), and its log-density (...)."""
    noise = torch.randn_like(mean)
    u = mean + log_std.exp() * noise
    return u.tanh(), _log_density(noise, log_std, u)


def squashed_log_prob(mean: Tensor, log_std: Tensor, u: Tensor) -> Tensor:
    """The log-density (...) of the action tanh(u) under mean, log_std, u (..., A)."""
    return _log_density((u - mean) * (-log_std).exp(), log_std, u)


def _log_density(noise: Tensor, log_std: Tensor, u: Tensor) -> Tensor:
    gaussian = -0.5 * (noise.square() + math.log(2 * math.pi)) - log_std
    # log(1 - tanh(u)^2), in the form that stays finite where tanh saturates
    squash = 2 * (math.log(2) - u - softplus(-2 * u))
    return (gaussian - squash).sum(-1)
