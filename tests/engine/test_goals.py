"""Goals: which environments have them, what their functions must be, what a run refuses, and that hindsight is worth it."""

import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import thespis
from thespis import envs
from thespis.core import Fault
from thespis.worlds.goals import BitFlip, Reach, StepCost, WallReach

from .runs import assert_equal

SMALL = {
    "hidden": (8,), "batch_size": 16, "warmup": 30, "steps": 120, "eval_every": 40, "eval_episodes": 1, "log_every": 40,
    "checkpoint_every": 40, "compile_after": -1, "sinks": (), "panel": False, "quiet": True,
}  # fmt: skip


class OneByOne(Reach):
    """Its functions take one goal at a time, as those of many robots do."""

    def compute_reward(self, achieved_goal, desired_goal, info):
        return float(np.linalg.norm(achieved_goal - desired_goal) <= self.within) - 1

    def compute_terminated(self, achieved_goal, desired_goal, info):
        return bool(np.linalg.norm(achieved_goal - desired_goal) <= self.within)


class Broadcast(Reach):
    """What it gives for many goals at once is of the right shape and wrong."""

    def compute_reward(self, achieved_goal, desired_goal, info):
        close = np.linalg.norm(np.atleast_2d(achieved_goal - desired_goal)[0]) <= self.within
        return np.full(np.shape(achieved_goal)[:-1], close - 1.0) if np.ndim(achieved_goal) > 1 else close - 1.0


class Informed(Reach):
    def compute_reward(self, achieved_goal, desired_goal, info):
        return info["scale"] * super().compute_reward(achieved_goal, desired_goal, info)


class Raw(Reach):
    compute_reward = None


class Uneven(Reach):
    def __init__(self):
        super().__init__()
        parts = dict(self.observation_space.spaces)
        self.observation_space = spaces.Dict(parts | {"desired_goal": spaces.Box(-1, 1, (3,), np.float32)})


@pytest.mark.parametrize("env", [Reach, OneByOne, Broadcast, lambda: BitFlip(3)])
def test_many_goals_at_once_are_as_one_by_one(env):
    world = envs.world(env)
    judge, one = world.goals.judge(), env()
    rng = np.random.default_rng(0)
    kind = one.observation_space["achieved_goal"]
    kind.seed(0)
    pairs = [(kind.sample(), kind.sample() if rng.random() < 0.5 else None) for _ in range(50)]
    pairs = [(a, a if d is None else d) for a, d in pairs]
    flat = [np.array([x[i] for x in pairs], np.float32) for i in range(2)]
    assert judge.reward(*flat).tolist() == [float(one.compute_reward(a, d, {})) for a, d in pairs]
    assert judge.terminated(*flat).tolist() == [bool(one.compute_terminated(a, d, {})) for a, d in pairs]
    assert ("compute_reward" in judge.whole) == (env not in (OneByOne, Broadcast))


def test_the_columns_of_goals_are_found_in_the_flat_observation():
    goals = envs.world(Reach).goals
    env = Reach()
    obs, _ = env.reset(seed=0)
    flat = envs.spaces.flatten(env.observation_space, obs)
    assert np.array_equal(flat[slice(*goals.achieved)], obs["achieved_goal"])
    assert np.array_equal(flat[slice(*goals.desired)], obs["desired_goal"])
    assert all(envs.world(env).goals is None for env in (Raw, Uneven, "Pendulum-v1"))


class Rewarded(Reach):
    """1 at the goal, else 0, and no end there, as PointMaze has it."""

    def compute_reward(self, achieved_goal, desired_goal, info):
        return super().compute_reward(achieved_goal, desired_goal, info) + 1

    def step(self, action):
        obs, reward, _, truncated, info = super().step(action)
        return obs, reward + 1, False, truncated, info


def test_with_a_cost_for_each_step_an_episode_ends_at_its_goal():
    env = StepCost(Rewarded())
    env.reset(seed=0)
    at, goal = np.zeros(2, np.float32), np.array([0.2, 0], np.float32)
    env.unwrapped.at, env.unwrapped.desired = at, goal
    steps = [env.step(np.array([1, 0], np.float32)) for _ in range(2)]
    assert [(reward, over, info["is_success"]) for _, reward, over, _, info in steps] == [(-1, False, False), (0, True, True)]
    pairs = np.stack([at, goal]), np.stack([goal, goal])
    assert env.compute_reward(*pairs, {}).tolist() == [-1, 0]
    assert env.compute_terminated(*pairs, {}).tolist() == [False, True]
    envs.world(lambda: StepCost(Rewarded())).goals.judge().close()  # step and functions say the same


