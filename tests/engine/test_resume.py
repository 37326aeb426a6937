"""A run that is stopped anywhere and resumed is bitwise the run that was never stopped."""

import json
import os
import signal

import gymnasium as gym
import numpy as np
import pytest
from safetensors.torch import load_file

import thespis
from thespis.engine import checkpoint
from thespis.engine.run import Run

SMALL = {
    "hidden": (8,), "batch_size": 16, "warmup": 30, "steps": 200, "eval_every": 90, "eval_episodes": 1,
    "log_every": 40, "checkpoint_every": 60, "compile_after": -1, "sinks": (), "panel": False,
}  # fmt: skip


class Interrupting(gym.Wrapper):
    """Sends this process Ctrl-C at one of its steps, as a person would."""

    at = 0
    count = 0

    def step(self, action):
        Interrupting.count += 1
        if Interrupting.count == Interrupting.at:
            os.kill(os.getpid(), signal.SIGINT)
        return self.env.step(action)


def make(env):
    return lambda: Interrupting(gym.make(env))


def outcome(folder):
    """Every tensor of the last checkpoint and every row of metrics, clocks apart."""
    last = checkpoint.checkpoints(folder)[-1]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [{k: v for k, v in row.items() if k not in ("time/seconds", "time/steps_per_second")} for row in rows]
    return load_file(last / "tensors.safetensors"), rows, load_file(folder / "policy" / "last.safetensors")


def same(a, b):
    for x, y in zip(a, b, strict=True):
        if isinstance(x, dict):
            assert x.keys() == y.keys()
            assert all(x[k].equal(y[k]) for k in x), [k for k in x if not x[k].equal(y[k])]
        else:
            assert x == y


def pendulum(file):
    """Random steps of Pendulum, as a file of columns."""
    rng = np.random.default_rng(0)
    columns = {"observations": rng.normal(size=(300, 3)), "actions": rng.uniform(-2, 2, (300, 1)), "rewards": -rng.random(300)}
    np.savez(file, **columns, terminals=np.zeros(300, bool), timeouts=np.arange(300) % 50 == 49)
    return file


VARIANTS = [
    {"env": "Pendulum-v1"},
    {"env": "Pendulum-v1", "num_envs": 3, "n_step": 3, "replay_size": 60},  # the ring wraps
    {"env": "InvertedPendulum-v5", "updates_per_step": 0.5},  # many short episodes
    {"env": "HalfCheetah-v5", "updates_per_step": 2.0},
]


@pytest.mark.parametrize("variant", range(len(VARIANTS)))
def test_stopped_at_random_steps_equals_never_stopped(tmp_path, variant):
    options = SMALL | VARIANTS[variant] | {"eval_steps": 60}  # an evaluation that is stopped begins again: it must fit in between
    env = options.pop("env")
    Interrupting.at = 0
    thespis.train("sac", env=make(env), out=tmp_path / "whole", **options)
    whole = outcome(tmp_path / "whole")
    rng = np.random.default_rng(variant)
    for trial in range(5):
        folder = tmp_path / f"trial{trial}"
        Interrupting.count, Interrupting.at = 0, int(rng.integers(1, 400))  # evaluations' steps count too
        result = thespis.train("sac", env=make(env), out=folder, **options)
        stops = 0
        while not result.finished:
            stops += 1
            Interrupting.count, Interrupting.at = 0, int(rng.integers(1, 400))
            result = thespis.resume(folder, env=make(env), panel=False)
        assert stops or Interrupting.count < Interrupting.at
        same(outcome(folder), whole)


