"""COPO on numbers made by hand: both advantages, the gate and the loss as loops, its limit, groups that are alike."""

import math

import pytest
import torch

from thespis.algos.language import copo, lite_ppo
from thespis.core import Box, Fault, Spec

from .answers import FINAL, REWARD, column, gain, group_of, learnt, loss, mask, rows, same, std

ONE = copo.Config(updates=1)


def test_advantages_of_the_group_and_of_the_batch() -> None:
    local, whole = column(copo, ONE, "local"), column(copo, ONE, "whole")
    solved = [sum(group_of(REWARD, 4 * j)) / 4 for j in range(3)]
    for i, r in enumerate(REWARD):
        mine = group_of(REWARD, i)
        assert local[i] == pytest.approx((r - sum(mine) / 4) / (std(mine) + 1e-6), abs=1e-5)
        assert whole[i] == pytest.approx((solved[i // 4] - sum(solved) / 3) / (std(solved) + 1e-6), abs=1e-5)


def gates(mix: str) -> list[float]:
    wanted = []
    for i in range(12):
        mine = FINAL[i // 4 * 4 : i // 4 * 4 + 4]
        entropy = -sum(n / 4 * math.log(n / 4) for n in (mine.count(x) for x in set(mine)))
        gate = 1 / (1 + math.exp(-20 * (entropy - 0.9)))
        some = float(any(group_of(REWARD, i)))
        wanted.append({"full": gate * some, "blended": gate, "selective": some, "global": 0.0}[mix])
    return wanted


@pytest.mark.parametrize("mix", ["full", "blended", "selective", "global"])
def test_the_gate_opens_with_the_entropy_of_final_answers(mix: str) -> None:
    found = column(copo, copo.Config(updates=1, rho=0.9, mix=mix), "gate")  # type: ignore[arg-type]
    assert found == pytest.approx(gates(mix), rel=1e-4, abs=1e-9)
    assert mix != "blended" or found[0] > 0.9 > 0.1 > found[4]  # answers 0 1 2 0, and all the same


def test_the_loss_is_the_loop_over_answers_and_tokens() -> None:
    gate = torch.tensor([0.2, 0.9, 0.0], dtype=torch.float64)[:, None].expand(3, 6)
    logp, given = rows("old", "local", "whole", gate=gate)
    given = given.also(weight=copo.ops.per_sequence(mask()))
    total = 0.0
    for r in range(3):
        places = mask()[r].nonzero()[:, 0].tolist()
        for t in places:
            g, o = float(gate[r, t]), given.old[r, t]
            mixed = g * gain(logp[r, t], o, given.local[r, t]) + (1 - g) * gain(logp[r, t], o, given.whole[r, t])
            total -= mixed / len(places) / 3
    assert float(loss(copo, ONE, logp, given)) == pytest.approx(total, rel=1e-6)


def test_with_the_gate_open_it_is_grpo() -> None:
    open_ = copo.Config(mix="blended", rho=-100.0)
    same(learnt(copo, open_), learnt(lite_ppo, lite_ppo.Config(spread="group", average="sequence")))


def test_groups_that_are_alike_move_it_as_reinforce_with_the_batchs_advantage() -> None:
    """One question solved by all, two by none: GRPO learns nothing; here the gradient is that of A_glob log p."""
    reward = [1.0] * 4 + [0.0] * 8
    still = learnt(lite_ppo, lite_ppo.Config(spread="group", average="sequence"), reward)
    assert not any(x.any() for x in still.values())
    whole = column(copo, ONE, "whole", reward)
    assert whole == pytest.approx([math.sqrt(2)] * 4 + [-math.sqrt(0.5)] * 8, rel=1e-4)
    a = torch.tensor([1.4, -0.7, -0.7], dtype=torch.float64)[:, None].expand(3, 6)
    logp, given = rows(local=torch.zeros_like(a), whole=a, gate=torch.zeros_like(a), weight=copo.ops.per_sequence(mask()))
    logp.requires_grad_()
    given = given.also(old=logp.detach())
    (ours,) = torch.autograd.grad(loss(copo, ONE, logp, given), logp)
    (theirs,) = torch.autograd.grad(-(given.weight * a * logp).sum(), logp)
    torch.testing.assert_close(ours, theirs)
    same(learnt(copo, ONE, reward), learnt(copo, copo.Config(updates=1, mix="global"), reward))


def test_other_worlds_are_refused() -> None:
    with pytest.raises(Fault, match="copo: a world that is spoken to is needed"):
        copo.make(copo.Config(), Spec(Box(3), Box(2)))
