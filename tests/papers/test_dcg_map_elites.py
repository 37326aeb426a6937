"""DCG-MAP-Elites: rewards by similarity, the folded actor, the niche of a child; without descriptors it is PGA-MAP-Elites."""

import math

import torch

from tests.papers.test_map_elites import GRADIENT, SPEC, TINY, rollout
from tests.papers.test_pga_map_elites import rows
from thespis.algos.diversity import dcg_map_elites, pga_map_elites
from thespis.core import replace

CONFIG = dcg_map_elites.Config(**TINY, **GRADIENT, asked=3, lengthscale=0.3)


def test_a_reward_counts_by_how_near_what_was_asked_for_was_reached() -> None:
    """The first four policies were asked for nothing, so they meant what they reached. The actor's by eq. 3, in a loop."""
    torch.manual_seed(0)
    for negatives in (True, False):
        learner = dcg_map_elites.make(replace(CONFIG, negatives=negatives, bounds=(-2.0, 2.0)), SPEC)
        s, b = learner.init(), rollout(SPEC, 7)
        s = replace(s, asked=torch.rand(3, 2) - 0.5)
        after, found, told = learner.prepare(s, b)
        missed = []
        for i in range(7):
            steps = int(b.extra["ended"][:, i].int().argmax()) + 1
            reached = b.reward[:steps, i, 1:].double().sum(0).tolist()
            meant = s.asked[i - 4].tolist() if i >= 4 and negatives else reached
            away = math.dist(reached, meant)
            missed += [math.dist(reached, s.asked[i - 4].tolist())] if i >= 4 else []
            scaled = math.exp(-away / 2 / 0.3) * b.reward[:, i, 0]
            torch.testing.assert_close(found.reward.view(4, 7)[:, i], scaled.float(), rtol=1e-5, atol=1e-6)
            wanted = torch.tensor(meant).float().expand(4, 2) / 2
            for column, x in (("obs", b.obs), ("next_obs", b.next_obs)):
                seen = getattr(found, column).view(4, 7, 5)[:, i]
                torch.testing.assert_close(seen[:, 3:], wanted)
                assert torch.equal(seen[:, :3], x[:, i, :3])
        torch.testing.assert_close(told["missed_by"], torch.tensor(missed).mean())
        assert all(any(torch.equal(row, d) for d in after.archive.descriptor) for row in (*after.asked, *after.niche))
        assert int(after.archive.filled.sum()) <= 4  # the actor's are no candidates


def test_the_actor_asked_for_something_is_a_policy_as_the_others() -> None:
    learner = dcg_map_elites.make(CONFIG, SPEC)
    torch.manual_seed(0)
    s = replace(learner.init(), asked=torch.rand(3, 2))
    obs = torch.randn(3, 3)
    action = learner.collect(s, torch.cat([obs, torch.zeros(3, 2)], 1), torch.arange(4, 7))
    torch.testing.assert_close(action, learner.act(learner.policy(s), torch.cat([obs, s.asked], 1), False))


def test_a_child_climbs_where_its_parent_was() -> None:
    learner = dcg_map_elites.make(CONFIG, SPEC)
    torch.manual_seed(0)
    s, b = learner.init(), rows(6, 5)
    s = replace(s, niche=torch.rand(2, 2))
    total = 0.0
    for i in range(2):
        p = {k: x[i] for k, x in s.climbing.params.items()}
        action = ((b.obs[:, :3] @ p["w0"] + p["b0"]).relu() @ p["w1"] + p["b1"]).tanh()
        x = torch.cat([b.obs[:, :3], s.niche[i].expand(6, 2), action], 1)
        c = {k: w[0] for k, w in s.critic.params.items()}
        total = total - ((x @ c["w0"] + c["b0"]).relu() @ c["w1"] + c["b1"]).mean()
    torch.testing.assert_close(learner.losses["variation"](s.climbing.params, s, b)[0], total)


def test_without_descriptors_and_with_its_actor_as_a_candidate_it_is_pga_map_elites() -> None:
    dcg = dcg_map_elites.make(replace(CONFIG, conditioned=False, asked=1, inject=True), SPEC)
    pga = pga_map_elites.make(pga_map_elites.Config(**TINY, **GRADIENT), SPEC)
    torch.manual_seed(0)
    p = pga.init()
    s = dcg_map_elites.State(
        p.archive, p.genetic, p.climbing, torch.zeros(2, 2), torch.zeros(1, 2), p.actor, p.critic, p.actor_target, p.critic_target
    )
    assert (dcg.period, dcg.experience) == (pga.period, pga.experience)
    for i in range(3):
        b, found = rollout(SPEC, 5, i), []
        for learner, state in ((dcg, s), (pga, p)):
            torch.manual_seed(i)
            state, kept, told = learner.prepare(state, b)
            torch.manual_seed(i)
            for k in range(learner.period):
                state, _ = learner.update(state, kept, k)
            found.append((state, kept, told))
        (s, ours, told), (p, theirs, wanted) = found
        assert {k: told[k] for k in wanted} == wanted
        for name in ("obs", "action", "reward", "discount", "next_obs"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        for group in ("actor", "critic", "climbing"):
            mine, other = getattr(s, group).params, getattr(p, group).params
            assert all(torch.equal(mine[k], x) for k, x in other.items()), group
        assert all(torch.equal(s.archive.genes[k], x) for k, x in p.archive.genes.items())
