"""GMORL: its parent on numbers, its encoder by hand, its preferences, and that one policy has the answer for each of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import thespis
from tests.export.test_export import opened
from thespis.algos.discrete import gmorl, sac_discrete
from thespis.core import Batch, Box, Discrete, Fault, Learner, Spec, replace

from . import reference as ref
from .reference import BATCH

OBS, CHOICES = 6, 3
SPEC = Spec(Box(OBS), Discrete(CHOICES), rewards=("delay", "energy"))


def learner(**numbers: Any) -> Learner:
    return gmorl.make(gmorl.Config(**{"hidden": (12, 10), **numbers}), SPEC)


@pytest.fixture
def batch() -> Batch:
    obs, after, preference = torch.randn(BATCH, OBS), torch.randn(BATCH, OBS), torch.rand(BATCH, 1)
    told = torch.cat([preference, 1 - preference], -1)
    discount = torch.tensor([0.95, 0.95, 0.0, 0.95]).repeat(2)[:, None].expand(BATCH, 2)
    action = torch.tensor([0, 2, 1, 1, 2, 0, 2, 1])
    return ref.double(Batch(torch.cat([obs, told], -1), action, torch.randn(BATCH, 2), discount, torch.cat([after, told], -1)))


def weighed(b: Batch) -> Batch:
    """What the parent is given: w . r, row by row."""
    rewards = [sum(w * r for w, r in zip(obs[-2:], reward, strict=True)) for obs, _, reward, *_ in ref.rows(b)]
    return replace(b, reward=torch.tensor(rewards, dtype=ref.F64), discount=b.discount[:, 0])


def test_on_the_weighted_sum_it_is_discrete_sac(batch: Batch) -> None:
    """The parent sees the preference as any other number of the observation: the same losses, steps and actions."""
    made = learner(lr=3e-3, tau=0.1, critics=3)
    parent = sac_discrete.make(
        sac_discrete.Config(lr=3e-3, tau=0.1, critics=3, alpha=0.05, hidden=(12, 10)), Spec(Box(OBS + 2), Discrete(CHOICES))
    )
    s = ref.aged(made.init())
    theirs = replace(ref.double(parent.init()), actor=s.actor, critic=s.critic, target=s.target)
    theirs.log_alpha.params["x"].fill_(math.log(0.05))
    for _ in range(3):
        s, told = made.update(s, batch, 0)
        theirs, wanted = parent.update(theirs, weighed(batch), 0)
        for part in ("actor", "critic"):
            ref.assert_same(getattr(s, part), getattr(theirs, part))
        ref.assert_same(s.target, theirs.target)
        assert {k: float(v) for k, v in told.items()} == pytest.approx({k: float(wanted[k]) for k in told})
    for explore in (False, True):
        mine, wanted = (ref.seeded(1, m.act, m.policy(x), batch.obs, explore) for m, x in ((made, s), (parent, theirs)))
        assert torch.equal(mine, wanted)


def test_an_end_has_no_future(batch: Batch) -> None:
    made = learner()
    s = ref.aged(made.init())
    ends = replace(batch, discount=torch.zeros(BATCH, 2, dtype=ref.F64))
    loss = lambda b: float(made.losses["critic"](s.critic.params, s, b)[0])
    assert loss(ends) == loss(replace(ends, next_obs=ends.next_obs + 3))
    assert loss(batch) != loss(replace(batch, next_obs=batch.next_obs + 3))


def test_choices_are_scored_by_one_function_of_their_own_row_and_the_mean_of_all(batch: Batch) -> None:
    made = learner(encoder="choices", hidden=(7, 5))
    p = ref.double(made.init()).actor.params
    each, last = (
        {k.removeprefix(f"{part}."): x for k, x in ref.weights(p).items() if k.startswith(part)} for part in ("each", "last")
    )
    net = gmorl.scores(gmorl.Config(encoder="choices", hidden=(7, 5)), OBS, CHOICES, 2)
    for row, got in zip(batch.obs.numpy(), net.apply(p, batch.obs).numpy(), strict=True):
        features = [ref.relu(ref.net(each, part, row[OBS:])) for part in np.split(row[:OBS], CHOICES)]
        wanted = [ref.net(last, x, np.mean(features, 0), row[OBS:])[0] for x in features]
        np.testing.assert_allclose(got, wanted, rtol=1e-10)
    assert np.ptp(got) > 1e-3
    with pytest.raises(Fault, match="a row of features for each of 4;"):
        gmorl.make(gmorl.Config(encoder="choices"), Spec(Box(6), Discrete(4)))


def test_preferences_are_drawn_alike_likely_and_evaluated_in_order() -> None:
    made = learner()
    assert made.context
    s = made.init()
    drawn = made.context(s, 20_000, True)
    assert drawn.sum(-1).allclose(torch.ones(1))
    assert float(drawn[:, 0].mean()) == pytest.approx(0.5, abs=0.01)
    assert float(drawn[:, 0].var()) == pytest.approx(1 / 12, rel=0.03)  # of a uniform number
    fixed = made.context(s, 42, False)
    assert fixed[:21, 0].numpy() == pytest.approx(np.linspace(0, 1, 21))
    assert torch.equal(fixed[:21], fixed[21:])
    three = gmorl.make(gmorl.Config(), SPEC._replace(rewards=("a", "b", "c")))
    assert torch.equal(three.context(s, 5, False), three.context(s, 9, False)[:5])
    assert learner(preference=0.3).context(s, 2, True).tolist() == [pytest.approx([0.3, 0.7])] * 2


def test_signature_one_policy_knows_the_best_choice_for_each_preference() -> None:
    """Episodes of one step: (1, 0), (0.7, 0.7) or (0, 1), in any order, each choice with a number that names it."""
    made = gmorl.make(gmorl.Config(encoder="choices", hidden=(24, 24), lr=5e-3, alpha=0.02), SPEC._replace(obs=Box(CHOICES)))
    gains, g = torch.tensor([[1.0, 0.0], [0.7, 0.7], [0.0, 1.0]]), torch.Generator().manual_seed(0)
    s, count = made.init(), 128
    orders = torch.tensor([[0, 1, 2], [2, 0, 1], [1, 2, 0]])

    def seen(count: int, first: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        order = orders[torch.randint(3, (count,), generator=g)]
        return order, torch.cat([order - 1.0, first[:, None], 1 - first[:, None]], -1)

    for _ in range(300):
        order, obs = seen(count, torch.rand(count, generator=g))
        action = torch.randint(CHOICES, (count,), generator=g)
        reward = gains[order.gather(1, action[:, None])[:, 0]]
        s, _ = made.update(s, Batch(obs, action, reward, torch.zeros(count, 2), obs), 0)
    first = torch.tensor([0.05, 0.2, 0.4, 0.6, 0.8, 0.95]).repeat(5)
    order, obs = seen(len(first), first)
    chosen = order.gather(1, made.act(made.policy(s), obs, False)[:, None])[:, 0]
    assert chosen.tolist() == [2, 2, 1, 1, 0, 0] * 5  # 0.7 is more than w_1 between 0.3 and 0.7


def test_a_run_is_asked_for_preferences_and_its_file_is_too(tmp_path) -> None:
    small = {
        "steps": 40,
        "warmup": 20,
        "hidden": (8,),
        "batch_size": 8,
        "eval_every": 40,
        "eval_episodes": 2,
        "sinks": (),
        "panel": False,
    }
    run = thespis.train("gmorl_edge", env="thespis/EdgeComputing-v0", out=tmp_path / "run", **small)
    policy = thespis.load(run)
    rng = np.random.default_rng(0)
    obs, told = rng.normal(size=(60, 135)).astype(np.float32), rng.dirichlet([1, 1], 60).astype(np.float32)
    wanted = policy.act(obs, context=told)
    assert len(set(wanted.tolist())) > 1
    acts = opened(thespis.export(run, "torch").path)
    assert acts({"observation": obs, "context": told})["action"].tolist() == wanted.tolist()


def test_defaults_are_the_papers_where_it_has_them() -> None:
    ref.assert_defaults(gmorl, alpha=0.05, gamma=0.95, critics=2, replay_size=100_000)


def test_other_actions_are_refused() -> None:
    ref.assert_refuses(gmorl, "discrete actions", Box(2))
