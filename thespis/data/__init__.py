"""Where batches come from; knows gamma and n-step, not algorithms."""

from thespis.core import OffPolicy, Spec
from thespis.data.dataset import Dataset, read
from thespis.data.demonstrations import Demonstrations
from thespis.data.replay import Replay
from thespis.data.rollout import OnPolicy, Rollout


def experience(spec: Spec, feed: OffPolicy | OnPolicy, num_envs: int, seed: int, needs: frozenset[str]) -> Replay | Rollout:
    """What a learner's steps go to."""
    return (Rollout if isinstance(feed, OnPolicy) else Replay)(spec, feed, num_envs, seed, needs)  # type: ignore[arg-type]


__all__ = ["Dataset", "Demonstrations", "OnPolicy", "Replay", "Rollout", "experience", "read"]
