"""--normalise-obs and --normalise-reward: statistics beside the learner's own State."""

import dataclasses
import json

import gymnasium as gym
import numpy as np
import onnxruntime
import pytest
import torch

import thespis
from thespis import api, core
from thespis.core import Fault
from thespis.engine import checkpoint
from thespis.engine.normalise import normalised
from thespis.engine.run import Run

SMALL = {
    "hidden": (16,),
    "warmup": 20,
    "batch_size": 8,
    "eval_every": 30,
    "eval_episodes": 2,
    "panel": False,
    "compile_after": -1,
}
BOTH = {"normalise_obs": True, "normalise_reward": True}
SPEC = core.Spec(core.Box(3), core.Box(2))


class Money(gym.Env):
    """What is shown is 5,000 and something; be where it says, or pay 1,000 for each unit that you are off."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._show(), {}

    def _show(self):
        self.where = self.np_random.uniform(-0.8, 0.8)
        return np.array([5000 + 20 * self.where], np.float32)

    def step(self, action):
        reward, self.t = -1000.0 * abs(float(action[0]) - self.where), self.t + 1
        return self._show(), reward, False, self.t == 10, {}


def test_the_update_is_the_learners_on_a_normalised_batch():
    plain = thespis.algorithms()["sac"].module.make(dataclasses.replace(thespis.algorithms()["sac"].config, hidden=(8,)), SPEC)
    learner = normalised(plain, "sac", SPEC, Run(env="", **BOTH))
    rng = np.random.default_rng(0)
    state, all_obs = learner.init(), []
    inner = state.learner
    for i in range(3):
        obs, ahead = (rng.normal([5, 0, -900], [3, 0.01, 100], (16, 3)) for _ in range(2))
        all_obs.append(obs)
        seen = np.concatenate(all_obs)  # float64, from scratch
        mean, std = seen.mean(0), np.sqrt(seen.var(0) + 1e-8)
        white = [torch.tensor(np.clip((x - mean) / std, -10, 10)).float() for x in (obs, ahead)]
        reward = rng.normal(0, 500, 16)
        reward[0] = 1e5
        rest = torch.tensor(rng.uniform(-1, 1, (16, 2))).float(), torch.full((16,), 0.99)
        extra = {"return_std": torch.full((16,), 40.0 + i), "return_max": torch.full((16,), 1e5)}
        raw = [torch.tensor(x).float() for x in (obs, ahead, reward)]
        batch = core.Batch(raw[0], rest[0], raw[2], rest[1], raw[1], extra)
        torch.manual_seed(i)
        state, metrics = learner.update(state, batch, 0)
        scaled = torch.tensor(np.clip(reward / (40 + i), -10, 10)).float()
        torch.manual_seed(i)
        inner, wanted = plain.update(inner, core.Batch(white[0], rest[0], scaled, rest[1], white[1]), 0)
        for name, value in core.leaves(inner).items():
            torch.testing.assert_close(core.leaves(state.learner)[name], value, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(metrics["q"], wanted["q"], rtol=1e-4, atol=1e-5)
    policy = learner.policy(state)
    torch.testing.assert_close(
        learner.act(policy, raw[0], False), plain.act(plain.policy(inner), white[0], False), atol=1e-3, rtol=0
    )
    value, bonus = (learner.value(state, raw[0], rest[0]), plain.value(inner, white[0], rest[0]))
    torch.testing.assert_close(value[0], 42 * bonus[0], rtol=1e-2, atol=0.1)  # in units of reward


def test_rewards_in_thousands_and_far_observations_are_learnt(tmp_path):
    options = SMALL | {
        "steps": 1500,
        "warmup": 200,
        "batch_size": 64,
        "hidden": (32, 32),
        "lr": 3e-3,
        "eval_every": 1500,
        "gamma": 0.0,
    }
    plain, scaled = (
        thespis.train("sac", env=Money, out=tmp_path / str(on), normalise_obs=on, normalise_reward=on, **options)
        for on in (0 > 1, 1 > 0)
    )
    assert scaled.return_mean > -1000  # a tenth of a unit off; where it stands still: -4,000
    assert plain.return_mean < -2500


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return thespis.train("sac", env=Money, steps=60, out=tmp_path_factory.mktemp("n") / "run", **BOTH, **SMALL)


def test_stopped_and_resumed_is_never_stopped(tmp_path, run):
    part = thespis.train("sac", env=Money, steps=37, out=tmp_path / "part", **BOTH, **SMALL)
    thespis.resume(part, 60, env=Money, panel=False)
    a, b = ((checkpoint.checkpoints(x.path)[-1] / "tensors.safetensors").read_bytes() for x in (run, part))
    assert a == b


def test_the_policy_takes_what_the_environment_shows(tmp_path, run):
    policy = thespis.load(run)
    obs = np.array([5004.0], np.float32)
    state = policy.params["seen"]
    shown = (torch.from_numpy(obs) - state["mean"]) / (state["var"] + 1e-8).sqrt()
    inner = thespis.algorithms()["sac"].module
    cfg = dataclasses.replace(inner.Config(), hidden=(16,))
    action = inner.make(cfg, core.Spec(core.Box(1), core.Box(1))).act(policy.params["learner"], shown[None], False)
    np.testing.assert_allclose(policy.act(obs), action[0].numpy(), atol=1e-6)
    file = thespis.export(run, format="onnx", out=tmp_path / "p.onnx")
    session = onnxruntime.InferenceSession(str(file if isinstance(file, str) else getattr(file, "path", file)))
    given = session.get_inputs()[0].name
    np.testing.assert_allclose(session.run(None, {given: obs[None]})[0][0], policy.act(obs), atol=1e-5)
    assert json.loads((run.path / "config.json").read_text())["run"]["normalise_obs"] is True


@pytest.mark.parametrize(
    ("algo", "options", "words"),
    [("td3_bc", {"normalise_obs": True}, "scale of its dataset"), ("flashsac", {"normalise_reward": True}, "by itself")],
)
def test_where_an_algorithm_does_it_itself_that_is_said(algo, options, words):
    found = thespis.algorithms()[algo]
    with pytest.raises(Fault, match=words):
        normalised(found.module.make(found.config, SPEC), algo, SPEC, Run(env="", **options))


def test_the_algorithms_own_option_of_that_name_counts():
    algo = api.algorithm("ppo")
    run, cfg = api.configure(algo, thespis.envs.world("Pendulum-v1"), {"normalise_obs": False, "normalise_reward": True})
    assert (run.normalise_obs, run.normalise_reward, cfg.normalise_obs, cfg.normalise_reward) == (False, False, False, True)
