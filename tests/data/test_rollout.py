"""A rollout is what was done, in order; its minibatches are its rows, each once an epoch."""

import numpy as np
import pytest
import torch

from thespis.core import Batch, Box, Discrete, MultiDiscrete, Spec, replace
from thespis.data import OnPolicy, Rollout

T, N = 5, 2
FEED = OnPolicy(gamma=0.9, rollout=T, epochs=2, batch_size=4)


LINE, ON = Box(1), np.array([1, 0], np.float32)


def filled(steps=T, needs=(), action=LINE):
    """Row t, n observes (t, n) and then (t + 1, n), and pays 10 t + n. Environment 1 terminates at step 1, is cut off at 3."""
    roll = Rollout(Spec(Box(2), action), FEED, N, 0, frozenset(needs))
    for t in range(steps):
        obs = np.array([[t, n] for n in range(N)], np.float32)
        did = {Box: np.full((N, 1), t, np.float32), Discrete: np.full(N, t), MultiDiscrete: np.full((N, 2), t)}[type(action)]
        flags = np.array([False, t == 1]), np.array([False, t == 3])
        roll.add(obs, did, np.array([10.0 * t + n for n in range(N)]), *flags, obs + ON)
    return roll


def test_it_is_what_was_added():
    b = filled().batch()
    assert b.obs[3, 1].tolist() == [3, 1]
    assert b.next_obs[3, 1].tolist() == [4, 1]
    assert b.action.shape == (T, N, 1)
    assert b.reward[:, 1].tolist() == [1, 11, 21, 31, 41]
    np.testing.assert_allclose(b.discount[:, 1], [0.9, 0, 0.9, 0.9, 0.9], rtol=1e-6)  # a time limit is no end
    assert b.extra["ended"].tolist() == [[False, t in (1, 3)] for t in range(T)]


@pytest.mark.parametrize(("action", "shape"), [(Discrete(9), (T, N)), (MultiDiscrete((9, 9)), (T, N, 2))])
def test_choices_are_whole_numbers(action, shape):
    b = filled(action=action).batch()
    assert b.action.shape == shape
    assert b.action.dtype == torch.int64
    assert (b.action[2] == 2).all()


def test_the_next_rollout_takes_the_place_of_the_last():
    roll = filled()
    assert filled(T + 2).batch().obs[:2].equal(roll.batch().obs[:2] + torch.tensor([T, 0.0]))


def test_a_cut_ends_the_newest_step_of_one_environment():
    roll = filled(3)
    roll.cut(0)
    assert roll.batch().extra["ended"].tolist()[2] == [True, False]
    assert roll.batch().discount[2].tolist() == pytest.approx([0.9, 0.9])


def test_return_scale_is_the_spread_of_discounted_returns():
    b = filled(needs=["return_scale"]).batch()
    so_far, every = [0.0, 0.0], []
    for t in range(T):
        for n in range(N):
            so_far[n] = 0.9 * so_far[n] + 10 * t + n
            every.append(so_far[n])
            if n == 1 and t in (1, 3):
                so_far[n] = 0.0
    assert b.extra["return_std"].shape == (T, N)
    assert float(b.extra["return_std"][0, 0]) == pytest.approx(np.std(every), rel=1e-6)


def test_minibatches_are_the_rows_each_once_an_epoch_in_orders_of_their_own():
    roll = filled()
    rows = roll.batch()
    flat = Batch(*(x.flatten(0, 1) for x in (rows.obs, rows.action, rows.reward, rows.discount, rows.next_obs)))
    roll.learn_from(flat)
    epochs = [[roll.sample() for _ in range(FEED.minibatches(N))] for _ in range(2)]
    for epoch in epochs:
        seen = torch.cat([b.reward for b in epoch]).tolist()
        assert [len(b.reward) for b in epoch] == [4, 4]  # of ten rows two are passed over
        assert len(set(seen)) == 8
        for b in epoch:
            assert (b.obs[:, 0] * 10 + b.obs[:, 1]).equal(b.reward)
    assert epochs[0][0].reward.tolist() != epochs[1][0].reward.tolist()


def test_a_rollout_smaller_than_a_minibatch_is_one():
    feed = replace(FEED, batch_size=64)
    assert feed.minibatches(N) == 1
    assert FEED.minibatches(N) == 2


def test_updates_are_due_when_a_rollout_is_full():
    assert [filled().due(steps) for steps in (0, 9, 10, 19, 20)] == [0, 0, 4, 4, 8]


def test_saved_and_restored_in_the_middle_it_goes_on_the_same():
    whole, half = filled(T, ["return_scale"]), filled(3, ["return_scale"])
    saved = {k: v.clone() for k, v in half.save().items()}
    assert saved["obs"].shape == (3, N, 2)
    again = Rollout(Spec(Box(2), Box(1)), FEED, N, 0, frozenset({"return_scale"}))
    again.load([], 3)
    again.restore(saved)
    for t in (3, 4):
        obs = np.array([[t, n] for n in range(N)], np.float32)
        flags = np.array([False, False]), np.array([False, t == 3])
        again.add(obs, np.full((N, 1), t, np.float32), np.array([10.0 * t + n for n in range(N)]), *flags, obs + ON)
    one, two = whole.batch(), again.batch()
    for name in ("obs", "action", "reward", "discount", "next_obs"):
        assert getattr(one, name).equal(getattr(two, name)), name
    assert one.extra.keys() == two.extra.keys()
    assert all(one.extra[k].equal(two.extra[k]) for k in one.extra)


def test_a_need_that_it_does_not_know_is_refused():
    with pytest.raises(ValueError, match="previous"):
        Rollout(Spec(Box(2), Box(1)), FEED, N, 0, frozenset({"previous"}))
