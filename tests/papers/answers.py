"""What the tests of papers on actors that write share: twelve answers to three questions, a model that spies."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from thespis.lm import Model, parse
from thespis.turns import Out, Rows, TextSpec, Turns

REWARD = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0]  # three groups of four
LENGTHS = [2, 5, 3, 1, 4, 4, 2, 3, 5, 1, 1, 2]
FINAL = [0, 1, 2, 0, 3, 3, 3, 3, 4, 4, 4, 5]


def small(seed: int = 0) -> Model:
    torch.manual_seed(seed)
    return parse("tiny:dim=16,layers=1,heads=2,context=32").make()


def played(model: Model, reward: list[float] = REWARD) -> Turns:
    """Twelve answers of one turn each, of three tasks, with the log-probabilities that the model gives them."""
    g = torch.Generator().manual_seed(0)
    n, width = len(reward), 3 + max(LENGTHS)
    tokens = torch.randint(0, 256, (n, width), generator=g)
    said = torch.full((n, width), -1)
    for r in range(n):
        said[r, 3 : 3 + LENGTHS[r]] = r
    rows, ones = Rows(tokens, said >= 0), torch.ones(n, dtype=torch.bool)
    return Turns(
        tokens, said, model.read(rows), torch.arange(n), torch.full((n,), 3), torch.tensor(reward), torch.zeros(n), ones,
        torch.arange(n) // 4, ~ones, torch.tensor(FINAL),
    )  # fmt: skip


class Spy(Model):
    """Keeps what a loss is given, and takes no step."""

    def descend(self, loss: Callable[..., tuple[Tensor, dict]], rows: Rows, lr: object, max_norm: float | None = None) -> dict:
        self.given, self.loss = rows, loss
        return {"loss": loss(self(rows), rows)[0].detach()}


def spied(algo: ModuleType, cfg: Any, reward: list[float] = REWARD) -> tuple[Spy, Turns]:
    """After an update in one minibatch."""
    model = small()
    spy = Spy(model.module, model.text)
    turns = played(spy, reward)
    learner = algo.make(cfg, TextSpec())
    learner.update(learner.init(spy), turns)
    return spy, turns


def column(algo: ModuleType, cfg: Any, name: str, reward: list[float] = REWARD) -> list[float]:
    """What the loss is given by that name, an answer a number, in the order of `reward`."""
    spy, turns = spied(algo, cfg, reward)
    order = {tuple(t.tolist()): i for i, t in enumerate(turns.tokens)}
    found = [0.0] * len(reward)
    for tokens, mask, x in zip(spy.given.tokens, spy.given.mask, getattr(spy.given, name), strict=True):
        assert len(set(x[mask].tolist())) == 1, "every token of an answer has the same"
        assert not x[~mask].any()
        found[order[tuple(tokens.tolist())]] = float(x[mask][0])
    return found


def learnt(algo: ModuleType, cfg: Any, reward: list[float] = REWARD) -> dict[str, Tensor]:
    """The gradients of an update in one minibatch, as Adam's first moments hold them."""
    model = small()
    learner = algo.make(dataclasses.replace(cfg, updates=1), TextSpec())
    learner.update(learner.init(model), played(model, reward))
    return model.m


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert max(float(x.abs().max()) for x in a.values()) > 1e-3, "something was learnt"
    for k, x in a.items():
        torch.testing.assert_close(x, b[k], atol=1e-6, rtol=1e-3)


def mask() -> Tensor:
    """Of three rows, 2, 5 and 3 tokens were written."""
    return torch.tensor([[0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 0, 0]]).bool()


def rows(*names: str, **columns: Tensor) -> tuple[Tensor, Rows]:
    """Log-probabilities, and rows with columns of these names; float64, at random."""
    g = torch.Generator().manual_seed(1)
    logp, *drawn = (torch.randn(3, 6, generator=g, dtype=torch.float64) * 0.4 for _ in range(len(names) + 1))
    return logp, Rows(mask().long(), mask(), dict(zip(names, drawn, strict=True)) | columns)


def loss(algo: ModuleType, cfg: Any, logp: Tensor, given: Rows) -> Tensor:
    return algo.make(cfg, TextSpec()).losses["policy"](Out(logp), given)[0]


def gain(logp: Tensor, old: Tensor, a: Tensor, low: float = 0.2, high: float = 0.2) -> float:
    """PPO's, of one token."""
    ratio = math.exp(float(logp) - float(old))
    return min(ratio * float(a), min(max(ratio, 1 - low), 1 + high) * float(a))


def k3(logp: Tensor, reference: Tensor) -> float:
    d = float(reference) - float(logp)
    return math.exp(d) - d - 1


def std(x: list[float]) -> float:
    return math.sqrt(sum((v - sum(x) / len(x)) ** 2 for v in x) / len(x))


def group_of(x: list[float], i: int) -> list[float]:
    return x[i // 4 * 4 : i // 4 * 4 + 4]
