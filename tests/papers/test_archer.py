"""ArCHer: its targets and losses as loops over turns, the known values of a small game, and REINFORCE as its actor's limit."""

import dataclasses

import pytest
import torch
from torch import Tensor

from thespis.algos.language import archer, lite_ppo
from thespis.core import leaves
from thespis.lm import Model, Text
from thespis.turns import Out, Rows, TextSpec, Turns

from .answers import Spy, played, small

ONE = archer.Config(warmup=0, critic_updates=1, updates=1, episodes=4, capacity=8, turns=100)


def conversations() -> Turns:
    """Three episodes of 2, 1 and 3 turns: the first ended, the second cut off, the third ended."""
    talks = ([("?", "a"), ("x", "bc")], [("?", "d")], [("?", "ab"), ("y", "c"), ("z", "a")])
    rows, said, start, n = list[list[int]](), list[list[int]](), list[int](), 0
    for talk in talks:
        tokens, of = list[int](), list[int]()
        for asked, answer in talk:
            for more, who in ((Text().asked(asked), -1), (Text().answered(answer), n)):
                if who >= 0:
                    start.append(len(tokens))
                tokens += more
                of += [who] * len(more)
            n += 1
        rows.append(tokens)
        said.append(of)
    width = max(map(len, rows))
    tokens = torch.tensor([[*x, *[0] * (width - len(x))] for x in rows])
    row, ended = torch.tensor([0, 0, 1, 2, 2, 2]), torch.tensor([False, True, True, False, False, True])
    discount = torch.tensor([0.9, 0.0, 0.9, 0.9, 0.9, 0.0])
    return Turns(
        tokens, torch.tensor([[*x, *[-1] * (width - len(x))] for x in said]), torch.zeros(tokens.shape), row,
        torch.tensor(start), torch.tensor([-1.0, 2.0, 5.0, -1.0, -1.0, 0.5]), discount, ended, row, ~ended, row,
    )  # fmt: skip


def critics() -> Model:
    """With heads that say something."""
    model = small()
    for head in archer.HEADS:
        model.add_head(head)
        torch.nn.init.normal_(model.heads[head].weight)
    return model


def at(model: Model, tokens: list[int], head: str) -> float:
    """What a head says when these tokens have been read."""
    hidden = model.module.get_decoder()(input_ids=torch.tensor([tokens]), use_cache=False).last_hidden_state[0, -1]
    return float(model.heads[head](hidden).detach())


def test_q_learns_the_reward_and_the_next_value_and_v_learns_q_of_a_new_answer() -> None:
    t, target, policy = conversations(), critics(), small(1)
    torch.manual_seed(0)
    rows, which = archer.anew(policy, t, 3, 4)
    b = archer.targets(target, t, rows, which)
    assert len(set(which.tolist())) == 4
    assert not b.mask.any(), "critics write nothing"
    for n in range(6):
        r, first, last = int(t.row[n]), int(t.start[n]), int(t.stop[n])
        for j in "12":
            value = (
                0.0 if t.ended[n] else 0.9 * at(target, t.tokens[r, : int(t.start[n + 1]) if n < 5 else None].tolist(), f"v{j}")
            )
            if n != 2:  # cut off: nothing is known of what follows
                assert float(getattr(b, f"q{j}")[r, last]) == pytest.approx(float(t.reward[n]) + value, abs=1e-4)
        assert float(b.after[r, last]) == pytest.approx(0.0 if n == 2 else 1 / 5)
        assert float(b.before[r, first - 1]) == pytest.approx(0.25 if n in which.tolist() else 0.0)
    for i, n in enumerate(which.tolist()):
        r, first, length = int(t.row[n]), int(t.start[n]), int(rows.mask[i].sum())
        answer = rows.tokens[i, : first + length].tolist()
        assert answer[:first] == t.tokens[r, :first].tolist(), "the same was said before it"
        assert 1 <= length <= 3
        for j in "12":
            assert float(getattr(b, f"v{j}")[r, first - 1]) == pytest.approx(at(target, answer, f"q{j}"), abs=1e-4)
    assert float(b.after.sum()) == pytest.approx(1.0)
    assert float(b.before.sum()) == pytest.approx(1.0)


