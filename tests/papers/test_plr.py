"""PLR: scores and chances by hand, PPO as its limit, what ACCEL and robust PLR leave unlearnt; and runs in caves."""

import gymnasium as gym
import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

import thespis
from tests.engine.runs import assert_equal
from thespis import ops
from thespis.algos.diversity import plr
from thespis.algos.onpolicy import ppo
from thespis.core import Batch, Box, Discrete, Fault, Spec, replace, tree_map
from thespis.engine import checkpoint
from thespis.report import levels as report

SPEC = Spec(Box(3), Discrete(4), context=4, levels=(4, 4, 9, 9))
TINY = {"hidden": (6,), "buffer": 8, "parallel": 4}
DATA = torch.tensor([[0.0, 1, 2, 3], [1, 1, 4, 5], [3, 0, 8, 8]])
SMALL = {
    "parallel": 4, "hidden": (8,), "batch_size": 16, "epochs": 1, "eval_episodes": 2, "eval_every": 40, "log_every": 40,
    "compile_after": -1, "sinks": (), "panel": False, "quiet": True,
}  # fmt: skip


def rollout(n: int = 4, steps: int = 5, seed: int = 0) -> Batch:
    g = torch.Generator().manual_seed(seed)
    obs, ahead = torch.randn(2, steps, n, 3, generator=g)
    ended = torch.rand(steps, n, generator=g) < 0.3
    discount = 0.9 * ~(ended & (torch.rand(steps, n, generator=g) < 0.5))
    action, reward = torch.randint(4, (steps, n), generator=g), torch.randn(steps, n, generator=g)
    return Batch(obs, action, reward, discount, ahead, {"ended": ended})


def given(data: torch.Tensor) -> Batch:
    blank = torch.zeros(len(data))
    return Batch(blank[:, None], blank, blank, blank, blank[:, None], {"context": data})


def begun(learner, seed: int = 0):
    torch.manual_seed(seed)
    state = learner.init()
    return learner.given(state, given(DATA)) if learner.given else state


def scores_by_hand(learner, state, b: Batch, kind: str) -> list[float]:
    def value(obs):
        p = {k: x.double().numpy() for k, x in state.critic.params.items()}
        return float((np.tanh(obs.double().numpy() @ p["w0"] + p["b0"]) @ p["w1"] + p["b1"])[0])

    found = []
    for i in range(b.reward.shape[1]):
        ahead, total = 0.0, 0.0
        for t in reversed(range(len(b.reward))):
            error = float(b.reward[t, i]) + float(b.discount[t, i]) * value(b.next_obs[t, i]) - value(b.obs[t, i])
            ahead = error + 0.9 * 0.8 * (0.0 if b.extra["ended"][t, i] else ahead)
            total += abs(ahead) if kind == "value_l1" else max(ahead, 0.0)
        found.append(total / len(b.reward))
    return found


@pytest.mark.parametrize("kind", ["value_l1", "positive"])
def test_the_score_of_a_level_is_by_hand(kind):
    learner = plr.make(plr.Config(**TINY, score=kind, gamma=0.9, lam=0.8), SPEC)
    s, b = replace(begun(learner), place=torch.tensor([2.0, 0, 1, 2])), rollout()
    after, _, told = learner.prepare(s, b)
    wanted = scores_by_hand(learner, s, b, kind)
    assert after.levels.score[:3].tolist() == pytest.approx([wanted[1], wanted[2], (wanted[0] + wanted[3]) / 2], rel=1e-4)
    assert float(told["level_score"]) == pytest.approx(sum(wanted) / 4, rel=1e-4)
    assert float(told["levels"]) == 3


