"""PRDC's own claim, on a line: where in most places only poor actions were recorded, a good one of nearby is taken.

    python bench/prdc.py        bench/results/prdc.json

A point at x in [0, 10] moves by an action in [-1, 1], loses 0.1 a step and gains 10 at x >= 9.5, where an episode ends. 20,000
steps are recorded from all places. In one cell of ten (width 0.25) the recorded actions are good, 0.8 +- 0.1; in the others
they are backwards, -0.5 +- 0.3. Judged: the share of 200 starts that reach the
end within 60 steps. No true value is above 10.
"""

from typing import Any

import numpy as np
import torch
from learning import interval
from record import commit, keep

from thespis.algorithms import algorithm
from thespis.core import Batch, Box, Spec

SPEC, UPDATES, SEEDS = Spec(Box(1), Box(1)), 4_000, (0, 1, 2, 3, 4)
NUMBERS: dict[str, Any] = {"hidden": (64, 64), "gamma": 0.95, "lr": 1e-3}


def recorded(seed: int) -> Batch:
    g = torch.Generator().manual_seed(seed)
    x = 10 * torch.rand(20_000, 1, generator=g)
    good = (x / 0.25).floor() % 10 == 0
    action = torch.where(good, 0.8, -0.5) + torch.where(good, 0.1, 0.3) * torch.randn(20_000, 1, generator=g)
    action = action.clamp(-1, 1)
    after = (x + action).clamp(0, 10)
    end = after[:, 0] >= 9.5
    reward = torch.where(end, 10.0, -0.1)
    return Batch(x, action, reward, 0.95 * ~end, after, {"episode_return": reward})


def success(name: str, seed: int, **more: Any) -> tuple[float, float | None]:
    """The share, and the critics' mean value at the end (None: there is no critic)."""
    module, data = algorithm(name).module, recorded(seed)
    fields = module.Config.__dataclass_fields__
    learner = module.make(module.Config(**{k: v for k, v in (NUMBERS | more).items() if k in fields}), SPEC)
    torch.manual_seed(seed)
    state, g = learner.init(), torch.Generator().manual_seed(1_000 + seed)
    state = learner.given(state, data) if learner.given else state
    plain = [data.obs, data.action, data.reward, data.discount, data.next_obs]
    with torch.no_grad():
        for i in range(UPDATES):
            row = torch.randint(20_000, (256,), generator=g)
            state, metrics = learner.update(state, Batch(*(column[row] for column in plain)), i % learner.period)
        x, there = torch.linspace(0, 9, 200)[:, None], torch.zeros(200, dtype=torch.bool)
        for _ in range(60):
            x = (x + learner.act(learner.policy(state), x, False)).clamp(0, 10)
            there |= x[:, 0] >= 9.5
    return float(there.float().mean()), float(metrics["q"]) if "q" in metrics else None


def main() -> None:
    torch.set_num_threads(1)
    contenders: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in ("bc", "td3", "td3_bc", "iql")}
    contenders |= {f"prdc, beta {beta:g}": ("prdc", {"beta": beta}) for beta in (0.1, 0.5, 2.0, 10.0, 1000.0)}
    found = {}
    for title, (name, more) in contenders.items():
        shares, values = zip(*(success(name, seed, **more) for seed in SEEDS), strict=True)
        found[title] = {
            "seeds": list(SEEDS), "success": shares, "mean": float(np.mean(shares)), "interval95": interval(shares), "q": values
        }  # fmt: skip
        print(title, found[title], flush=True)
    about = {"what": (__doc__ or "").split("\n")[0], "command": "python bench/prdc.py", "commit": commit(), "updates": UPDATES}
    keep("prdc", about | {"numbers": NUMBERS, "found": found})


if __name__ == "__main__":
    main()
