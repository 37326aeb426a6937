"""Several replays as one: each row as its own replay has it, every row as likely."""

import numpy as np
import pytest
import torch

from thespis.core import Box, OffPolicy, Spec, leaves
from thespis.data import Shards

GAMMA, SPEC = 0.9, Spec(Box(2), Box(1))


def shards(steps, num_envs=2, n_step=3, size=120, needs=frozenset(), batch=16):
    """One replay for each of `steps`, which says how many steps it is given; no two rewards are alike."""
    out = Shards(SPEC, OffPolicy(GAMMA, n_step, batch, size, 0, 1.0), len(steps), num_envs, 0, needs)
    rng, streams = np.random.default_rng(0), [[] for _ in steps]
    for i, count in enumerate(steps):
        last = rng.normal(size=(num_envs, 2)).astype(np.float32)
        for _ in range(count):
            obs, last = last, rng.normal(size=(num_envs, 2)).astype(np.float32)
            row = obs, rng.normal(size=(num_envs, 1)).astype(np.float32), rng.normal(size=num_envs)
            ended = rng.random((2, num_envs)) < 0.1
            out.parts[i].add(*row, *ended, last)
            streams[i].append((row[2], ended.any(0)))
    return out, streams


@pytest.mark.parametrize("steps", [(5, 9, 2), (7, 0, 3), (30, 1, 50)])
def test_each_row_is_its_own_replays(steps):
    both, _ = shards(steps, needs=frozenset({"previous"}))
    lengths = [len(part) for part in both.parts]
    assert lengths == [2 * min(s, 20) for s in steps]  # 120 transitions: 40 each, of 2 environments
    assert len(both) == sum(lengths)
    assert both.added == 2 * sum(steps)
    assert both.steps == list(steps)
    rows = torch.randperm(len(both))
    found = leaves(both.at(rows))
    starts = np.cumsum([0, *lengths])
    for i, row in enumerate(rows.tolist()):
        part = int(np.searchsorted(starts, row, side="right")) - 1
        for name, column in leaves(both.parts[part].at(torch.tensor([row - starts[part]]))).items():
            assert found[name][i].equal(column[0])


def test_every_row_is_as_likely():
    both, _ = shards((3, 12, 5), n_step=1, batch=40_000)
    rewards = torch.cat([torch.from_numpy(part.reward[: 2 * part.steps]) for part in both.parts])
    counts = (both.sample().reward[:, None] == rewards).sum(0).double()
    assert counts.sum() == 40_000
    chi2 = ((counts - 1000) ** 2 / 1000).sum()
    assert chi2 < 72.1  # of 39 degrees of freedom, 1 in a thousand lies above


def test_the_returns_moments_are_those_of_all_steps():
    both, streams = shards((40, 7, 23), needs=frozenset({"return_scale"}))
    all_returns = []
    for stream in streams:
        now = np.zeros(2)
        for reward, ended in stream:
            now = GAMMA * now + reward
            all_returns += now.tolist()
            now = now * ~ended
    other = shards((0, 0, 0), needs=frozenset({"return_scale"}))[0]
    other.restore({k: v.clone() for k, v in both.save().items()})
    for part in (*both.parts, *other.parts):
        columns = part.scale.columns(3)
        np.testing.assert_allclose(columns["return_std"], np.std(all_returns), rtol=1e-5)
        np.testing.assert_allclose(columns["return_max"], np.abs(all_returns).max(), rtol=1e-6)
    for one, two in zip(both.parts, other.parts, strict=True):
        assert np.array_equal(one.scale.past, two.scale.past)
    other.parts[1].add(
        *(np.ones((2, d), np.float32) for d in (2, 1)), np.ones(2), *np.zeros((2, 2), bool), np.ones((2, 2), np.float32)
    )
    assert all(part.scale.moments[0] == 2 * 71 for part in other.parts)


def test_a_cut_episode_has_no_past():
    both, _ = shards((4,), num_envs=1, needs=frozenset({"return_scale"}))
    part = both.parts[0]
    part.scale.past[:] = 5.0
    part.ended[:] = False
    part.cut(0)
    assert part.scale.past.tolist() == [0.0]
