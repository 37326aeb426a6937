"""Private fine-tuning: its model and its updates against slow loops, its ledger against the target, its canaries."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.nn import functional as F

from thespis.core import Fault
from thespis.ops import privacy
from thespis.worlds import names as texts
from thespis.worlds.private_tuning import COUNT_NOISE, budget

SMALL = {"updates": 8, "interval": 4, "batch": 8, "records": 256}


def made(**options: Any) -> Any:
    return gym.make("thespis/PrivateTuning-v0", **SMALL | options).unwrapped


def test_the_parts_share_no_name_and_a_text_is_what_it_says() -> None:
    public, private = (set(texts.names(i)) for i in (0, 1))
    assert min(len(public), len(private)) > 4_800
    assert not public & private
    assert "LATIN SMALL LETTER A" in public | private
    row = texts.encoded(["A BZ"])[0].tolist()
    assert row == [27, 1, 0, 2, 26] + [27] * 20


def test_the_decoder_is_one_with_merged_weights_and_the_attention_of_torch() -> None:
    model, rng = texts.pretrained(), torch.Generator().manual_seed(3)
    lora = {k: torch.randn(v.shape, generator=rng) * 0.3 for k, v in model.lora(rng).items()}
    rows = texts.encoded(["LATIN SMALL LETTER A", "X", "MATHEMATICAL BOLD ITALIC SMALL ALPHA"])
    w = {k: v.double() for k, v in model.base.items()}
    for name in model.adapters:
        w[name] = w[name] + lora[f"{name}.up"].double() @ lora[f"{name}.down"].double()
    for row, found in zip(rows, model.loss(lora, rows), strict=True):
        h = w["characters"][row[:-1]] + w["places"]
        for i in range(model.blocks):
            q, k, v = (F.rms_norm(h, (32,), eps=1e-6) @ w[f"{i}.read"].T).chunk(3, -1)
            heads = [F.scaled_dot_product_attention(*(x[:, j : j + 16] for x in (q, k, v)), is_causal=True) for j in (0, 16)]
            h = h + torch.cat(heads, -1) @ w[f"{i}.attended"].T
            h = h + F.gelu(F.rms_norm(h, (32,), eps=1e-6) @ w[f"{i}.hidden"].T) @ w[f"{i}.out"].T
        n = min(int((row != 27).sum()) + 1, texts.LENGTH)
        wanted = F.cross_entropy((F.rms_norm(h, (32,), eps=1e-6) @ w["characters"].T)[:n], row[1 : n + 1])
        assert float(found) == pytest.approx(float(wanted), rel=1e-5)


def test_the_base_has_learnt_more_than_how_often_letters_come() -> None:
    text = texts.prose()
    share = torch.bincount(text, minlength=28) / len(text)
    letters = -float(torch.xlogy(share, share).sum())
    rows = torch.cat([torch.full((400, 1), 27), text[: 400 * 24].view(400, 24)], 1)
    assert float(texts.pretrained().loss({}, rows).mean()) < letters - 0.5


def test_an_update_is_that_of_a_loop_over_texts() -> None:
    env = made(lr=0.7)
    env.reset(seed=4)
    rng, start = torch.Generator(), {k: v.clone() for k, v in env.lora.items()}
    rng.set_state(env.rng.get_state())
    action = np.array([-0.6, -0.3, -0.4, 0.6, 0.4], np.float32)
    env.interval = 1
    env.step(action)
    bounds, sigma = 10 ** action[:4].astype(float), env.sigma * math.exp(0.1 * float(action[4]))
    taken = torch.rand(256, generator=rng) < 8 / 256
    sums = {k: torch.zeros_like(v) for k, v in start.items()}
    for row in env.private[taken]:
        p = {k: v.clone().requires_grad_() for k, v in start.items()}
        env.model.loss(p, row).backward()
        for name, bound in zip(env.model.adapters, bounds, strict=True):
            pair = [p[f"{name}.{k}"].grad for k in ("down", "up")]
            size = math.sqrt(sum(float(g.square().sum()) for g in pair))
            for k, g in zip(("down", "up"), pair, strict=True):
                sums[f"{name}.{k}"] += g * min(1.0, bound / size)
    z = 1 / math.sqrt(1 / sigma**2 - 4 / (4 * COUNT_NOISE**2))  # what the counts leave
    for name, bound in zip(env.model.adapters, bounds, strict=True):
        noise = torch.randn(sum(sums[f"{name}.{k}"].numel() for k in ("down", "up")), generator=rng) * z * 2 * bound
        n = sums[f"{name}.down"].numel()
        for k, part in (("down", noise[:n]), ("up", noise[n:])):
            key = f"{name}.{k}"
            torch.testing.assert_close(env.lora[key], start[key] - 0.7 / 8 * (sums[key] + part.view_as(sums[key])))


def test_the_ledger_stops_an_episode_before_the_target_is_passed() -> None:
    rng, ends = np.random.default_rng(0), []
    for i, rule in enumerate([lambda: np.zeros(5), lambda: np.full(5, -1.0), *[lambda: rng.uniform(-1, 1, 5)] * 4]):
        env = made(epsilon=(1.0, 6.0)[i % 2], updates=16)
        env.reset(seed=i)
        start, total, over = env.loss, 0.0, False
        while not over:
            _, reward, over, _, info = env.step(rule().astype(np.float32))
            total += reward
        found = env.audit()["epsilon"]
        assert found <= env.epsilon
        ends.append((info["updates"], found / env.epsilon))
        assert total == pytest.approx(10 * (start - env.loss) - 0.1 * info["spent"], abs=1e-6)
    assert ends[0] == (16, pytest.approx(1, abs=1e-3))
    assert ends[1][0] < 16


def test_the_budget_is_spent_at_the_best_order_by_the_middle_noise() -> None:
    order, rest, sigma = budget(2.0, 1e-5, 1 / 64, 50)
    each = privacy.renyi(torch.tensor(sigma).double(), torch.tensor(1 / 64).double(), [order])
    assert 0.999 * rest < 50 * float(each) <= rest
    assert float(privacy.epsilon(50 * each, 1e-5, [order])) == pytest.approx(2, rel=1e-4)


def test_exposure_is_that_of_chance_before_training_and_all_of_it_where_the_codes_are_learnt() -> None:
    env = made(canaries=100)
    env.reset(seed=0)
    env.history.append((1.0, 1))
    ranks = np.arange(1, 514)
    assert env.audit()["exposure"] == pytest.approx(np.mean(np.log2(513 / ranks)), abs=0.35)
    lora = {k: v.requires_grad_() for k, v in env.lora.items()}
    optimiser = torch.optim.Adam(lora.values(), 0.03)
    for _ in range(60):
        optimiser.zero_grad()
        env.model.loss(lora, env.codes[:2]).mean().backward()
        optimiser.step()
    env.codes, env.canaries = env.codes[:2], 2
    assert env.audit()["exposure"] > 7


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"epsilon": 0.01}, "epsilon is 0.01"), ({"part": "secret"}, "part is 'secret'; allowed: public, private"),
        ({"delta": 0.5}, "delta is 0.5"), ({"records": 5000}, "records is 5000; allowed: a whole number from 16 to 4096"),
        ({"interval": 9}, "interval is 9; allowed: a whole number from 1 to 8"), ({"lr": -1.0}, "lr is -1.0"),
    ],
)  # fmt: skip
def test_what_is_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(Fault, match=named.replace("(", r"\(")):
        made(**given)
