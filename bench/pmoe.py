"""What a mixture buys where several actions are equally good: PMOE beside SAC, on PPO beside PPO, and its routing's gradient.

    python bench/pmoe.py run               every part and curve that is not done yet
    python bench/pmoe.py run peaks         one part: peaks, goals, on-policy or routing
    python bench/pmoe.py report            bench/results/pmoe.json and pmoe.png, from the raw results

All seeds of a curve are trained at once (together.py), but for on-policy. Raw results lie in
bench/results/raw/pmoe/PART-CURVE.jsonl, a line a seed. Settings were chosen on seeds 100 to 109.
"""

import argparse
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from learning import interval
from record import band, commit, keep, plain, write_rows
from together import Together, one
from torch import Tensor, nn
from torch.nn.functional import gumbel_softmax, one_hot

import thespis
from thespis import envs
from thespis.algos.continuous import pmoe, sac
from thespis.core import Batch, Learner, Spec, leaves, rebuild, replace
from thespis.worlds.bandits import TwoPeaks
from thespis.worlds.points import MultiGoal

HERE = Path(__file__).parent
SEEDS = list(range(10))
Row = dict[str, Any]


# ------------------------------------------------------------------------------------------------------------ the learners


def apart(components: int) -> Callable[[Spec], nn.Module]:
    """An actor whose components start narrow and far from one another: means before the tanh uniform in [-1, 1], std 0.22."""

    def build(spec: Spec) -> nn.Module:
        half = spec.action.dim * components
        last = nn.Linear(32, 2 * half)
        nn.init.uniform_(last.bias[:half], -1, 1)
        nn.init.constant_(last.bias[half:], -1.5)
        return nn.Sequential(nn.Linear(spec.obs.dim, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), last)

    return build


def critic_first(learner: Learner, updates: int) -> Learner:
    """The same learner, whose first updates move nothing but the critic."""

    def update(s: Any, b: Batch, k: int = 0) -> Any:
        after, metrics = learner.update(s, b, k)
        old, early = leaves(s), s.critic.t < updates
        held = {n: x if n.startswith(("critic", "target")) else torch.where(early, old[n], x) for n, x in leaves(after).items()}
        return rebuild(after, held), metrics

    return replace(learner, update=update)


def trained(curve: str, env: str, seeds: list[int], steps: int, **numbers: Any) -> tuple[Learner, list[Any]]:
    """The learner of "START, ALGORITHM" and the policies of all seeds. START is "together": components start as they come;
    "apart": they start as in `apart`, and the first 500 updates are the critic's alone; "cool": as they come, after
    1,000 of these."""
    start, _, name = curve.partition(", ")
    numbers = {"hidden": (32, 32), "batch_size": 64, "lr": 1e-3, **numbers}
    many = 1 if name == "SAC" else 4
    algo: Any = sac if name == "SAC" else pmoe
    cfg = sac.Config(**numbers) if name == "SAC" else pmoe.Config(many, name.removeprefix("PMOE "), **numbers)  # type: ignore[arg-type]

    def make(cfg: Any, spec: Spec) -> Learner:
        made = algo.make(cfg, spec, actor=apart(many)) if start == "apart" else algo.make(cfg, spec)
        alone = {"apart": 500, "cool": 1_000}.get(start, 0)
        return critic_first(made, alone) if alone else made

    all_seeds = Together(make, cfg, env, seeds)
    all_seeds.train(steps)
    policy = all_seeds.learner.policy(all_seeds.state)
    return all_seeds.learner, [one(policy, i) for i in range(len(seeds))]


# ------------------------------------------------------------------------------------------------------------- three parts


def peaks(curve: str, seeds: list[int]) -> list[Row]:
    """Two equally good actions and a worse one between them: which of them a policy takes in the end."""
    if curve.startswith("cool"):  # at 0.05 components stay wide, between the peaks, whatever the critic knows
        numbers = {"hidden": (64, 64), "alpha": 0.005, "warmup": 2_000}
        learner, policies = trained(curve, "thespis/TwoPeaks-v0", seeds, 4_500, **numbers)
    else:
        learner, policies = trained(curve, "thespis/TwoPeaks-v0", seeds, 2_300, alpha=0.05, warmup=300)
    bandit, rows = TwoPeaks(), []
    for seed, policy in zip(seeds, policies, strict=True):
        torch.manual_seed(seed)
        with torch.no_grad():
            actions = learner.act(policy, torch.zeros(5_000, 1), True).numpy()[:, 0].astype(float)
        near = [float((abs(actions - c) < 2 * bandit.width).mean()) for c in bandit.centres]
        rows.append({"seed": seed, "reward": float(bandit.reward(actions).mean()), "near": near})
    return rows