def test_where_nothing_is_replayed_it_is_ppo_on_levels_drawn_evenly():
    numbers = {"hidden": (6,), "batch_size": 20, "gamma": 0.9}
    ours = plr.make(replace(plr.PRESETS["uniform_levels"], **TINY | numbers), SPEC)
    plain = ppo.Config(**numbers, normalise_obs=False, normalise_reward=False, entropy_weight=0.01, lr=1e-3)
    theirs = ppo.make(plain, SPEC)
    s = begun(ours)
    t = ppo.State(s.actor, s.critic, theirs.init().seen)
    for i in range(3):
        s, rows, told = ours.prepare(s, rollout(seed=i))
        t, wanted, said = theirs.prepare(t, rollout(seed=i))
        assert told["explained"] == said["explained"]
        for _ in range(2):
            (s, m), (t, n) = ours.update(s, rows), theirs.update(t, wanted)
            assert {k: float(m[k]) for k in m} == pytest.approx({k: float(n[k]) for k in m}, abs=1e-6)
    for a, b in ((s.actor, t.actor), (s.critic, t.critic)):
        for k, x in a.params.items():
            torch.testing.assert_close(x, b.params[k], rtol=1e-4, atol=1e-6)
    many = plr.make(replace(plr.PRESETS["uniform_levels"], **TINY | {"parallel": 6_000}), SPEC)
    shares = torch.bincount(begun(many).place.long()) / 6_000
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.03, rtol=0)


def test_levels_are_replayed_by_rank_and_by_how_long_ago_they_were_played():
    """Of four known levels, with temperature 0.5 and staleness 0.4; one environment in four has any level of the data."""
    cfg = plr.Config(**TINY | {"parallel": 20_000}, replay=0.75, temperature=0.5, staleness=0.4)
    learner = plr.make(cfg, SPEC)
    s, b = begun(learner), rollout(20_000, 1)
    held = replace(s.levels, score=torch.tensor([0.1, 0.4, 0.2, -1, 0.3, -1, -1, -1]), round=torch.tensor(9.0))
    played = torch.tensor([4.0, 6, 9, 0, 1, 0, 0, 0])
    s = replace(s, levels=replace(held, played=played), place=torch.full((20_000,), 4.0))  # level 4 is played, and scored anew
    after, _, _ = learner.prepare(s, b)
    score = after.levels.score[:5].tolist()
    known = [0, 1, 2, 4]
    rank = {k: 1 + sum(score[j] > score[k] for j in known) for k in known}
    weight = {k: (1 / rank[k]) ** 2 for k in known}
    old = {0: 10 - 4, 1: 10 - 6, 2: 10 - 9, 4: 0}
    chance = {k: 0.6 * weight[k] / sum(weight.values()) + 0.4 * old[k] / sum(old.values()) for k in known}
    wanted = [0.75 * chance.get(k, 0) + (0.25 / 3 if k < 3 else 0) for k in range(8)]
    found = torch.bincount(after.place.long(), minlength=8) / 20_000
    assert found.tolist() == pytest.approx(wanted, abs=0.015)
    assert torch.equal(after.playing, after.levels.rows[after.place.long()])


def test_only_replayed_levels_are_learnt_from_and_accel_tries_what_it_edits():
    robust, accel = (plr.make(replace(plr.PRESETS[k], **TINY, replay=1.0), SPEC) for k in ("robust_plr", "accel"))
    s = begun(robust)
    assert s.learns.tolist() == [0, 0, 0, 0]
    assert s.place.tolist() == [-1, -1, -1, -1]
    before = tree_map(torch.clone, s)
    s, rows, told = robust.prepare(s, rollout())
    same, _ = robust.update(s, rows)
    assert all(torch.equal(x, before.actor.params[k]) for k, x in same.actor.params.items())
    assert all(torch.equal(x, before.critic.params[k]) for k, x in same.critic.params.items())
    assert float(told["inserted"]) == 4  # the buffer had room
    assert {tuple(x) for x in before.playing.tolist()} == {tuple(x) for x in s.levels.rows[s.levels.known].tolist()}
    assert s.learns.tolist() == [1, 1, 1, 1]  # and now all are replayed
    a = begun(accel)
    kinds = []
    for i in range(4):
        a, _, _ = accel.prepare(a, rollout(seed=i))
        kinds.append((a.place >= 0).tolist())
        assert torch.equal(a.learns > 0, a.place >= 0)
    assert kinds == [[True] * 4, [False] * 4, [True] * 4, [False] * 4]  # replayed, then edited and tried
    replayed = replace(a, playing=a.levels.rows[:4], place=torch.arange(4.0), learns=torch.ones(4))
    edited, _, _ = accel.prepare(replayed, rollout())
    assert int((edited.playing != replayed.playing).sum()) > 0
    assert edited.place.tolist() == [-1] * 4