@pytest.mark.parametrize(
    ("algo", "env", "options", "line"),
    [
        ("sac", "Pendulum-v1", {}, "hindsight: Pendulum-v1 has no goals: it must observe a Dict with achieved_goal"),
        ("ppo", Reach, {}, "hindsight: ppo has no replay of its own steps; leave it out, or take an off-policy algorithm"),
        ("sac", Informed, {}, "Informed: compute_reward(achieved_goal, desired_goal, {}) raised KeyError: 'scale'"),
        ("sac", lambda: gym.wrappers.TransformReward(Reach(), lambda r: 2 * r), {}, "Reach: compute_reward says -1 of a step "
         "whose reward was -2; they must be the same, so a wrapper that changes rewards must change compute_reward too"),
        ("sac", Reach, {"frame_stack": 2}, "hindsight: frame_stack is 2; it must be 1"),
        ("sac", Reach, {"hindsight": "past"}, "hindsight is 'past'; allowed: 'future', 'final' or None"),
        ("sac", Reach, {"hindsight_share": 1.5}, "hindsight_share is 1.5; allowed: a number"),
    ],
)  # fmt: skip
def test_what_cannot_have_hindsight_says_so_in_a_line(tmp_path, algo, env, options, line):
    with pytest.raises(Fault, match=f"^{re.escape(line)}") as caught:
        thespis.train(algo, env, out=tmp_path / "run", steps=10, **({"hindsight": "future"} | options))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_data_alone_has_none(tmp_path):
    rows = np.zeros((20, 6), np.float32)
    data = {
        "observations": rows,
        "actions": np.zeros((20, 2), np.float32),
        "rewards": np.zeros(20),
        "terminals": np.ones(20, bool),
    }
    with pytest.raises(Fault, match="hindsight: sac learns from data alone here"):
        thespis.train("sac", Reach, data=data, offline=True, hindsight="final", out=tmp_path / "run")


@pytest.mark.parametrize(
    ("algo", "env", "options"),
    [
        ("sac", "thespis/Reach-v0", {"num_envs": 2, "replay_size": 60, "hindsight": "future"}),  # the ring wraps
        ("sac_discrete", "thespis/BitFlip-v0", {"n_step": 3, "hindsight": "final", "normalise_obs": True}),
    ],
)
def test_resumed_it_is_bitwise_the_run_that_never_stopped(tmp_path, algo, env, options):
    thespis.train(algo, env, out=tmp_path / "whole", **SMALL, **options)
    thespis.train(algo, env, out=tmp_path / "part", **SMALL | {"steps": 80}, **options)
    thespis.resume(tmp_path / "part", 120, panel=False, quiet=True)
    assert_equal(tmp_path / "part", tmp_path / "whole")


def test_wall_reach_has_its_wall():
    env = WallReach()
    for start, action, end in [
        ((-0.05, 0.0), (1, 0.5), (-0.05, 0.05)),  # against it
        ((0.05, -0.5), (-1, 0), (0.05, -0.5)),  # from the other side
        ((-0.05, 0.65), (1, 0), (0.05, 0.65)),  # above it
        ((-0.05, 0.55), (1, 1), (0.05, 0.65)),  # it meets x = 0 at y = 0.6, the wall's end
        ((-0.05, 0.53), (1, 1), (-0.05, 0.63)),
        ((0.95, 0.0), (1, 0), (1.0, 0.0)),
    ]:
        env.reset(seed=0)
        env.at = np.array(start, np.float32)
        assert env.step(np.array(action, np.float32))[0]["achieved_goal"] == pytest.approx(np.array(end), abs=1e-6)


def solved(tmp_path, hindsight):
    """How often the last evaluation ended with all bits as asked for."""
    options = {"lr": 3e-3, "tau": 0.1, "hidden": (64,), "alpha": 0.2, "gamma": 0.95, "updates_per_step": 1.0, "batch_size": 64}
    often = {"warmup": 200, "steps": 900, "eval_every": 900, "eval_episodes": 100, "compile_after": -1, "panel": False}
    env = {"env": "thespis/BitFlip-v0", "env_args": {"n": 5}, "hindsight": hindsight, "sinks": (), "quiet": True}
    run = thespis.train("sac_discrete", out=tmp_path / str(hindsight), **options, **often, **env)
    return [x for x in run.metrics()["eval/info/is_success"] if x is not None][-1]


def test_bits_are_flipped_with_hindsight_and_not_without(tmp_path):
    assert solved(tmp_path, "future") >= 0.9
    assert solved(tmp_path, None) <= 0.4