def goals(curve: str, seeds: list[int]) -> list[Row]:
    """Four equally good ways: how many of 200 explored episodes end at each goal."""
    cool = curve.startswith("cool")
    learner, policies = trained(
        curve, "thespis/MultiGoal-v0", seeds, 7_000 if cool else 6_000, alpha=0.3 if cool else 3.0, warmup=1_000
    )
    return [ways(learner, policy, seed) for seed, policy in zip(seeds, policies, strict=True)]


@cache
def points() -> list[Any]:
    """200 environments of MultiGoal, made once."""
    world = envs.world("thespis/MultiGoal-v0")
    return [world.make() for _ in range(200)]


def ways(learner: Learner, policy: Any, seed: int) -> Row:
    """Where 200 explored episodes of MultiGoal end, and the paths of the first 40."""
    each = points()
    torch.manual_seed(seed)
    obs = np.stack([e.reset(seed=1_000 * seed + i)[0] for i, e in enumerate(each)])
    over, reached, returns = np.zeros(200, bool), np.zeros(4, int), np.zeros(200)
    paths = [[obs[i].round(2).tolist()] for i in range(40)]
    while not over.all():
        with torch.no_grad():
            action = learner.act(policy, torch.from_numpy(obs), True).numpy()
        for i in np.flatnonzero(~over):
            obs[i], reward, terminated, truncated, _ = each[i].step(action[i])
            returns[i] += reward
            over[i] = terminated or truncated
            reached[MultiGoal.distances(obs[i]).argmin()] += terminated
            if i < len(paths):
                paths[i].append(obs[i].astype(float).round(2).tolist())
    return {"seed": seed, "reached": reached.tolist(), "return": float(returns.mean()), "paths": paths}


def on_policy(curve: str, seeds: list[int]) -> list[Row]:
    """The same of PPO with one Gaussian and with several, after 60,000 steps."""
    rows = []
    for seed in seeds:
        with TemporaryDirectory() as folder:
            run = thespis.train(
                {"PPO": "ppo", "PMOE": "pmoe_ppo"}[curve], env="thespis/MultiGoal-v0", steps=60_000, seed=seed, num_envs=8,
                rollout=256, eval_every=60_000, sinks=(), panel=False, out=Path(folder) / "run",
            )  # fmt: skip
            policy = thespis.load(run)
            rows.append(ways(policy.learner, policy.params, seed))
    return rows


# TwoPeaks with components that stay as they are, of std 0.15 before the tanh: only the routing between them is learnt.
MIXTURES = {"one best": (0.6, 0.3, 0.0, -0.3), "two best": (0.6, -0.6, 0.0, 0.3)}
WITHIN, LIMIT = 0.05, 3_000


def reward(a: Tensor) -> Tensor:
    return torch.from_numpy(TwoPeaks().reward(a.numpy())).float()


def frequency(logits: Tensor, r: Tensor) -> Tensor:  # PMOE's: |w - v|^2, where v marks the best of the batch's row
    return (logits.softmax(-1)[:, None] - one_hot(r.argmax(-1), 4)).square().sum(-1).mean(-1).sum()


def score_function(logits: Tensor, r: Tensor) -> Tensor:  # reward of a drawn component, less the batch's mean, times d log w
    logp = logits.log_softmax(-1)[:, None].expand(r.shape)
    k = (logp - torch.empty_like(r).exponential_().log()).argmax(-1, keepdim=True)
    got = r.gather(-1, k)
    return -((got - got.mean(1, keepdim=True)) * logp.gather(-1, k)).mean((1, 2)).sum()


def gumbel(logits: Tensor, r: Tensor) -> Tensor:  # rewards of all components under a relaxed draw at temperature 1
    return -(gumbel_softmax(logits[:, None].expand(r.shape), tau=1) * r).sum(-1).mean(-1).sum()


ESTIMATORS = {"frequency": frequency, "score function": score_function, "Gumbel-softmax": gumbel}


def samples(mixture: str, n: int, batch: int) -> Tensor:
    """Rewards of an action of every component, (n, batch, 4)."""
    mean = torch.tensor(MIXTURES[mixture]).atanh()
    return reward((mean + 0.15 * torch.randn(n, batch, 4)).tanh())


