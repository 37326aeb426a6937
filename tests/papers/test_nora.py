"""NORA's critic, test and actor against loops over a table in float64; optimistic value iteration as its limit; and that its
optimism is what finds a way that chance does not."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

import thespis
from tests.engine.runs import assert_equal
from thespis.algos.tabular import nora
from thespis.core import Batch, Box, Discrete, Fault, Learner, Spec, replace, tree_map
from thespis.worlds.finite import Finite

H, S, A = 4, 3, 2


def learner(steps: int = H, states: int = S, actions: int = A, **numbers: Any) -> Learner:
    return nora.make(nora.Config(**numbers), Spec(Box(steps + states), Discrete(actions), horizon=steps))


def one_hot(h: int, x: int, steps: int = H, states: int = S) -> np.ndarray:
    return np.concatenate([np.eye(steps)[h], np.eye(states)[x]])


def as_batch(rows: list[tuple[int, int, int, float, int, bool]], steps: int = H, states: int = S) -> Batch:
    """Rows (h, x, a, reward, next x, over) as a rollout (T, 1, ...)."""
    columns = zip(
        *[
            (one_hot(h, x, steps, states), a, r, float(not over), one_hot(min(h + 1, steps - 1), y, steps, states))
            for h, x, a, r, y, over in rows
        ],
        strict=True,
    )
    obs, action, reward, discount, ahead = (torch.from_numpy(np.array(c))[:, None] for c in columns)
    return Batch(obs.double(), action, reward.double(), discount, ahead.double(), {"ended": discount == 0})


def chance_rows(count: int, seed: int) -> list[tuple[int, int, int, float, int, bool]]:
    """Episodes of a world that is not stationary; one in five ends early."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(count):
        x = int(rng.integers(S))
        for h in range(H):
            a, y = int(rng.integers(A)), int(rng.integers(S))
            over = h == H - 1 or rng.random() < 0.2
            rows.append((h, x, a, float(rng.random() * (h + x) / 6), y, over))
            if over:
                break
            x = y
    return rows


def by_hand(rows: Any, radius: float, optimism: bool = True, shape: tuple[int, int, int] = (H, S, A)) -> np.ndarray:
    """The critic that is fitted to rows, one pair after another."""
    steps, states, actions = shape
    f, ahead = np.zeros(shape), np.zeros(states)
    for h in reversed(range(steps)):
        for x in range(states):
            for a in range(actions):
                found = [r + (0 if over else ahead[y]) for i, j, k, r, y, over in rows if (i, j, k) == (h, x, a)]
                f[h, x, a] = steps - h if optimism else 0
                if found:
                    f[h, x, a] = min(np.mean(found) + optimism * radius / np.sqrt(len(found)), steps - h)
        ahead = f[h].max(-1)
    return f


@pytest.mark.parametrize("optimism", [True, False])
def test_the_critic_after_a_switch_is_the_one_fitted_by_hand(optimism: bool) -> None:
    rows, made = chance_rows(12, 0), learner(radius=0.4, switch=1e-12, optimism=optimism)
    s, _, metrics = made.prepare(tree_map(lambda x: x.double(), made.init()), as_batch(rows))
    np.testing.assert_allclose(s.critic.numpy(), by_hand(rows, 0.4, optimism), rtol=1e-12)
    assert float(metrics["switches"]) == 1


