"""SLIM: without other rewards it is DIAYN; its losses by hand; a reward's unit does not matter to its actor."""

import math
from dataclasses import replace as changed
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import thespis
from tests.engine.runs import assert_equal
from tests.papers.test_diayn import batch
from thespis import nets
from thespis.algos.diversity import diayn, slim
from thespis.core import Box, Fault, Spec, leaves, replace

SPEC = Spec(Box(3), Box(2), rewards=("reach", "safety"))
CONFIG = slim.Config(skills=4, hidden=(8,), discriminator_obs=(0, 1))


def test_where_the_other_rewards_weigh_nothing_it_is_diayn() -> None:
    ours = slim.make(changed(CONFIG, reward_weights=(0.0, 0.0), scaled=False), SPEC)
    theirs = diayn.make(diayn.Config(skills=4, hidden=(8,), discriminator_obs=(0, 1), alpha=None), SPEC)
    torch.manual_seed(0)
    s = ours.init()
    first = {k: x[:2] for k, x in s.target.items()}
    d = diayn.State(s.actor, replace(s.critic, params=first, m=zeros(first), v=zeros(first)), first, s.log_alpha, s.discriminator)
    for i in range(3):
        b = batch(4, rewards=2)
        torch.manual_seed(i)
        s, _ = ours.update(s, b, 0)
        torch.manual_seed(i)
        d, _ = theirs.update(d, b, 0)
    found = leaves(s)
    for k, x in leaves(d).items():
        torch.testing.assert_close(found[k][:2] if k.startswith(("critic", "target")) and x.dim() else found[k], x)


def zeros(params: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: torch.zeros_like(x) for k, x in params.items()}


