"""Maths that has a name outside any one paper: tensors in, tensors out."""

from thespis.ops.gaussian import squashed_log_prob, squashed_sample
from thespis.ops.returns import backup

__all__ = ["backup", "squashed_log_prob", "squashed_sample"]
