"""SPO's reward against its definition, its losses against ppo's, and what it finds where no reward could lead it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

import thespis
from tests.engine.runs import assert_equal
from thespis.algos.onpolicy import ppo
from thespis.algos.preference import reward_model, spo
from thespis.core import Batch, Box, Discrete, Fault, Learner, Spec, leaves
from thespis.data import Episode
from thespis.engine.compile import Stepper

SPEC = Spec(Box(2), Discrete(3))


def rollout(steps: int = 12, count: int = 4, length: int = 3) -> Batch:
    """Every episode has `length` steps and terminates."""
    ended = (torch.arange(1, steps + 1) % length == 0)[:, None].expand(steps, count)
    obs, action = torch.randn(steps + 1, count, 2), torch.randint(3, (steps, count))
    return Batch(obs[:-1], action, torch.randn(steps, count), (~ended).float(), obs[1:], {"ended": ended})


@pytest.mark.parametrize("cut", [False, True], ids=["terminated", "cut off by a time limit"])
def test_each_step_has_for_its_target_how_often_its_episode_is_preferred(cut: bool) -> None:
    """With lambda 1, whatever the critic says: 2 win rate - 1, where two episodes differ by how often action 0 was taken."""
    made = spo.make(spo.Config(rater="tests.papers.test_spo:fewer_zeros", lam=1.0, comparisons=4_000), SPEC)
    torch.manual_seed(0)
    b = rollout()
    if cut:
        b.discount[:-1] = 1.0
    _, rows, metrics = made.prepare(made.init(), b)
    zeros = (b.action == 0).float().unflatten(0, (4, 3)).sum(1)  # (4 in time, 4 environments)
    all_of = zeros.flatten()
    chance = 0.5 + (all_of[None] - all_of[:, None]) / 6
    rate = (chance.sum(1) - 0.5) / 15  # against each of the 15 others
    wanted = (2 * rate - 1).view(4, 4).repeat_interleave(3, 0).flatten()
    np.testing.assert_allclose(rows.extra["target"], wanted, atol=0.06)
    assert float(np.corrcoef(rows.extra["target"], wanted)[0, 1]) > 0.99
    assert float(metrics["rated"]) == 1


def fewer_zeros(first: Episode, second: Episode) -> float:
    return 0.5 + float((second.action == 0).sum() - (first.action == 0).sum()) / 6


def test_what_is_not_whole_is_neither_rewarded_nor_ended() -> None:
    made = spo.make(spo.Config(lam=1.0), SPEC)
    s, b = made.init(), rollout(length=5)  # 5, 5, and 2 steps that the rollout's end cuts off
    b.extra["ended"] = b.extra["ended"].clone()
    b.extra["ended"][-1] = True
    _, rows, metrics = made.prepare(s, b)
    assert float(metrics["rated"]) == pytest.approx(10 / 12)
    shown = (b.next_obs - rows_mean(b)) / rows_std(b)
    value = float(made.losses["critic"](s.critic.params, Batch(shown[-1], b.action[-1], b.reward[-1], b.discount[-1], shown[-1],
                                               {"target": torch.zeros(4)}))[1]["value"])  # fmt: skip
    assert float(rows.extra["target"].view(12, 4)[-1].mean()) == pytest.approx(value, abs=1e-5)


def rows_mean(b: Batch) -> torch.Tensor:
    return b.obs.flatten(0, 1).mean(0)


def rows_std(b: Batch) -> torch.Tensor:
    return (b.obs.flatten(0, 1).var(0, correction=0) + 1e-8).sqrt()


@pytest.mark.parametrize("module", [spo, reward_model])
def test_its_losses_are_those_of_ppo(module: Any) -> None:
    ours, theirs = module.make(module.Config(entropy_weight=0.1), SPEC), ppo.make(ppo.Config(entropy_weight=0.1), SPEC)
    s = ours.init()
    extra = {"advantage": torch.randn(8), "logp": torch.full((8,), -1.2), "target": torch.randn(8), "value": torch.zeros(8)}
    b = Batch(torch.randn(8, 2), torch.randint(3, (8,)), torch.zeros(8), torch.ones(8), torch.randn(8, 2), extra)
    for name in ("actor", "critic"):
        p = getattr(s, name).params
        assert float(ours.losses[name](p, b)[0]) == pytest.approx(float(theirs.losses[name](p, b)[0]), rel=1e-6), name


def play(made: Learner, rollouts: int, rounds: int, count: int = 16) -> list[list[float]]:
    """Rounds without observations; how often each action was taken, by rollout."""
    stepper, steps, shares = Stepper(made, made.init()), 2 * rounds, []
    obs = torch.zeros(steps, count, 2)
    over = (torch.arange(1, steps + 1) % rounds == 0)[:, None].expand(steps, count)
    for _ in range(rollouts):
        action = made.act(made.policy(stepper.state), obs.flatten(0, 1), True).view(steps, count)
        shares.append([float((action == a).float().mean()) for a in range(3)])
        rows = stepper.prepare(Batch(obs, action, torch.zeros(steps, count), (~over).float(), obs, {"ended": over}))
        for _ in range(4):
            stepper.step(rows)
    return shares


def middle(first: Episode, second: Episode) -> float:
    """Action 1 is preferred to 0 and to 2."""
    return 0.5 + 0.5 * float((first.action == 1).float().mean() - (second.action == 1).float().mean())


@pytest.mark.parametrize("module", [spo, reward_model])
def test_what_is_preferred_to_all_is_learnt(module: Any) -> None:
    torch.manual_seed(0)
    cfg = module.Config(rater="tests.papers.test_spo:middle", hidden=(8,), lr=1e-2, normalise_obs=False)
    assert play(module.make(cfg, SPEC), 30, 4)[-1][1] > 0.9


class Counting(gym.Env[Any, Any]):
    """Shows how many steps of its episode are over; it ends after 7."""

    observation_space, action_space = spaces.Box(0, 10, (1,), np.float32), spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return np.full(1, self.t, np.float32), float(action), self.t == 7, False, {}


LENGTHS: list[int] = []


def from_the_start(first: Episode, second: Episode) -> float:
    for each in (first, second):
        assert each.obs[:, 0].tolist() == list(range(7)), "not a whole episode"
        LENGTHS.append(len(each.obs))
    return 0.5


OPTIONS = {
    "hidden": (8,), "rollout": 10, "batch_size": 10, "epochs": 1, "comparisons": 3, "eval_every": 30, "eval_episodes": 1,
    "log_every": 30, "checkpoint_every": 26, "compile_after": -1, "sinks": (), "panel": False, "num_envs": 2, "quiet": True,
}  # fmt: skip


def test_every_rollout_begins_with_new_episodes(tmp_path: Any) -> None:
    LENGTHS.clear()
    rated = {"rater": "tests.papers.test_spo:from_the_start"}
    result = thespis.train("spo", Counting, steps=120, out=tmp_path / "run", **OPTIONS | rated)
    assert result.finished
    assert len(LENGTHS) == 6 * 3 * 2


@pytest.mark.parametrize("name", ["spo", "reward_model"])
def test_a_run_that_is_stopped_and_resumed_is_the_whole_one(name: str, tmp_path: Any) -> None:
    rated = {"rater": "thespis.worlds.raters:often_mistaken"} | ({"kept": 30, "fits": 2} if name == "reward_model" else {})
    thespis.train(name, Counting, steps=120, out=tmp_path / "whole", **OPTIONS | rated)
    part = thespis.train(name, Counting, steps=60, out=tmp_path / "part", **OPTIONS | rated)
    thespis.resume(part, steps=120, env=Counting, quiet=True)
    assert_equal(tmp_path / "part", tmp_path / "whole")


def test_a_run_that_names_a_rater_of_its_own_is_resumed_where_you_name_it_too(tmp_path: Any) -> None:
    own = {"rater": "tests.papers.test_spo:from_the_start"}
    run = thespis.train("spo", Counting, steps=20, out=tmp_path / "run", **OPTIONS | own)
    with pytest.raises(Fault, match=r"rater is 'tests.papers.test_spo:from_the_start', which is code that .*: name it again"):
        thespis.resume(run, steps=40, env=Counting)
    assert thespis.resume(run, steps=40, env=Counting, **own).finished


def test_a_rater_that_is_not_there_ends_the_run_in_one_line(tmp_path: Any) -> None:
    with pytest.raises(Fault, match="rater is 'nowhere:f', which cannot be imported"):
        thespis.train("spo", Counting, steps=40, out=tmp_path / "run", **OPTIONS | {"rater": "nowhere:f", "eval_episodes": 0})


# ------------------------------------------------------------------------------------------------------------- the reward model


def test_the_rewards_loss_is_that_of_bradley_and_terry() -> None:
    made = reward_model.make(reward_model.Config(hidden=(6,), kept=9), SPEC)
    p = {k: x.double() for k, x in made.init().reward.params.items()}
    steps = torch.randn(9, 5, dtype=torch.float64)
    number = torch.tensor([3, 4, 4, 4, 5, 6, 6, 7, 7])  # of episode 3 a part may be gone
    pairs = [(4, 5, 1.0), (6, 4, 0.0), (3, 6, 1.0), (7, 6, 0.25), (-1, -1, 0.5)]
    first, second = (torch.tensor([pair[i] for pair in pairs]) for i in (0, 1))
    asked = {
        "steps": steps,
        "episode": number,
        "first": first,
        "second": second,
        "won": torch.tensor([x for *_, x in pairs]).double(),
    }
    hidden = np.maximum(steps.numpy() @ p["w0"].numpy() + p["b0"].numpy(), 0)
    each = (hidden @ p["w1"].numpy() + p["b1"].numpy())[:, 0]
    total, count = 0.0, 0
    for i, j, won in pairs:
        if min(i, j) > 3:
            chance = 1 / (1 + np.exp(each[number == j].sum() - each[number == i].sum()))
            total -= won * np.log(chance) + (1 - won) * np.log(1 - chance)
            count += 1
    assert count == 3
    assert float(made.losses["reward"](p, asked)[0]) == pytest.approx(total / count, rel=1e-10)


def test_it_keeps_the_newest_whole_episodes_and_their_comparisons() -> None:
    made = reward_model.make(reward_model.Config(hidden=(6,), kept=40, comparisons=5, fits=1, normalise_obs=False), SPEC)
    s, shown = made.init(), []
    for _ in range(3):
        b = rollout()  # 16 episodes of 3 steps
        s, _, _ = made.prepare(s, b)
        shown += [b.obs[3 * i : 3 * i + 3, env] for env in range(4) for i in range(4)]
    steps, number = s.asked["steps"], s.asked["episode"]
    assert number.tolist() == [i for i in range(48) for _ in range(3)][-40:]
    for row, i in zip(steps.unfold(0, 1, 1)[1:], number[1:].tolist(), strict=True):
        assert row[:2, 0].tolist() in shown[i].tolist()
    assert s.asked["first"][-5:].min() >= 32
    assert s.asked["first"][-10:-5].min() >= 16
    assert s.asked["first"][-15:-10].max() < 16
    assert (s.asked["first"][:-15] == -1).all()
    assert all(x.isfinite().all() for x in leaves(s).values())
