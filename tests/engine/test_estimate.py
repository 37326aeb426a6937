"""What a policy is worth by data alone, beside the exact value of a small table and importance weights by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import thespis
from thespis import cli
from thespis.core import Box, Discrete, Fault, Spec
from thespis.data import Dataset
from thespis.estimate import cloned, estimate, fitted_q, importance

STATES, GAMMA = 4, 0.8
SPEC = Spec(Box(STATES), Discrete(2))
REWARD = np.array([[0.0, 0.5], [1.0, -1.0], [0.2, 2.0], [-0.5, 0.3]])
P = np.array([
    [[0.7, 0.3, 0.0, 0.0], [0.1, 0.1, 0.8, 0.0]],
    [[0.0, 0.5, 0.5, 0.0], [0.3, 0.0, 0.0, 0.7]],
    [[0.2, 0.2, 0.2, 0.4], [0.0, 0.9, 0.1, 0.0]],
    [[0.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.0, 0.0]],
])  # fmt: skip
STOP = 0.3  # an episode ends after each step with this probability
POLICY = np.array([1, 0, 1, 1])  # the one that is judged
BEHAVIOUR = 0.5  # probability of choice 1 for who made the data


def exact() -> float:
    """V = r + gamma (1 - stop) P V, solved, at state 0."""
    at = np.arange(STATES)
    return float(np.linalg.solve(np.eye(STATES) - GAMMA * (1 - STOP) * P[at, POLICY], REWARD[at, POLICY])[0])


def recorded(episodes: int, seed: int) -> Dataset:
    rng = np.random.default_rng(seed)
    rows, lengths, last = [], [], []
    for _ in range(episodes):
        s, over, count = 0, False, 0
        while not over:
            a = int(rng.random() < BEHAVIOUR)
            after, over = int(rng.choice(STATES, p=P[s, a])), bool(rng.random() < STOP)
            rows.append((s, a, REWARD[s, a], over))
            s, count = after, count + 1
        lengths.append(count)
        last.append(s)
    s, a, r, over = map(np.array, zip(*rows, strict=True))
    one = np.eye(STATES, dtype=np.float32)
    return Dataset(one[s], a, r.astype(np.float32), over, np.array(lengths), one[np.array(last)])


def act(obs: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(POLICY)[obs.argmax(-1)]


def ratio(data: Dataset) -> np.ndarray:
    behaviour = np.where(data.action == 1, BEHAVIOUR, 1 - BEHAVIOUR)
    return (data.action == POLICY[data.obs.argmax(1)]) / behaviour


def test_fitted_q_finds_the_exact_value_of_a_table() -> None:
    data = recorded(400, 0)
    behaviour = importance(np.ones(len(data.reward)), data.reward, data.lengths, GAMMA)
    assert behaviour[1][1] < exact() - 0.3, "who made the data must be worth less"
    value, (low, high) = fitted_q(SPEC, data, act, GAMMA, 1500, hidden=(32,), lr=1e-2, tau=0.05)
    assert low < exact() < high
    assert value == pytest.approx(exact(), abs=0.25)
    assert high - low < 1.5
    again = fitted_q(SPEC, data, act, GAMMA, 20, hidden=(32,))
    assert again == fitted_q(SPEC, data, act, GAMMA, 20, hidden=(32,))


def test_weighted_importance_sampling_covers_the_exact_value() -> None:
    """In nearly all of 40 datasets, as a 95% interval should."""
    inside, values = 0, []
    for seed in range(40):
        data = recorded(500, seed)
        value, (low, high), effective = importance(ratio(data), data.reward, data.lengths, GAMMA, draws=300)
        inside += low < exact() < high
        values.append(value)
        assert 1 <= effective <= 500
    assert inside >= 33
    assert np.mean(values) == pytest.approx(exact(), abs=0.15)


def test_importance_by_hand() -> None:
    """Two episodes; the first is over after one step and then goes on with nothing."""
    weights, reward, lengths = np.array([2.0, 0.5, 3.0]), np.array([1.0, 2.0, 4.0]), np.array([1, 2])
    value, _, effective = importance(weights, reward, lengths, 0.5)
    assert value == pytest.approx((2 * 1 + 0.5 * 2) / 2.5 + 0.5 * (1.5 * 4) / (2 + 1.5))
    assert effective == pytest.approx(3.5**2 / (4 + 2.25))
    value, interval, effective = importance(np.ones(3), reward, lengths, 0.5)
    assert (value, effective) == (pytest.approx((1 + 4) / 2), 2)
    assert interval[0] == 1
    assert interval[1] == 4
    with pytest.raises(Fault, match="ratio: it must be finite and 0 or more"):
        importance(np.array([np.inf, 1, 1]), reward, lengths, 0.5)


def test_who_made_the_data_is_cloned() -> None:
    data = recorded(300, 0)
    found = cloned(SPEC, data, 400)
    assert float(found[data.action == 1].mean()) == pytest.approx(BEHAVIOUR, abs=0.05)
    assert float(found[data.action == 0].mean()) == pytest.approx(1 - BEHAVIOUR, abs=0.05)


def test_a_run_is_judged_by_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = recorded(60, 3)
    starts = np.cumsum(data.lengths) - data.lengths
    after = np.concatenate([data.obs[1:], data.last[-1:]])
    after[starts[1:] - 1] = data.last[:-1]
    np.savez(tmp_path / "log.npz", observations=data.obs, actions=data.action, rewards=data.reward, terminals=data.terminated,
             next_observations=after)  # fmt: skip
    run = thespis.train(
        "bc", data=tmp_path / "log.npz", out=tmp_path / "run", steps=40, hidden=(8,), compile_after=-1, panel=False
    )
    found = estimate(run, tmp_path / "log.npz", gamma=GAMMA, updates=30)
    assert set(found) == {"gamma", "fqe", "data", "wis", "notes"}
    assert all(found[k]["interval95"][0] <= found[k]["value"] <= found[k]["interval95"][1] for k in ("fqe", "data"))
    capsys.readouterr()
    args = ["estimate", str(run.path), "--data", str(tmp_path / "log.npz"), "--updates", "20"]
    assert cli.main([*args, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gamma"] == 0.99
    assert cli.main(args) == 0
    assert "weighted importance sampling" in capsys.readouterr().out