class Tools(gym.Env):
    """An action of parts, of which the mask forbids some; a forbidden one is a fault."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Dict(aim=gym.spaces.Box(-2, 2, (2,), np.float32), tool=gym.spaces.Discrete(4))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.seen()

    def seen(self):
        self.free = self.np_random.permutation([0, 0, 1, 1]).astype(np.int8)
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {"action_mask": {"tool": self.free}}

    def step(self, action):
        assert self.free[action["tool"]], "a forbidden tool"
        self.t += 1
        obs, info = self.seen()
        return obs, float(action["aim"].sum() + action["tool"]), self.t == 7, False, info


class Choices(gym.ActionWrapper):
    """The tool alone."""

    def __init__(self, env):
        super().__init__(env)
        self.action_space = gym.spaces.Discrete(4)

    def step(self, action):
        obs, reward, terminated, truncated, info = self.env.step({"aim": np.zeros(2), "tool": action})
        return obs, reward, terminated, truncated, {"action_mask": info["action_mask"]["tool"]}

    def reset(self, **how):
        obs, info = self.env.reset(**how)
        return obs, {"action_mask": info["action_mask"]["tool"]}


@pytest.mark.parametrize(("name", "wrap"), [("hybrid_sac", lambda env: env), ("ppo", lambda env: env), ("sac_discrete", Choices)])
def test_masks_and_parts_are_resumed_to_the_bit(tmp_path, name, wrap):
    """Stopped between two masks, in the random steps and after them."""
    options = SMALL | {"num_envs": 2, "steps": 120, "eval_every": 60, "checkpoint_every": 50}
    if name == "ppo":
        options = {k: v for k, v in options.items() if k != "warmup"} | {"rollout": 16, "batch_size": 8, "epochs": 2}
    make = lambda: Interrupting(wrap(Tools()))
    Interrupting.at = 0
    thespis.train(name, env=make, out=tmp_path / "whole", **options)
    for at in 7 + 15, 7 + 52:
        Interrupting.count, Interrupting.at = 0, at
        stopped = thespis.train(name, env=make, out=tmp_path / str(at), **options)
        assert not stopped.finished
        Interrupting.at = 0
        assert thespis.resume(stopped, env=make, panel=False).finished
        same(outcome(tmp_path / "whole"), outcome(tmp_path / str(at)))


# ------------------------------------------------------------------------------------------------------- every algorithm


@pytest.mark.parametrize(
    "name", sorted(n for n, algo in thespis.algorithms().items() if algo.family not in ("diversity", "language"))
)
def test_every_algorithm_and_preset_trains_on_two_environments_resumes_to_the_bit_and_is_evaluated(tmp_path, name):
    """Stopped once in the middle of whatever it remembers: plans, held noise, delays, demonstrations. Of archives, which need a
    descriptor, tests/papers/test_map_elites.py has the same."""
    found = thespis.algorithms()[name]
    env = {
        "discrete": "CartPole-v1", "preference": "CartPole-v1", "tabular": "thespis/RiverSwim-v0",
        "supervised": "thespis/Digits-v0", "flow": "thespis/Gaussians-v0", "agents": "CartPole-v1",
        "constrained": "thespis/ShortVideo-v0",
    }.get(found.family, "Pendulum-v1")  # fmt: skip
    env = {"gmorl": "thespis/EdgeComputing-v0"}.get(found.file.stem, env)  # several rewards, and contexts
    options = SMALL | {"num_envs": 2, "steps": 120, "eval_every": 60, "updates_per_step": 1.0, "checkpoint_every": 50}
    if found.family in ("agents", "flow", "onpolicy", "preference", "tabular"):  # it stops in the middle of a rollout
        options |= {"rollout": 16, "batch_size": 8, "epochs": 2}
    options |= {"lr": "linear:1e-3:1e-4:warmup=0.1", "critic_hidden": (8,)}
    if found.family == "offline":  # it stops in the middle of an evaluation, which alone takes steps
        options = {k: v for k, v in options.items() if k != "num_envs"} | {"data": pendulum(tmp_path / "data.npz")}
    if found.family == "constrained":
        options = {k: v for k, v in options.items() if k != "num_envs"} | {"data": tmp_path / "log.npz", "eval_episodes": 5}
        thespis.record.log("thespis/ShortVideo-v0", tmp_path / "log.npz", 300)
    if found.family in ("flow", "supervised") and not hasattr(found.config, "rollout"):  # from the data of its world
        del options["num_envs"]
    known = {"panel", *vars(Run()), *vars(found.config)}
    options = {k: v for k, v in options.items() if k in known}
    Interrupting.at = 0
    thespis.train(name, env=make(env), out=tmp_path / "whole", **options)
    steps = {"Pendulum-v1": 200, "CartPole-v1": 20, "thespis/RiverSwim-v0": 20, "thespis/EdgeComputing-v0": 100}
    steps |= {"thespis/ShortVideo-v0": 20}
    first = steps.get(env, 1)  # about, of the first evaluation
    Interrupting.count, Interrupting.at = 0, first + (1 if "num_envs" not in options and first == 1 else 45)
    stopped = thespis.train(name, env=make(env), out=tmp_path / "stopped", **options)
    Interrupting.at = 0
    assert 30 < int(checkpoint.checkpoints(stopped.path)[-1].name) < 120
    assert thespis.resume(stopped, env=make(env), panel=False).finished
    same(outcome(tmp_path / "whole"), outcome(tmp_path / "stopped"))
    result = thespis.evaluate(tmp_path / "whole", episodes=2, env=make(env), every=2)
    assert len(result["returns"]) == 2
    assert np.isfinite(result["returns"]).all()
