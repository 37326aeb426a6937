"""Contexts: drawn for each episode, in replay, rollout, evaluation, resume and export; or taken by the world as a level."""

import json
import re
from pathlib import Path

import gymnasium as gym
import numpy as np
import onnxruntime
import pytest
from safetensors.torch import load_file

import thespis
from thespis import api, envs
from thespis.core import Box, Fault
from thespis.engine import checkpoint
from thespis.envs.contexts import widened
from thespis.record import record

from .runs import assert_equal

MANNERS = Path(__file__).parents[2] / "docs/examples/contexts.py"
SMALL = {
    "warmup": 20, "eval_every": 40, "eval_episodes": 12, "log_every": 40, "checkpoint_every": 40, "compile_after": -1,
    "sinks": (), "panel": False, "quiet": True,
}  # fmt: skip


class Echo(gym.Env):
    """Three steps; the return is three times the action, if it is always the same."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        assert options is None
        self.t = 0
        return self.seen(), {}

    def step(self, action):
        self.t += 1
        return self.seen(), float(action[0]), False, self.t == 3, {}

    def seen(self):
        return np.array([0.5, self.t / 3], np.float32)


class Levels(Echo):
    """Its level is what it pays for a step."""

    context_space = gym.spaces.Box(0, 9, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        self.level = options["context"]
        return super().reset(seed=seed)

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, float(self.level @ [1.0, 10.0]), *rest


LEVELS = '''
"""Does nothing, on levels."""
from dataclasses import dataclass
import torch
from thespis.core import Learner, OffPolicy, tree
from thespis.data import OnPolicy

@dataclass(frozen=True)
class Config:
    warmup: int = 20

@tree
class State:
    count: torch.Tensor

def make(cfg, spec):
    def context(s, n, explore):
        return torch.rand(n, 2) if explore else torch.arange(2.0 * n).reshape(n, 2)

    def update(s, b, k=0):
        return State(s.count + 1), {"width": torch.tensor(float(b.obs.shape[-1])), "last": b.obs[..., -1].mean()}

    return Learner(
        init=lambda: State(torch.zeros(())), update=update, policy=lambda s: {"count": s.count},
        act=lambda p, obs, explore: obs[:, -1:].clone(), losses={}, experience=EXPERIENCE, context=context,
    )
'''


def algorithm(tmp_path, experience="OffPolicy(0.9, 1, 8, 100, cfg.warmup, 1.0)"):
    file = tmp_path / "levels.py"
    file.write_text(LEVELS.replace("EXPERIENCE", experience))
    return file


def column(run, name):
    return [x for x in run.metrics()[name] if x is not None]


def test_a_policy_of_many_manners_does_what_each_episode_is_about(tmp_path):
    run = thespis.train(MANNERS, Echo, steps=200, out=tmp_path / "run", **SMALL)
    wanted = 3 * np.linspace(-0.9, 0.9, 12)  # more episodes than are evaluated at once
    assert np.array(column(run, "eval/returns")[-1]) == pytest.approx(wanted, abs=0.5)
    assert np.abs(np.array(column(run, "eval/returns")[0]) - wanted).max() > 0.5
    policy = thespis.load(run, algo=MANNERS)
    assert policy.contexts == pytest.approx(np.linspace(-0.9, 0.9, 12)[:, None])
    assert policy.act([0.5, 0.0], context=[0.4]) == pytest.approx([0.4], abs=0.15)
    many = policy.act(np.full((2, 2), 0.5), context=[[-0.4], [0.4]])
    assert many == pytest.approx(np.array([[-0.4], [0.4]]), abs=0.15)
    assert np.array_equal(policy.act({"observation": [0.5, 0.5], "context": [0.4]}), policy.act([0.5, 0.5], context=[0.4]))
    for given, words in [(None, "missing"), ([1, 2], r"\[1, 2\]")]:
        with pytest.raises(
            Fault, match=rf"^context is {words}; each episode of this policy is about 1 numbers: act\(obs, context="
        ):
            policy.act([0.5, 0.5], context=given)
    again = api.evaluate(run, 5, algo=str(MANNERS), env=Echo)
    assert again["returns"] == pytest.approx(column(run, "eval/returns")[-1][:5])
    for replay in (False, True):
        with pytest.raises(Fault, match="draws a context for each episode, which a dataset does not have"):
            record(run, tmp_path / "data", replay=replay, algo=str(MANNERS), env=Echo)
    file = thespis.export(run, algo=str(MANNERS)).path
    session = onnxruntime.InferenceSession(file)
    inputs = {"observation": np.full((2, 2), 0.5, np.float32), "context": np.array([[-0.4], [0.4]], np.float32)}
    assert {x.name for x in session.get_inputs()} == set(inputs)
    assert session.run(None, inputs)[0] == pytest.approx(many, abs=1e-6)


def test_the_replay_has_one_context_for_each_episode(tmp_path):
    run = thespis.train(MANNERS, Echo, steps=80, num_envs=2, out=tmp_path / "run", **SMALL)
    saved = load_file(sorted(run.path.glob("replay/*.safetensors"))[0])
    obs = saved["obs"].reshape(-1, 2, 3)
    by_episode = obs[: len(obs) // 3 * 3, :, 2].reshape(-1, 3, 2)
    assert by_episode.std(1).max() == 0
    assert len(by_episode[:, 0].unique()) == by_episode[:, 0].numel()


@pytest.mark.parametrize(("env", "options"), [(Echo, {"num_envs": 2}), (Levels, {}), (Echo, {"normalise_obs": True})])
def test_stopped_within_an_episode_and_resumed_it_is_bitwise_the_same(tmp_path, env, options):
    algo = algorithm(tmp_path)
    thespis.train(algo, env, steps=160, out=tmp_path / "whole", **SMALL, **options)
    thespis.train(algo, env, steps=80, out=tmp_path / "part", **SMALL, **options)  # 80 is no multiple of 3
    thespis.resume(tmp_path / "part", 160, algo=str(algo), env=env, panel=False, quiet=True)
    assert_equal(tmp_path / "part", tmp_path / "whole")


def test_a_world_that_takes_its_level_is_given_it(tmp_path):
    algo = algorithm(tmp_path)
    run = thespis.train(algo, Levels, steps=80, out=tmp_path / "run", **SMALL)
    levels = np.arange(24.0).reshape(12, 2)
    assert column(run, "eval/returns")[-1] == pytest.approx((3 * levels @ [1, 10]).tolist())
    assert set(column(run, "train/width")) == {2.0}  # nothing is appended
    assert all(0 < x < 33 for x in column(run, "episode/return"))
    policy = thespis.load(run, algo=algo)
    policy.act([0.5, 0.5])
    assert api.evaluate(run, 4, algo=str(algo), env=Levels)["returns"] == pytest.approx((3 * levels[:4] @ [1, 10]).tolist())


def test_a_rollout_has_contexts(tmp_path):
    algo = algorithm(tmp_path, "OnPolicy(0.9, 8, 1, 4)")
    file = algo.read_text().replace("context=context,", "context=context, prepare=lambda s, b: (s, replaced(b), {}),")
    algo.write_text(file + "\n\ndef replaced(b):\n    from thespis.core import tree_map, replace\n"
                    "    return tree_map(lambda x: x.flatten(0, 1), replace(b, extra={}))\n")  # fmt: skip
    run = thespis.train(algo, Echo, steps=80, out=tmp_path / "run", **{k: v for k, v in SMALL.items() if k != "warmup"})
    assert set(column(run, "train/width")) == {4.0}
    assert all(0 < x < 1 for x in column(run, "train/last"))


@pytest.mark.parametrize(
    ("env", "options", "line"),
    [
        (Echo, {"collectors": 1}, "collectors: levels draws a context for each episode, which does not go with it; leave it out"),
        (Echo, {"frame_stack": 2}, "frame_stack: levels draws a context for each episode"),
        (Echo, {"agents": "shared"}, "agents: levels draws a context for each episode"),
        (type("Small", (Levels,), {"context_space": gym.spaces.Box(0, 1, (3,))}), {}, "context has 2 numbers; Small takes 3"),
        (type("Odd", (Levels,), {"context_space": gym.spaces.Discrete(3)}), {}, "Odd: context_space is Discrete(3); it must be"),
    ],
)  # fmt: skip
def test_what_cannot_have_contexts_says_so_in_a_line(tmp_path, env, options, line):
    with pytest.raises(Fault, match=re.escape(line)) as caught:
        thespis.train(algorithm(tmp_path), env, steps=40, out=tmp_path / "run", **SMALL, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_without_contexts_nothing_is_told_or_kept(tmp_path):
    run = thespis.train("sac", Echo, steps=40, hidden=(8,), batch_size=8, out=tmp_path / "run", **SMALL)
    saved = load_file(checkpoint.checkpoints(run.path)[-1] / "tensors.safetensors")
    assert not [name for name in saved if "context" in name]
    assert "contexts" not in json.loads((run.path / "policy" / "last.json").read_text())
    assert thespis.load(run).contexts is None


def test_a_widened_world_shows_the_context_last_and_keeps_its_goals():
    world = envs.world("thespis/Reach-v0")
    wide = widened(world, 2)
    env = wide.make()
    obs, _ = env.reset(seed=0, options={"context": np.array([7.0, 8.0])})
    plain, _ = world.make().reset(seed=0)
    assert np.array_equal(obs, [*plain, 7, 8])
    assert np.array_equal(env.step(np.zeros(2))[0][-2:], [7, 8])
    assert wide.goals == world.goals
    assert wide.spec == world.spec._replace(obs=Box(8))
