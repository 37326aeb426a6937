"""Where batches come from; knows gamma and n-step, not algorithms."""

from thespis.data.dataset import Dataset, read
from thespis.data.demonstrations import Demonstrations
from thespis.data.replay import Replay

__all__ = ["Dataset", "Demonstrations", "Replay", "read"]
