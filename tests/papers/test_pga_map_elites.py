"""PGA-MAP-Elites: its losses are TD3's, without gradients it is MAP-Elites, and its children climb."""

import torch

from tests.papers.test_map_elites import GRADIENT, SPEC, TINY, rollout
from thespis.algos.continuous import td3
from thespis.algos.diversity import map_elites, pga_map_elites
from thespis.core import Batch, replace

CONFIG = pga_map_elites.Config(**TINY, **GRADIENT)


def rows(n: int = 8, dim: int = 3) -> Batch:
    reward, discount = torch.rand(n), torch.tensor([0.9, 0.0]).repeat(n // 2)
    return Batch(torch.randn(n, dim), torch.rand(n, 2) * 2 - 1, reward, discount, torch.randn(n, dim))


def test_its_critic_and_actor_losses_are_those_of_td3() -> None:
    ours, theirs = pga_map_elites.make(CONFIG, SPEC), td3.make(td3.Config(hidden=(4,)), SPEC)
    torch.manual_seed(0)
    s = ours.init()
    s = replace(s, actor_target={k: x + 0.1 for k, x in s.actor_target.items()})
    t, b = td3.State(s.actor, s.critic, s.actor_target, s.critic_target), rows()
    for name in ("critic", "actor"):
        found = []
        for learner, state in ((ours, s), (theirs, t)):
            torch.manual_seed(1)
            found.append(learner.losses[name](getattr(s, name).params, state, b)[0])
        assert torch.equal(*found)


def test_without_gradients_and_greedy_actor_it_is_map_elites() -> None:
    pga = pga_map_elites.make(replace(CONFIG, gradient=0, greedy=False), SPEC)
    plain = map_elites.make(map_elites.Config(offspring=2, **TINY), SPEC)
    torch.manual_seed(0)
    s = pga.init()
    m = map_elites.State(s.archive, s.genetic)
    assert pga.experience.policies == 2
    for i in range(3):
        b = rollout(SPEC, 2, i)
        torch.manual_seed(i)
        s, _, told = pga.prepare(s, b)
        torch.manual_seed(i)
        m, _, wanted = plain.prepare(m, b)
        m, _ = plain.update(m, b, 0)
        assert told == wanted
        assert all(torch.equal(s.archive.genes[k], x) for k, x in m.archive.genes.items())
        assert all(torch.equal(s.genetic[k], x) for k, x in m.candidates.items())


def test_each_child_climbs_the_first_critic_alone() -> None:
    """The gradient of all children at once is that of each by itself; and a round of steps raises what the critic says."""
    learner = pga_map_elites.make(CONFIG, SPEC)
    torch.manual_seed(0)
    s, b = learner.init(), rows(40)
    loss = learner.losses["variation"]

    def one(p: dict, i: int) -> torch.Tensor:
        action = learner_action(p, b.obs, i)
        x = torch.cat([b.obs, action], 1)
        c = {k: w[0] for k, w in s.critic.params.items()}
        return -((x @ c["w0"] + c["b0"]).relu() @ c["w1"] + c["b1"]).mean()

    def learner_action(p: dict, obs: torch.Tensor, i: int) -> torch.Tensor:
        return ((obs @ p["w0"][i] + p["b0"][i]).relu() @ p["w1"][i] + p["b1"][i]).tanh()

    p = s.climbing.params
    torch.testing.assert_close(loss(p, s, b)[0], one(p, 0) + one(p, 1))
    before = float(loss(p, s, b)[0])
    for _ in range(20):
        s, metrics = learner.update(s, b, CONFIG.critic_steps)
    assert float(metrics["variation"]) < before - 1e-3


def test_the_greedy_actor_is_the_last_candidate_and_only_steps_before_the_end_are_kept() -> None:
    learner = pga_map_elites.make(CONFIG, SPEC)
    torch.manual_seed(0)
    s, b = learner.init(), rollout(SPEC, 5)
    obs = torch.randn(5, 5)
    action = learner.collect(s, obs, torch.arange(5))
    p = s.actor.params
    torch.testing.assert_close(action[4], ((obs[4, :3] @ p["w0"] + p["b0"]).relu() @ p["w1"] + p["b1"]).tanh())
    _, found, _ = learner.prepare(s, b)
    first = [int(b.extra["ended"][:, i].int().argmax()) for i in range(5)]
    assert found.extra["kept"].view(4, 5).tolist() == [[t <= first[i] for i in range(5)] for t in range(4)]
    torch.testing.assert_close(found.reward.view(4, 5), b.reward[..., 0])
