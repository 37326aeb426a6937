"""TLPO on talking signals: three judges at once, beside what mixes them otherwise at as many parameters.

    python bench/tlpo.py            bench/results/tlpo.json and tlpo.png
    python bench/tlpo.py --dry      prints, and keeps nothing

A proxy of ours: no world and no number of the paper. One field is pretrained on the world's own data. Each seed then draws
pairs from it and trains, by the same updates: adapters of rank 4, then a gate (tlpo); the even merge of these three adapters;
one adapter of rank 12 on the sum of the rewards, standardised (sum) or raw; and each judge's adapter of rank 12 alone, by those
of the first stage. Judged on 2,000 voices: how often a sample beats one of the field's own from other noise, by each judge; the
least of the three counts. The gate is read at six times, as the mean over layers.
"""

import argparse
import time
from typing import Any

import numpy as np
import torch
from record import commit, keep, machine, plain
from torch import Tensor

from thespis.algos.flow import flow_matching, tlpo
from thespis.core import Batch, Box, Spec, replace
from thespis.worlds.samples import Talking

WORLD, NET = Talking(), {"hidden": (96, 96, 96), "ode_steps": 10}
JUDGES = ("lip_sync", "motion", "quality")
SPEC = Spec(Box(48), Box(32), rewards=JUDGES)
ONE = SPEC._replace(rewards=("reward",))
PAIRS, TIMES = 128, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)


def pretrained(updates: int) -> Any:
    data = WORLD.recorded()
    obs, x = (torch.from_numpy(np.asarray(data[k], np.float32)) for k in ("observations", "actions"))
    learner = flow_matching.make(flow_matching.Config(**NET), SPEC)
    torch.manual_seed(0)
    state = learner.init()
    with torch.no_grad():
        for _ in range(updates):
            row = torch.randint(len(x), (256,))
            zero = torch.zeros(256)
            state, _ = learner.update(state, Batch(obs[row], x[row], zero, zero, obs[row]), 0)
    return state.actor.params


def voices(seeds: np.ndarray) -> Tensor:
    return torch.from_numpy(WORLD.condition(seeds)).float()


def rewards(obs: Tensor, x: Tensor) -> Tensor:
    """(n, 3)"""
    told = WORLD.judge(obs[:, :16].numpy().astype(np.float64), x.numpy().astype(np.float64), np.zeros(0))
    return torch.from_numpy(np.stack(list(told.values()), 1)).float()


def rollout(act: Any, base: Any, first: int, scale: tuple[Tensor, Tensor]) -> Batch:
    """Two takes of each of PAIRS voices by the field alone, (2, PAIRS, ...), with standardised rewards."""
    voice = voices(np.arange(first, first + PAIRS))
    obs = torch.cat([voice, torch.randn(PAIRS, 32)], -1).repeat(2, 1)
    x = act(base, obs)
    each = ((rewards(obs, x) - scale[0]) / scale[1]).unflatten(0, (2, PAIRS))
    ended = torch.zeros(2, PAIRS, dtype=torch.bool)
    ended[1] = True
    return Batch(
        obs.view(2, PAIRS, -1), x.view(2, PAIRS, -1), each, torch.zeros(2, PAIRS), obs.view(2, PAIRS, -1), {"ended": ended}
    )


def course(base: Any, seed: int, updates: int, cfg: tlpo.Config) -> dict[str, Any]:
    """The acting parts of each arm, by name: (learner, policy)."""
    field = flow_matching.make(flow_matching.Config(**NET), SPEC)
    act = lambda p, obs: field.act({"actor": p}, obs, True)
    made = {"tlpo": tlpo.make(replace(cfg, gate="full"), SPEC)}
    wide = replace(cfg, gate="even", rank=3 * cfg.rank, adapter_updates=10**9)
    single = {name: tlpo.make(wide, ONE) for name in ("sum", "raw sum", *JUDGES)}
    torch.manual_seed(seed)
    states = {name: replace(learner.init(), base=base) for name, learner in (made | single).items()}
    scale_obs = torch.cat([voices(np.arange(512)), torch.randn(512, 32)], -1)
    found = rewards(scale_obs, act(base, scale_obs))
    scale, ruled = (found.mean(0), found.std(0)), []
    with torch.no_grad():
        for i in range(2 * updates):
            batch = rollout(act, base, 1_000_000 * (seed + 1) + i * PAIRS, scale)
            for name, learner in (made | single).items():
                if name in JUDGES and i >= updates:
                    continue
                mine = batch
                if name in single:
                    column = {"sum": batch.reward, "raw sum": batch.reward * scale[1]}.get(name)
                    mine = replace(batch, reward=batch.reward[..., JUDGES.index(name)] if column is None else column.sum(-1))
                _, rows, told = learner.prepare(states[name], mine)
                states[name], _ = learner.update(states[name], rows, 0)
                if name == "tlpo":
                    ruled.append(float(told["ruled"]))
    even = tlpo.make(replace(cfg, gate="even"), SPEC)
    arms = {name: (learner, learner.policy(states[name])) for name, learner in (made | single).items()}
    return {
        "arms": arms | {"even": (even, even.policy(states["tlpo"]))},
        "ruled": float(np.mean(ruled)),
        "gate_at": read(made["tlpo"], states["tlpo"]),
    }


