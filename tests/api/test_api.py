"""Thespis from Python: environments, modules and algorithms of one's own, and what a policy does."""

import json
import shutil
import sys
from pathlib import Path
from typing import ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file
from torch import nn

import thespis
from thespis.core import Fault
from thespis.engine import checkpoint
from thespis.policy import _count, _row

TINY = {
    "steps": 60, "warmup": 30, "hidden": (8,), "batch_size": 8, "eval_every": 40, "eval_episodes": 2, "log_every": 20,
    "checkpoint_every": 20, "compile_after": -1, "sinks": (), "panel": False,
}  # fmt: skip


class Dial(gym.Env):
    """Turn to a mark: asymmetric bounds of two widths, in episodes of 5 steps. `pay` multiplies what evaluations of a run see."""

    pay = 1.0

    def __init__(self, width=3.0):
        self.observation_space = spaces.Box(-5, 5, (2,), np.float32)
        self.action_space = spaces.Box(np.array([-1, 0], np.float32), np.array([width, 0.5], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.mark, self.t = self.np_random.uniform(-1, 1, 2).astype(np.float32), 0
        return self.mark, {}

    def step(self, action):
        assert self.action_space.contains(action)
        self.t += 1
        return self.mark, -float(np.abs(action - self.mark).sum()), False, self.t == 5, {}


gym.register("tests/Dial-v0", Dial)


def one_line(function, *args, **kwargs):
    with pytest.raises(Fault) as fault:
        function(*args, **kwargs)
    text = str(fault.value)
    assert text
    assert "\n" not in text
    return text


def state(folder):
    return load_file(checkpoint.checkpoints(Path(folder))[-1] / "tensors.safetensors")


def rows(folder):
    return [json.loads(line) for line in Path(folder, "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run on Dial, by its id."""
    folder = tmp_path_factory.mktemp("runs") / "done"
    return thespis.train("sac", "tests/Dial-v0", out=folder, **TINY)


# ---------------------------------------------------------------------------------------------------------- environments


def test_an_id_a_callable_and_an_instance_are_the_same_environment(tmp_path, done):
    for name, env in ("class", Dial), ("function", lambda: Dial()), ("instance", Dial()), ("made", gym.make("tests/Dial-v0")):
        result = thespis.train("sac", env, out=tmp_path / name, **TINY)
        a, b = state(tmp_path / name), state(done.path)
        assert all(x.equal(b[k]) for k, x in a.items())
        assert result.return_mean == done.return_mean


@pytest.mark.parametrize(
    "env", [Dial, lambda: Dial(2.0), Dial(2.0), gym.make("tests/Dial-v0", width=2.0)], ids=["class", "lambda", "object", "made"]
)
def test_an_environment_of_ones_own_is_given_again(tmp_path, env):
    """Even where its name is one of the registry: what was made with width=2 must not go on as the id alone would make it."""
    folder = tmp_path / "own"
    thespis.train("sac", env, out=folder, **TINY)
    assert "env" in one_line(thespis.resume, folder, 80)
    assert "env" in one_line(thespis.evaluate, folder)
    assert json.loads((folder / "config.json").read_text())["run"]["steps"] == 60
    assert thespis.resume(folder, 80, env=env, panel=False).finished
    assert len(thespis.evaluate(folder, 3, env=env)["returns"]) == 3
    thespis.load(folder).act(np.zeros(2, np.float32))  # needs no environment


def test_an_instance_stays_untouched(tmp_path):
    env = Dial()
    env.reset(seed=5)
    env.step(np.zeros(2, np.float32))
    before = (env.t, env.mark.copy())
    thespis.train("sac", env, out=tmp_path / "run", **TINY | {"steps": 20})
    assert env.t == before[0]
    assert (env.mark == before[1]).all()


def test_an_environment_that_is_none():
    for env in (3, "", nn.Linear(1, 1), lambda: 3, lambda: 1 / 0, [Dial()]):
        one_line(thespis.train, "sac", env)
    assert "width" in one_line(thespis.train, "sac", lambda width: Dial(width))


@pytest.mark.parametrize("num_envs", [2, 3])
def test_environments_in_processes_of_their_own_do_what_those_in_this_one_do(tmp_path, num_envs):
    for kind in "sync", "async":
        options = TINY | {"vector": kind, "num_envs": num_envs}
        thespis.train("sac", "tests/Dial-v0", out=tmp_path / kind, **options | {"steps": 42})
        assert thespis.resume(tmp_path / kind, 66, panel=False).finished
    thespis.train("sac", "tests/Dial-v0", out=tmp_path / "whole", **TINY | {"num_envs": num_envs, "steps": 66})
    a, b, c = (state(tmp_path / name) for name in ("sync", "async", "whole"))
    assert a.keys() == b.keys() == c.keys()
    assert all(x.equal(b[k]) and x.equal(c[k]) for k, x in a.items())


# -------------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bacth_size": 3}, ["bacth_size is not an option of sac", "did you mean batch_size"]),
        ({"out_dir": 3}, ["out_dir is not an option of sac"]),
        ({"lr": "fast"}, ["lr is 'fast'", "a number above 0"]),
        ({"lr": 0}, ["lr is 0", "a number above 0"]),
        ({"lr": float("nan")}, ["lr is nan"]),
        ({"lr": "linear:-1"}, ["lr is 'linear:-1'", "a number above 0 or a schedule, as linear:3e-4:1e-5"]),
        (
            {"lr": lambda left: 3e-4 * left},
            ["lr is a function, which no file can hold", "a schedule, as linear:3e-4:1e-5"],
        ),
        ({"hidden": 8}, ["hidden is 8", "any number of values, each a whole number 1 or more"]),
        ({"hidden": (8, 0)}, ["hidden is (8, 0)"]),
        ({"hidden": "88"}, ["hidden is '88'"]),
        ({"log_std": (1, 2, 3)}, ["log_std is (1, 2, 3)", "2 values"]),
        ({"steps": 0.5}, ["steps is 0.5", "a whole number 1 or more"]),
        ({"seed": None}, ["seed is None", "a whole number 0 or more"]),
        ({"seed": True}, ["seed is True"]),
        ({"sinks": "tensorboard"}, ["sinks is 'tensorboard'"]),
        ({"sinks": ("paper",)}, ["sinks is ('paper',)", "'tensorboard', 'wandb', 'trackio'"]),
        ({"vector": "both"}, ["vector is 'both'", "'sync', 'async'"]),
        ({"device": "abacus"}, ["device is 'abacus'"]),
        ({"device": 3}, ["device is 3", "text"]),
    ],
)
def test_a_wrong_option(tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    text = one_line(thespis.train, "sac", "tests/Dial-v0", **TINY | options)
    assert all(word in text for word in words), text
    assert list(tmp_path.iterdir()) == []


def test_wrong_algorithms(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "did you mean sac" in one_line(thespis.train, "sacc", Dial)
    assert "no such file" in one_line(thespis.train, "mine.py", Dial)
    assert "did you mean" in one_line(thespis.load, ".", algo="sacc") or "policy" in one_line(thespis.load, ".")


def test_wrong_uses_of_a_run(tmp_path, monkeypatch, done):
    monkeypatch.chdir(tmp_path)
    assert "nowhere is not a run directory" in one_line(thespis.resume, "nowhere")
    assert "nowhere" in one_line(thespis.load, "nowhere")
    assert "which is 'worst'; allowed: 'first', 'last', 'best'" in one_line(thespis.load, done, "worst")
    assert "episodes is 0" in one_line(thespis.evaluate, done, 0)
    assert "episodes is 'all'" in one_line(thespis.evaluate, done, "all")
    assert "seed is -1" in one_line(thespis.evaluate, done, 1, -1)
    for every in (0, -2, 1.5, "two", None):
        assert one_line(thespis.evaluate, done, 1, every=every) == f"every is {every!r}; allowed: a whole number 1 or more"
    assert "steps is -1" in one_line(thespis.resume, done.path, -1)
    assert "lern is not an option of sac" in one_line(thespis.resume, done.path, lern=1.0)
    assert "did you mean actor" in one_line(thespis.load, done, actr=nn.Linear)
    assert "Pendulum-v1" in one_line(thespis.evaluate, done, env="Pendulum-v1")
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_told_by_its_result_its_path_or_its_name(done):
    results = [thespis.evaluate(run, 2)["returns"] for run in (done, done.path, str(done.path))]
    assert results[0] == results[1] == results[2]
    assert thespis.resume(done, panel=False) == done


# --------------------------------------------------------------------------------------------------------------- modules


class Tanh(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, outputs))

    def forward(self, x):
        return self.layers(x)


def actor(spec):
    return Tanh(spec.obs.dim, 2 * spec.action.dim)


def critic(spec):
    return Tanh(spec.obs.dim + spec.action.dim, 1)


def test_modules_of_ones_own_are_trained_and_given_again(tmp_path):
    folder, parts = tmp_path / "run", {"actor": actor, "critic": critic}
    result = thespis.train("sac", "tests/Dial-v0", out=folder, **TINY, **parts)
    names = {k for k in state(folder) if k.startswith("state.actor.params.")}
    assert names == {f"state.actor.params.{k}" for k, _ in Tanh(2, 4).named_parameters()}
    for use in (thespis.load, thespis.evaluate, thespis.resume):
        text = one_line(use, folder)
        assert "actor and critic" in text
        assert "Python" in text
        assert "critic" in one_line(use, folder, actor=actor)
    policy = thespis.load(folder, **parts)
    mine = Tanh(2, 4)
    mine.load_state_dict(load_file(folder / "policy" / "last.safetensors"))
    obs = np.array([0.3, -0.7], np.float32)
    mean = mine(torch.from_numpy(obs)[None])[0, :2].detach().tanh().numpy()
    np.testing.assert_allclose(policy.act(obs), [1 + 2 * mean[0], 0.25 + 0.25 * mean[1]], rtol=1e-5)
    assert thespis.evaluate(folder, 2, **parts)["mean_length"] == 5
    assert thespis.resume(folder, 80, panel=False, **parts).path == result.path
    thespis.train("sac", "tests/Dial-v0", out=tmp_path / "whole", **TINY | {"steps": 80}, **parts)
    a, b = state(folder), state(tmp_path / "whole")
    assert all(x.equal(b[k]) for k, x in a.items() if k.startswith("state."))


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"actor": lambda spec: nn.Linear(2, 3)}, ["Linear", "(3, 3)", "(3, 4)"]),
        ({"actor": lambda spec: nn.Linear(3, 4)}, ["Linear", "(B, 2)"]),
        ({"critic": lambda spec: nn.Linear(4, 2)}, ["Linear", "(3, 1)"]),
        ({"critic": lambda spec: nn.Sequential(nn.Linear(4, 1), nn.BatchNorm1d(1))}, ["Sequential", "buffers"]),
        ({"actor": nn.Linear(2, 4)}, ["torch.nn.Module"]),
        ({"actor": 3}, ["torch.nn.Module"]),
        ({"actor": lambda spec: None}, ["torch.nn.Module"]),
        ({"actor": lambda: nn.Linear(2, 4)}, ["torch.nn.Module"]),
    ],
)
def test_modules_that_do_not_fit(tmp_path, monkeypatch, parts, words):
    monkeypatch.chdir(tmp_path)
    text = one_line(thespis.train, "sac", "tests/Dial-v0", **TINY, **parts)
    assert all(word in text for word in words), text
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------------- policy


