"""Where batches come from; knows gamma and n-step, not algorithms."""

from thespis.core import OffPolicy, Spec
from thespis.data.dataset import Dataset, read
from thespis.data.demonstrations import Demonstrations
from thespis.data.replay import Replay
from thespis.data.rollout import OnPolicy, Rollout
from thespis.data.shards import Shards

Experience = Replay | Rollout | Shards


def experience(
    spec: Spec, feed: OffPolicy | OnPolicy, num_envs: int, seed: int, needs: frozenset[str], collectors: int = 0,
    device: str = "cpu",
) -> Experience:  # fmt: skip
    """What a learner's steps go to; a replay of one process lies on the learner's device."""
    if isinstance(feed, OnPolicy):
        return Rollout(spec, feed, num_envs, seed, needs)
    if collectors:
        return Shards(spec, feed, collectors, num_envs, seed, needs)
    return Replay(spec, feed, num_envs, seed, needs, device)


__all__ = ["Dataset", "Demonstrations", "Experience", "OnPolicy", "Replay", "Rollout", "Shards", "experience", "read"]