def test_losses_are_loops_over_places_and_tokens() -> None:
    g = torch.Generator().manual_seed(0)
    hidden, logp, advantage, weight, after, before, *wanted = (
        torch.randn(2, 3, generator=g, dtype=torch.float64) for _ in range(10)
    )
    b = Rows(
        hidden.long(), hidden > 9,
        dict(zip(archer.HEADS, wanted, strict=True))
        | {"after": after, "before": before, "advantage": advantage, "weight": weight},
    )  # fmt: skip
    factor = {"q1": 1.0, "q2": 2.0, "v1": 3.0, "v2": 4.0}
    heads = {name: lambda x, f=f: f * x for name, f in factor.items()}
    losses = archer.make(ONE, TextSpec()).losses
    out = Out(logp, b, hidden[..., None], None, heads)
    total, actor = 0.0, 0.0
    for r in range(2):
        for t in range(3):
            for name, w in zip(archer.HEADS, wanted, strict=True):
                place = float((after if name[0] == "q" else before)[r, t])
                total += place * (factor[name] * float(hidden[r, t]) - float(w[r, t])) ** 2
            actor -= float(weight[r, t]) * float(advantage[r, t]) * float(logp[r, t])
    assert float(losses["critic"](out, b)[0]) == pytest.approx(total, rel=1e-9)
    assert float(losses["policy"](out, b)[0]) == pytest.approx(actor, rel=1e-9)


def test_the_advantage_is_the_lower_q_less_the_lower_v() -> None:
    model = critics()
    rows, _ = archer.anew(small(1), conversations(), 3)
    q, v = archer.valued(model, rows)
    for i in range(6):
        first, last = int(rows.mask[i].int().argmax()), int(rows.mask[i].nonzero().max())
        tokens = rows.tokens[i].tolist()
        assert q[i].tolist() == pytest.approx([at(model, tokens[: last + 1], f"q{j}") for j in "12"], abs=1e-4)
        assert v[i].tolist() == pytest.approx([at(model, tokens[:first], f"v{j}") for j in "12"], abs=1e-4)


def test_the_actor_is_given_this_advantage_at_the_tokens_of_its_new_answers() -> None:
    policy = small()
    spy = Spy(policy.module, policy.text)
    learner = archer.make(ONE, TextSpec(None, 3))
    state = learner.init(spy)
    object.__setattr__(state, "critic", critics())
    learner.update(state, conversations())
    b = spy.given
    q, v = archer.valued(state.critic, b)
    wanted = [min(a) - min(c) for a, c in zip(q.tolist(), v.tolist(), strict=True)]
    assert len({round(a, 4) for a in wanted}) > 3
    for i, a in enumerate(wanted):
        assert b.advantage[i][b.mask[i]].tolist() == pytest.approx([a] * int(b.mask[i].sum()), abs=1e-5)
        assert b.weight[i][b.mask[i]].tolist() == pytest.approx([1 / len(wanted)] * int(b.mask[i].sum()))
    assert not b.advantage[~b.mask].any()


def test_with_returns_for_advantages_the_actor_s_gradient_is_that_of_lite_ppo_at_ratio_1() -> None:
    found = []
    for algo, cfg in (
        (archer, ONE),
        (lite_ppo, lite_ppo.Config(spread="none", baseline="others", average="constant", updates=1)),
    ):
        model = small()
        t = dataclasses.replace(played(model), group=torch.arange(12))
        a = t.rows().mask * t.returns()[:, None]
        weight = lite_ppo.ops.per_constant(t.rows().mask)
        b = t.rows(advantage=a, weight=weight, share=weight, old=t.logp)
        model.descend(algo.make(cfg, TextSpec()).losses["policy"], b, 1e-3)
        found.append(model.m)
    assert max(float(x.abs().max()) for x in found[0].values()) > 1e-3
    for k, x in found[0].items():
        torch.testing.assert_close(x, found[1][k], atol=1e-6, rtol=1e-4)


