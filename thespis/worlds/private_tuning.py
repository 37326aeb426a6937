"""Private fine-tuning as a world: how far to clip, and how much noise to add, while a small model learns from private texts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from thespis.fault import Fault
from thespis.ops import privacy
from thespis.worlds.names import Decoder, encoded, names, pretrained

__all__ = ["PrivateTuning", "budget"]

Floats = NDArray[np.float32]
PARTS = ("public", "private")
SPREAD = 0.1
"""log of the largest noise multiplier over the middle one"""
COUNT_NOISE = 10.0
"""standard deviation of the noise on how many gradients an adapter's threshold has clipped"""
SHOWN, TRIED, OTHERS = 128, 512, 512
"""texts of the public loss; of the perplexity at the end; codes that a canary is compared with"""


class PrivateTuning(gym.Env[Floats, Floats]):
    """A small character model is fine-tuned on private texts by DP-SGD; every few updates, thresholds and noise are set anew.

    Observation: 18 numbers, all of them public: what was released with noise, and what is known. Of each of four adapters: where
    its threshold stands, in [-1, 1]; the part of the gradients that it clipped, counted with noise; log of the squared sum of
    the released gradients, over what it would be of noise alone. Then: the loss on public texts in nats a character, by how much
    it fell since the last decision, the part of the budget that is spent, the part of the updates that are made, log epsilon,
    and the last noise action.
    Action: five numbers in [-1, 1]: each adapter's clipping threshold, from 0.1 to 10, 10 to the power of its
    number, and log of the noise multiplier, from exp(-0.1) to exp(0.1) times the one by which all updates spend just the budget.
    Reward: 10 times the fall of the public loss, less `privacy_cost` times the part of the budget that was spent for it.
    Ends: terminated after `updates` updates, or as soon as the budget does not reach for an `interval` of updates.

    A privacy unit is a text: `records` names of characters in Unicode, of at most 24 letters, drawn from the episode's seed, and
    among them `canaries` codes that are drawn too. `part` has names that the other part has not: a controller can learn on
    "public" ones and then be used on "private" ones. Each update takes every text by chance `batch` / `records` and adds noise
    that makes all releases of the episode (epsilon, delta)-private; of several epsilons an episode draws one. Info: "perplexity"
    of the public texts, "spent", "updates". `audit()` tells more. Khadangi et al. 2025 (arXiv:2507.22565), in small; which
    numbers are ours: docs/private-tuning.md.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self, epsilon: float | Sequence[float] = (2.0, 8.0), delta: float = 1e-5, updates: int = 40, interval: int = 4,
        batch: int = 32, records: int = 4096, canaries: int = 8, part: str = "public", privacy_cost: float = 0.1, lr: float = 1.0,
    ) -> None:  # fmt: skip
        self.epsilons = tuple(epsilon) if isinstance(epsilon, Sequence) else (epsilon,)
        if not self.epsilons or not all(0.5 <= x <= 50 for x in self.epsilons):
            raise Fault(f"epsilon is {epsilon!r}; allowed: 0.5 to 50, or several of them")
        if part not in PARTS:
            raise Fault(f"part is {part!r}; allowed: {', '.join(PARTS)}")
        if not 0 < delta < 0.01:
            raise Fault(f"delta is {delta!r}; allowed: above 0, below 0.01")
        whole = {"updates": (updates, 1, 1000), "interval": (interval, 1, updates), "canaries": (canaries, 0, 100)}
        for name, (value, least, most) in (whole | {"batch": (batch, 1, 512), "records": (records, 2 * batch, 4096)}).items():
            if not isinstance(value, int) or not least <= value <= most:
                raise Fault(f"{name} is {value!r}; allowed: a whole number from {least} to {most}")
        if canaries > records:
            raise Fault(f"canaries is {canaries!r}; allowed: at most records, {records}")
        for name, number in {"privacy_cost": privacy_cost, "lr": lr}.items():
            if not 0 <= number < math.inf:
                raise Fault(f"{name} is {number!r}; allowed: 0 or more")
        self.delta, self.updates, self.interval, self.batch, self.records = delta, updates, interval, batch, records
        self.canaries, self.part, self.cost, self.lr, self.rate = canaries, part, privacy_cost, lr, batch / records
        self.model: Decoder = pretrained()
        blocks = len(self.model.adapters)
        self.observation_space = spaces.Box(-np.inf, np.inf, (3 * blocks + 6,), np.float32)
        self.action_space = spaces.Box(-1, 1, (blocks + 1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, dict[str, Any]]:
        super().reset(seed=seed)
        self.rng = rng = torch.Generator().manual_seed(int(self.np_random.integers(2**31)))
        self.epsilon = self.epsilons[int(torch.randint(len(self.epsilons), (), generator=rng))]
        self.order, self.budget, self.sigma = budget(self.epsilon, self.delta, self.rate, self.updates)
        texts = encoded(names(PARTS.index(self.part)))
        texts = texts[torch.randperm(len(texts), generator=rng)]
        codes = torch.cat([self._codes(self.canaries), texts[: self.records - self.canaries]])
        self.private, self.codes = codes, codes[: self.canaries]
        self.public, self.unseen = texts[self.records :][:SHOWN], texts[self.records :][SHOWN:][:TRIED]
        self.lora = self.model.lora(rng)
        self.spent, self.made, self.history = 0.0, 0, list[tuple[float, int]]()
        self.loss, self.fall = self._loss(self.public), 0.0
        blocks = len(self.model.adapters)
        self.action, self.clipped, self.signal = np.zeros(blocks + 1), np.full(blocks, 0.5), np.zeros(blocks)
        return self._seen(), {}

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, dict[str, Any]]:
        self.action = np.clip(np.asarray(action, np.float64), -1, 1)
        thresholds = torch.from_numpy(10 ** self.action[:-1]).float()
        sigma = self.sigma * math.exp(SPREAD * self.action[-1])
        price = float(privacy.renyi(torch.tensor(sigma, dtype=torch.float64), torch.tensor(self.rate).double(), [self.order]))
        wanted = min(self.interval, self.updates - self.made)
        n = min(wanted, math.floor((self.budget - self.spent) / price))  # what does not fit into the budget is not made
        with torch.inference_mode(False), torch.enable_grad():
            self._update(n, thresholds, sigma)
        self.spent, self.made = self.spent + n * price, self.made + n
        self.history.append((sigma, n))
        before, self.loss = self.loss, self._loss(self.public)
        self.fall = before - self.loss
        reward = 10 * self.fall - self.cost * n * price / self.budget
        info = {"perplexity": math.exp(self.loss), "spent": self.spent / self.budget, "updates": self.made}
        return self._seen(), reward, n < wanted or self.made == self.updates, False, info

    def _update(self, n: int, thresholds: Tensor, sigma: float) -> None:
        """n updates of DP-SGD (Abadi et al. 2016, arXiv:1607.00133). Counts of what was clipped are released too, as in Andrew et
        al. 2021 (arXiv:1905.03871): a text moves a count, less a half, by a half, and the gradients get more noise for it."""
        model, blocks = self.model, len(self.model.adapters)
        of_gradients = torch.tensor((sigma**-2 - blocks / (2 * COUNT_NOISE) ** 2) ** -0.5)
        total, counts = [0.0 * self._flat(self.lora, a)[0] for a in model.adapters], torch.zeros(blocks)
        for _ in range(n):
            rows = self.private[torch.rand(self.records, generator=self.rng) < self.rate]
            noise = [torch.randn(x.shape, generator=self.rng) for x in total]
            each = privacy.per_example(model.loss, self.lora, rows)
            gradients = [self._flat(each, a, len(rows)) for a in model.adapters]
            released = privacy.clipped_sum(gradients, thresholds, of_gradients, noise)
            over = torch.stack([g.norm(dim=1) > c for g, c in zip(gradients, thresholds, strict=True)])
            counts += (over.float() - 0.5).sum(1) + COUNT_NOISE * torch.randn(blocks, generator=self.rng)
            for i, (name, g) in enumerate(zip(model.adapters, released, strict=True)):
                total[i] = total[i] + g
                down, up = (self.lora[f"{name}.{k}"] for k in ("down", "up"))
                step = self.lr * g / self.batch
                self.lora[f"{name}.down"] = down - step[: down.numel()].view_as(down)
                self.lora[f"{name}.up"] = up - step[down.numel() :].view_as(up)
        if n:
            self.clipped = (counts / (n * self.batch) + 0.5).numpy().astype(np.float64)
            of_noise = [
                n * blocks * (float(of_gradients) * float(c)) ** 2 * len(x) for c, x in zip(thresholds, total, strict=True)
            ]
            self.signal = np.array([math.log(float(x.square().sum()) / y) for x, y in zip(total, of_noise, strict=True)])

    def _flat(self, params: dict[str, Tensor], adapter: str, n: int = 1) -> Tensor:
        return torch.cat([params[f"{adapter}.{k}"].reshape(n, -1) for k in ("down", "up")], 1)

    @torch.no_grad()
    def _loss(self, rows: Tensor) -> float:
        return float(self.model.loss(self.lora, rows).mean())

    def _codes(self, n: int) -> Tensor:
        """n texts "ACCESS CODE " with six letters behind it."""
        letters = torch.randint(1, 27, (n, 6), generator=self.rng)
        rows = encoded(["ACCESS CODE "] * n) if n else encoded(["A"])[:0]
        rows[:, 13:19] = letters
        return rows

    def _seen(self) -> Floats:
        known = [self.loss, 10 * self.fall, self.spent / self.budget, self.made / self.updates, math.log(self.epsilon)]
        return np.concatenate([self.action[:-1], self.clipped, self.signal, known, self.action[-1:]]).astype(np.float32)

    @torch.no_grad()
    def audit(self) -> dict[str, float]:
        """What came of it: "perplexity" of 512 unseen texts of the same kind; "epsilon" at `delta`, computed anew from the noise
        of all updates at the best order; "exposure" in bits of the canaries, a mean: log2 of 513 over a code's rank among 512
        others, 1.4 where nothing leaks, 9 at most (Carlini et al. 2019, arXiv:1802.08232)."""
        sigmas, steps = (torch.tensor(x, dtype=torch.float64) for x in zip(*self.history, strict=True))
        spent = steps @ privacy.renyi(sigmas, torch.tensor(self.rate).double().expand(len(sigmas)))
        found = {"perplexity": math.exp(self._loss(self.unseen)), "epsilon": float(privacy.epsilon(spent, self.delta))}
        if self.canaries:
            own, others = (self.model.loss(self.lora, rows) for rows in (self.codes, self._codes(OTHERS)))
            rank = 1 + (others < own[:, None]).sum(1)
            found["exposure"] = float((math.log2(OTHERS + 1) - rank.double().log2()).mean())
        return found


@cache
def budget(epsilon: float, delta: float, rate: float, updates: int) -> tuple[float, float, float]:
    """The order of the Renyi divergence that is accounted at, what may be spent at it, and the noise multiplier by which all
    updates together spend that. The noise of an update depends on what was released before, so the order is fixed beforehand: a
    filter at one order holds for any such choice (Feldman & Zrnic 2021, arXiv:2008.11193)."""
    sigma = 1.000001 * float(privacy.multiplier(epsilon, delta, rate, updates))
    each = privacy.renyi(torch.tensor(sigma).double(), torch.tensor(rate).double())
    orders = torch.tensor(privacy.ORDERS, dtype=torch.float64)
    by_order = updates * each + (-1 / orders).log1p() - (delta * orders).log() / (orders - 1)
    order = privacy.ORDERS[int(by_order.argmin())]
    return order, epsilon - (math.log1p(-1 / order) - math.log(delta * order) / (order - 1)), sigma
