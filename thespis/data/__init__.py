"""Where batches come from; knows gamma and n-step, not algorithms."""

from thespis.data.dataset import Dataset, read
from thespis.data.demonstrations import Demonstrations
from thespis.data.replay import Replay
from thespis.data.shards import Shards

__all__ = ["Dataset", "Demonstrations", "Replay", "Shards", "read"]
