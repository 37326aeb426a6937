"""Gymnasium's spaces as the learner sees them, under one name: what observations.py and actions.py have."""

from thespis.envs.actions import affine, missing_bound, scale_action, spec, translator, unscale_action
from thespis.envs.observations import column, flat_dim, flatten, flattener, image, images, ordered, short, unflatten

__all__ = [
    "affine", "column", "flat_dim", "flatten", "flattener", "image", "images", "missing_bound", "ordered", "scale_action",
    "short", "spec", "translator", "unflatten", "unscale_action",
]  # fmt: skip
