"""TLPO: pairs, losses and the mixing of adapters by hand; its stages; and that it goes where its judge points."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import thespis
from thespis.algos.flow import flow_matching, tlpo
from thespis.core import Batch, Box, Learner, Params, Spec, replace
from thespis.nets import flow

from . import reference as ref

SPEC = Spec(Box(3), Box(2), rewards=("left", "right"))
NET = {"hidden": (6, 5), "ode_steps": 3}


def learner(spec: Spec = SPEC, **numbers: Any) -> Learner:
    return tlpo.make(tlpo.Config(**{**NET, "rank": 2, "gate_hidden": 4, **numbers}), spec)


def begun(made: Learner) -> tlpo.State:
    """In float64, with adapters and a gate that do something."""
    torch.manual_seed(0)
    s = ref.aged(made.init())
    actor, gate = ({k: p + 0.3 * torch.randn_like(p) for k, p in g.params.items()} for g in (s.actor, s.gate))
    return replace(s, actor=replace(s.actor, params=actor), gate=replace(s.gate, params=gate))


def merged(s: tlpo.State, g: np.ndarray) -> Params:
    """The field with adapters in its weights; g (layers, judges)."""
    p = dict(s.base)
    for i, each in enumerate(g):
        for d, weight in enumerate(each):
            p[f"w{i}"] = p[f"w{i}"] + weight * s.actor.params[f"down{i}"][d] @ s.actor.params[f"up{i}"][d]
    return p


def opened(s: tlpo.State, t: float, kind: str) -> np.ndarray:
    """(layers, judges)"""
    if kind == "even":
        return np.full((3, 2), 0.5)
    p = {k: x.numpy() for k, x in s.gate.params.items()}
    waves = np.array([t, np.sin(np.pi * t), np.cos(np.pi * t), np.sin(2 * np.pi * t), np.cos(2 * np.pi * t)])
    out = []
    for i in range(3):
        h = p["b0"] + (waves @ p["time"] if kind != "layer" else 0) + (p["layer"][i] if kind != "time" else 0)
        out.append(1 / (1 + np.exp(-(h / (1 + np.exp(-h)) @ p["w1"] + p["b1"]))))
    return np.array(out)


def rollout() -> Batch:
    """Three takes of two environments: the first two of the first, the last two of the second, are of one episode."""
    torch.manual_seed(2)
    obs, x, reward = torch.randn(3, 2, 3).double(), torch.rand(3, 2, 2).double() * 2 - 1, torch.randn(3, 2, 2).double()
    ended = torch.tensor([[False, True], [True, False], [False, True]])
    return Batch(obs, x, reward, reward, obs, {"ended": ended})


def test_pairs_are_takes_of_one_episode_and_each_judge_has_its_winner() -> None:
    made, b = learner(), rollout()
    _, rows, told = made.prepare(made.init(), b)
    wanted, ruled = [], 0
    for t in range(2):
        for n in range(2):
            same = not bool(b.extra["ended"][t, n])
            wanted.append(((b.reward[t, n] - b.reward[t + 1, n]).sign() * same).tolist())
            ruled += same and wanted[-1][0] == wanted[-1][1]
            pair = torch.cat([b.action[t, n], b.action[t + 1, n]])
            assert rows.action[2 * t + n].equal(pair)
            assert rows.obs[2 * t + n].equal(b.obs[t, n])
    assert rows.reward.tolist() == wanted
    assert float(told["ruled"]) == ruled / 2  # of two pairs


def placed(rows: Batch) -> Batch:
    torch.manual_seed(5)
    noise = torch.randn(len(rows.obs), 2, dtype=ref.F64)
    return replace(rows, extra={"noise": noise, "t": torch.rand(len(rows.obs), 1, dtype=ref.F64)})


def by_hand(s: tlpo.State, rows: Batch, sign: np.ndarray, g: Any, beta: float) -> float:
    """The DPO loss; g: row -> (layers, judges)."""
    field, total = flow(SPEC, "it", NET["hidden"], 3), 0.0
    for i in np.flatnonzero(sign):
        t, x0, c = rows.extra["t"][i], rows.extra["noise"][i], rows.obs[i : i + 1, :1]
        grew = []
        for x1 in rows.action[i].chunk(2):
            x, u = (1 - t) * x0 + t * x1, x1 - x0
            after, before = (field.velocity(p, x[None], t[None], c)[0] for p in (merged(s, g(float(t))), s.base))
            grew.append(float((after - u).square().mean() - (before - u).square().mean()))
        winner, loser = grew if sign[i] > 0 else grew[::-1]
        total += np.log1p(np.exp(beta / 2 * (winner - loser)))
    return total / np.count_nonzero(sign)


def test_adapters_learn_each_from_its_own_judge() -> None:
    made = learner(beta=7.0)
    s = begun(made)
    rows = placed(made.prepare(s, rollout())[1])
    one = [np.tile(np.eye(2)[d], (3, 1)) for d in range(2)]
    wanted = sum(by_hand(s, rows, rows.reward[:, d].numpy(), lambda t, d=d: one[d], 7.0) for d in range(2))
    loss, told = made.losses["actor"](s.actor.params, s, rows)
    assert float(loss) == pytest.approx(wanted, rel=1e-10)
    right = [[np.sign(by_hand(s, rows, np.eye(4)[i], lambda t, d=d: one[d], 7.0) - np.log(2)) == -rows.reward[i, d]
              for i in np.flatnonzero(rows.reward[:, d])] for d in range(2)]  # fmt: skip
    assert float(told["agreed"]) == pytest.approx(np.mean([np.mean(each) for each in right]))
    still = {k: torch.zeros_like(p) for k, p in s.actor.params.items()}
    assert float(made.losses["actor"](still, s, rows)[0]) == pytest.approx(2 * np.log(2)), "no adapters: each pair is a coin"


@pytest.mark.parametrize("kind", ["full", "time", "layer"])
def test_the_gate_learns_from_pairs_with_a_winner_in_all(kind: str) -> None:
    made = learner(beta=7.0, gate=kind)
    s = begun(made)
    rows = placed(made.prepare(s, rollout())[1])
    rows = replace(rows, reward=torch.tensor([[1, 1], [-1, 1], [0, 0], [-1, -1]], dtype=ref.F64))
    sign = np.array([1, 0, 0, -1])
    loss = float(made.losses["gate"](s.gate.params, s, rows)[0])
    assert loss == pytest.approx(by_hand(s, rows, sign, lambda t: opened(s, t, kind), 7.0), rel=1e-10)


@pytest.mark.parametrize("kind", ["full", "time", "layer", "even"])
def test_a_sample_goes_by_the_mixture_of_its_time_and_the_pairs_by_the_field_alone(kind: str) -> None:
    made = learner(gate=kind)
    s, field = begun(made), flow(SPEC, "it", NET["hidden"], 3)
    obs = 0.2 * torch.randn(4, 3, dtype=ref.F64)
    x = obs[:, 1:]
    for i in range(3):
        t = torch.full((4, 1), i / 3, dtype=ref.F64)
        x = x + field.velocity(merged(s, opened(s, i / 3, kind)), x, t, obs[:, :1]) / 3
    torch.testing.assert_close(made.act(made.policy(s), obs, False), x.clamp(-1, 1))
    torch.manual_seed(1)
    alone = made.act(made.policy(s), obs, True)
    torch.manual_seed(1)
    assert alone.equal(field.sample(s.base, obs, True))


def test_adapters_move_first_and_the_gate_after_them_and_the_field_never() -> None:
    made = learner(adapter_updates=3)
    s = ref.double(made.init())
    rows = made.prepare(s, rollout())[1]
    s = replace(s, actor=replace(s.actor, params={k: p + 0.1 for k, p in s.actor.params.items()}))
    for i in range(5):
        after, _ = made.update(s, rows, 0)
        moved = [any(not x.equal(old[k]) for k, x in new.items()) for new, old in
                 ((after.actor.params, s.actor.params), (after.gate.params, s.gate.params))]  # fmt: skip
        assert moved == [i < 3, i >= 3], i
        ref.assert_same(after.base, s.base)
        s = after


def test_it_begins_with_the_field_of_another_algorithm(tmp_path: Any) -> None:
    options = {"hidden": (8,), "ode_steps": 2, "eval_episodes": 0, "panel": False, "sinks": ()}
    old = thespis.train("flow_matching", "thespis/Talking-v0", steps=5, out=tmp_path / "old", **options)
    new = thespis.train("tlpo", "thespis/Talking-v0", steps=8, rollout=4, start_from=old, out=tmp_path / "new", **options)
    ref.assert_same(thespis.load(new).params["actor"], thespis.load(old).params["actor"])


def test_signature_samples_go_where_the_judge_points() -> None:
    """The field makes N(0, 0.3^2); the judge likes what is larger."""
    spec, g = Spec(Box(1), Box(1)), torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    parent = flow_matching.make(flow_matching.Config(hidden=(32, 32), lr=5e-3), spec)
    made = tlpo.make(tlpo.Config(hidden=(32, 32), gate="even", lr=3e-3, beta=20.0), spec)
    old = parent.init()
    with torch.no_grad():
        for _ in range(250):
            z = torch.randn(256, 1, generator=g)
            old, _ = parent.update(old, Batch(z, 0.3 * z, z[:, 0], z[:, 0], z), 0)
        s = replace(made.init(), base=old.actor.params)
        for _ in range(100):
            z = torch.randn(2, 128, 1, generator=g)
            ended = torch.tensor([False, True])[:, None].expand(2, 128)
            _, rows, _ = made.prepare(s, Batch(z, 0.3 * z, z[..., 0], z[..., 0], z, {"ended": ended}))
            s, _ = made.update(s, rows, 0)
        z = torch.randn(500, 1, generator=g)
        before, after = parent.act(parent.policy(old), z, False), made.act(made.policy(s), z, False)
    assert float(before.mean().abs()) < 0.08
    assert float((after - before).mean()) > 0.1