def by_hand(folder, which, obs):
    """Mean and log std of SAC's policy, in NumPy."""
    p = {k: v.double().numpy() for k, v in load_file(folder / "policy" / f"{which}.safetensors").items()}
    out = np.maximum(obs @ p["w0"] + p["b0"], 0) @ p["w1"] + p["b1"]
    return out[:2], np.clip(out[2:], -20, 2)


@pytest.mark.parametrize("which", ["last", "best"])
def test_a_policy_acts_by_its_mean_in_the_environments_bounds(done, which):
    policy, rng = thespis.load(done, which), np.random.default_rng(0)
    assert policy.about["algo"] == "sac"
    assert policy.about["algo_config"]["hidden"] == [8]
    assert policy.action_space == Dial().action_space
    for _ in range(10):
        obs = rng.uniform(-5, 5, 2).astype(np.float32)
        action = policy.act(obs)
        mean = np.tanh(by_hand(done.path, which, obs)[0])
        np.testing.assert_allclose(action, [1 + 2 * mean[0], 0.25 + 0.25 * mean[1]], rtol=1e-4, atol=1e-5)
        assert action.dtype == np.float32
        assert (policy.act(obs) == action).all()


def test_a_policy_acts_on_a_batch_as_on_each_of_it(done):
    policy, obs = thespis.load(done), np.random.default_rng(0).uniform(-5, 5, (7, 2)).astype(np.float32)
    batch = policy.act(obs)
    assert (batch.shape, batch.dtype) == ((7, 2), np.float32)
    np.testing.assert_allclose(batch, [policy.act(x) for x in obs], atol=1e-6)
    assert policy.act(obs[:1]).shape == (1, 2)
    assert policy.act(obs.tolist()).shape == (7, 2)
    for wrong in (obs[None], obs[:, :1], obs[:0]):
        assert "observation" in one_line(policy.act, wrong)