def test_the_critics_find_the_values_of_a_game_and_the_actor_its_better_answer() -> None:
    """One turn, and "a" earns 1, all else 0. The policy says "a" with the chance p, else "b": V is p, Q("a") 1, Q("b") 0."""
    policy = small()
    ask = Text().asked("?")
    tokens = torch.tensor([ask + Text().answered(x) for x in "ab"] * 16)
    said = torch.tensor([[-1, -1, r, r] for r in range(32)])
    each, ones = torch.arange(32), torch.ones(32, dtype=torch.bool)
    t = Turns(
        tokens, said, torch.zeros(32, 4), each, torch.full((32,), 2), (each % 2 == 0).float(), torch.zeros(32), ones, each, ~ones,
        each,
    )  # fmt: skip
    b = Rows(tokens, said >= 0)
    for _ in range(40):  # learns to say one of the two
        policy.descend(lambda out, b: (-(out.logp).sum() / 32, {}), b, 1e-2)
    cfg = archer.Config(warmup=0, critic_updates=40, updates=1, episodes=16, turns=16, critic_lr=1e-2, lr=1e-9)
    learner = archer.make(cfg, TextSpec(None, 2))
    state = learner.init(policy)
    torch.manual_seed(0)
    for _ in range(2):
        state, _ = learner.update(state, t)
    chance = float(policy.read(Rows(tokens[:1], said[:1] >= 0))[0, 2].exp())
    for j in "12":
        assert at(state.critic, tokens[0].tolist(), f"q{j}") == pytest.approx(1.0, abs=0.1)
        assert at(state.critic, tokens[1].tolist(), f"q{j}") == pytest.approx(0.0, abs=0.1)
        assert at(state.critic, ask, f"v{j}") == pytest.approx(chance, abs=0.2)
    learner = archer.make(dataclasses.replace(cfg, critic_updates=1, lr=2e-3, updates=2), TextSpec(None, 2))
    learner.update(state, t)
    a, other = policy.read(Rows(tokens[:2], said[:2] >= 0))[:, 2].exp().tolist()
    assert a > chance + 0.01
    assert a / other > chance / (1 - chance)


@pytest.mark.parametrize("warmup", [0, 2])
def test_the_actor_waits_for_the_critics(warmup: int) -> None:
    model = small()
    learner = archer.make(dataclasses.replace(ONE, warmup=warmup), TextSpec(None, 2))
    state = learner.init(model)
    for k in range(3):
        before = {n: x.clone() for n, x in leaves(state).items()}
        state, told = learner.update(state, played(model))
        moved = {n.split(".")[0] for n, x in leaves(state).items() if not torch.equal(x, before[n])}
        assert {"critic", "target", "replay", "done"} <= moved
        assert ("policy" in moved) == (k >= warmup) == ("loss" in told)


def test_the_slow_copy_follows_by_tau() -> None:
    def after(tau: float) -> list[dict[str, Tensor]]:
        learner = archer.make(dataclasses.replace(ONE, tau=tau), TextSpec(None, 2))
        state = learner.init(model := small())
        was = {k: x.clone() for k, x in state.target.weights().items()}
        learner.update(state, played(model))
        return [was, state.target.weights(), state.critic.weights()]

    for tau in (0.1, 1.0):
        was, now, lead = after(tau)
        for k, x in now.items():
            torch.testing.assert_close(x, was[k] + tau * (lead[k] - was[k]), atol=1e-6, rtol=1e-5)
        assert any(not torch.equal(x, was[k]) for k, x in now.items())
