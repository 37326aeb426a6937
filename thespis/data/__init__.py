"""Where batches come from; knows gamma and n-step, not algorithms."""

from thespis.core import OffPolicy, Spec
from thespis.data import replay
from thespis.data.dataset import Dataset, Origin, Source, read
from thespis.data.demonstrations import Demonstrations
from thespis.data.hindsight import Hindsight, Rule
from thespis.data.memory import memory
from thespis.data.preferences import Compared, Episode, Rater, compared, rater, win_rates
from thespis.data.prioritised import PrioritisedReplay, Priority
from thespis.data.recorded import Offline, Probe, Recorded, every_row, offline
from thespis.data.replay import Replay
from thespis.data.rollout import OnPolicy, Rollout, described
from thespis.data.sequences import SegmentRollout, Segments, SequenceReplay, Sequences
from thespis.data.shards import Shards

Experience = Recorded | Replay | Rollout | Shards


def experience(
    spec: Spec, feed: OffPolicy | OnPolicy | Offline, num_envs: int, seed: int, needs: frozenset[str], collectors: int = 0,
    device: str = "cpu", data: Dataset | None = None, hindsight: Rule | None = None, priority: Priority | None = None,
) -> Experience:  # fmt: skip
    """What a learner's steps go to, or the dataset that it learns from instead; a replay of one process lies on its device."""
    if isinstance(feed, Offline):
        assert data is not None
        return Recorded(spec, feed, data, seed, needs, device)
    if isinstance(feed, Segments):
        return SegmentRollout(spec, feed, num_envs, seed, needs)
    if isinstance(feed, OnPolicy):
        return Rollout(spec, feed, num_envs, seed, needs)
    if isinstance(feed, Sequences):
        return SequenceReplay(spec, feed, num_envs, seed, needs, device)
    replay: Shards | Replay
    if collectors:
        replay = Shards(spec, feed, collectors, num_envs, seed, needs)
    elif priority:
        replay = PrioritisedReplay(spec, feed, num_envs, seed, needs, device, priority)
    else:
        replay = Replay(spec, feed, num_envs, seed, needs, device)
    if hindsight:
        judge = hindsight.judge()
        for part in replay.parts:
            part.relabel = Hindsight(part, hindsight, judge)
    return replay


def updates(feed: OffPolicy | OnPolicy | Offline, steps: int, num_envs: int) -> int:
    """That so many steps of all environments call for."""
    if isinstance(feed, Offline):
        return steps
    return feed.updates(steps, num_envs) if isinstance(feed, OnPolicy) else replay.updates(feed, steps)


__all__ = [
    "Compared", "Dataset", "Demonstrations", "Episode", "Experience", "Hindsight", "Offline", "OnPolicy", "Origin",
    "PrioritisedReplay", "Priority", "Probe", "Rater", "Recorded", "Replay", "Rollout", "Rule", "SegmentRollout", "Segments",
    "SequenceReplay", "Sequences", "Shards", "Source", "compared", "described", "every_row", "experience", "memory",
    "offline", "rater", "read", "updates", "win_rates",
]  # fmt: skip