def routing(curve: str, seeds: list[int], lr: float | None = None) -> list[Row]:
    """The update from which on the routing is within 0.05 of how often each component is the best, to the last update."""
    mixture, _, name = curve.partition(", ")
    torch.manual_seed(12_345)
    many = samples(mixture, 1, 1_000_000)[0]
    truth, value = one_hot(many.argmax(-1), 4).double().mean(0).float(), many.double().mean(0).float()
    torch.manual_seed(seeds[0])
    logits = (0.1 * torch.randn(len(seeds), 4)).requires_grad_()
    adam, errors = torch.optim.Adam([logits], lr or RATES[curve]), []
    for _ in range(LIMIT):
        errors.append((logits.detach().softmax(-1) - truth).abs().amax(-1))
        adam.zero_grad()
        ESTIMATORS[name](logits, samples(mixture, len(seeds), 64)).backward()
        adam.step()
    error, w, rows = torch.stack(errors, -1).numpy(), logits.detach().softmax(-1), []
    for i, seed in enumerate(seeds):
        outside = np.flatnonzero(error[i] > WITHIN)
        at = int(outside[-1]) + 1 if len(outside) else 0
        told = {"seed": seed, "updates": at if at < LIMIT else None, "reward": float(w[i] @ value), "routing": w[i].tolist()}
        rows.append(told | {"frequencies": truth.tolist(), "error": error[i, ::10].round(4).tolist()})
    return rows


RATES = {f"{m}, {e}": 0.01 if e == "frequency" else 0.003 for m in MIXTURES for e in ESTIMATORS}  # the best of 0.003 to 0.1
PARTS: dict[str, tuple[Callable[..., list[Row]], list[str]]] = {
    "peaks": (peaks, [f"{start}, {name}" for start in ("together", "apart", "cool") for name in ("SAC", "PMOE max", "PMOE all")]),
    "goals": (
        goals,
        ["together, SAC", "together, PMOE max", "together, PMOE all", "apart, PMOE all", "cool, SAC", "cool, PMOE all"],
    ),
    "on-policy": (on_policy, ["PPO", "PMOE"]),
    "routing": (routing, list(RATES)),
}


# ------------------------------------------------------------------------------------------------------------ run and report


def raw(part: str, curve: str) -> Path:
    return HERE / "results" / "raw" / "pmoe" / f"{part}-{curve.replace(', ', '-').replace(' ', '_')}.jsonl"


def run(parts: list[str]) -> None:
    for part in parts:
        function, curves = PARTS[part]
        for curve in curves:
            if not (path := raw(part, curve)).exists():
                print(f"{part}: {curve}", flush=True)
                rows = function(curve, SEEDS)
                write_rows(path, rows)


def found(part: str) -> dict[str, list[Row]]:
    read = {c: [json.loads(x) for x in raw(part, c).read_text().splitlines()] for c in PARTS[part][1] if raw(part, c).exists()}
    if not read:
        raise SystemExit(f"nothing of {part} is done: python bench/pmoe.py run {part}")
    return read


def mean(values: list[float]) -> Row:
    return {"mean": float(np.mean(values)), "interval95": interval(values), "values": values}


def share(hits: list[bool]) -> Row:
    """How many of the seeds, and Wilson's 95% interval of the proportion."""
    n, p, z = len(hits), float(np.mean(hits)), 1.959964
    middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = ((middle + sign * half) / (1 + z * z / n) for sign in (-1, 1))
    return {"seeds": sum(hits), "of": n, "interval95": [round(max(low, 0.0), 3), round(min(high, 1.0), 3)]}


def summary() -> Row:
    out: Row = {part: {} for part in PARTS}
    for curve, rows in found("peaks").items():
        both = [min(r["near"][0], r["near"][2]) for r in rows]
        out["peaks"][curve] = {
            "each peak in over 20% of actions, and reward of 0.95 or more": share(
                [b > 0.2 and r["reward"] >= 0.95 for b, r in zip(both, rows, strict=True)]
            ),
            "reward of 0.95 or more": share([r["reward"] >= 0.95 for r in rows]),
            "share of the rarer peak": mean(both), "reward": mean([r["reward"] for r in rows]),
        }  # fmt: skip
    for where, curve, rows in [(part, *item) for part in ("goals", "on-policy") for item in found(part).items()]:
        out[where][curve] = {
            "goals reached at least once in 200 episodes": mean([sum(x > 0 for x in r["reached"]) for r in rows]),
            "goals reached by at least 10 of 200 episodes": mean([sum(x >= 10 for x in r["reached"]) for r in rows]),
            "episodes that reach a goal": mean([sum(r["reached"]) / 200 for r in rows]),
            "return": mean([r["return"] for r in rows]),
        }  # fmt: skip
    for curve, rows in found("routing").items():
        at = [r["updates"] for r in rows]
        out["routing"][curve] = {
            "step size": RATES[curve], f"within {WITHIN} to the end": share([x is not None for x in at]), "from update": at,
            "error after the last update": mean([r["error"][-1] for r in rows]), "reward": mean([r["reward"] for r in rows]),
        }  # fmt: skip
    return out