@pytest.mark.parametrize(
    ("space", "row", "batch"),
    [
        (spaces.Discrete(3), 2, np.array([2, 1])),
        (spaces.Box(0, 255, (4, 5, 3), np.uint8), np.zeros((4, 5, 3), np.uint8), np.zeros((2, 4, 5, 3), np.uint8)),
        (
            spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Tuple([spaces.Discrete(3), spaces.MultiBinary(2)])),
            {"a": np.zeros(2), "b": (1, np.zeros(2))},
            {"a": np.zeros((2, 2)), "b": (np.array([1, 2]), np.zeros((2, 2)))},
        ),
    ],
    ids=["choice", "image", "dict"],
)
def test_a_batch_is_known_by_one_more_dimension_of_every_part(space, row, batch):
    assert _count(space, row) is None
    assert _count(space, batch) == 2
    for i in range(2):
        assert space.contains(_row(space, batch, i)) or isinstance(space, spaces.Dict)
        assert _count(space, _row(space, batch, i)) is None
    if isinstance(space, spaces.Dict):
        assert "2 and 3 rows" in one_line(_count, space, batch | {"a": np.zeros((3, 2))})


def test_in_a_batch_each_row_has_a_memory_of_its_own(tmp_path):
    """srl goes on with the sequence that it planned; a row that begins anew plans anew."""
    folder = tmp_path / "srl"
    thespis.train("srl", Dial, out=folder, **TINY | {"batch_size": 4})
    obs = np.random.default_rng(0).uniform(-5, 5, (4, 3, 2)).astype(np.float32)  # steps, rows
    policies = [thespis.load(folder) for _ in range(3)]
    many = thespis.load(folder)
    for t, seen in enumerate(obs):
        if t == 2:
            many.reset([1])
            policies[1].reset()
        np.testing.assert_allclose(many.act(seen), [p.act(x) for p, x in zip(policies, seen, strict=True)], atol=1e-6)