def read(learner: Any, state: Any) -> list[list[float]]:
    """The gate's weight of each adapter, mean over layers, at TIMES."""
    waves = lambda t: torch.cat([t, *(f(torch.pi * k * t) for k in (1, 2) for f in (torch.sin, torch.cos))], -1)
    p, t = state.gate.params, torch.tensor(TIMES)[:, None]
    hidden = torch.nn.functional.silu((waves(t) @ p["time"])[:, None] + p["layer"] + p["b0"])
    return (hidden @ p["w1"] + p["b1"]).sigmoid().mean(1).tolist()


def wins(base: Any, arm: Any, seed: int) -> dict[str, float]:
    learner, policy = arm
    field = flow_matching.make(flow_matching.Config(**NET), SPEC)
    g = torch.Generator().manual_seed(seed)
    voice = voices(np.arange(2_000) + 77_000_000)
    one, two = (torch.cat([voice, torch.randn(2_000, 32, generator=g)], -1) for _ in range(2))
    with torch.no_grad():
        ours, theirs = rewards(one, learner.act(policy, one, False)), rewards(two, field.act({"actor": base}, two, False))
    share = ((ours > theirs).float() + 0.5 * (ours == theirs).float()).mean(0)
    return dict(zip(JUDGES, share.tolist(), strict=True)) | {"least": float(share.min())}


def mean(x: Any) -> dict[str, Any]:
    """Over seeds, with its 95% interval (Student)."""
    x = np.asarray(x, float)
    half = {3: 4.303, 4: 3.182, 5: 2.776}.get(len(x), np.nan) * x.std(ddof=1) / len(x) ** 0.5 if len(x) > 1 else np.nan
    return {"mean": round(float(x.mean()), 3), "interval": [round(float(x.mean() + k * half), 3) for k in (-1, 1)]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--updates", type=int, default=300)
    parser.add_argument("--pretrain", type=int, default=2_000)
    parser.add_argument("--dry", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    base = pretrained(args.pretrain)
    cfg = tlpo.Config(**NET, adapter_updates=args.updates, lr=3e-3, gate_lr=1e-2)
    told: dict[str, list[dict[str, float]]] = {}
    gates, ruled = [], []
    for seed in args.seeds:
        found = course(base, seed, args.updates, cfg)
        for name, arm in found["arms"].items():
            told.setdefault(name, []).append(wins(base, arm, seed))
            print(seed, name, {k: round(v, 3) for k, v in told[name][-1].items()}, flush=True)
        gates.append(found["gate_at"])
        ruled.append(found["ruled"])
        print(found["gate_at"], time.perf_counter() - began, flush=True)
    arms = {name: {k: mean([row[k] for row in rows]) for k in rows[0]} for name, rows in told.items()}
    gap = mean([a["least"] - b["least"] for a, b in zip(told["tlpo"], told["sum"], strict=True)])
    gate = np.mean(gates, 0).round(3)
    if not args.dry:
        about = {"command": "python bench/tlpo.py", "commit": commit(), "machine": machine(), "seeds": args.seeds}
        about |= {"updates": args.updates, "pretrain": args.pretrain, "seconds": round(time.perf_counter() - began)}
        numbers = {"win_rates": arms, "least_above_sum": gap, "pairs_with_a_winner_in_all": mean(ruled)}
        times = {f"{t:g}": dict(zip(JUDGES, row.tolist(), strict=True)) for t, row in zip(TIMES, gate, strict=True)}
        keep("tlpo", about | numbers | {"gate": times}, picture(arms, gate))


def picture(arms: dict[str, Any], gate: np.ndarray) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (ax, way) = plt.subplots(1, 2, figsize=(11, 3.9), width_ratios=(3, 2), layout="constrained")
    colours = ("#1f5fd1", "#c4661f", "#2f8f5b")
    for d, (judge, colour) in enumerate(zip(JUDGES, colours, strict=True)):
        y = [arm[judge]["mean"] for arm in arms.values()]
        ax.bar(np.arange(len(arms)) + 0.25 * (d - 1), np.array(y) - 0.5, 0.25, 0.5, color=colour, label=judge)
        way.plot(TIMES, gate[:, d], color=colour, marker="o", ms=4, label=judge)
    ax.axhline(0.5, color="#888888", lw=1)
    ax.set_xticks(range(len(arms)), list(arms), rotation=20)
    ax.set(ylabel="win rate against the field", title="by each judge, mean over seeds")
    way.set(xlabel="t: 0 noise, 1 sample", ylabel="gate, mean over layers", title="what the gate opens when")
    for axes in (ax, way):
        plain(axes)
    ax.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    main()
