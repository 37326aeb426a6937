"""Many runs of one algorithm: a grid or a search, times seeds."""

from thespis.sweep.sweep import sweep

__all__ = ["sweep"]
