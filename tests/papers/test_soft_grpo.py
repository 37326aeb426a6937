"""SofT-GRPO: the density of soft tokens as a loop, what was sampled beside what is read, its gradient, and its limit."""

import math

import gymnasium as gym
import pytest
import torch

from thespis.algos.language import lite_ppo, soft_grpo
from thespis.core import Fault
from thespis.engine.play import gathered, play
from thespis.envs.text import text_world
from thespis.lm import Model, Soft, parse, soft
from thespis.turns import Out, TextSpec, Turns

from .answers import gain, k3, learnt, mask, rows, same, small


def test_the_density_is_the_loop_over_a_mixture_s_tokens() -> None:
    gen = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 9, generator=gen, dtype=torch.float64) * 2
    ids = logits.topk(3).indices
    g = logits.log_softmax(-1).gather(1, ids) + torch.randn(4, 3, generator=gen, dtype=torch.float64) * 2
    found = soft.density(logits, ids, g, 0.8)
    for p in range(4):
        e = [math.exp(float(logits[p, i])) for i in ids[p]]
        score = [math.log(x / sum(e) + 1e-6) for x in e]
        noise = [min(max((float(a) - b) / 0.8, -1.5), 3) for a, b in zip(g[p], score, strict=True)]
        told = [-x - math.exp(-x) for x, b in zip(noise, score, strict=True) if b > -3]
        assert float(found[p]) == pytest.approx(sum(told) / len(told), rel=1e-9)


def thinker(**options: int) -> Model:
    torch.manual_seed(0)
    model = parse("tiny:dim=16,layers=1,heads=2,context=64").make()
    for p in model.params.values():
        p.data.mul_(4)  # far from uniform
    model.soft = Soft(end=61, longest=5, **options)
    return model


def episodes(model: Model) -> Turns:
    envs = [text_world("thespis/Chains-v0", {"steps": 1}).make() for _ in range(12)]
    return gathered(play(model, envs, [1, 2, 3], 8, torch.Generator().manual_seed(0), group=4))


def test_what_was_sampled_is_what_is_read_of_soft_and_ordinary_tokens() -> None:
    model = thinker()
    t = episodes(model)
    plain = t.rows()
    assert 0 < int(plain.soft.sum()) < int(plain.mask.sum())
    assert int(plain.soft.sum(1).max()) <= 5
    assert not plain.soft[~plain.mask].any()
    torch.testing.assert_close(model.read(plain), t.logp, atol=1e-4, rtol=1e-4)
    most = plain.soft_ids[plain.soft].gather(1, plain.soft_g[plain.soft].argmax(-1, keepdim=True))[:, 0]
    assert torch.equal(most, plain.tokens[plain.soft]), "a transcript shows the token of most weight"
    one = next(plain.parts(1))  # the mixture that is read: softmax(g / tau), written out
    read = soft.embeddings(model, model.soft, one)  # type: ignore[arg-type]
    place = int(one.soft[0].nonzero()[0, 0])
    weights = [math.exp(float(g) / 0.1 - float(one.soft_g[0, place].max()) / 0.1) for g in one.soft_g[0, place]]
    table = model.module.get_input_embeddings().weight
    wanted = sum(w / sum(weights) * table[i] for w, i in zip(weights, one.soft_ids[0, place], strict=True))
    torch.testing.assert_close(read[0, place], wanted, atol=1e-5, rtol=1e-4)


def test_a_mixture_of_one_token_is_the_most_probable_one_and_teaches_nothing() -> None:
    model = thinker(top=1)
    t = episodes(model)
    assert len({str(x[m].tolist()) for x, m in zip(t.soft["soft_ids"], t.soft["soft"], strict=True)}) <= 3, "one a question"
    logits = torch.randn(2, 5, requires_grad=True)
    density = soft.density(logits, logits.topk(1).indices, torch.randn(2, 1), 1.0)
    (grad,) = torch.autograd.grad(density.sum(), logits)
    assert float(grad.abs().max()) < 1e-6


def test_a_good_answer_makes_tokens_more_probable_whose_noise_was_large() -> None:
    logits = torch.zeros(1, 6, dtype=torch.float64, requires_grad=True)
    ids = torch.tensor([[1, 3]])
    g = math.log(0.5) + torch.tensor([[1.2, -0.8]], dtype=torch.float64)
    (grad,) = torch.autograd.grad(soft.density(logits, ids, g, 1.0).sum(), logits)
    assert grad[0, 1] > 0 > grad[0, 3]
    (grad,) = torch.autograd.grad(soft.density(logits, ids, g + 9, 1.0).sum(), logits)
    assert not grad.any(), "beyond the bounds there is none"


def test_the_loss_is_the_loop_over_answers_and_tokens() -> None:
    logp, given = rows("old", "advantage", "reference", weight=soft_grpo.ops.per_sequence(mask()))
    total = 0.0
    for r, t in mask().nonzero().tolist():
        pull = 0.05 * k3(logp[r, t], given.reference[r, t])
        total -= (gain(logp[r, t], given.old[r, t], given.advantage[r, t]) - pull) / int(mask()[r].sum()) / 3
    found, _ = soft_grpo.make(soft_grpo.Config(kl=0.05), TextSpec()).losses["policy"](Out(logp), given)
    assert float(found) == pytest.approx(total, rel=1e-6)


def test_without_soft_tokens_it_is_grpo() -> None:
    same(learnt(soft_grpo, soft_grpo.Config(think=0, kl=0.04)), learnt(lite_ppo, lite_ppo.PRESETS["grpo"]))


def test_an_update_on_soft_tokens_and_the_sign_that_ends_them() -> None:
    model = small()
    learner = soft_grpo.make(soft_grpo.Config(updates=1), TextSpec())
    state = learner.init(model)
    t = episodes(model)
    t.reward[::3] = 1
    _, told = learner.update(state, t)
    assert told["mismatch"] < 1e-4
    assert 0 < float(told["soft"]) <= 1
    with pytest.raises(Fault, match="end is '==', which is 2 tokens"):
        soft_grpo.make(soft_grpo.Config(end="=="), TextSpec()).init(small())


def test_a_chain_s_answer_stands_behind_its_mark() -> None:
    env = gym.make("thespis/Chains-v0", disable_env_checker=True, steps=2, rambles=0.0, mark="=")
    _, info = env.reset(seed=0)
    thought, _, last = info["solution"].rpartition("=")
    assert thought.split(" ")[-1] == last
    for answer, wanted in ((info["solution"], 1.0), (f"={last}", 1.0), (thought, 0.0), (f"{thought}=0{last}1", 0.0)):
        env.reset(seed=0)
        assert env.step(answer)[1] == wanted, answer
