"""An agent a choice: ppo's step for each in its own columns, a ratio for each, and nothing that one learns moves another."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.papers import reference as ref
from thespis.algos.agents import marl_dse
from thespis.algos.onpolicy import ppo
from thespis.core import Batch, Box, Discrete, Fault, Learner, MultiDiscrete, Spec, replace

OBS, NS, T, N = 3, (2, 4, 3), 4, 3
SPEC = Spec(Box(OBS), MultiDiscrete(NS))
SAME: dict[str, Any] = {"hidden": (5,), "lr": 1e-2, "entropy_weight": 0.02, "max_norm": 0.05}


def rollout(ns: tuple[int, ...] = NS) -> Batch:
    g = torch.Generator().manual_seed(3)
    obs, ahead = torch.randn(2, T, N, OBS, generator=g)
    action = torch.stack([torch.randint(n, (T, N), generator=g) for n in ns], -1)
    extra = {"ended": torch.rand(T, N, generator=g) < 0.3, "return_std": torch.full((T, N), 2.0)}
    extra["return_max"] = extra["return_std"]
    discount = 0.99 * (torch.rand(T, N, generator=g) < 0.8)
    return Batch(obs, action, torch.randn(T, N, generator=g), discount, ahead, extra)


def mine(p: dict[str, Tensor], agent: int, n: int | None = None) -> dict[str, Tensor]:
    """What one agent has of all parameters; of the last layer the columns of its n choices."""
    own = {k: x[agent] for k, x in p.items()}
    return own if n is None else own | {"w1": own["w1"][:, :n], "b1": own["b1"][:n]}


def learner(**given: Any) -> Learner:
    return marl_dse.make(marl_dse.Config(**SAME | given), SPEC)


def moved(made: Learner, s: Any, b: Batch) -> Any:
    with torch.no_grad():
        return made.update(s, b)[0]


@pytest.mark.parametrize("ns", [(4,), NS])
def test_each_agent_steps_as_ppo_does_in_its_own_columns(ns: tuple[int, ...]) -> None:
    """Its parent, where there is one choice; and for each of several."""
    kind = Discrete(ns[0]) if len(ns) == 1 else MultiDiscrete(ns)
    made = marl_dse.make(marl_dse.Config(**SAME), Spec(Box(OBS), kind))
    torch.manual_seed(0)
    s, roll = made.init(), rollout(ns)
    s = replace(s, actor=replace(s.actor, params={k: x + 0.3 * torch.randn_like(x) for k, x in s.actor.params.items()}))
    assert made.prepare
    given = replace(roll, action=roll.action[..., 0]) if len(ns) == 1 else roll
    rows = made.prepare(s, given)[1]
    rows.extra["logp"] += 0.3 * torch.randn_like(rows.extra["logp"])  # so that some are beyond the clip
    after = moved(made, s, rows)
    for i, n in enumerate(ns):
        alone = ppo.make(ppo.Config(normalise_obs=False, **SAME), Spec(Box(OBS), Discrete(n)))
        t = alone.init()
        t = replace(t, actor=replace(t.actor, params=mine(s.actor.params, i, n)))
        t = replace(t, critic=replace(t.critic, params=mine(s.critic.params, i)))
        assert alone.prepare
        own = alone.prepare(t, replace(roll, action=roll.action[..., i]))[1]
        for name in ("advantage", "target"):
            torch.testing.assert_close(own.extra[name], rows.extra[name][:, i])
        own.extra["logp"] = rows.extra["logp"][:, i]
        t = moved(alone, t, own)
        torch.testing.assert_close(mine(after.actor.params, i, n), t.actor.params, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(mine(after.critic.params, i), t.critic.params, rtol=1e-4, atol=1e-6)


def test_what_one_agent_did_moves_no_other() -> None:
    made = learner()
    torch.manual_seed(0)
    s = made.init()
    assert made.prepare
    rows = made.prepare(s, rollout())[1]
    other = replace(rows, action=rows.action.clone())
    other.action[:, 1] = (other.action[:, 1] + 1) % NS[1]
    a, b = (moved(made, s, x).actor.params for x in (rows, other))
    for i, same in enumerate((True, False, True)):
        assert all(x[i].equal(b[k][i]) for k, x in a.items()) == same


def test_each_ratio_has_a_clip_of_its_own_where_ppo_has_one_for_all() -> None:
    """Three ratios of e^0.1, each within 1.2, of good actions: ppo's one ratio, e^0.3, is beyond it and has nothing to gain."""
    made, joint = learner(entropy_weight=0.0), ppo.make(ppo.Config(normalise_obs=False, normalise_advantage=False), SPEC)
    torch.manual_seed(0)
    s, t = made.init(), joint.init()
    assert made.prepare
    assert joint.prepare
    advantage = torch.linspace(1, 2, T * N)
    rows = made.prepare(s, rollout())[1]
    for i, n in enumerate(NS):
        extra = {"advantage": advantage, "logp": rows.extra["logp"][:, i] - 0.1}
        own = replace(rows, action=rows.action[:, i], extra=extra)
        slopes = ref.gradient(lambda p, b, n=n: made.losses["actor"](p, b, n), mine(s.actor.params, i), own)
        assert max(float(g.abs().max()) for g in slopes.values()) > 1e-3
    rows = joint.prepare(t, rollout())[1]
    rows.extra.update(advantage=advantage, logp=rows.extra["logp"] - 0.3)
    assert max(float(g.abs().max()) for g in ref.gradient(joint.losses["actor"], t.actor.params, rows).values()) == 0


def test_it_takes_no_choice_that_an_agent_has_not() -> None:
    made = learner()
    s = made.init()
    p = {k: torch.zeros_like(x) for k, x in s.actor.params.items()}
    p["b1"][0, 3] = p["b1"][2, 3] = 50.0  # of agents that have two and three
    torch.manual_seed(0)
    drawn = made.act(p, torch.zeros(3_000, OBS), True)
    for i, n in enumerate(NS):
        counts = drawn[:, i].bincount(minlength=n)
        assert len(counts) == n
        assert (counts / 3_000 - 1 / n).abs().max() < 0.05
    p["b1"][1, 2] = 1.0
    assert made.act(p, torch.zeros(1, OBS), False)[0, 1] == 2


def test_defaults_and_what_it_is_not_for() -> None:
    ref.assert_defaults(marl_dse, clip=0.2, hidden=(32, 32, 32), gamma=0.99, lam=0.95, entropy_weight=0.01)
    with pytest.raises(Fault, match=r"choices are needed, the environment's actions are Box\(dim=2\)"):
        marl_dse.make(marl_dse.Config(), Spec(Box(OBS), Box(2)))
