"""NHL: the Hebbian step and the entropy in float64 by hand, what each of its parts moves, and that no label is looked at."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import thespis
from thespis.algos.supervised import classifier, nhl
from thespis.core import Batch, Box, Discrete, Fault, Learner, Spec, leaves, replace

from . import reference as ref

SPEC = Spec(Box(5 * 6 * 2), Discrete(3), images=((0, 60),), shapes=((5, 6, 2),))
ROWS = 4


def made(**numbers: Any) -> Learner:
    return nhl.make(nhl.Config(**{"channels": 3, "rollout": ROWS, **numbers}), SPEC)


def state(learner: Learner) -> Any:
    torch.manual_seed(0)
    return ref.aged(learner.init())


def batch() -> Batch:
    obs = torch.rand(ROWS, 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    nothing = torch.full((ROWS,), torch.nan, dtype=torch.float64)
    return Batch(obs, torch.full((ROWS,), -1), nothing, nothing, obs)


def moved(before: Any, after: Any) -> set[str]:
    return {k for k, x in leaves(after).items() if not torch.equal(x, leaves(before)[k])}


def hebbian(w: np.ndarray, obs: np.ndarray, eta: float, tau: float, hard: bool) -> np.ndarray:
    """The change of (filters, channels, 3, 3), patch by patch: y (x - u w)."""
    total, count = np.zeros_like(w), 0
    for picture in obs.reshape(-1, 5, 6, 2).transpose(0, 3, 1, 2):
        around = np.pad(picture, ((0, 0), (1, 1), (1, 1)))
        for row in range(5):
            for column in range(6):
                x = around[:, row : row + 3, column : column + 3]
                u = (w * x).sum((1, 2, 3))
                y = np.exp((u - u.max()) / tau)
                y = (u == u.max()).astype(float) if hard else y / y.sum()
                total += y[:, None, None, None] * (x - u[:, None, None, None] * w)
                count += 1
    change = total / count
    new = w + eta * change / np.abs(change).max()
    length = lambda v: np.sqrt((v**2).sum((1, 2, 3), keepdims=True))
    return new * length(w) / length(new)


@pytest.mark.parametrize("winner", ["soft", "hard"])
def test_the_first_layer_takes_a_hebbian_step(winner: str) -> None:
    learner = made(adapt="hebb", winner=winner, eta=0.01, tau=0.5)
    s, b = state(learner), batch()
    after, metrics = learner.update(s, b, 0)
    wanted = hebbian(s.kept["w0"].numpy(), b.obs.numpy(), 0.01, 0.5, winner == "hard")
    np.testing.assert_allclose(after.kept["w0"], wanted, rtol=1e-9)
    assert moved(s, after) == {"kept.w0", "stats.mean", "stats.var"}
    assert (float(metrics["shared"]) > 0.1) == (winner == "soft")


def test_modulator_and_tent_take_a_step_of_adam_on_the_entropy() -> None:
    for adapt, names in ("modulator", {"scale0", "shift0"}), ("tent", {f"{k}{i}" for k in ("scale", "shift") for i in range(3)}):
        learner = made(adapt=adapt, lr=0.01)
        s, b = state(learner), batch()
        after, metrics = learner.update(s, b, 0)
        assert set(s.actor.params) == names
        wanted, _ = ref.step(s.actor, learner.losses["actor"], 0.01, s.kept, b.obs)
        ref.assert_same(after.actor, wanted)
        ref.assert_same(after.kept, s.kept)
        net = classifier.nets.convolutions(SPEC, 3, 3)
        p = net.measure({**s.kept, **s.actor.params}, b.obs)[0].softmax(-1).numpy()
        assert float(metrics["actor_loss"]) == pytest.approx(-(p * np.log(p)).sum(-1).mean(), rel=1e-10)
        ref.assert_same(after.stats, net.measure({**after.kept, **after.actor.params}, b.obs)[1])


def test_nhl_is_one_after_the_other_and_without_eta_the_modulator_alone() -> None:
    b = batch()
    both, hebb, modulator = (made(adapt=adapt, lr=0.01) for adapt in ("nhl", "hebb", "modulator"))
    s = state(both)
    first = hebb.update(state(hebb), b, 0)[0].kept["w0"]
    after = both.update(s, b, 0)[0]
    then = modulator.update(replace(s, kept={**s.kept, "w0": first}), b, 0)[0]
    ref.assert_same(after, then)
    ref.assert_same(made(adapt="nhl", lr=0.01, eta=0.0).update(s, b, 0)[0], modulator.update(s, b, 0)[0])


def test_with_statistics_alone_a_batch_is_named_by_its_own() -> None:
    learner, parent = made(adapt="statistics"), classifier.make(classifier.Config(net="convolutions", channels=3), SPEC)
    s, b = state(learner), batch()
    after, _ = learner.update(s, b, 0)
    assert moved(s, after) == {"stats.mean", "stats.var"}
    p = parent.policy(parent.init()) | {"actor": {**s.kept, **s.actor.params}, "stats": after.stats}
    assert torch.equal(learner.act(learner.policy(after), b.obs, False), parent.act(p, b.obs, False))


def test_neither_rewards_nor_actions_are_looked_at() -> None:
    learner, b = made(), batch()
    other = replace(b, action=b.action + 2, reward=torch.ones(ROWS), discount=torch.ones(ROWS))
    ref.assert_same(*(learner.update(state(learner), x, 0)[0] for x in (b, other)), rtol=0, atol=0)
    assert learner.needs == frozenset()


def test_it_begins_with_a_classifier_and_adapts_to_its_world(tmp_path: Any) -> None:
    pytest.importorskip("sklearn")
    small = {
        "eval_episodes": 60,
        "compile_after": -1,
        "sinks": (),
        "panel": False,
        "env": "thespis/CorruptedDigits-v0",
        "channels": 4,
    }
    contrast = {"env_args": ("corruption=contrast",), "log_every": 200, "eval_every": 200}
    clean = thespis.train("classifier_conv", out=tmp_path / "clean", steps=80, **small, **contrast)
    adapted = thespis.train("nhl", out=tmp_path / "adapted", start_from=clean, steps=192, **small, **contrast)
    assert adapted.return_mean > clean.return_mean + 0.1


def test_it_wants_one_image_and_one_choice() -> None:
    with pytest.raises(Fault, match="one choice is needed"):
        nhl.make(nhl.Config(), SPEC._replace(action=Box(2)))
    with pytest.raises(Fault, match="one image of bytes"):
        nhl.make(nhl.Config(), Spec(Box(3), Discrete(2)))