def test_each_reward_has_critics_of_its_own() -> None:
    """Both losses against targets and sums that are written out, a reward after the other."""
    learner = slim.make(changed(CONFIG, reward_weights=(2.0, 0.5)), SPEC)
    torch.manual_seed(0)
    s, b = learner.init(), batch(4, rewards=2)
    s = replace(s, spread=torch.tensor([4.0, 9.0, 1e-6]), target={k: x + 0.1 for k, x in s.target.items()})
    scale, weights, alpha = (2.0, 3.0, 0.1), (1.0, 2.0, 0.5), float(s.log_alpha.params["x"].exp())
    critic, actor, classifier = nets.mlp((9, 8, 1)), nets.mlp((7, 8, 4)), nets.mlp((2, 8, 4))

    def q(p: dict[str, Tensor], row: int, obs: Tensor, action: Tensor) -> Tensor:
        return critic.apply({k: x[row] for k, x in p.items()}, torch.cat([obs, action], 1))[:, 0]

    def pi(obs: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = actor.apply(s.actor.params, obs).chunk(2, -1)
        x = mean + log_std.exp() * torch.randn_like(mean)
        logp = torch.distributions.Normal(mean, log_std.exp()).log_prob(x) - (1 - x.tanh().square()).log()
        return x.tanh(), logp.sum(-1)

    torch.manual_seed(1)
    action, logp = pi(b.next_obs)
    log_q = classifier.apply(s.discriminator.params, b.next_obs[:, :2]).log_softmax(-1)[b.next_obs[:, 3:].bool()]
    rewards, wanted = [log_q + math.log(4), b.reward[:, 0], b.reward[:, 1]], torch.zeros(())
    for k, reward in enumerate(rewards):
        ahead = torch.minimum(*(q(s.target, 2 * k + j, b.next_obs, action) for j in (0, 1)))
        target = reward + b.discount[:, 0] * (ahead - (alpha * scale[0] * logp if k == 0 else 0))
        wanted = wanted + sum(0.5 * (q(s.critic.params, 2 * k + j, b.obs, b.action) - target).square().mean() for j in (0, 1))
    torch.manual_seed(1)
    torch.testing.assert_close(learner.losses["critic"](s.critic.params, s, b)[0], wanted, rtol=1e-4, atol=1e-5)

    torch.manual_seed(2)
    action, logp = pi(b.obs)
    each = [torch.minimum(*(q(s.critic.params, 2 * k + j, b.obs, action) for j in (0, 1))) for k in range(3)]
    wanted = (alpha * logp - sum(w * x / c for w, x, c in zip(weights, each, scale, strict=True))).mean()
    torch.manual_seed(2)
    torch.testing.assert_close(learner.losses["actor"](s.actor.params, s, b)[0], wanted, rtol=1e-4, atol=1e-5)


def test_a_reward_in_another_unit_moves_the_actor_as_before() -> None:
    learner = slim.make(CONFIG, SPEC)
    torch.manual_seed(0)
    s, b, found = learner.init(), batch(4, rewards=2), []
    louder = torch.tensor([1, 1, 100, 100, 1, 1.0])  # the critics of "reach"
    last = {k: x * louder.view(-1, *[1] * (x.dim() - 1)) if k in ("w1", "b1") else x for k, x in s.critic.params.items()}
    for critic, unit in ((s.critic.params, 1.0), (last, 100.0)):
        spread = torch.tensor([1.0, 4.0 * unit**2, 1.0])
        torch.manual_seed(1)
        state = replace(s, critic=replace(s.critic, params=critic), spread=spread)
        found.append(learner.losses["actor"](s.actor.params, state, b)[0])
    torch.testing.assert_close(*found)


def test_the_spread_is_that_of_the_critics_over_batches() -> None:
    learner = slim.make(changed(CONFIG, scale_rate=0.25), SPEC)
    torch.manual_seed(0)
    s, b = learner.init(), batch(4, rewards=2)
    net = nets.ensemble(nets.mlp((9, 8, 1)), 6)
    values = net.apply(s.critic.params, torch.cat([b.obs, b.action], 1))[..., 0].double().view(3, 2, 12).mean(1)
    after, told = learner.update(s, b, 0)
    wanted = 0.75 + 0.25 * values.var(1, correction=0)
    torch.testing.assert_close(after.spread.double(), wanted, rtol=1e-5, atol=1e-6)
    assert float(told["spread_reach"]) == pytest.approx(float(wanted[1]) ** 0.5, rel=1e-5)


@pytest.mark.parametrize("name", ["diayn", "slim"])
def test_stopped_within_an_episode_it_is_bitwise_the_same_and_exports_with_the_skill(name: str, tmp_path: Path) -> None:
    """Four tables of 50 steps, stopped 30 steps into the second episodes; evaluations go through the skills in order."""
    options = {"skills": 3, "discriminator_obs": (2, 3), "hidden": (8,), "warmup": 100, "updates_per_step": 0.1, "num_envs": 4}
    options |= {"eval_episodes": 4, "compile_after": -1, "sinks": (), "panel": False, "quiet": True, "replay_size": 400}
    every = {"eval_every": 160, "log_every": 160, "checkpoint_every": 160}
    whole = thespis.train(name, "thespis/Tabletop-v0", steps=480, out=tmp_path / "whole", **options, **every)
    thespis.train(name, "thespis/Tabletop-v0", steps=320, out=tmp_path / "part", **options, **every)
    thespis.resume(tmp_path / "part", 480, panel=False, quiet=True)
    assert_equal(tmp_path / "part", whole.path)
    policy = thespis.load(whole)
    assert policy.contexts.tolist() == np.eye(3)[[0, 1, 2, 0]].tolist()
    made = thespis.export(whole.path, "onnx" if name == "slim" else "torch")  # tried beside the policy as it is written
    assert made.difference <= 1e-4
    assert set(made.inputs) == {"observation", "context"}


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"discriminator_obs": (9,)}, r"discriminator_obs is \(9,\); an observation has 3 numbers"),
        ({"reward_weights": (1.0,)}, "reward_weights has 1 numbers; the environment's rewards are reach, safety"),
    ],
)
def test_what_does_not_fit_is_one_line(options: dict, line: str) -> None:
    with pytest.raises(Fault, match=line):
        slim.make(slim.Config(**options), SPEC)
