"""RAD: its rounds of questions by hand, its limits, and that it asks where a teacher who errs at the boundary is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from thespis import ops
from thespis.algos.supervised import classifier, rad
from thespis.core import Batch, Box, Discrete, Fault, Learner, Spec, replace

from . import reference as ref

N, OBS, CLASSES = 40, 3, 4
SPEC = Spec(Box(OBS), Discrete(CLASSES))


def data() -> Batch:
    g = torch.Generator().manual_seed(0)
    obs = torch.randn(N, OBS, generator=g).double()
    return Batch(obs, torch.randint(CLASSES, (N,), generator=g), obs[:, 0], obs[:, 0], obs)


def made(**numbers: Any) -> Learner:
    return rad.make(rad.Config(**{"hidden": (6,), "labelled": 10, "budget": 8, "rounds": 1, "ask_every": 1, **numbers}), SPEC)


def asked(learner: Learner) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """The State before and after an update that asks."""
    torch.manual_seed(3)
    before = learner.given(ref.aged(learner.init()), data())
    after, metrics = learner.update(before, data(), 0)
    return before, after, metrics


def unsure(s: Any) -> tuple[np.ndarray, np.ndarray]:
    """1 - margin, and entropy, of each row, by hand."""
    w = ref.weights(s.actor.params)
    out = np.stack([ref.net(w, x) for x in s.rows.numpy()])
    p = np.exp(out - out.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    top = np.sort(p, 1)[:, ::-1]
    return 1 - top[:, 0] + top[:, 1], -(p * np.log(p)).sum(1)


@pytest.mark.parametrize(("choose", "which"), [("margin", 0), ("entropy", 1)])
def test_margin_and_entropy_ask_about_the_least_sure(choose: str, which: int) -> None:
    before, after, metrics = asked(made(choose=choose))
    new = (after.known - before.known).numpy()
    scores = np.where(before.known.numpy() > 0, -1, unsure(after)[which])
    np.testing.assert_array_equal(np.flatnonzero(new), np.sort(np.argsort(-scores)[:8]))
    assert float(metrics["gain"]) == pytest.approx(unsure(after)[0][new > 0].mean(), rel=1e-9)


def test_rad_asks_by_the_chances_of_the_game_and_without_mistakes_as_margin_does() -> None:
    before, after, metrics = asked(made(error=0.2))
    gain, open = torch.from_numpy(unsure(after)[0]), 1 - before.known
    chance = ops.robust_chances(gain, open, 8, torch.tensor(0.2 * 30).double())
    new = after.known - before.known
    assert set(torch.nonzero(new)[:, 0].tolist()) <= set(torch.nonzero(chance)[:, 0].tolist())
    assert float(metrics["asked"]) == float(new.sum()) == 8
    assert torch.equal(asked(made(error=0.0))[1].known, asked(made(choose="margin"))[1].known)
    assert not torch.equal(after.known, asked(made(choose="margin"))[1].known)


def test_uniform_asks_about_any_and_never_twice_and_rounds_end() -> None:
    learner = made(choose="uniform", rounds=2, budget=20)
    torch.manual_seed(0)
    s = learner.given(ref.aged(learner.init()), data())
    counts = []
    for _ in range(4):
        s, metrics = learner.update(s, data(), 0)
        counts.append((float(s.known.sum()), float(metrics["asked"])))
    assert counts == [(30, 20), (40, 10), (40, 0), (40, 0)]


def test_it_learns_from_known_rows_alone_and_with_all_known_as_a_classifier() -> None:
    learner = made(batch_size=2000, ask_every=2)
    torch.manual_seed(1)
    s = learner.given(ref.aged(learner.init()), data())
    far = replace(s, answers=torch.where(s.known[:, None] > 0, s.answers, torch.nan))
    after, metrics = learner.update(far, data(), 0)
    assert all(x.isfinite().all() for x in after.actor.params.values())
    parent = classifier.make(classifier.Config(hidden=(6,)), SPEC)
    first = Batch(*(x[:10] for x in (data().obs, data().action, data().reward, data().discount, data().next_obs)))
    loss, _ = parent.losses["actor"](s.actor.params, first)
    assert float(metrics["actor_loss"]) == pytest.approx(float(loss), rel=0.05)  # drawn evenly
    whole, _ = learner.losses["actor"](s.actor.params, s.rows[:10], s.answers[:10])
    assert float(whole) == pytest.approx(float(loss), rel=1e-12)


def test_signature_fewer_of_its_answers_are_wrong_where_mistakes_are_at_the_boundary() -> None:
    torch.manual_seed(0)
    x = torch.rand(400, 1) * 2 - 1
    truth = (x[:, 0] > 0).long()
    answers = torch.where((x[:, 0].abs() < 0.25) & (torch.arange(400) >= 20), 1 - truth, truth)  # a quarter, the nearest ones
    share = {}
    for choose in ("rad", "margin", "uniform"):
        numbers = {"choose": choose, "error": 0.25, "labelled": 20, "budget": 60, "rounds": 1, "ask_every": 150, "lr": 1e-2}
        learner = rad.make(rad.Config(hidden=(8,), **numbers), Spec(Box(1), Discrete(2)))  # type: ignore[arg-type]
        s = learner.given(learner.init(), Batch(x, answers, x[:, 0], x[:, 0], x))
        for i in range(150):
            s, _ = learner.update(s, Batch(x, answers, x[:, 0], x[:, 0], x), learner.alike(i))
        new = s.known.clone()
        new[:20] = 0
        share[choose] = float((new * (answers != truth)).sum() / new.sum())
    assert share["rad"] < share["uniform"] < share["margin"]
    assert share["margin"] > 0.9


def test_it_wants_one_choice() -> None:
    with pytest.raises(Fault, match="one choice is needed, the class"):
        rad.make(rad.Config(), Spec(Box(OBS), Box(2)))
