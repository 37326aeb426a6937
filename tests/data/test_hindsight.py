"""Hindsight against a slow model: lists of steps, walked one at a time. No two goals are equal, so a goal tells its step."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from thespis.core import Box, OffPolicy, Spec, leaves
from thespis.data import Hindsight, Replay, Rule, Shards, experience

GAMMA, NEAR = 0.9, 0.3
SPEC = Spec(Box(3), Box(1))  # the number of the step, what it achieved, what was asked for


def near(achieved: Any, desired: Any) -> Any:
    return np.abs(achieved - desired)[..., 0] < NEAR


JUDGES = {
    "reward alone": SimpleNamespace(reward=lambda a, d: np.float32(-1) * ~near(a, d), terminated=lambda a, d: None),
    "and end": SimpleNamespace(reward=lambda a, d: -np.abs(a - d)[..., 0], terminated=near),
}


def rule(judge: str = "and end", which: Any = "future", share: float = 0.8) -> Rule:
    return Rule((1, 2), (2, 3), lambda: JUDGES[judge], which, share)


def replay_of(rule: Rule, size: int, n_step: int = 1, num_envs: int = 1, batch: int = 200) -> Any:
    feed = OffPolicy(GAMMA, n_step, batch, size, 0, 1.0)
    return experience(SPEC, feed, num_envs, 0, frozenset(), hindsight=rule)


class Told:
    """Every step ever added to a replay, by environment."""

    def __init__(self, replay: Any, seed: int = 0):
        self.replay, self.rng = replay, np.random.default_rng(seed)
        self.steps: list[list[dict[str, Any]]] = [[] for _ in range(replay.num_envs)]
        self.count = 0
        self.obs = [self.new() for _ in self.steps]

    def new(self) -> np.ndarray:
        self.count += 1
        return np.array([self.count, *self.rng.normal(size=2)], np.float32)

    def step(self, p_end: float = 0.2) -> None:
        n = len(self.steps)
        last = [self.new() for _ in range(n)]
        for after, now in zip(last, self.obs, strict=True):
            after[2] = now[2]
        terminated, truncated = self.rng.random((2, n)) < p_end / 2
        reward = self.rng.normal(size=n).astype(np.float32)
        self.replay.add(np.stack(self.obs), np.zeros((n, 1), np.float32), reward, terminated, truncated, np.stack(last))
        for i in range(n):
            over = bool(terminated[i] or truncated[i])
            self.steps[i].append(
                {"obs": self.obs[i], "reward": reward[i], "terminated": bool(terminated[i]), "over": over, "last": last[i]}
            )
            self.obs[i] = self.new() if over else last[i]

    def cut(self, env: int) -> None:
        self.replay.cut(env)
        self.steps[env][-1]["over"] = True
        self.obs[env] = self.new()

    def check(self, judge: str, which: str) -> list[tuple[int, int, int]]:
        """Every row of a batch is what the model says it is, given its goal. Of those with another goal than they had: the first
        step, the goal's step and the episode's last."""
        feed, found, judged = self.replay.feed, [], JUDGES[judge]
        place = {step["obs"][0]: (i, t) for i, steps in enumerate(self.steps) for t, step in enumerate(steps)}
        goals = {step["last"][1]: (i, t) for i, steps in enumerate(self.steps) for t, step in enumerate(steps)}
        b = self.replay.sample()
        for obs, reward, discount, next_obs in zip(b.obs.numpy(), b.reward, b.discount, b.next_obs.numpy(), strict=True):
            env, t = place[obs[0]]
            steps = self.steps[env]
            assert t >= len(steps) - self.replay.length
            assert obs[1] == steps[t]["obs"][1]
            goal, own = obs[2], obs[2] == steps[t]["obs"][2]
            end = t
            while end + 1 < len(steps) and not steps[end]["over"]:
                end += 1
            if not own:
                assert goals[goal][0] == env
                assert (t <= goals[goal][1] <= end) if which == "future" else goals[goal][1] == end
                found.append((t, goals[goal][1], end))
            total, weight = 0.0, 1.0
            for k in range(feed.n_step):
                step = steps[t + k]
                achieved, wanted, asked = (np.array([x]) for x in (step["last"][1], goal, step["obs"][2]))
                new = judged.terminated(achieved, wanted)
                if own:
                    got, ends = step["reward"], step["terminated"]
                else:
                    got = judged.reward(achieved, wanted)
                    ends = step["terminated"] if new is None else new or (step["terminated"] and not near(achieved, asked))
                total, weight = total + weight * got, weight * GAMMA
                if ends or step["over"] or t + k + 1 == len(steps):
                    break
            assert float(reward) == pytest.approx(total, abs=1e-5)
            assert float(discount) == pytest.approx(0.0 if ends else weight, abs=1e-6)
            assert np.array_equal(next_obs, [*step["last"][:2], goal if not own else step["last"][2]])
        return found


@pytest.mark.parametrize("which", ["future", "final"])
@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize(("n_step", "num_envs"), [(1, 1), (1, 3), (4, 1), (3, 2)])
def test_every_row_is_as_the_slow_model_has_it(which: Any, judge: str, n_step: int, num_envs: int) -> None:
    replay = replay_of(rule(judge, which), 40 * num_envs, n_step, num_envs)  # wraps around twice
    told = Told(replay)
    found = []
    for t in range(100):
        told.step(p_end=0.2 if t % 40 else 0.0)
        if t % 9 == 8:
            told.check(judge, which)  # the newest step is known by then, and may still be cut
            told.cut(t % num_envs)
        if t % 5 == 4:
            found += told.check(judge, which)
    assert len(found) == pytest.approx(0.8 * 20 * 200, rel=0.05)


def test_future_steps_are_equally_likely() -> None:
    replay = replay_of(rule(share=1.0), 1000, batch=20_000)
    told = Told(replay)
    for _ in range(10):
        told.step(p_end=0.0)
    found = np.array(told.check("and end", "future"))
    for t in range(10):
        counts = np.bincount(found[found[:, 0] == t][:, 1], minlength=10)
        assert counts[:t].sum() == 0
        assert counts[t:] / counts.sum() == pytest.approx(1 / (10 - t), abs=0.05)


def test_an_episode_longer_than_the_ring() -> None:
    told = Told(replay_of(rule(), 20))
    for _ in range(70):
        told.step(p_end=0.0)
        told.check("and end", "future")
    told.cut(0)
    for _ in range(15):
        told.step(p_end=0.0)
        told.check("and end", "future")


def test_from_disk_it_goes_on_as_if_it_had_never_stopped() -> None:
    told = Told(replay_of(rule(), 40, 2, 2))
    for _ in range(33):
        told.step()
        told.replay.sample()
    again = replay_of(rule(), 40, 2, 2)
    held = told.replay.oldest()
    again.load([(held, told.replay.segment(held, 33))], 33)
    again.rng.set_state(told.replay.rng.get_state())
    for env in range(2):
        again.cut(env)
        told.replay.cut(env)
    a, b = leaves(told.replay.sample()), leaves(again.sample())
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_shards_share_one_generator_and_relabel_each_its_own() -> None:
    feed = OffPolicy(GAMMA, 1, 64, 100, 0, 1.0)
    shards = experience(SPEC, feed, 1, 0, frozenset(), collectors=2, hindsight=rule(share=1.0))
    assert isinstance(shards, Shards)
    for seed, part in enumerate(shards.parts):
        assert isinstance(part.relabel, Hindsight)
        told = Told(part, seed)
        for _ in range(20):
            told.step()
    asked = {float(x) for part in shards.parts for x in part.obs[:20, 2]}
    assert not {float(x) for x in shards.sample().obs[:, 2]} & asked


def test_without_it_a_batch_is_as_ever() -> None:
    told = Told(replay_of(rule(share=0.0), 40))
    plain = Replay(SPEC, told.replay.feed)
    other = Told(plain)
    for _ in range(60):
        told.step()
        other.step()
    a, b = leaves(told.replay.sample()), leaves(plain.sample())
    assert plain.relabel is None
    assert all(torch.equal(a[k], b[k]) for k in a)