def test_it_switches_where_the_excess_reaches_so_many_budgets_and_then_starts_anew() -> None:
    """The excess is the squared error that a critic has beyond the least one, summed over the visits of a step of the episode."""
    first, later = chance_rows(5, 1), chance_rows(20, 2)
    base = learner(radius=0.4, switch=1e-12)
    s, rows, _ = base.prepare(tree_map(lambda x: x.double(), base.init()), as_batch(first))
    s, _ = base.update(s, rows)
    f, worst = by_hand(first, 0.4), 0.0
    for h in range(H):
        ahead, error = f[h + 1].max(-1) if h + 1 < H else np.zeros(S), 0.0
        for x in range(S):
            for a in range(A):
                targets = [r + (0 if over else ahead[y]) for i, j, k, r, y, over in first + later if (i, j, k) == (h, x, a)]
                if targets:
                    least = np.sum((targets - np.mean(targets)) ** 2)
                    error += np.sum((targets - f[h, x, a]) ** 2) - least
        worst = max(worst, error / (S * A * 0.4**2))
    for switch, happens in ((worst * 0.999, True), (worst * 1.001, False)):
        after, _, metrics = learner(radius=0.4, switch=switch).prepare(s, as_batch(later))
        assert float(metrics["excess"]) == pytest.approx(worst, rel=1e-9)
        assert bool((after.logits == 0).all()) == happens
        assert float(after.switches) == 1 + happens
        wanted = by_hand(first + later, 0.4) if happens else f
        np.testing.assert_allclose(after.critic.numpy(), wanted, rtol=1e-9)


def test_the_actor_weighs_actions_by_the_exponential_of_the_critics_sum() -> None:
    made = learner(lr=0.3)
    s, b = tree_map(lambda x: x.double(), made.init()), as_batch(chance_rows(4, 3))
    f = torch.rand(2, H, S, A, dtype=torch.float64)
    for each in f:
        s, _ = made.update(replace(s, critic=each), tree_map(lambda x: x.flatten(0, 1), b))
    weights = np.exp(0.3 * f.sum(0).numpy())
    np.testing.assert_allclose(s.logits.softmax(-1).numpy(), weights / weights.sum(-1, keepdims=True), rtol=1e-12)


def test_its_limit_is_optimistic_value_iteration() -> None:
    """A large step and no patience: in each episode the policy is the greedy one of a critic that was fitted just before."""
    env = gym.make("thespis/RiverSwim-v0", states=S, horizon=H).unwrapped
    assert isinstance(env, Finite)
    made, rows = learner(lr=1e9, switch=1e-12, radius=0.4), []
    s = tree_map(lambda x: x.double(), made.init())
    s, _ = made.update(s, tree_map(lambda x: x.flatten(0, 1), as_batch([(0, 0, 0, 0.0, 0, False)])))
    for episode in range(60):
        f, new = by_hand(rows, 0.4), []
        greedy = s.logits.softmax(-1).numpy()
        best = f == f.max(-1, keepdims=True)
        np.testing.assert_allclose(greedy, best / best.sum(-1, keepdims=True), atol=1e-9)
        (h, x), over = env.reset(seed=episode)[0], False
        while not over:
            a = int(greedy[h, x].argmax())
            (_, y), r, over, _, _ = env.step(np.int64(a))
            new.append((h, x, a, r, y, over))
            h, x = h + 1, y
        rows += new
        s, b, _ = made.prepare(s, as_batch(new))
        s, _ = made.update(s, b)
    assert float(s.switches) == 60


def test_without_optimism_data_of_every_pair_gives_the_optimal_values() -> None:
    """DeepSea is certain, so one visit of each pair says all; and `given` counts as `prepare` does."""
    env = gym.make("thespis/DeepSea-v0", size=4).unwrapped
    assert isinstance(env, Finite)
    rows = [
        (h, x, a, float(env.gain[h, x, a]), int(env.chance[h, x, a].argmax()), h == 3)
        for h in range(4) for x in range(4) for a in range(2)
    ]  # fmt: skip
    made, b = learner(4, 4, 2, optimism=False), as_batch(rows, 4, 4)
    s = tree_map(lambda x: x.double(), made.init())
    flat = tree_map(lambda x: x.flatten(0, 1), replace(b, extra={}))
    told, counted = made.given(s, flat), made.prepare(s, b)[0]
    np.testing.assert_allclose(told.critic.numpy(), env.best(), rtol=1e-12)
    for name in ("visits", "earned", "followed"):
        assert torch.equal(getattr(told, name), getattr(counted, name)), name


