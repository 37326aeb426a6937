"""--frame-stack: what a learner sees when it acts is what it is taught from, in training, evaluation, a loaded and an exported
policy."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import thespis
from tests.engine.runs import assert_equal
from thespis import envs
from thespis.core import Box, Fault, Learner, OffPolicy, Spec
from thespis.data import Replay
from thespis.engine import frames
from thespis.engine.act import Actor
from thespis.engine.collect import Collector

TINY = {
    "hidden": (8,), "batch_size": 16, "warmup": 30, "eval_every": 50, "eval_episodes": 1, "checkpoint_every": 50, "log_every": 50,
    "compile_after": -1, "sinks": (), "quiet": True, "normalise_obs": True,
}  # fmt: skip


class Steps(gym.Env):
    """Shows the number of the episode and of the step; an episode has 1 to 5 steps."""

    observation_space, action_space = gym.spaces.Box(0, 1e4, (2,)), gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at, self.length = np.array([seed % 9973, 0.0], np.float32), int(self.np_random.integers(1, 6))
        return self.at.copy(), {}

    def step(self, action):
        self.at[1] += 1
        return self.at.copy(), 0.0, False, bool(self.at[1] >= self.length), {}


def test_acting_shows_what_the_replay_shows():
    told = []

    def act(policy, obs, explore):
        told.append(obs.clone())
        return torch.zeros(len(obs), 1)

    world = envs.world(Steps)
    feed = OffPolicy(0.9, 1, 8, 300, 0, 1.0)
    learner = Learner(dict, lambda s, b, k: (s, {}), dict, act, {}, feed)
    learner = frames.acting(frames.fed(learner, "it", 3), world.spec)
    replay, actor = Replay(world.spec, learner.experience, 2), Actor(learner, 2)
    vector = envs.vector(world, 2)
    collector = Collector(vector, world.spec, replay, 0, actor.begin)
    for _ in range(40):
        collector.step(lambda obs, rows: actor({}, obs, True, rows))
    vector.close()
    seen = replay.at(torch.arange(80)).obs
    assert torch.equal(torch.cat(told), seen)
    assert (seen[:, 1] < seen[:, 5]).any()
    assert (seen[:, 1] == seen[:, 5]).any()  # an episode's start


def test_between_looks_nothing_moves_and_a_memory_of_its_own_is_kept():
    def act(policy, obs, explore, memory, look):
        return obs[:, :1] * 100 + obs[:, 1:2] * 10 + memory["t"][:, None], {"t": memory["t"] + 1}

    learner = Learner(
        dict, lambda s, b, k: (s, {}), dict, act, {}, OffPolicy(0.9, 1, 8, 30, 0, 1.0, frames=2),
        memory=lambda n: {"t": torch.zeros(n)},
    )  # fmt: skip
    actor = Actor(frames.acting(learner, Spec(Box(1), Box(1))), 1, every=2)
    assert [float(actor({}, torch.tensor([[float(x)]]), False)) for x in (1, 2, 3, 4)] == [110, 111, 132, 133]


def test_a_run_goes_on_to_the_bit_and_its_policy_acts_as_it_was_evaluated(tmp_path):
    whole = thespis.train("sac", "Pendulum-v1", out=tmp_path / "whole", steps=150, num_envs=2, frame_stack=3, **TINY)
    part = thespis.train("sac", "Pendulum-v1", out=tmp_path / "part", steps=100, num_envs=2, frame_stack=3, **TINY)
    thespis.resume(part, steps=150, quiet=True)
    assert_equal(part.path, whole.path)
    shapes = load_file(whole.path / "policy" / "last.safetensors")
    assert shapes["learner.w0"].shape == (9, 8)
    policy, env = thespis.load(whole), gym.make("Pendulum-v1")
    for seed in (5, 6):
        wanted = thespis.evaluate(whole, 1, seed=seed)["returns"][0]
        policy.reset()
        obs, over, total = env.reset(seed=int(np.random.default_rng(seed).integers(2**31)))[0], False, 0.0
        while not over:
            obs, reward, terminated, truncated, _ = env.step(policy.act(obs))
            total, over = total + float(reward), terminated or truncated
        assert total == pytest.approx(wanted, rel=1e-4)
    assert thespis.export(whole, "torch").difference < 1e-4  # along an episode, beside policy.act
    with pytest.raises(Fault, match="frame_stack is 2 and was 3"):
        thespis.resume(whole, steps=160, frame_stack=2)


def test_an_action_mask_stays_last_and_images_are_found_in_each():
    spec = Spec(Box(6), Box(1), images=((1, 3),), shapes=((2, 1, 1),), mask=2)
    seen = frames.side_by_side(spec, 2)
    assert seen == spec._replace(obs=Box(12), images=((1, 3), (7, 9)), shapes=((2, 1, 1), (2, 1, 1)))


def test_an_on_policy_algorithm_says_what_to_do_instead(tmp_path):
    with pytest.raises(Fault, match="frame_stack is 2; ppo is on-policy and has no such option: wrap the environment"):
        thespis.train("ppo", "Pendulum-v1", out=tmp_path / "x", frame_stack=2, quiet=True)