def test_metrics_are_columns_with_a_row_for_each_step(done):
    found, by_step = done.metrics(), {}
    for row in rows(done.path):
        by_step[row["step"]] = by_step.get(row["step"], {}) | row
    assert found["step"] == sorted(by_step)
    assert len(found["step"]) < len(rows(done.path))  # an evaluation and a log of one step are one
    for name, column in found.items():
        assert column == [by_step[step].get(name) for step in found["step"]]
    assert found["eval/return_mean"][-1] == done.return_mean


class Shown(Dial):
    metadata: ClassVar = {"render_modes": ["human"], "render_fps": 30}
    made: ClassVar = []

    def __init__(self, render_mode=None):
        super().__init__()
        self.render_mode = render_mode
        self.made.append(self)


def test_episodes_are_shown_in_one_window(done):
    plain = thespis.evaluate(done, 3, env=Shown)
    Shown.made.clear()
    assert thespis.evaluate(done, 3, env=Shown, render="human") == plain
    assert [env.render_mode for env in Shown.made].count("human") == 1
    assert "declares []" in one_line(thespis.evaluate, done, 1, render="human")
    assert "render is 'window'" in one_line(thespis.evaluate, done, 1, render="window")


def test_a_policy_that_explores_samples(done):
    policy, obs = thespis.load(done), np.array([0.2, 0.4], np.float32)
    torch.manual_seed(1)
    actions = np.array([policy.act(obs, explore=True) for _ in range(400)])
    assert all(policy.action_space.contains(a) for a in actions.astype(np.float32))
    u = np.arctanh(np.clip((actions.astype(float) - [1, 0.25]) / [2, 0.25], -1 + 1e-7, 1 - 1e-7))
    mean, log_std = by_hand(done.path, "last", obs)
    np.testing.assert_allclose(u.mean(0), mean, atol=4 * np.exp(log_std).max() / 20)
    np.testing.assert_allclose(u.std(0), np.exp(log_std), rtol=0.15)
    torch.manual_seed(1)
    assert (policy.act(obs, explore=True) == actions[0]).all()