@pytest.mark.parametrize(("optimism", "offline", "solved"), [(True, 0, True), (False, 0, False), (False, 40, True)])
def test_optimism_or_data_opens_a_lock_that_chance_does_not(optimism: bool, offline: int, solved: bool) -> None:
    """With 4 actions and 6 steps chance succeeds once in 4,096 episodes; with data the form without optimism does, too."""
    env = gym.make("thespis/Lock-v0", code=3).unwrapped
    assert isinstance(env, Finite)
    steps, states, actions = env.gain.shape
    made, rng = learner(steps, states, actions, optimism=optimism), np.random.default_rng(0)
    s, best = made.init(), env.best().argmax(-1)

    def episode(pi: np.ndarray, seed: int) -> list[tuple[int, int, int, float, int, bool]]:
        (h, x), over, rows = env.reset(seed=seed)[0], False, []
        while not over:
            a = int((pi[h, x].cumsum() < rng.random() * pi[h, x].sum()).sum())
            (_, y), r, over, _, _ = env.step(np.int64(a))
            rows.append((h, x, a, r, y, over))
            h, x = h + 1, y
        return rows

    def single(b: Batch) -> Batch:
        return tree_map(lambda x: x.float() if x.is_floating_point() else x, b)

    if offline:
        pi = np.eye(actions)[best] * (1 - 1 / steps) + 1 / steps / actions
        data = single(as_batch([row for i in range(offline) for row in episode(pi, i)], steps, states))
        s = made.given(s, tree_map(lambda x: x.flatten(0, 1), replace(data, extra={})))
    for i in range(250):
        s, b, _ = made.prepare(s, single(as_batch(episode(s.logits.softmax(-1).numpy(), 1000 + i), steps, states)))
        s, _ = made.update(s, b)
    pi, ahead = s.logits.softmax(-1).numpy(), np.zeros(states)
    for h in reversed(range(steps)):
        ahead = (pi[h] * (env.gain[h] + env.chance[h] @ ahead)).sum(-1)
    assert (float(ahead @ env.first) > 0.9) == solved


def test_a_run_with_data_stopped_and_resumed_is_the_whole_one(tmp_path: Any) -> None:
    env = gym.make("thespis/Lock-v0")
    rows: dict[str, list[Any]] = {"observations": [], "actions": [], "rewards": [], "terminals": []}
    for seed in range(20):
        (obs, _), over = env.reset(seed=seed), False
        while not over:
            action = seed % 4
            ahead, reward, over, _, _ = env.step(action)
            for column, value in zip(rows.values(), (obs, action, reward, over), strict=True):
                column.append(value)
            obs = ahead
    data = {k: np.array(v) for k, v in rows.items()}
    options = {
        "steps": 120, "eval_every": 66, "eval_episodes": 2, "log_every": 33, "checkpoint_every": 42, "compile_after": -1,
        "sinks": (), "panel": False, "num_envs": 2, "quiet": True,
    }  # fmt: skip
    whole = thespis.train("nora", "thespis/Lock-v0", data=data, out=tmp_path / "whole", **options)
    part = thespis.train("nora", "thespis/Lock-v0", data=data, out=tmp_path / "part", **options | {"steps": 66})
    thespis.resume(part, steps=120, data=data, quiet=True)
    assert whole.finished
    a, b = (thespis.load(tmp_path / name) for name in ("whole", "part"))
    obs = np.array([0, 1])
    assert [a.act(obs) for _ in range(3)] == [b.act(obs) for _ in range(3)]
    assert_equal(tmp_path / "part", tmp_path / "whole")


def test_a_world_without_tables_is_told(tmp_path: Any) -> None:
    with pytest.raises(Fault, match="a world of tables is needed"):
        thespis.train("nora", "CartPole-v1", steps=10, out=tmp_path / "run", quiet=True)
