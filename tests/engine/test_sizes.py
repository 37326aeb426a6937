"""Numbers of a size that nothing can be learnt from are told, with the number's name and where that ends a run."""

from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file

import thespis
from thespis.core import Batch
from thespis.engine.sizes import Sizes
from thespis.envs.observations import column, flatten

ARM = spaces.Dict(arm=spaces.Box(-np.inf, np.inf, (2, 2)), n=spaces.Discrete(3), t=spaces.Tuple((spaces.MultiBinary(2),)))


@pytest.mark.parametrize(
    ("largest", "reward", "scaled", "wanted"),
    [
        (9e4, 99.0, False, []),
        (1.0, 0.0, False, []),  # a goal not yet found
        (1.0, 0.05, False, []),
        (1.0, -0.01, False, ["rewards are at most 0.01 in size", "divide them by 0.01 "]),
        (1e5, 0.0, False, ["observation['arm'][1, 0] reaches 1e+05", "below 0.0078 there"]),  # 2^-7
        (1.7e9, 0.0, False, ["below 1.3e+02 there"]),  # 2^7
        (1.0, -3e6, False, ["rewards are 3e+06 in size on average", "divide them by 1e+06 "]),
        (1.0, -3e6, True, []),  # the learner divides them
    ],
)
@pytest.mark.parametrize("rows", [(4,), (2, 3)])  # of a batch, of a rollout
@pytest.mark.parametrize("frames", [1, 3])  # side by side
def test_what_is_told(largest: float, reward: float, scaled: bool, wanted: list[str], rows: tuple, frames: int) -> None:
    obs = torch.ones(*rows, 9 * frames)
    obs[0, ..., -7] = -largest
    said: list[str] = []
    sizes = Sizes(ARM, scaled, None, said.append)
    for factor in (1, 100):  # once: what comes later is in the same unit
        given = torch.full(rows, reward) * factor
        unit = next((float(w.split()[-1]) for w in wanted if "them by" in w), 1.0)
        assert sizes(Batch(obs, torch.zeros(*rows, 1), given, torch.ones(rows), obs)).reward.equal(given / unit)
    assert len(said) == bool(wanted)
    assert all(words in said[0] for words in wanted)


def test_a_column_is_where_its_number_goes() -> None:
    names = [column(ARM, i) for i in range(9)]
    arm = ["observation['arm'][0, 0]", "observation['arm'][0, 1]", "observation['arm'][1, 0]", "observation['arm'][1, 1]"]
    assert names == [*arm, *3 * ["observation['n']"], "observation['t'][0][0]", "observation['t'][0][1]"]
    obs = {"arm": np.array([[0, 0], [7, 0]]), "n": 1, "t": (np.array([0, 0]),)}
    assert names[int(flatten(ARM, obs).argmax())] == "observation['arm'][1, 0]"


class Prices(gym.Env):
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)
    action_space = spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.array([0.5, 1e12]), {}

    def step(self, action):
        return np.array([0.5, 1e12]), 1.0, False, True, {}


def test_a_run_that_diverges_on_them_names_them(tmp_path) -> None:
    tiny = {"warmup": 8, "hidden": (4,), "eval_episodes": 0, "compile_after": -1, "sinks": (), "panel": False}
    with pytest.raises(thespis.Fault, match=r"diverged by step 12: .*; observation\[1\] reaches 1e\+12: .*--normalise-obs"):
        thespis.train("td3", Prices, out=tmp_path / "run", steps=12, batch_size=4, **tiny)


@pytest.mark.parametrize(
    ("algo", "options", "words"),
    [
        ("sac", {"warmup": 10_000}, "all 20 steps are warm-up (10,000 random steps): nothing will be learnt; see --warmup"),
        ("td3", {}, "all 20 steps are warm-up (25,000 random steps): nothing will be learnt; see --warmup"),
        ("ppo", {}, "all 20 steps are less than a rollout: nothing will be learnt; see --rollout"),
    ],
)
def test_a_run_without_an_update_says_so_before_it_begins(tmp_path, capsys, algo: str, options: dict, words: str) -> None:
    thespis.train(algo, Prices, out=tmp_path / "run", steps=20, eval_episodes=1, sinks=(), panel=False, hidden=(4,), **options)
    said = capsys.readouterr()
    assert (said.out + said.err).splitlines()[0] == words


@pytest.mark.parametrize(("limit", "given", "random"), [(200, None, 2), (200, 20, 20), (200, 0, 0), (-1, None, 2), (1, 200, 200)])
def test_a_default_warm_up_takes_at_most_a_hundredth_of_a_run(
    tmp_path, limit: int | None, given: int | None, random: int
) -> None:
    tiny = {"hidden": (4,), "batch_size": 4, "eval_episodes": 0, "compile_after": -1, "sinks": (), "panel": False}
    tiny |= {"steps": 200, "warmup": given}
    run = thespis.train("sac", lambda: gym.make("Pendulum-v1", max_episode_steps=limit), out=tmp_path / "run", **tiny)
    assert json.loads((run.path / "config.json").read_text())["algo_config"]["warmup"] == random


@pytest.mark.parametrize(("unit", "factor"), [(None, 0.1), (1e3, 1.0), (1.0, 1e3)])
def test_rewards_of_thousands_are_learnt_from_as_those_of_one(tmp_path, unit, factor) -> None:
    """Stopped and resumed, it is the run whose environment pays `factor` for 1,000."""
    tiny = {"warmup": 20, "hidden": (8,), "batch_size": 8, "eval_episodes": 1, "eval_every": 30, "compile_after": -1, "sinks": ()}

    def paying(x):
        return lambda: gym.wrappers.TransformReward(gym.make("Pendulum-v1"), lambda r: x * r)

    a = thespis.train("sac", paying(factor), steps=60, out=tmp_path / "a", panel=False, reward_unit=1.0, **tiny)
    part = thespis.train("sac", paying(1e3), steps=40, out=tmp_path / "b", panel=False, reward_unit=unit, **tiny)
    b = thespis.resume(part, 60, env=paying(1e3), panel=False)
    x, y = (load_file(r.path / "policy" / "last.safetensors") for r in (a, b))
    assert all(torch.allclose(x[k], y[k], atol=1e-4) for k in x)
    rows = [[json.loads(line) for line in (r.path / "metrics.jsonl").read_text().splitlines()] for r in (a, b)]
    values = [[row["eval/value_mean"] for row in each if "eval/value_mean" in row][-1] for each in rows]
    assert values[1] == pytest.approx(1e3 / factor * values[0], rel=1e-2)  # in the task's unit