BLUE, ORANGE, GREEN, GREY = "#1f5fd1", "#c4661f", "#2f8f5b", "#c9ced6"


def draw() -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 9), layout="constrained")
    top, middle, bottom = figure.subfigures(3, 1, height_ratios=(1, 0.9, 0.95))
    top.suptitle("TwoPeaks: where each seed's actions go", fontweight="bold")
    for axes, (curve, rows) in zip(top.subplots(1, len(found("peaks")), sharey=True), found("peaks").items(), strict=True):
        rows = sorted(rows, key=lambda r: r["near"][0])
        left = np.zeros(len(rows))
        parts = np.array([[*r["near"], max(1 - sum(r["near"]), 0)] for r in rows]).T
        names = ("peak at -0.6", "decoy at 0", "peak at 0.6", "elsewhere")
        for values, name, colour in zip(
            parts[[0, 2, 1, 3]], np.array(names)[[0, 2, 1, 3]], (BLUE, ORANGE, GREEN, GREY), strict=True
        ):
            axes.barh(range(len(rows)), values, left=left, color=colour, label=name, height=0.85)
            left += values
        start, _, name = curve.partition(", ")
        told = {"together": "as it comes", "apart": "started apart,\ncritic first", "cool": "alpha 0.005,\ncritic first"}[start]
        axes.set_title(f"{name}\n{told}", fontsize=8)
        axes.set(xlim=(0, 1), yticks=[], xticks=[0, 0.5, 1], xticklabels=["0", "50%", "100%"])
    axes.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    middle.suptitle("MultiGoal: 40 explored episodes of every seed; goals that a seed reaches in 5% or more", fontweight="bold")
    shown = [*found("goals").items(), *((f"together, on-policy {c}", rows) for c, rows in found("on-policy").items())]
    for axes, (curve, rows) in zip(middle.subplots(1, len(shown)), shown, strict=True):
        for seed, r in enumerate(rows):
            for way in r["paths"]:
                axes.plot(*np.array(way).T, color=f"C{seed}", lw=0.5, alpha=0.35)
        axes.scatter(*MultiGoal.goals.T, s=420, facecolors="none", edgecolors="#333333", lw=1.2, zorder=3)
        many = np.mean([sum(x >= 10 for x in r["reached"]) for r in rows])
        start, _, name = curve.partition(", ")
        told = f"{name}{ {'together': '', 'apart': ', started apart', 'cool': ', alpha 0.3'}[start] }"
        axes.set_title(f"{told}\n{many:.1f} goals a seed", fontsize=8)
        axes.set(xlim=(-7, 7), ylim=(-7, 7), xticks=[], yticks=[], aspect="equal")
    bottom.suptitle("Routing alone: largest distance from how often each component is the best", fontweight="bold")
    colours = dict(zip(ESTIMATORS, (BLUE, ORANGE, GREEN), strict=True))
    for axes, mixture in zip(bottom.subplots(1, 2, sharey=True), MIXTURES, strict=True):
        for name, colour in colours.items():
            error = np.array([r["error"] for r in found("routing")[f"{mixture}, {name}"]])
            at = 10 * np.arange(error.shape[1])
            band(axes, at, error, colour, name)
        axes.axhline(WITHIN, color="#666666", lw=1, ls=":")
        axes.set_title(f"{mixture} (line: mean of {len(error)} seeds, band: lowest to highest)", fontsize=9)
        axes.set(xlabel="updates", ylim=(0, None))
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
        plain(axes)
    axes.legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("run", "report"))
    parser.add_argument("parts", nargs="*", help="peaks, goals, on-policy, routing; default: all")
    parser.add_argument("--commit", help="that the results were made at, if not this one")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.what == "run":
        return run(args.parts or list(PARTS))
    told = {
        "what": "PMOE beside SAC, and on PPO beside PPO, on worlds of equally good choices",
        "source": "our own bars; arXiv:2104.09122 has no such task",
    }
    told |= {"command": "python bench/pmoe.py run", "commit": args.commit or commit(), "seeds": SEEDS}
    return keep("pmoe", told | summary(), draw())


if __name__ == "__main__":
    main()
