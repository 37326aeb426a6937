"""Maths that has a name outside any one paper: tensors in, tensors out."""

from thespis.ops import archive, levels, privacy
from thespis.ops.actions import allowed, combinations, features, joined, masked, parts, pick, ravelled, sizes, unravelled
from thespis.ops.advantage import gae
from thespis.ops.distribution import expectation, project, quantile_huber, repeated_noise, support, zeta
from thespis.ops.flow import integrate, noised
from thespis.ops.gaussian import squashed_log_prob, squashed_sample
from thespis.ops.nearest import keyed, nearest
from thespis.ops.normal import normal_log_prob
from thespis.ops.returns import backup, squared
from thespis.ops.rewards import floors, reward_shape
from thespis.ops.rollouts import first_moments, whitened, with_advantages
from thespis.ops.sampling import choice, robust_chances, systematic
from thespis.ops.scale import between, cosine, mean_and_std, moments, normalised, return_scale, standardised, unseen
from thespis.ops.solve import conjugate_gradient
from thespis.ops.tokens import (
    by_group,
    clipped,
    k3,
    lambda_advantage,
    of_others,
    over_turn,
    per_constant,
    per_sequence,
    per_token,
)

__all__ = [
    "allowed", "archive", "backup", "between", "by_group", "choice", "clipped", "combinations", "conjugate_gradient",
    "cosine", "expectation", "features", "first_moments", "floors", "gae", "integrate", "joined", "k3", "keyed",
    "lambda_advantage", "levels", "masked", "mean_and_std", "moments", "nearest", "noised", "normal_log_prob", "normalised",
    "of_others", "over_turn", "parts", "per_constant", "per_sequence", "per_token", "pick", "privacy", "project",
    "quantile_huber", "ravelled", "repeated_noise", "return_scale", "reward_shape", "robust_chances", "sizes", "squared",
    "squashed_log_prob", "squashed_sample", "standardised", "support", "systematic", "unravelled", "unseen", "whitened",
    "with_advantages", "zeta",
]  # fmt: skip
