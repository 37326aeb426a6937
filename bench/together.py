"""Many learners of one algorithm at once: one vmapped update over seeds and reward scales. For small networks, where it pays.

The equations are those of the algorithm's file. Each learner collects in one environment; `updates_per_step` is its Config's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thespis import envs
from thespis.core import Learner, leaves, rebuild
from thespis.data import Replay

Tell = Callable[[int, np.ndarray], object]


def stack(nodes: Sequence[Any]) -> Any:
    """One tree with a leading axis from many of a kind."""
    return rebuild(nodes[0], {k: torch.stack([leaves(n)[k] for n in nodes]) for k in leaves(nodes[0])})


def one(node: Any, i: int) -> Any:
    """The i-th of a stacked tree."""
    return rebuild(node, {k: x[i] for k, x in leaves(node).items()})


class Together:
    """Learner i has seed `seeds[i]` and rewards times `scales[i]`; all else is the same for all."""

    def __init__(
        self, make: Callable[..., Learner], cfg: Any, env: str, seeds: Sequence[int], scales: Sequence[float] | None = None
    ):
        self.world = envs.world(env)
        self.learner = make(cfg, self.world.spec)
        self.seeds, self.n = list(seeds), len(seeds)
        self.scales = list(scales or [1.0] * self.n)
        states = []
        for seed in self.seeds:
            torch.manual_seed(seed)
            states.append(self.learner.init())
        self.state = stack(states)
        self._act = {
            explore: torch.vmap(lambda p, o, explore=explore: self.learner.act(p, o, explore), randomness="different")
            for explore in (False, True)
        }

    def act(self, obs: Tensor, explore: bool) -> np.ndarray:
        """Actions (n, episodes, action) for observations (n, episodes, obs)."""
        with torch.no_grad():
            return self._act[explore](self.learner.policy(self.state), obs).numpy()

    def train(self, steps: int, every: int = 0, episodes: int = 10, tell: Tell = lambda step, returns: None) -> None:
        """`tell` is given the step and the returns (n, episodes) of an evaluation each `every` steps, unscaled."""
        feed, period = self.learner.experience, self.learner.period
        update = torch.vmap(self.learner.update, in_dims=(0, 0, None), randomness="different")
        rng = np.random.default_rng(self.seeds)
        replays = [Replay(self.world.spec, feed, 1, seed, self.learner.needs) for seed in self.seeds]
        worlds = [self.world.make() for _ in self.seeds]
        obs = np.stack([e.reset(seed=seed)[0] for e, seed in zip(worlds, self.seeds, strict=True)])
        torch.manual_seed(self.seeds[0])
        updates = 0
        for t in range(1, steps + 1):
            action = self.act(torch.from_numpy(obs)[:, None], True)[:, 0]
            if t <= feed.warmup:
                action = rng.uniform(-1, 1, action.shape).astype(np.float32)
            for i, world in enumerate(worlds):
                last, reward, terminated, truncated, _ = world.step(action[i])
                flags = np.array([terminated]), np.array([truncated])
                replays[i].add(obs[i : i + 1], action[i : i + 1], np.array([self.scales[i] * float(reward)]), *flags, last[None])
                obs[i] = world.reset()[0] if terminated or truncated else last
            while updates < int((t - feed.warmup) * feed.updates_per_step):
                with torch.no_grad():
                    self.state, _ = update(self.state, stack([r.sample() for r in replays]), updates % period)
                updates += 1
            if every and t % every == 0:
                tell(t, self.evaluate(episodes))

    def evaluate(self, episodes: int, explore: bool = False, seed: int = 1_000_000) -> np.ndarray:
        """Returns (n, episodes) of whole episodes; episode j starts from reset seed `seed + j` for every learner."""
        worlds = [[self.world.make() for _ in range(episodes)] for _ in self.seeds]
        obs = np.stack([[e.reset(seed=seed + j)[0] for j, e in enumerate(row)] for row in worlds])
        returns, live = np.zeros(obs.shape[:2]), np.ones(obs.shape[:2], bool)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            while live.any():
                action = self.act(torch.from_numpy(obs), explore)
                for i, j in zip(*live.nonzero(), strict=True):
                    obs[i, j], reward, terminated, truncated, _ = worlds[i][j].step(action[i, j])
                    returns[i, j] += float(reward)
                    live[i, j] = not (terminated or truncated)
        return returns
