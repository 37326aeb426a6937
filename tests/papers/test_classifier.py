"""The classifier's loss against numpy in float64; that without batch norm it is behaviour cloning; its statistics."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from thespis.algos.offline import bc
from thespis.algos.supervised import classifier
from thespis.core import Batch, Box, Discrete, Fault, Spec, replace

from . import reference as ref
from .reference import BATCH, OBS

batch = pytest.fixture(ref.batch)
SPEC = Spec(Box(OBS), Discrete(4))
PICTURES = Spec(Box(36), Discrete(4), images=((0, 36),), shapes=((6, 6),))


def labelled(batch: Batch) -> Batch:
    return replace(batch, action=torch.arange(BATCH) % 4)


def test_an_update_is_that_of_behaviour_cloning(batch: Batch) -> None:
    made, parent = (
        classifier.make(classifier.Config(hidden=(12,), lr=0.01), SPEC),
        bc.make(bc.Config(hidden=(12,), lr=0.01), SPEC),
    )
    s, told = ref.aged(made.init()), labelled(batch)
    after, metrics = made.update(s, told, 0)
    theirs = replace(ref.aged(parent.init()), actor=s.actor, seen={"mean": torch.zeros(OBS), "std": torch.ones(OBS)})
    wanted, said = parent.update(theirs, told, 0)
    ref.assert_same(after.actor, wanted.actor)
    assert float(metrics["actor_loss"]) == pytest.approx(float(said["actor_loss"]), rel=1e-12)
    assert set(metrics) == {"actor_loss", "accuracy"}


def test_loss_and_accuracy_by_hand(batch: Batch) -> None:
    made, told = classifier.make(classifier.Config(hidden=(12, 10)), SPEC), labelled(batch)
    s = ref.aged(made.init())
    logits = np.stack([ref.net(ref.weights(s.actor.params), obs) for obs in told.obs.numpy()])
    chosen = logits[np.arange(BATCH), told.action.numpy()]
    loss, metrics = made.losses["actor"](s.actor.params, told)
    assert float(loss) == pytest.approx((np.log(np.exp(logits).sum(1)) - chosen).mean(), rel=1e-10)
    assert float(metrics["accuracy"]) == pytest.approx((chosen == logits.max(1)).mean())
    assert torch.equal(made.act(made.policy(s), told.obs, False), torch.from_numpy(logits.argmax(1)))


def test_statistics_move_by_a_share_to_the_batchs_and_classify_later() -> None:
    torch.manual_seed(0)
    made = classifier.make(classifier.Config(net="convolutions", channels=2, momentum=0.25), PICTURES)
    s, obs = made.init(), torch.rand(8, 36)
    b = Batch(obs, torch.arange(8) % 4, torch.ones(8), torch.zeros(8), obs)
    after, metrics = made.update(s, b, 0)
    own = made.losses["actor"](s.actor.params, b)[1]
    for name, old in s.stats.items():
        torch.testing.assert_close(after.stats[name], 0.75 * old + 0.25 * own[name])
    assert set(metrics) == {"actor_loss", "accuracy"}
    other = replace(s, stats={"mean": s.stats["mean"] + 3, "var": s.stats["var"]})
    draws = [torch.stack([made.act(made.policy(x), obs, True) for _ in range(50)]).float().mean() for x in (s, other)]
    assert draws[0] != draws[1]


def test_it_wants_one_choice() -> None:
    with pytest.raises(Fault, match="one choice is needed, the class"):
        classifier.make(classifier.Config(), Spec(Box(OBS), Box(2)))
