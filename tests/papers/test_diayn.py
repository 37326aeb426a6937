"""DIAYN: with one skill it is SAC; its reward by a slow loop; two skills of a world of one step come apart."""

import math

import pytest
import torch

from thespis.algos.continuous import sac
from thespis.algos.diversity import diayn
from thespis.core import Batch, Box, Fault, Spec, leaves, replace

SPEC, TINY = Spec(Box(3), Box(2)), {"hidden": (8,), "alpha": None}


def batch(skills: int, n: int = 12, rewards: int = 0) -> Batch:
    z = torch.eye(skills)[torch.randint(skills, (n,))]
    shape = (n, rewards) if rewards else (n,)
    discount = torch.tensor([0.99, 0.0]).repeat(n // 2).view(n, *[1] * bool(rewards)).expand(shape)
    obs, ahead = (torch.cat([torch.randn(n, 3), z], 1) for _ in range(2))
    return Batch(obs, torch.rand(n, 2) * 2 - 1, torch.randn(shape), discount, ahead)


def test_with_one_skill_it_is_sac() -> None:
    ours = diayn.make(diayn.Config(skills=1, reward_weight=1.0, **TINY), SPEC)
    theirs = sac.make(sac.Config(**TINY), SPEC._replace(obs=Box(4)))
    states = []
    for learner in (ours, theirs):
        torch.manual_seed(0)
        s = learner.init()
        for i in range(3):
            torch.manual_seed(i)
            b = batch(1)
            s, _ = learner.update(s, b, 0)
        states.append(leaves(s))
    assert states[1].keys() < states[0].keys()
    assert all(torch.equal(states[0][k], x) for k, x in states[1].items())


@pytest.mark.parametrize("seen", [(), (2, 0)])
def test_its_reward_is_what_the_classifier_knows_more_than_chance(seen: tuple[int, ...]) -> None:
    learner = diayn.make(diayn.Config(skills=5, discriminator_obs=seen, **TINY), SPEC)
    torch.manual_seed(0)
    s, b = learner.init(), batch(5)
    p = {k: x.double() for k, x in s.discriminator.params.items()}
    log_q = []
    for row in b.next_obs.double().tolist():
        x = [row[i] for i in seen or (0, 1, 2)]
        h = [max(0.0, sum(a * float(p["w0"][i, j]) for i, a in enumerate(x)) + float(p["b0"][j])) for j in range(8)]
        logits = [sum(a * float(p["w1"][i, j]) for i, a in enumerate(h)) + float(p["b1"][j]) for j in range(5)]
        log_q.append(logits[row.index(1.0, 3) - 3] - math.log(sum(map(math.exp, logits))))
    loss, _ = learner.losses["discriminator"](s.discriminator.params, b)
    assert float(loss) == pytest.approx(-sum(log_q) / 12, abs=1e-5)
    _, told = learner.losses["critic"](s.critic.params, s, b)
    assert float(told["skill_reward"]) == pytest.approx(sum(log_q) / 12 + math.log(5), abs=1e-5)


def test_skills_come_apart_where_the_action_is_what_is_seen() -> None:
    """One step, which shows the action: the best reward is log 2, with an action a skill."""
    learner = diayn.make(diayn.Config(skills=2, hidden=(16,), lr=1e-2, alpha=0.05), Spec(Box(1), Box(1)))
    torch.manual_seed(0)
    s = learner.init()
    for _ in range(120):
        z = learner.context(s, 64, True)
        obs = torch.cat([torch.zeros(64, 1), z], 1)
        action = learner.act(learner.policy(s), obs, True).detach()
        b = Batch(obs, action, torch.zeros(64), torch.zeros(64), torch.cat([action, z], 1))
        s, told = learner.update(s, b, 0)
    assert float(told["skill_reward"]) == pytest.approx(math.log(2), abs=0.1)
    z = learner.context(s, 4, False)
    assert z.tolist() == [[1, 0], [0, 1], [1, 0], [0, 1]]
    first, second = learner.act(learner.policy(s), torch.cat([torch.zeros(2, 1), z[:2]], 1), False)[:, 0].tolist()
    assert abs(first - second) > 0.5


def test_several_rewards_are_not_looked_at() -> None:
    one, two = (diayn.make(diayn.Config(skills=2, **TINY), spec) for spec in (SPEC, SPEC._replace(rewards=("a", "b"))))
    torch.manual_seed(0)
    s, b = one.init(), batch(2, rewards=2)
    found = []
    for learner, given in ((one, replace(b, reward=b.reward[:, 0], discount=b.discount[:, 0])), (two, b)):
        torch.manual_seed(1)
        found.append(leaves(learner.update(s, given, 0)[0]))
    assert all(torch.equal(found[0][k], x) for k, x in found[1].items())


@pytest.mark.parametrize(
    ("options", "rewards", "line"),
    [
        ({"discriminator_obs": (0, 3)}, 1, r"discriminator_obs is \(0, 3\); an observation has 3 numbers, the first is 0"),
        ({"reward_weight": 1.0}, 2, "reward_weight is 1.0; the environment has 2 rewards: give weights, too"),
    ],
)
def test_what_does_not_fit_is_one_line(options: dict, rewards: int, line: str) -> None:
    with pytest.raises(Fault, match=line):
        diayn.make(diayn.Config(**options), SPEC._replace(rewards=("a", "b")[:rewards]))
