"""Maths that has a name outside any one paper: tensors in, tensors out."""

from thespis.ops.advantage import gae
from thespis.ops.distribution import expectation, held_noise, project, quantile_huber, support, zeta
from thespis.ops.gaussian import squashed_log_prob, squashed_sample
from thespis.ops.nearest import keyed, nearest
from thespis.ops.normal import normal_log_prob
from thespis.ops.returns import backup
from thespis.ops.rollouts import first_moments, judged, whitened
from thespis.ops.scale import between, cosine, mean_and_std, moments, normalised, return_scale, standardised, unseen
from thespis.ops.solve import conjugate_gradient

__all__ = [
    "backup", "between", "conjugate_gradient", "cosine", "expectation", "first_moments", "gae", "held_noise", "judged",
    "keyed", "mean_and_std", "moments", "nearest", "normal_log_prob", "normalised", "project", "quantile_huber",
    "return_scale", "squashed_log_prob", "squashed_sample", "standardised", "support", "unseen", "whitened", "zeta",
]  # fmt: skip
