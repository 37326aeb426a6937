"""Independent normals."""

import math

from torch import Tensor


def normal_log_prob(mean: Tensor, log_std: Tensor, x: Tensor) -> Tensor:
    """The log-density (...) of x (..., A) under independent normals; log_std is (..., A) or (A,)."""
    noise = (x - mean) * (-log_std).exp()
    return (-0.5 * (noise.square() + math.log(2 * math.pi)) - log_std).sum(-1)
