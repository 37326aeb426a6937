"""Where batches come from; knows gamma and n-step, not algorithms."""

from thespis.data.replay import Replay

__all__ = ["Replay"]