def test_a_policy_wants_what_its_environment_observes(done):
    policy = thespis.load(done)
    for obs in (np.zeros(3, np.float32), [np.nan, 0.0], "north", None):
        assert "observation" in one_line(policy.act, obs)


class Moody(gym.Env):
    """Pays what the next evaluation is to return."""

    pays = ()
    made = 0

    def __init__(self):
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = spaces.Box(-1, 1, (1,), np.float32)
        self.judges, self.seen = Moody.made >= 2, 0
        Moody.made += 1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.seen += 1
        return np.zeros(1, np.float32), float(self.pays[self.seen - 1]) if self.judges else 0.0, True, False, {}


def test_best_is_the_policy_of_the_highest_evaluation(tmp_path):
    def train(use, pays, *args, **options):
        Moody.pays, Moody.made = pays, 0
        return use(*args, env=Moody, **options)

    folder = tmp_path / "run"
    options = TINY | {"eval_every": 10, "checkpoint_every": 10, "eval_episodes": 1, "keep": 99, "warmup": 5}
    result = train(thespis.train, [-3, -1, 4, 2, 4, 1, 3], "sac", out=folder, **options)  # at 0, 10, ..., 60
    assert result.return_mean == 3

    def check(best, returns):
        assert [r["eval/return_mean"] for r in rows(folder) if "eval/return_mean" in r] == returns
        about = json.loads((folder / "policy" / "best.json").read_text())
        assert (about["step"], about["return_mean"]) == (best, max(returns))
        then = load_file(folder / "checkpoints" / f"{best:09d}" / "tensors.safetensors")
        kept = load_file(folder / "policy" / "best.safetensors")
        assert all(x.equal(then[f"state.actor.params.{k}"]) for k, x in kept.items())
        last = load_file(folder / "policy" / "last.safetensors")
        assert not all(x.equal(last[k]) for k, x in kept.items())
        assert all(x.equal(state(folder)[f"state.actor.params.{k}"]) for k, x in last.items())

    check(20, [-3, -1, 4, 2, 4, 1, 3])
    train(thespis.resume, [3.5, 3.9], folder, 80, panel=False)  # the best so far is remembered
    check(20, [-3, -1, 4, 2, 4, 1, 3, 3.5, 3.9])
    train(thespis.resume, [5, 2], folder, 100, panel=False)
    check(90, [-3, -1, 4, 2, 4, 1, 3, 3.5, 3.9, 5, 2])


def test_evaluation_of_the_last_policy_with_the_runs_own_seeds_returns_what_the_run_saw(done):
    """The evaluation that a run ends with, and that of its policy from disk, are the same sum."""
    row = [r for r in rows(done.path) if "eval/returns" in r][-1]
    assert row["step"] == 60
    seeds = np.random.SeedSequence(0).generate_state(4).tolist()
    assert thespis.evaluate(done, 2, seed=seeds[3])["returns"] == row["eval/returns"]
    assert done.return_mean == row["eval/return_mean"]


def test_evaluate_counts(done):
    result = thespis.evaluate(done, 12, seed=3)
    assert result.keys() == {"mean_return", "std_return", "returns", "mean_length", "cut", "info", "step", "every"}
    assert result["mean_return"] == pytest.approx(np.mean(result["returns"]))
    assert result["std_return"] == pytest.approx(np.std(result["returns"]))
    assert len(set(result["returns"])) == 12
    assert result["mean_length"] == 5
    assert result == thespis.evaluate(done, 12, seed=3)
    policy, env = thespis.load(done), Dial()  # the same by hand
    obs, _ = env.reset(seed=int(np.random.default_rng(3).integers(2**31, size=12)[7]))
    assert sum(env.step(policy.act(obs))[1] for _ in range(5)) == pytest.approx(result["returns"][7], rel=1e-5)


