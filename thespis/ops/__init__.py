"""Maths that has a name outside any one paper: tensors in, tensors out."""

from thespis.ops.actions import allowed, combinations, features, joined, masked, parts, pick, ravelled, sizes, unravelled
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
    "allowed", "backup", "between", "combinations", "conjugate_gradient", "cosine", "expectation", "features", "first_moments",
    "gae", "held_noise", "joined", "judged", "keyed", "masked", "mean_and_std", "moments", "nearest", "normal_log_prob",
    "normalised", "parts", "pick", "project", "quantile_huber", "ravelled", "return_scale", "sizes", "squashed_log_prob",
    "squashed_sample", "standardised", "support", "unravelled", "unseen", "whitened", "zeta",
]  # fmt: skip
