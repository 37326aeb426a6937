"""Several observations side by side: stored once each, put together as a list that is walked says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces

from thespis.core import Batch, Box, OffPolicy, Spec, leaves
from thespis.data import Offline, Recorded, Replay, Shards, memory
from thespis.data.episodes import Dataset
from thespis.envs.actions import spec

PICTURE = spec(spaces.Box(0, 255, (2, 2), np.uint8), spaces.Box(-1, 1, (1,), np.float32))
PLAIN = Spec(Box(4), Box(1))


def feed(frames: int, n_step: int = 3, replay_size: int = 24) -> OffPolicy:
    return OffPolicy(0.9, n_step, 64, replay_size, 0, 1.0, frames=frames)


class Walked:
    """Each environment's episodes as lists of observations, and where each step lies."""

    def __init__(self, kind: Spec, num_envs: int, seed: int, p_end: float):
        self.kind, self.n, self.rng, self.p_end = kind, num_envs, np.random.default_rng(seed), p_end
        self.count = 0
        self.steps: list[list[tuple[list[np.ndarray], int]]] = [[] for _ in range(num_envs)]  # the episode, and the step in it
        self.over: list[list[bool]] = [[] for _ in range(num_envs)]
        self.episodes = [[self.new()] for _ in range(num_envs)]

    def new(self) -> np.ndarray:
        """No two are equal."""
        self.count += 1
        digits = np.array([self.count // 16**i % 16 for i in range(4)], np.float32)
        return digits * 17 / np.float32(255) if self.kind.images else digits

    def step(self) -> list[np.ndarray]:
        obs, last, ended = [], [], self.rng.random(self.n) < self.p_end
        for i, episode in enumerate(self.episodes):
            self.steps[i].append((episode, len(episode) - 1))
            self.over[i].append(bool(ended[i]))
            obs.append(episode[-1])
            episode.append(self.new())
            last.append(episode[-1])
            if ended[i]:
                self.episodes[i] = [self.new()]
        terminated = ended & (self.rng.random(self.n) < 0.5)
        return [np.stack(obs), np.zeros((self.n, 1), np.float32), np.zeros(self.n), terminated, ended, np.stack(last)]

    def cut(self, env: int) -> None:
        self.over[env][-1] = True
        self.episodes[env] = [self.new()]

    def rows(self, frames: int, n_step: int, length: int) -> dict[tuple[float, ...], tuple[np.ndarray, np.ndarray]]:
        """By the newest observation: what is seen at a row, and at the end of its n steps."""
        out = {}
        for steps, over in zip(self.steps, self.over, strict=True):
            for t in range(max(len(steps) - length, 0), len(steps)):
                last = t
                while not over[last] and last < min(t + n_step, len(steps)) - 1:
                    last += 1
                both = [
                    np.concatenate([episode[max(at - back, 0)] for back in reversed(range(frames))])
                    for episode, at in (steps[t], (steps[last][0], steps[last][1] + 1))
                ]
                out[tuple(both[0][-4:].tolist())] = (both[0], both[1])
        return out


def check(batch: Batch, rows: dict[tuple[float, ...], tuple[np.ndarray, np.ndarray]]) -> set[tuple[float, ...]]:
    names = [tuple(row) for row in batch.obs[:, -4:].tolist()]
    for i, name in enumerate(names):
        np.testing.assert_array_equal(batch.obs[i].numpy(), rows[name][0])
        np.testing.assert_array_equal(batch.next_obs[i].numpy(), rows[name][1])
    return set(names)


@pytest.mark.parametrize("kind", [PLAIN, PICTURE], ids=["floats", "bytes"])
@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize(("frames", "n_step", "p_end"), [(2, 1, 0.1), (3, 3, 0.4), (4, 2, 0.05), (1, 3, 0.3)])
def test_every_row_shows_what_its_episode_showed_before(
    kind: Spec, num_envs: int, frames: int, n_step: int, p_end: float
) -> None:
    """At starts, ends and cuts, over the ring's end several times, and read again from what was written."""
    given = feed(frames, n_step)
    replay, walked = Replay(kind, given, num_envs), Walked(kind, num_envs, 0, p_end)
    segments = []
    for t in range(60):
        replay.add(*walked.step())
        if t % 13 == 6:
            replay.cut(t % num_envs)
            walked.cut(t % num_envs)
        if t < 10 or t % 7 == 0:
            rows = walked.rows(frames, n_step, 24 // num_envs)
            assert len(replay) == len(rows)
            assert check(replay.at(torch.arange(len(replay))), rows) == set(rows)
        if t % 10 == 9:
            segments.append((t - 9, replay.segment(t - 9, t + 1)))
    again = Replay(kind, given, num_envs)
    again.load([(first, part) for first, part in segments if first + 10 > replay.oldest()], 60)
    for name, x in leaves(again.at(torch.arange(len(again)))).items():
        assert torch.equal(x, leaves(replay.at(torch.arange(len(replay))))[name]), name


def test_shards_and_datasets_show_the_same() -> None:
    walked, shards = Walked(PLAIN, 1, 1, 0.2), Shards(PLAIN, feed(3, 2, 80), 2)
    for _ in range(40):
        shards.parts[1].add(*walked.step())
    rows = walked.rows(3, 2, 40)
    check(shards.sample(), rows)
    episodes = list({id(episode): episode for episode, _ in walked.steps[0]}.values())
    data = Dataset(
        np.stack([x for e in episodes for x in e[:-1]]), np.zeros((40, 1), np.float32), np.zeros(40, np.float32),
        np.zeros(40, bool), np.array([len(e) - 1 for e in episodes]), np.stack([e[-1] for e in episodes]),
    )  # fmt: skip
    assert check(Recorded(PLAIN, Offline(0.9, 2, 256, frames=3), data).sample(), rows)


def test_the_replay_takes_a_frame_once_and_the_batch_each_time() -> None:
    one, three = Replay(PICTURE, feed(1)), Replay(PICTURE, feed(3))
    assert three.obs.nbytes - one.obs.nbytes == 2 * 4  # two steps more, for what the oldest show
    (_, count, each), (_, rows, row) = memory(PICTURE, feed(3), 1)
    assert (count, each) == (24, 4 + 4 + 10)
    assert (rows, row) == (64, 3 * 2 * 4 * 4 + 4 + 6)