class Recorded(Dial):
    """Its mark drifts as it turns; notes each episode's observations and actions."""

    episodes = []  # noqa: RUF012

    def reset(self, *, seed=None, options=None):
        obs, info = super().reset(seed=seed)
        self.pairs = []
        Recorded.episodes.append(self.pairs)
        return obs, info

    def step(self, action):
        self.pairs.append((self.mark, action))
        self.mark = np.float32(0.7) * self.mark + np.float32(0.1) * action
        return super().step(action)


@pytest.mark.parametrize("every", [1, 2, 3, 30])
def test_evaluated_at_every_n_steps_a_policy_without_memory_repeats_its_action(done, every):
    Recorded.episodes.clear()
    result = thespis.evaluate(done, 12, seed=3, every=every, env=Recorded)
    assert result["every"] == every
    policy, returns = thespis.load(done), []
    for pairs in filter(None, Recorded.episodes):  # some environments are reset only to be looked at
        assert len(pairs) == 5
        for t, (_, action) in enumerate(pairs):
            np.testing.assert_allclose(action, policy.act(pairs[t - t % every][0]), rtol=1e-5, atol=1e-6)
        assert len({a.tobytes() for _, a in pairs}) == -(-5 // every)  # each look gave another action, and was held exactly
        marks = [0.7 * obs + 0.1 * action for obs, action in pairs]
        returns.append(-float(sum(np.abs(a - m).sum() for (_, a), m in zip(pairs, marks, strict=True))))
    assert len(returns) == 12
    np.testing.assert_allclose(sorted(returns), sorted(result["returns"]), rtol=1e-5)
    assert (result["returns"] == thespis.evaluate(done, 12, seed=3, env=Recorded)["returns"]) == (every == 1)


def test_evaluated_at_every_n_steps_srl_goes_on_with_its_sequence(tmp_path):
    """As by hand: the encoder at a look alone, and each action into the memory."""
    run = thespis.train("srl", "tests/Dial-v0", out=tmp_path / "srl", sequence=3, model_hidden=(8,), **TINY)
    learner, params = thespis.load(run).learner, thespis.load(run).params
    low, high = (getattr(Dial().action_space, bound) for bound in ("low", "high"))
    for every in (1, 2, 30):
        Recorded.episodes.clear()
        thespis.evaluate(run, 2, seed=3, every=every, env=Recorded)
        episodes = list(filter(None, Recorded.episodes))
        assert len(episodes) == 2
        for pairs in episodes:
            memory = learner.memory(1)
            for t, (obs, action) in enumerate(pairs):
                shown = torch.from_numpy(obs)[None] if t % every == 0 else torch.full((1, 2), torch.nan)
                wanted, memory = learner.act(params, shown, False, memory, torch.tensor([t % every == 0]))
                wanted = low + (wanted[0].numpy() + 1) * (high - low) / 2
                np.testing.assert_allclose(action, wanted, rtol=1e-4, atol=1e-5)
            assert len({a.tobytes() for _, a in pairs}) == 5


def test_using_a_policy_leaves_the_callers_generators_alone(done):
    torch.manual_seed(5)
    np.random.seed(5)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    thespis.evaluate(done, 3)
    thespis.load(done).act(np.zeros(2, np.float32))
    assert torch.get_rng_state().equal(before[0])
    assert (np.random.get_state()[1] == before[1]).all()


def test_training_depends_on_the_seed_alone(tmp_path, done):
    torch.manual_seed(99)
    torch.randn(7)
    thespis.train("sac", "tests/Dial-v0", out=tmp_path / "again", **TINY)
    a, b = state(tmp_path / "again"), state(done.path)
    assert all(x.equal(b[k]) for k, x in a.items())
    thespis.train("sac", "tests/Dial-v0", out=tmp_path / "other", **TINY, seed=1)
    c = state(tmp_path / "other")
    assert not any(x.equal(c[k]) for k, x in a.items() if k.startswith("state.actor.params"))


# --------------------------------------------------------------------------------------------- step sizes that change


@pytest.mark.parametrize(
    ("algo", "options", "count"),
    [
        ("sac", {}, 30),
        ("sac", {"updates_per_step": 0.5, "num_envs": 3}, 15),
        ("td3", {"delay": 4}, 30),
        ("redq", {"reset_every": 10, "delay": 1, "updates_per_step": 1}, 10),  # from one reset to the next
        ("ppo", {"rollout": 10, "epochs": 3, "batch_size": 4, "num_envs": 2}, 3 * 3 * 5),
    ],
)
def test_a_schedule_goes_over_the_updates_of_the_run(tmp_path, algo, options, count):
    options = TINY | options | {"lr": "linear:1e-2:1e-3"}
    if algo == "ppo":
        del options["warmup"]
    done = thespis.train(algo, "tests/Dial-v0", out=tmp_path / "run", **options)
    about = json.loads((done.path / "config.json").read_text())
    assert (about["algo_config"]["lr"], about["schedule_updates"]) == ("linear:0.01:0.001", count)
    told = [(row["time/updates"], row["train/critic_lr"]) for row in rows(done.path) if "train/critic_lr" in row]
    assert told[-1][0] == (30 if algo == "redq" else count), "as many updates as were foreseen"
    before = 0
    for updates, mean in told:
        at = [(i % count) / count for i in range(int(before), int(updates))]
        assert mean == pytest.approx(0.01 - 0.009 * sum(at) / len(at), rel=1e-4)
        before = updates
    acted = thespis.load(done)
    assert acted.action_space.contains(acted.act(np.zeros(2, np.float32)))


def test_a_run_made_longer_keeps_its_schedule(tmp_path):
    """Its end is where it was: beyond, the step size is the last. A run begun at that length goes over all of it."""
    options = TINY | {"lr": "cosine:1e-2:1e-4", "log_every": 10}
    longer = thespis.resume(thespis.train("sac", "tests/Dial-v0", out=tmp_path / "a", **options), steps=90)
    whole = thespis.train("sac", "tests/Dial-v0", out=tmp_path / "b", **options | {"steps": 90})
    assert longer.finished
    last = [rows(run.path)[-2]["train/actor_lr"] for run in (longer, whole)]
    assert last[0] == pytest.approx(1e-4)
    assert last[1] > 2e-4
    about = [json.loads((run.path / "config.json").read_text()) for run in (longer, whole)]
    assert [a["schedule_updates"] for a in about] == [30, 60]


@pytest.mark.parametrize("span", [0, -1, 1.5, "30", True, None])
def test_a_schedule_of_a_damaged_run_is_refused(tmp_path, span):
    run = thespis.train("sac", "tests/Dial-v0", out=tmp_path / "run", **TINY | {"lr": "linear:1e-2"})
    file = run.path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schedule_updates": span}))
    assert "schedule_updates" in one_line(thespis.resume, run, steps=90)


def test_a_run_directory_moves(tmp_path, done):
    shutil.copytree(done.path, tmp_path / "moved")
    assert thespis.evaluate(tmp_path / "moved", 2) == thespis.evaluate(done, 2)
    shutil.copytree(done.path / "policy", tmp_path / "bare" / "policy")  # enough to act
    obs = np.array([0.1, 0.2], np.float32)
    assert (thespis.load(tmp_path / "bare").act(obs) == thespis.load(done).act(obs)).all()
    assert "not a run directory" in one_line(thespis.evaluate, tmp_path / "bare")


def test_a_run_directory_never_runs_code_by_itself(tmp_path, monkeypatch, done):
    """Not even where its JSON names a file: only what the user names is run."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(done.path, "run")
    Path("evil.py").write_text("import pathlib\npathlib.Path('RAN').touch()")
    monkeypatch.syspath_prepend(tmp_path)
    for name, value in ("algo", "evil.py"), ("algo", "evil"), ("env", "evil:Dial-v0"):
        for file in Path("run/config.json"), Path("run/policy/last.json"):
            about = json.loads(Path(done.path, *file.parts[1:]).read_text())
            (about if name == "algo" else about["run"])[name] = value
            file.write_text(json.dumps(about))
        for use in (thespis.resume, thespis.evaluate):
            one_line(use, "run")
        assert not Path("RAN").exists()
    assert "evil" not in sys.modules
