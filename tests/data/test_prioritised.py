"""Prioritised replay against lists that are walked from end to end, and what it is for: rare steps that matter are seen more."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thespis.core import Box, OffPolicy, Spec, leaves
from thespis.data import PrioritisedReplay, Priority, Replay
from thespis.data.prioritised import LEAST, SumTree

SPEC = Spec(Box(1), Box(1))
ALPHA, BETA = 0.7, 0.3


def replay_of(
    size: int, num_envs: int = 1, batch: int = 8, n_step: int = 1, frames: int = 1, batches: int = 5, kind=PrioritisedReplay
):
    feed = OffPolicy(0.9, n_step, batch, size, 0, 1.0, frames=frames)
    return kind(SPEC, feed, num_envs, 0, **({"priority": Priority(ALPHA, BETA, batches)} if kind is PrioritisedReplay else {}))


def step(replay: Replay, t: int, ended: bool = False) -> None:
    """Observations number the steps: 100 t + environment."""
    n = replay.num_envs
    now = (100 * t + np.arange(n, dtype=np.float32))[:, None]
    over = np.zeros(n, bool)
    over[0] = ended
    replay.add(now, now, now[:, 0], np.zeros(n, bool), over, now + 100)


def slow_find(values: np.ndarray, at: float) -> int:
    for i, value in enumerate(values):
        if at < value:
            return i
        at -= value
    raise AssertionError


@pytest.mark.parametrize("rows", [1, 2, 3, 16, 37])
def test_the_tree_sums_and_finds_as_a_walk_does(rows):
    rng, tree, values = np.random.default_rng(rows), SumTree(rows), np.zeros(rows)
    for _ in range(20):
        where = rng.integers(rows, size=4)
        new = rng.integers(0, 5, size=4).astype(float)  # whole numbers: sums are exact, and some are 0
        tree.put(where, new)
        for i, x in zip(where, new, strict=True):
            values[i] = x
        assert tree.total == values.sum()
        assert np.array_equal(tree[:rows], values)
        if values.any():
            sums = rng.uniform(0, values.sum(), 50)
            assert tree.find(sums).tolist() == [slow_find(values, x) for x in sums]
            assert (values[tree.find(np.array([0.0, np.nextafter(values.sum(), 0), values.sum()]))] > 0).all()


@pytest.mark.parametrize(("num_envs", "frames"), [(1, 1), (2, 1), (2, 3)])
def test_probabilities_and_weights_are_those_of_a_list(num_envs, frames):
    """Through two turns of the ring, with a list of (number of the step, error) beside it."""
    size, batches = 12, 60
    replay, largest = replay_of(size, num_envs, frames=frames, batches=batches), 1.0
    rng, twin, held = np.random.default_rng(0), torch.Generator().manual_seed(0), dict[float, float]()
    for t in range(2 * size):
        step(replay, t, ended=t % 5 == 4)
        for env in range(num_envs):
            held[100.0 * t + env] = largest
        while len(held) > len(replay):
            del held[min(held)]
        batch = replay.sample()
        ring = [held.get(float(replay.obs[row, 0]), 0.0) if row in replay._held() else 0.0 for row in range(len(replay.reward))]
        chance = np.array(ring) ** ALPHA
        chance = chance / chance.sum()
        drawn = torch.rand(8, generator=twin, dtype=torch.float64).numpy()
        rows = [slow_find(chance, (i + u) / 8) for i, u in enumerate(drawn)]
        assert rows == replay.drawn.tolist()
        numbers = batch.obs[:, -1].numpy()  # the newest frame
        assert numbers.tolist() == [float(replay.obs[row, 0]) for row in rows]
        assert batch.reward.tolist() == numbers.tolist()
        beta = BETA + (1 - BETA) * min(t / (batches - 1), 1)
        weight = np.array([(len(held) * chance[row]) ** -beta for row in rows])
        np.testing.assert_allclose(batch.extra["weight"], weight / weight.max(), rtol=1e-6)
        errors = rng.exponential(size=8).astype(np.float32)
        replay.heed(torch.from_numpy(errors))
        for number, error in zip(numbers, errors, strict=True):
            held[float(number)] = float(error) + LEAST
        largest = max(largest, float(errors.max()) + LEAST)


def test_with_equal_errors_and_with_exponent_0_it_draws_uniformly_and_weights_are_1():
    for alpha, errors in ((1.0, torch.ones(64)), (0.0, torch.arange(64.0))):
        replay = replay_of(32, batch=64)
        replay.priority = Priority(alpha, 0.4, 10)
        for t in range(32):
            step(replay, t)
        counts = np.zeros(32)
        for _ in range(50):
            batch = replay.sample()
            assert (batch.extra["weight"] == 1).all()
            counts += np.bincount((batch.reward / 100).long(), minlength=32)
            replay.heed(errors)
        assert np.array_equal(counts, np.full(32, 100))  # two of each in each batch: it is drawn by strata


def test_its_rows_are_the_replays_at_the_edges_of_n_steps():
    """A window stops at an episode's end, and at the newest step, whatever the priorities are."""
    ours, plain = replay_of(8, n_step=3), replay_of(8, n_step=3, kind=Replay)
    for t in range(11):
        for replay in (ours, plain):
            step(replay, t, ended=t in (4, 8))
    batch = ours.sample()
    same = plain.at(torch.from_numpy((ours.drawn - (ours.added - len(ours))) % len(ours.reward)))
    assert sorted(batch.reward.tolist()) != [0.0] * 8
    assert "weight" not in same.extra
    for name, x in leaves(same).items():
        assert torch.equal(x, leaves(batch)[name]), name
    newest = batch.reward[batch.obs[:, 0] == 1000]
    assert (newest == 1000).all()  # of the newest step there is one reward


def test_what_is_saved_goes_on_as_if_nothing_had_been():
    ours, again = replay_of(8, num_envs=2), replay_of(8, num_envs=2, batches=99)
    for t in range(13):
        step(ours, t, ended=t == 7)
        ours.sample()
        ours.heed(torch.arange(8.0) / (t + 1))
    again.load([(ours.oldest(), ours.segment(ours.oldest(), ours.steps))], ours.steps)
    again.restore(ours.save())
    again.rng.set_state(ours.rng.get_state())
    for t in range(13, 20):
        for replay in (ours, again):
            step(replay, t)
        one, two = leaves(ours.sample()), leaves(again.sample())
        assert all(torch.equal(one[name], two[name]) for name in one)
        for replay in (ours, again):
            replay.heed(torch.arange(8.0))
    assert again.priority == ours.priority
    assert np.array_equal(again.tree.nodes, ours.tree.nodes)


def test_a_rare_step_that_surprises_is_drawn_as_often_as_its_error_says():
    """1 of 1,000 steps has a reward. With exponent 1 and an error ten times the others' it is 10 / 1,009 of all that is drawn."""
    replay = replay_of(1_000, batch=100)
    replay.priority = Priority(1.0, 1.0, 1)
    for t in range(1_000):
        step(replay, t)
    replay.drawn = np.arange(1_000)
    replay.heed(torch.where(torch.arange(1_000) == 77, 10.0, 1.0))
    seen, weighed, count = 0, 0.0, 400
    for _ in range(count):
        batch = replay.sample()
        rare = batch.obs[:, 0] == 7_700
        seen += int(rare.sum())
        weighed += float(batch.extra["weight"][rare].sum())
        replay.heed(torch.where(rare, 10.0, 1.0))
    assert abs(seen / (100 * count) - 10 / 1_009) < 0.0005
    assert abs(weighed / (100 * count) - 1 / 1_009) < 0.0001  # with weights it counts as it would by uniform draws
