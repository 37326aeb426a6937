"""Lite PPO and its presets on numbers made by hand: the papers' equations as float64 loops, and limits between them."""

import dataclasses
import math

import pytest
import torch

from thespis.algos.language import lite_ppo
from thespis.core import Box, Fault, Spec
from thespis.turns import Out, Rows, TextSpec

from .answers import REWARD, column, played, small, std


def advantages(cfg: lite_ppo.Config) -> list[float]:
    """Of each answer, as the loss is given them."""
    return column(lite_ppo, dataclasses.replace(cfg, updates=1), "advantage")


@pytest.mark.parametrize("name", ["lite_ppo", *lite_ppo.PRESETS])
def test_advantages_are_those_of_the_papers(name: str) -> None:
    wanted = []
    for i, r in enumerate(REWARD):
        mine = REWARD[i // 4 * 4 : i // 4 * 4 + 4]
        mean, others, batch = sum(mine) / 4, (sum(mine) - r) / 3, sum(REWARD) / 12
        wanted.append(
            {
                "lite_ppo": (r - mean) / (std(REWARD) + 1e-6), "grpo": (r - mean) / (std(mine) + 1e-6), "dr_grpo": r - mean,
                "rloo": r - others, "reinforce_pp": (r - batch) / (std(REWARD) + 1e-6),
                "clip_higher": (r - mean) / (std(mine) + 1e-6), "dapo": (r - mean) / (std(mine) + 1e-6),
            }[name]
        )  # fmt: skip
    assert advantages(lite_ppo.PRESETS.get(name, lite_ppo.Config())) == pytest.approx(wanted, abs=1e-5)


def test_all_rewards_alike_move_nothing() -> None:
    model = small()
    before = {k: p.detach().clone() for k, p in model.params.items()}
    learner = lite_ppo.make(lite_ppo.Config(), TextSpec())
    learner.update(learner.init(model), played(model, [1.0] * 12))
    assert all(torch.equal(p, before[k]) for k, p in model.params.items())


def by_hand(cfg: lite_ppo.Config) -> tuple[float, float]:
    """(the loss of `cfg` on random numbers, the same as a loop over answers and tokens)."""
    g = torch.Generator().manual_seed(1)
    mask = torch.zeros(3, 6, dtype=torch.bool)
    for r, n in enumerate((2, 5, 3)):
        mask[r, 1 : 1 + n] = True
    logp, old, reference, advantage = (torch.randn(3, 6, generator=g, dtype=torch.float64) * 0.4 for _ in range(4))
    weights = {"token": lite_ppo.ops.per_token, "sequence": lite_ppo.ops.per_sequence}
    weight = weights.get(cfg.average, lambda m: lite_ppo.ops.per_constant(m, cfg.length))(mask)
    rows = Rows(torch.zeros(3, 6, dtype=torch.int64), mask, {"old": old, "advantage": advantage, "reference": reference})
    rows = rows.also(weight=weight, share=lite_ppo.ops.per_token(mask))
    loss, _ = lite_ppo.make(cfg, TextSpec()).losses["policy"](Out(logp), rows)
    answers = []
    for r in range(3):
        tokens = []
        for t in mask[r].nonzero()[:, 0].tolist():
            ratio, a = math.exp(logp[r, t] - old[r, t]), float(advantage[r, t])
            gain = min(ratio * a, min(max(ratio, 1 - cfg.clip[0]), 1 + cfg.clip[1]) * a)
            d = float(reference[r, t] - logp[r, t])
            tokens.append(gain - cfg.kl * (math.exp(d) - d - 1))
        answers.append(tokens)
    if cfg.average == "token":
        return float(loss), -sum(map(sum, answers)) / 10
    if cfg.average == "sequence":
        return float(loss), -sum(sum(a) / len(a) for a in answers) / 3
    return float(loss), -sum(map(sum, answers)) / 3 / cfg.length


@pytest.mark.parametrize("name", ["lite_ppo", *lite_ppo.PRESETS])
def test_the_loss_is_the_loop_over_answers_and_tokens(name: str) -> None:
    ours, theirs = by_hand(lite_ppo.PRESETS.get(name, lite_ppo.Config()))
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_at_ratio_1_the_gradient_is_reinforces() -> None:
    """rloo: the gradient of the clipped gain is that of advantage times log-probability (arXiv:2402.14740, eq. 7)."""
    logp = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    mask = torch.ones(3, 6, dtype=torch.bool)
    advantage = torch.randn(3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).expand(3, 6)
    weight = lite_ppo.ops.per_constant(mask)
    rows = Rows(mask.long(), mask, {"old": logp.detach(), "advantage": advantage, "weight": weight, "share": weight})
    loss, _ = lite_ppo.make(lite_ppo.PRESETS["rloo"], TextSpec()).losses["policy"](Out(logp), rows)
    (ours,) = torch.autograd.grad(loss, logp)
    (theirs,) = torch.autograd.grad(-(advantage * logp).sum() / 3, logp)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_a_wider_clip_lets_an_unlikely_token_grow() -> None:
    """DAPO's point: at A > 0 the gradient stops at ratio 1.2 by PPO's clip, and at 1.28 by clip_higher's."""
    for ratio, grows in ((1.1, (True, True)), (1.25, (False, True)), (1.3, (False, False))):
        for name, wanted in zip(("lite_ppo", "clip_higher"), grows, strict=True):
            cfg = lite_ppo.PRESETS.get(name, lite_ppo.Config())
            logp = torch.tensor([[math.log(ratio)]]).requires_grad_()
            one = torch.ones(1, 1)
            rows = Rows(one.long(), one.bool(), {"old": one - 1, "advantage": one, "weight": one, "share": one})
            lite_ppo.make(cfg, TextSpec()).losses["policy"](Out(logp), rows)[0].backward()
            assert logp.grad is not None
            assert bool(logp.grad.abs() > 0) == wanted, (ratio, name)


def test_an_update_makes_what_was_rewarded_more_probable_and_tells_a_mismatch_of_nothing() -> None:
    model = small()
    turns = played(model)
    learner = lite_ppo.make(dataclasses.replace(lite_ppo.PRESETS["grpo"], lr=1e-3), TextSpec())
    state, told = learner.update(learner.init(model), turns)
    change = (model.read(turns.rows()) - turns.logp).sum(-1)
    good = torch.tensor(REWARD[:4] + [0.5] * 4 + REWARD[8:])  # the second group is all alike: it says nothing
    assert change[good == 1].mean() > change[good == 0].mean()
    assert float(told["mismatch"]) < 1e-5
    assert float(told["kl"]) >= 0
    assert state.reference["start"] is not state.policy


def test_other_worlds_are_refused() -> None:
    with pytest.raises(Fault, match="lite_ppo: a world that is spoken to is needed"):
        lite_ppo.make(lite_ppo.Config(), Spec(Box(3), Box(2)))


def test_groups_that_are_alike_may_be_left_out() -> None:
    """The second of three groups earned nothing at all: the mean is over the tokens of the other two."""
    returns = [*REWARD[:4], 0.0, 0.0, 0.0, 0.0, *REWARD[8:]]
    found = []
    for alike in ("keep", "drop"):
        cfg = dataclasses.replace(lite_ppo.PRESETS["dapo"], updates=1, alike=alike)  # type: ignore[arg-type]
        model = small()
        learner = lite_ppo.make(dataclasses.replace(cfg, max_norm=1e6), TextSpec())
        learner.update(learner.init(model), played(model, returns))
        found.append(model.m)
    written = played(small(), returns).rows().mask.sum(1)
    share = float(written.sum()) / float(written[:4].sum() + written[8:].sum())
    for k, x in found[0].items():
        torch.testing.assert_close(x * share, found[1][k], atol=1e-6, rtol=1e-3)
    assert share > 1.3
