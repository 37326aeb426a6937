"""How much memory experience takes, before any is taken."""

from thespis.core import OffPolicy, Spec
from thespis.data.images import row_bytes
from thespis.data.recorded import Offline
from thespis.data.replay import empty_actions
from thespis.data.rollout import OnPolicy
from thespis.data.sequences import Segments, Sequences


def memory(
    spec: Spec, feed: OffPolicy | OnPolicy | Offline, num_envs: int, hindsight: bool = False, priority: bool = False
) -> list[tuple[str, int, int]]:
    """Of each option that says how much experience is in memory at once: its name, how much, and the bytes of each unit of it."""
    action = empty_actions(spec, 1).nbytes
    frames = 1 if isinstance(feed, OnPolicy) else feed.frames
    steps, hidden = (feed.burn_in + feed.length, 4 * feed.memory) if isinstance(feed, Sequences) else (1, 0)
    row = 2 * 4 * frames * spec.obs.dim + action + 6  # of a batch: two observations, action, reward, two flags
    if isinstance(feed, OnPolicy):
        replay = [("replay_size", feed.replay_size, row)] if feed.replay_size else []
        hidden = 4 * feed.memory if isinstance(feed, Segments) else 0
        return [("rollout", feed.rollout, num_envs * (row + hidden)), *replay]
    batch = "batch_size", feed.batch_size, steps * row + hidden
    if isinstance(feed, Offline):
        return [batch]  # the dataset is in memory already
    return [("replay_size", feed.replay_size, row_bytes(spec) + action + 10 + hidden + 4 * hindsight + 32 * priority), batch]
