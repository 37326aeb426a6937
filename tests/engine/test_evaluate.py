"""Evaluating: whole episodes, from seeds of their own, without a trace in the run."""

import numpy as np
import pytest
import torch

from thespis import envs
from thespis.core import Fault, Learner, OffPolicy
from thespis.engine import evaluate
from thespis.engine.act import Actor
from thespis.engine.evaluate import Evaluator
from thespis.envs.probes import Counter


def quarter(obs, rows):
    return torch.full((len(obs), 1), 0.25)


def expected(seed):
    """Counter's return under `quarter`, by its definition."""
    n = 3 + seed % 5
    return n * (n + 1) / 2 + n / 4, n


@pytest.mark.parametrize("episodes", [1, 3, 10, 11, 25])
def test_every_episode_is_whole_and_starts_from_its_seed(episodes):
    """However many share a forward pass: their lengths differ, and nothing is counted beyond an episode's end."""
    e = Evaluator(envs.world("thespis/Counter-v0"), episodes, seed=4)
    result = e(quarter)
    returns, lengths = zip(*map(expected, e.seeds), strict=True)
    assert len(set(e.seeds)) == episodes
    assert result["returns"] == pytest.approx(returns)
    assert result["return_mean"] == pytest.approx(np.mean(returns))
    assert result["return_std"] == pytest.approx(np.std(returns))
    assert result["length_mean"] == pytest.approx(np.mean(lengths))
    assert e(quarter) == result  # each evaluation is the same
    e.close()


def test_it_acts_on_each_episodes_own_observation():
    seen = []

    def act(obs, rows):
        seen.append(obs.numpy().copy())
        return obs[:, 3:] / 10

    e = Evaluator(envs.world("thespis/Counter-v0"), 12, seed=4)
    result = e(act)
    lengths = [expected(s)[1] for s in e.seeds]
    assert result["returns"] == pytest.approx([n * (n + 1) / 2 + n * (n - 1) / 20 for n in lengths], rel=1e-6)
    seeds, steps = Counter.read(np.concatenate(seen))
    assert sorted(zip(seeds, steps, strict=True)) == sorted(
        (s, t) for s, n in zip(e.seeds, lengths, strict=True) for t in range(n)
    )


@pytest.mark.parametrize("every", [1, 2, 3, 10])
def test_every_n_steps_each_episode_sees_its_own_newest_look(every):
    """Over two groups whose episodes end at different steps: an action is a tenth of the step of the last look."""
    feed = OffPolicy(gamma=0.9, n_step=1, batch_size=1, replay_size=1, warmup=0, updates_per_step=1.0)
    learner = Learner(dict, lambda s, b, k: (s, {}), dict, lambda p, obs, explore: obs[:, 3:] / 10, {}, feed)
    e = Evaluator(envs.world("thespis/Counter-v0"), 12, seed=4)
    actor = Actor(learner, 12, every)
    result = e(lambda obs, rows: actor({}, obs, False, rows))
    lengths = [expected(s)[1] for s in e.seeds]
    wanted = [n * (n + 1) / 2 + sum((t - t % every) / 10 for t in range(n)) for n in lengths]
    assert result["returns"] == pytest.approx(wanted, rel=1e-6)


def test_seeds():
    def seeds(episodes, seed):
        return Evaluator(envs.world("thespis/Counter-v0"), episodes, seed).seeds

    assert seeds(5, 1) == seeds(5, 1)
    assert not set(seeds(5, 1)) & set(seeds(5, 2))
    assert seeds(9, 1)[:5] == seeds(5, 1)  # more episodes are more of the same


def test_it_draws_nothing_from_the_generators_and_leaves_no_gradient():
    def act(obs, rows):
        assert not torch.is_grad_enabled()
        return torch.rand(len(obs), 1)

    e = Evaluator(envs.world("thespis/Counter-v0"), 3, seed=0)
    torch.manual_seed(7)
    np.random.seed(7)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    first = e(act)
    assert torch.get_rng_state().equal(before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    torch.manual_seed(8)
    assert e(act) == first  # a policy that samples draws the same again


@pytest.mark.parametrize("terminated", [True, False])
@pytest.mark.parametrize("n", [1, 2, 7])
def test_what_came_of_a_value_is_the_geometric_sum(n, terminated):
    """Reward 1 a step, a bonus of 1/2, and a critic that always says 5, at gamma 0.9."""
    course = evaluate.Course(lambda o, a: (torch.full((len(o),), 5.0), torch.full((len(o),), 0.5)))
    for _ in range(n):
        course.add(np.zeros(3, np.float32), np.zeros(1, np.float32), 1.0)
    said, came = course.came(0.9, terminated)
    until = n if terminated else n - 1  # a step that was cut off at is worth what the critic says of it
    rewards, bonuses = (1 - 0.9**until) / 0.1, 0.5 * (1 - 0.9**n) / 0.1 - 0.5
    assert said == 5
    assert came == pytest.approx(rewards + bonuses + (0 if terminated else 0.9 ** (n - 1) * 5))


def test_the_value_is_asked_of_each_episodes_own_steps_and_changes_nothing_else():
    e = Evaluator(envs.world("thespis/Counter-v0"), 12, seed=4)
    result = e(quarter, value=lambda o, a: (o[:, 3] + torch.randn(()), a[:, 0]), gamma=1.0)
    plain = e(quarter)
    assert {k: result[k] for k in plain} == plain
    came = []
    for seed in e.seeds:  # the bonus is the action; what is cut off is worth the number of its last step, its reward not counted
        total, n = expected(seed)
        came.append(total + (n - 1) / 4 - (0 if seed % 2 == 0 else n + 1 / 4 - (n - 1)))
    said = e(quarter, value=lambda o, a: (o[:, 3], a[:, 0]), gamma=1.0)
    assert said["value_mean"] == 0
    assert said["discounted_mean"] == pytest.approx(np.mean(came))


def test_no_more_environments_than_share_a_pass_and_all_are_closed():
    living = []

    class Counted(Counter):
        def __init__(self):
            super().__init__()
            living.append(self)

        def close(self):
            living.remove(self)

    world = envs.world(Counted)
    assert living == []
    e = Evaluator(world, 25, seed=0)
    assert len(living) == evaluate.AT_ONCE
    e(quarter)
    assert len(living) == evaluate.AT_ONCE
    e.close()
    assert living == []


def test_a_failure_is_a_fault_and_the_next_evaluation_is_whole():
    trouble = [20]

    class Failing(Counter):
        def step(self, action):
            trouble[0] -= 1
            if trouble[0] == 0:
                raise ValueError("out of fuel")
            return super().step(action)

    e = Evaluator(envs.world(Failing), 12, seed=4)
    with pytest.raises(Fault, match="step raised ValueError: out of fuel"):
        e(quarter)
    assert e(quarter)["returns"] == pytest.approx([expected(s)[0] for s in e.seeds])
    with pytest.raises(Fault, match="action"):  # a policy that has diverged
        e(lambda obs, rows: torch.full((len(obs), 1), torch.nan))