def test_steps_that_are_not_learnt_from_have_no_part_in_either_loss():
    learner = plr.make(plr.Config(**TINY), SPEC)
    s = replace(begun(learner), learns=torch.tensor([1.0, 0, 1, 0]))
    _, rows, _ = learner.prepare(s, rollout())
    kept = rows.extra["weight"] > 0
    part = replace(tree_map(lambda x: x[kept], rows))
    part.extra["weight"] = torch.ones(len(part.reward))
    part.extra["logp"] = part.extra["logp"] + 0.3 * torch.randn(len(part.reward))
    rows.extra["logp"] = rows.extra["logp"].masked_scatter(kept, part.extra["logp"])
    for name, loss in learner.losses.items():
        p = getattr(s, name).params
        one, two = ops_gradient(loss, p, rows), ops_gradient(loss, p, part)
        for k in p:
            torch.testing.assert_close(one[k], two[k], rtol=1e-4, atol=1e-6)


def ops_gradient(loss, p, b):
    at = {k: x.clone().requires_grad_() for k, x in p.items()}
    return dict(zip(at, torch.autograd.grad(loss(at, b)[0], [*at.values()]), strict=True))


@pytest.mark.parametrize(("name", "more"), [("plr", {}), ("accel", {}), ("dred", {"vae_steps": 3, "generate": 0.5})])
def test_a_run_in_caves_keeps_levels_for_a_rollout_and_is_resumed_to_the_bit(tmp_path, name, more):
    options = SMALL | {"env": "thespis/Caves-v0", "env_args": {"size": 5, "steps": 6, "data": 5}, "rollout": 8} | more
    whole = thespis.train(name, out=tmp_path / "whole", steps=160, **options)
    thespis.train(name, out=tmp_path / "part", steps=80, **options)  # in the middle of a rollout, and of an episode
    held = load_file(checkpoint.checkpoints(tmp_path / "part")[-1] / "tensors.safetensors")
    assert torch.equal(held["collector.contexts"], held["state.playing"])  # whoever has begun again has the same level
    thespis.resume(tmp_path / "part", 160, panel=False, quiet=True)
    assert_equal(tmp_path / "part", tmp_path / "whole")
    last = load_file(checkpoint.checkpoints(whole.path)[-1] / "tensors.safetensors")
    assert (last["state.levels.score"] >= 0).sum() > 2
    if name != "accel":
        assert float(last["state.levels.given"]) == 5
    policy = thespis.load(whole)
    assert policy.act(np.zeros(125)).shape == ()
    assert f"{int((last['state.levels.score'] >= 0).sum())} scored" in report.card(whole.path)
    assert [x.name for x in onnxruntime.InferenceSession(thespis.export(whole).path).get_inputs()] == ["observation"]


def test_what_it_cannot_play_is_said_in_a_line(tmp_path):
    with pytest.raises(Fault, match=r"^plr: the environment takes no levels of choices \(context_space, a MultiDiscrete\)"):
        thespis.train("plr", "CartPole-v1", out=tmp_path / "run", **SMALL)
    with pytest.raises(Fault, match=r"^buffer is 2; the data have 5 levels"):
        thespis.train("plr", "thespis/Caves-v0", env_args={"data": 5}, buffer=2, out=tmp_path / "run", **SMALL)
    data = gym.make("thespis/Caves-v0", data=5).unwrapped.recorded()
    with pytest.raises(Fault, match=r"contexts have the shape \(5,\); they must be rows of finite numbers"):
        thespis.train("plr", "thespis/Caves-v0", data={**data, "contexts": np.zeros(5)}, out=tmp_path / "run", **SMALL)
    assert not (tmp_path / "run").exists()
    torch.manual_seed(0)
    assert ops.levels.random(SPEC.levels, 2, torch.zeros(1)).shape == (2, 4)
