"""Several rewards: from the environment to replay, metrics and evaluation, weighed for a learner of one or as they are."""

import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file

import thespis
from thespis import envs
from thespis.core import Box, Discrete, Fault, OffPolicy, Spec
from thespis.data import OnPolicy, Replay, Rollout
from thespis.data import dataset as data
from thespis.data.recorded import Recorded, offline
from thespis.report.compare import compare
from thespis.report.panels import panels, read

ARMS = np.array([[3.0, 0.0], [1.0, 1.0]])  # (arm, reward): which is best hangs on the weights
QUIET = {"eval_every": 10_000, "sinks": (), "compile_after": -1, "panel": False, "quiet": True}


class TwoArms(gym.Env):
    """Four steps; the action is the arm. Each step says its cost in `info`."""

    metadata = {"reward_names": ["gold", "rest"], "render_modes": []}  # noqa: RUF012
    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)
    reward_space = spaces.Box(-10, 10, (2,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.np_random.normal(size=2).clip(-1, 1).astype(np.float32), {}

    def step(self, action):
        self.t += 1
        return self.np_random.normal(size=2).clip(-1, 1).astype(np.float32), self.earned(action), False, self.t == 4, {}

    def earned(self, action):
        return ARMS[action].copy()


class Costly(TwoArms):
    """The same with one reward; the other is a cost in `info`."""

    metadata = {"render_modes": []}  # noqa: RUF012
    reward_space = None

    def step(self, action):
        obs, reward, *flags, info = super().step(action)
        return obs, float(reward[0]), *flags, info | {"cost": -float(reward[1])}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same learner by two weights that make another arm the best one, and one by a cost of `info`."""
    folder, options = tmp_path_factory.mktemp("runs"), QUIET | {"rollout": 32, "steps": 416, "lr": 0.03, "hidden": (8,)}
    how = {"a": (TwoArms, (1, 0.5)), "b": (TwoArms, {"gold": 0.5, "rest": 2}), "c": (Costly, {"reward": 0.5, "cost": -2})}
    for name, (env, weights) in how.items():
        thespis.train("ppo_discrete", env, weights=weights, out=folder / name, eval_episodes=2, **options)
    return folder


@pytest.mark.parametrize(("run", "weights"), [("a", [1, 0.5]), ("b", [0.5, 2]), ("c", [0.5, 2])])
def test_weights_decide_which_arm_is_learnt(runs, run, weights):
    best = int((ARMS @ weights).argmax())
    rows = [json.loads(line) for line in (runs / run / "metrics.jsonl").read_text().splitlines()]
    found = {k: v for row in rows for k, v in row.items()}
    names, signs = (("reward", "cost"), (1, -1)) if run == "c" else (("gold", "rest"), (1, 1))
    assert found["eval/return_mean"] == pytest.approx(4 * ARMS[best] @ weights)
    assert [found[f"eval/return/{name}"] for name in names] == pytest.approx(4 * ARMS[best] * signs)
    parts = [found[f"episode/return/{name}"] * sign for name, sign in zip(names, signs, strict=True)]
    assert found["episode/return"] == pytest.approx(np.dot(parts, weights))
    again = thespis.evaluate(runs / run, 2, env=Costly if run == "c" else TwoArms)
    assert again["mean_return"] == pytest.approx(4 * ARMS[best] @ weights)
    assert list(again["mean_returns"]) == list(names)


def test_compare_and_report_tell_each_reward(runs):
    found = compare([runs / "a", runs / "b"], draws=1)
    assert [row["returns"]["rest"] for row in found.table] == pytest.approx([0, 4])
    titles = {panel.title: panel.lines for panel in panels([read(runs / "a"), read(runs / "b")])}
    assert [line.y[-1] for line in titles["Return of rest"]] == pytest.approx([0, 4])
    assert [line.name for line in panels([read(runs / "a")])[1].lines] == ["gold", "rest"]


TINY = '''"""Learns the mean of each reward.

Paper: none."""
from dataclasses import dataclass
import torch
from thespis.core import Learner, OffPolicy, tree, Params, replace

@dataclass(frozen=True)
class Config:
    gamma: float = 0.5

TAKES = {"rewards"}

@tree
class State:
    mean: Params

def make(cfg, spec):
    many = len(spec.rewards)
    def update(s, b, k=0):
        assert b.reward.shape == b.discount.shape == (8, many)
        mean = s.mean["x"] + 0.1 * (b.reward.mean(0) - s.mean["x"])
        return State({"x": mean}), {"mean": mean.mean()}
    act = lambda p, obs, explore: torch.randint(2, (len(obs),)) if explore else torch.ones(len(obs), dtype=torch.int64)
    feed = OffPolicy(cfg.gamma, 1, 8, 64, 8, 1.0)
    return Learner(lambda: State({"x": torch.zeros(many)}), update, lambda s: s.mean, act, {}, feed)
'''


@pytest.mark.parametrize("vector", ["sync", "async"])
def test_a_learner_of_several_is_given_them_all_and_resumes_bitwise(tmp_path: Path, vector: str):
    (tmp_path / "tiny.py").write_text(TINY)
    algo, options = str(tmp_path / "tiny.py"), QUIET | {"num_envs": 2, "eval_episodes": 3, "log_every": 20, "vector": vector}
    whole = thespis.train(algo, TwoArms, out=tmp_path / "whole", steps=106, checkpoint_every=54, **options)
    thespis.train(algo, TwoArms, out=tmp_path / "cut", steps=54, checkpoint_every=54, **options)
    thespis.resume(tmp_path / "cut", 106, env=TwoArms, algo=algo, panel=False, quiet=True)
    tensors = [thespis.load(tmp_path / name, algo=algo).params["x"] for name in ("whole", "cut")]
    assert tensors[0].equal(tensors[1])
    assert tensors[0].shape == (2,)
    assert torch.allclose(tensors[0], torch.tensor(ARMS.mean(0), dtype=torch.float32), atol=0.5)
    assert whole.return_mean == pytest.approx(4 * ARMS[1].sum())
    if vector == "sync":
        replay = Replay(Spec(Box(2), Discrete(2), ("gold", "rest")), OffPolicy(0.5, 1, 8, 64, 8, 1.0), 2)
        thespis.engine.checkpoint.load(tmp_path / "cut", replay, print)
        assert {tuple(row) for row in replay.at(torch.arange(64)).reward.tolist()} == {(3.0, 0.0), (1.0, 1.0)}
    with pytest.raises(Fault, match=r"weights is .* and was .*; a run cannot change it"):
        thespis.resume(tmp_path / "cut", 120, env=TwoArms, algo=algo, weights=(1, 1))


def test_a_run_by_weights_resumes_bitwise(tmp_path: Path):
    options = QUIET | {"weights": (1, 0.5), "rollout": 16, "hidden": (4,), "eval_episodes": 1, "log_every": 24}
    thespis.train("ppo_discrete", TwoArms, out=tmp_path / "whole", steps=50, checkpoint_every=22, **options)
    thespis.train("ppo_discrete", TwoArms, out=tmp_path / "cut", steps=22, checkpoint_every=22, **options | {"eval_episodes": 0})
    thespis.resume(tmp_path / "cut", 50, env=TwoArms, panel=False, quiet=True, eval_episodes=1)
    files = [next((tmp_path / name / "checkpoints").glob("*50")) / "tensors.safetensors" for name in ("cut", "whole")]
    mine, other = map(load_file, files)
    assert [k for k in other if not mine[k].equal(other[k])] == []


def steps(count: int, envs: int, rewards: int):
    rng = np.random.default_rng(0)
    for t in range(count):
        obs, last = rng.normal(size=(2, envs, 3)).astype(np.float32)
        over = rng.random((2, envs)) < 0.1 + 0.2 * (t % 5 == 4)
        yield obs, rng.integers(2, size=envs), rng.normal(size=(envs, rewards)), over[0], over[1], last


@pytest.mark.parametrize("n_step", [1, 3])
def test_each_column_of_a_replay_is_that_of_a_replay_of_its_own(n_step: int):
    feed, needs = OffPolicy(0.9, n_step, 4, 60, 0, 1.0), frozenset({"return_scale", "previous"})
    spec = Spec(Box(3), Discrete(2), ("a", "b", "c"))
    several = Replay(spec, feed, 2, needs=needs)
    alone = [Replay(spec._replace(rewards=("a",)), feed, 2, needs=needs) for _ in range(3)]
    for obs, action, reward, *rest in steps(50, 2, 3):
        several.add(obs, action, reward, *rest)
        for i, replay in enumerate(alone):
            replay.add(obs, action, reward[:, i], *rest)
    index = torch.arange(len(several))
    both = several.at(index)
    assert both.reward.shape == both.discount.shape == both.extra["return_std"].shape == (60, 3)
    for i, replay in enumerate(alone):
        one = replay.at(index)
        assert one.reward.equal(both.reward[:, i])
        assert one.discount.equal(both.discount[:, i])
        assert all(one.extra[k].allclose(both.extra[k][:, i], rtol=1e-6) for k in ("return_std", "return_max"))


def test_each_column_of_a_rollout_is_that_of_a_rollout_of_its_own():
    feed, needs = OnPolicy(0.9, 20, 2, 8), frozenset({"return_scale"})
    spec = Spec(Box(3), Discrete(2), ("a", "b"))
    several, alone = (
        Rollout(spec, feed, 2, needs=needs),
        [Rollout(spec._replace(rewards=("a",)), feed, 2, needs=needs) for _ in "ab"],
    )
    for obs, action, reward, *rest in steps(20, 2, 2):
        several.add(obs, action, reward, *rest)
        for i, rollout in enumerate(alone):
            rollout.add(obs, action, reward[:, i], *rest)
    for i, rollout in enumerate(alone):
        both, one = several.batch(), rollout.batch()
        assert both.reward[..., i].equal(one.reward)
        assert both.discount[..., i].equal(one.discount)
        assert both.extra["return_std"][..., i].allclose(one.extra["return_std"], rtol=1e-6)


def columns(rewards: int):
    rng = np.random.default_rng(0)
    return {
        "observations": rng.uniform(-1, 1, (40, 2)), "actions": rng.integers(2, size=40),
        "rewards": rng.normal(size=(40, rewards)), "terminals": np.arange(40) % 10 == 9,
    }  # fmt: skip


def test_a_dataset_has_them_too():
    world, given = envs.world(TwoArms), columns(2)
    spaces_ = world.observation_space, world.action_space, envs.spaces.flatten, envs.spaces.unscale_action
    rows = data.read(given, *spaces_)
    assert rows.returns() == pytest.approx(given["rewards"].sum(1).reshape(4, 10).sum(1), abs=1e-5)
    kept = Recorded(
        world.spec, offline(OffPolicy(0.9, 2, 8, 64, 0, 1.0)), rows.weighted(world.rewards, ()), 0, frozenset({"return_scale"})
    )
    assert kept.rows.reward[0].tolist() == pytest.approx((given["rewards"][0] + 0.9 * given["rewards"][1]).tolist(), rel=1e-5)
    assert kept.rows.extra["return_std"].shape == (40, 2)
    weighed = rows.weighted(world.rewards, (1.0, -2.0)).reward
    assert weighed.tolist() == pytest.approx((given["rewards"] @ [1, -2]).tolist(), rel=1e-5, abs=1e-6)
    with pytest.raises(Fault, match="data: a step has 1 rewards, and the environment's are 2: gold, rest"):
        data.read(columns(1), *spaces_).weighted(world.rewards, ())
    with pytest.raises(Fault, match="data: a step has 2 rewards, and the environment's are 1: reward; give a weight for each"):
        rows.weighted(("reward",), ())


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        ((), r"weights: TwoArms has 2 rewards \(gold, rest\), and ppo learns from one: give each a weight .* --weights 1,1"),
        ((1,), "weights has 1 numbers; TwoArms has 2 rewards: gold, rest"),
        (("gold=1", "2"), "weights is 'gold=1,2'; allowed: numbers, as 1,0.5, or name=number, as gold=1"),
        (("nan", "1"), "weights is 'nan,1'; allowed"),
        (("gold=x",), "weights is 'gold=x'; allowed"),
        (("glod=1",), "weights names 'glod'; the rewards of TwoArms are gold, rest; did you mean gold"),
    ],
)  # fmt: skip
def test_bad_weights_are_told_in_a_line(tmp_path: Path, weights, told):
    with pytest.raises(Fault, match=told):
        thespis.train("ppo", TwoArms, weights=weights, out=tmp_path / "run", **QUIET)
    assert not (tmp_path / "run").exists()


def test_weights_on_a_world_of_one_reward_name_numbers_of_info():
    world = envs.world("Pendulum-v1")
    assert envs.weighted(world, ()) is world
    with pytest.raises(Fault, match=r"Pendulum-v1 has one reward; name a number of its info beside it, as reward=1,cost=-0.1"):
        envs.weighted(world, ("2",))
    env = envs.weighted(world, ("cost=-1",)).make()
    env.reset(seed=0)
    with pytest.raises(Fault, match="info has no 'cost', which weights names: it must have it at every step"):
        env.step(np.zeros(1, np.float32))


@pytest.mark.parametrize(
    ("reward", "told"),
    [
        (1.0, "reward is 1.0; it must be 2 numbers: gold, rest"),
        (np.zeros(3), r"reward is .*; it must be 2 numbers: gold, rest"),
        ("ab", "reward is 'ab'; it must be 2 numbers: gold, rest"),
        (np.array([1, np.nan]), r"reward\[1\] \(rest\) is nan; it must be finite and at most 1e\+15 in size \(at step 1 after"),
    ],
)
def test_a_reward_vector_is_checked_at_every_step(reward, told):
    class Wrong(TwoArms):
        def earned(self, action):
            return reward

    env = envs.world(Wrong).make()
    env.reset(seed=3)
    with pytest.raises(Fault, match=told):
        env.step(0)


def test_names_come_from_metadata_or_are_numbers():
    def named(**fields):
        return envs.world(type("Own", (TwoArms,), fields)).spec.rewards

    assert named() == ("gold", "rest")
    assert named(metadata={}) == ("reward_0", "reward_1")
    assert named(reward_space=spaces.Box(-1, 1, (1,))) == ("reward",)
    with pytest.raises(Fault, match="allowed: 2 different names"):
        named(metadata={"reward_names": ["a", "a"]})
    with pytest.raises(Fault, match=r"reward_space is Discrete\(2\); allowed: a Box of shape \(R,\)"):
        named(reward_space=spaces.Discrete(2))


def test_deep_sea_treasure_of_mo_gymnasium(tmp_path: Path):
    pytest.importorskip("mo_gymnasium")
    world = envs.world("mo_gymnasium:deep-sea-treasure-v0")
    assert (world.spec.rewards, world.spec.horizon) == (("reward_0", "reward_1"), 100)
    env = world.make()
    env.reset(seed=0)
    _, reward, terminated, _, _ = env.step(1)  # straight down lies the smallest treasure, 0.7, one step away
    assert (reward.tolist(), terminated) == ([pytest.approx(0.7), -1.0], True)
    from mo_gymnasium.wrappers import LinearReward

    summed = envs.world(lambda: LinearReward(gym.make("deep-sea-treasure-v0"), np.array([1.0, 0.5])))
    assert summed.spec.rewards == ("reward",)
    run = thespis.train("ppo_discrete", "mo_gymnasium:deep-sea-treasure-v0", weights="1,0.1", out=tmp_path / "run", steps=200,
                        eval_episodes=1, eval_steps=20, **{**QUIET, "rollout": 64})  # fmt: skip
    assert run.finished
