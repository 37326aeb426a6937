"""PPO over tokens: its loss and its advantages as float64 loops, its head, and lite_ppo as its limit."""

import dataclasses

import pytest
import torch

from thespis.algos.language import lite_ppo, ppo_tokens
from thespis.core import leaves
from thespis.turns import Out, TextSpec, Turns

from .answers import LENGTHS, REWARD, gain, mask, played, rows, small, spied

ONE = ppo_tokens.Config(epochs=1)
PLAIN = dataclasses.replace(ONE, lam=1.0, whiten=False, value_weight=0.0)


@pytest.mark.parametrize("clip_value", [0.2, None])
def test_the_loss_is_the_loop_over_tokens(clip_value: float | None) -> None:
    cfg = dataclasses.replace(ONE, clip_value=clip_value, value_weight=0.3)
    hidden = torch.randn(3, 6, 1, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    logp, b = rows("old", "advantage", "value", "returns", weight=mask() / 10)
    total, held = 0.0, 0
    for r, t in mask().nonzero().tolist():
        v, old, wanted = float(hidden[r, t - 1, 0]), float(b.value[r, t]), float(b.returns[r, t])  # before the token
        near = old + max(min(v - old, 0.2), -0.2) if clip_value else v
        held += (near - wanted) ** 2 > (v - wanted) ** 2
        total += -gain(logp[r, t], b.old[r, t], b.advantage[r, t]) / 10
        total += 0.3 * 0.5 * max((v - wanted) ** 2, (near - wanted) ** 2) / 10
    assert (held > 0) == (clip_value is not None)
    heads = {"value": lambda x: x}
    found, _ = ppo_tokens.make(cfg, TextSpec()).losses["policy"](Out(logp, b, hidden, None, heads), b)
    assert float(found) == pytest.approx(total, rel=1e-6)


def two_turns() -> Turns:
    """Two episodes: of two turns with 2 and 1 tokens, terminated; and of one turn with 3 tokens, cut off."""
    said = torch.tensor([[-1, 0, 0, -1, 1, -1], [-1, 2, 2, 2, -1, -1]])
    row, ended = torch.tensor([0, 0, 1]), torch.tensor([False, True, True])
    x, start = torch.zeros(3), torch.tensor([1, 4, 1])
    return Turns(said, said, said * 0.0, row, start, x, torch.tensor([0.9, 0.0, 0.9]), ended, row, ~ended, row)


def test_advantages_go_from_token_to_token_through_all_turns_of_an_episode() -> None:
    g = torch.Generator().manual_seed(0)
    reward, value = (torch.randn(2, 6, generator=g, dtype=torch.float64) for _ in range(2))
    t, wanted = two_turns(), torch.zeros(2, 6, dtype=torch.float64)
    for r, places in ((0, [1, 2, 4]), (1, [1, 2, 3])):
        ahead = 0.0
        for i in reversed(range(3)):
            here, last = places[i], i == 2
            after = float(value[r, places[i + 1]]) if not last else float(value[r, here])  # cut off: its own stands for it
            discount = 0.0 if last and r == 0 else 0.9
            ahead = float(reward[r, here]) + discount * after - float(value[r, here]) + 0.9 * 0.7 * ahead * (not last)
            wanted[r, here] = ahead
    torch.testing.assert_close(ppo_tokens.advantage(t, reward, value, 0.9, 0.7), wanted)
    assert t.stop.tolist() == [2, 4, 3]
    assert t.at_stop(torch.tensor([1.0, 2.0, 3.0])).tolist() == [[0, 0, 1, 0, 2, 0], [0, 0, 0, 3, 0, 0]]


def test_without_a_critic_it_is_lite_ppo_in_groups_of_one() -> None:
    found = []
    for algo, cfg in ((ppo_tokens, PLAIN), (lite_ppo, lite_ppo.Config(updates=1, baseline="others", spread="none"))):
        model = small()
        turns = dataclasses.replace(played(model), group=torch.arange(12))
        learner = algo.make(cfg, TextSpec())
        learner.update(learner.init(model), turns)
        found.append(model.m)
    assert max(float(x.abs().max()) for x in found[1].values()) > 1e-3
    for k, x in found[1].items():
        torch.testing.assert_close(found[0][k], x, atol=1e-6, rtol=1e-4)
    assert not found[0]["heads.value.weight"].any()


def test_the_head_learns_the_returns() -> None:
    """All answers earn 1, so every value goes to 1; at first the head says 0."""
    model = small()
    cfg = dataclasses.replace(PLAIN, lr=3e-2, value_weight=1.0, clip_value=None, clip=(0.0, 0.0))
    learner = ppo_tokens.make(cfg, TextSpec())
    state, turns = learner.init(model), played(model, [1.0] * 12)
    errors = [float(learner.update(state, turns)[1]["value_error"]) for _ in range(40)]
    assert errors[0] == pytest.approx(1.0)
    assert errors[-1] < 0.05


@pytest.mark.parametrize("learns", ["all", "head"])
def test_the_values_loss_reaches_the_rest_of_the_model_only_if_asked(learns: str) -> None:
    found = []
    for weight in (0.0, 1.0):
        model = small()
        cfg = dataclasses.replace(ONE, value_learns=learns, value_weight=weight)  # type: ignore[arg-type]
        learner = ppo_tokens.make(cfg, TextSpec())
        learner.init(model)
        torch.nn.init.ones_(model.params["heads.value.weight"])
        b = played(model).rows()
        ones = torch.ones(b.tokens.shape)
        b = b.also(old=b.sampled, advantage=ones, value=ones, returns=2 * ones, weight=b.mask / b.mask.sum())
        learner.losses["policy"](model(b), b)[0].backward()
        found.append({k: p.grad for k, p in model.params.items()})
    name = "model.layers.0.mlp.up_proj.weight"
    assert torch.equal(found[0][name], found[1][name]) == (learns == "head")
    assert not torch.equal(found[0]["heads.value.weight"], found[1]["heads.value.weight"])


def test_the_kl_is_taken_off_the_reward_of_each_token(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = small(), []
    learner = ppo_tokens.make(dataclasses.replace(PLAIN, kl=0.5), TextSpec())
    state, turns = learner.init(model), played(model)
    with torch.no_grad():
        model.params["model.embed_tokens.weight"].mul_(1.2)
    assert "reference.start.params.heads.value.weight" not in leaves(state)
    drift = model.read(turns.rows()) - state.reference["start"].read(turns.rows())
    assert float(drift.abs().max()) > 1e-3
    plain = ppo_tokens.advantage
    monkeypatch.setattr(ppo_tokens, "advantage", lambda t, reward, *rest: seen.append(reward) or plain(t, reward, *rest))
    learner.update(state, turns)
    for i, n in enumerate(LENGTHS):
        wanted = -0.5 * drift[i, 3 : 3 + n]
        wanted[-1] += REWARD[i]
        torch.testing.assert_close(seen[0][i, 3 : 3 + n], wanted, atol=1e-5, rtol=1e-4)


def test_advantages_are_whitened_over_all_tokens_of_an_update() -> None:
    spy, _ = spied(ppo_tokens, ONE)
    found = spy.given.advantage[spy.given.mask]
    assert len(found) == sum(LENGTHS)
    assert float(found.mean()) == pytest.approx(0.0, abs=1e-6)
    assert float(found.var(unbiased=False)) == pytest.approx(1.0, abs=1e-5)
