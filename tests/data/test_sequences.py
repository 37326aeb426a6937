"""Sequences against a list of each environment's episodes, walked a step at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from thespis.core import Box, Spec, leaves
from thespis.data import SequenceReplay, Sequences, experience, memory

SPEC = Spec(Box(1), Box(1))


def feed(burn_in: int, length: int, replay_size: int = 24) -> Sequences:
    return Sequences(0.9, 1, 16, replay_size, 0, 1.0, burn_in=burn_in, length=length, memory=2)


class Walked:
    """Every step as a dictionary, in the list of its episode. Its number says which it is."""

    def __init__(self, num_envs: int, p_end: float):
        self.rng, self.n, self.p_end, self.count = np.random.default_rng(0), num_envs, p_end, 0
        self.episodes: list[list[list[dict[str, Any]]]] = [[[]] for _ in range(num_envs)]
        self.obs = [self.new() for _ in range(num_envs)]

    def new(self) -> float:
        self.count += 1
        return float(self.count)

    def step(self, replay: SequenceReplay) -> None:
        ended, remembers = self.rng.random(self.n) < self.p_end, bool(self.rng.random() < 0.8)
        terminated = ended & (self.rng.random(self.n) < 0.5)
        last, action = [self.new() for _ in range(self.n)], self.rng.normal(size=(self.n, 1)).astype(np.float32)
        hidden = torch.from_numpy(self.rng.normal(size=(self.n, 2)).astype(np.float32))
        if remembers:  # where random actions are taken, nothing is
            replay.remember({"hidden": hidden}, torch.arange(self.n))
        for i, episodes in enumerate(self.episodes):
            before = episodes[-1][-1]["action"] if episodes[-1] else 0.0
            step = {"obs": self.obs[i], "action": float(action[i, 0]), "previous": before, "next_obs": last[i]}
            step |= {"reward": self.obs[i] / 7, "discount": 0.0 if terminated[i] else 0.9}
            episodes[-1].append(step | {"hidden": hidden[i].tolist() if remembers else [0.0, 0.0]})
            if ended[i]:
                episodes.append([])
        obs = np.array(self.obs, np.float32)
        replay.add(obs[:, None], action, obs / 7, terminated, ended, np.array(last, np.float32)[:, None])
        self.obs = [self.new() if ended[i] else last[i] for i in range(self.n)]

    def cut(self, env: int) -> None:
        if self.episodes[env][-1]:
            self.episodes[env].append([])
            self.obs[env] = self.new()

    def rows(self, burn_in: int, length: int, kept: int) -> dict[float, list[dict[str, Any] | None]]:
        """By the first step to learn from: T steps, None where there is none. Only the newest `kept` may be."""
        out = {}
        for episodes in self.episodes:
            order = [(e, t) for e, episode in enumerate(episodes) for t in range(len(episode))]
            age = {place: len(order) - 1 - i for i, place in enumerate(order)}
            for e, t in order[-kept:]:
                around = [(e, at) if (e, at) in age and age[e, at] < kept else None for at in range(t - burn_in, t + length)]
                out[episodes[e][t]["obs"]] = [None if at is None else episodes[e][at[1]] for at in around]
        return out


@pytest.mark.parametrize("num_envs", [1, 3])
@pytest.mark.parametrize(("burn_in", "length", "p_end"), [(0, 1, 0.3), (2, 3, 0.1), (3, 2, 0.4), (0, 4, 0.02), (5, 1, 0.02)])
def test_every_sequence_is_a_part_of_its_episode(num_envs: int, burn_in: int, length: int, p_end: float) -> None:
    """At starts, ends and cuts, at the oldest and the newest step, over the ring's end; and read again from what was written."""
    needs = frozenset({"previous"})
    replay = experience(SPEC, feed(burn_in, length), num_envs, 0, needs)
    assert isinstance(replay, SequenceReplay)
    walked, segments = Walked(num_envs, p_end), []
    for t in range(60):
        walked.step(replay)
        if t % 13 == 6:
            replay.cut(t % num_envs)
            walked.cut(t % num_envs)
        if t < 8 or t % 7 == 0:
            rows = walked.rows(burn_in, length, min(t + 1, 24 // num_envs))
            assert len(replay) == len(rows)
            check(replay, rows, burn_in)
        if t % 10 == 9:
            segments.append((t - 9, replay.segment(t - 9, t + 1)))
    again = experience(SPEC, feed(burn_in, length), num_envs, 0, needs)
    again.load([(first, part) for first, part in segments if first + 10 > replay.oldest()], 60)
    one, other = (leaves(each.at(torch.arange(len(each)))) for each in (replay, again))
    assert all(torch.equal(one[k], other[k]) for k in one)


def check(replay: SequenceReplay, rows: dict[float, list[dict[str, Any] | None]], burn_in: int) -> None:
    found = leaves(replay.at(torch.arange(len(replay))))
    assert set(found["obs"][:, burn_in, 0].tolist()) == set(rows)
    for i, first in enumerate(found["obs"][:, burn_in, 0].tolist()):
        wanted = rows[first]
        assert found["extra.valid"][i].tolist() == [step is not None for step in wanted]
        at = next(t for t, step in enumerate(wanted) if step is not None)
        assert found["extra.hidden"][i].tolist() == wanted[at]["hidden"]  # type: ignore[index]
        for t, step in enumerate(wanted):
            for name, value in (step or {}).items():
                if name != "hidden":
                    key = "extra.previous" if name == "previous" else name
                    assert float(found[key][i, t]) == pytest.approx(value, rel=1e-6), (name, i, t)


def test_what_some_environments_remember_alone_and_what_it_takes() -> None:
    replay = SequenceReplay(SPEC, feed(1, 2), 3)
    replay.remember({"hidden": torch.tensor([[0.0, 1.0], [4.0, 5.0]])}, torch.tensor([0, 2]))
    assert replay.now.tolist() == [[0, 1], [0, 0], [4, 5]]
    (_, count, each), (_, rows, row) = memory(SPEC, feed(1, 2), 1)
    assert (count, each) == (24, 4 + 4 + 10 + 8)
    assert (rows, row) == (16, 3 * (8 + 4 + 6) + 8)
