"""Environment steps per second in the steady phase: Thespis against its peers, in one interleaved run.

    python bench/throughput.py --peers thespis:1 thespis:2 sb3:1 sb3:2 sbx:1 sbx:2 --out bench/results/throughput.json
    python bench/throughput.py --peers thespis:1 sb3:1 sb3:2 --load --out bench/results/throughput_load.json
    python bench/throughput.py --algo ppo --peers thespis:1 sb3:1 --seconds 20 --out bench/results/throughput_ppo.json
    python bench/throughput.py --peers thespis:2 sb3:2 sbx:2 --grow --out bench/results/throughput_envs.json    and a .png

A peer is a library and its number of threads; thespis:2:bf16 has bfloat16 products. Each trains in a process of its own, with the
papers' numbers: SAC with batch 256, 2 x 256 ReLU, one update a step; PPO as in learn_sb3.py, with 8 environments. They take turns
of a few seconds: while one runs, the others are stopped (SIGSTOP), so all see the same machine. `--load` keeps a core busy as
well. Steps are counted inside the environment; PPO takes them rollout by rollout, so give it turns of many. What is reported: the
median rate of each and its quartiles; and of each two libraries, both at their best number of threads, the ratio round by round.
"""

import argparse
import multiprocessing as mp
import os
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import plain, quartiles, record, spread

WARMUP = {"sac": 1_000, "ppo": 4_096}


class Counted:
    """Makes an environment that counts its steps where both processes see them."""

    def __init__(self, env: str, counter: Any):
        self.env, self.counter = env, counter

    def __call__(self) -> Any:
        import gymnasium as gym

        counter = self.counter

        class Count(gym.Wrapper):
            def step(self, action: Any) -> Any:
                with counter.get_lock():
                    counter.value += 1
                return self.env.step(action)

        return Count(gym.make(self.env))


def train_thespis(algo: str, env: Counted, num_envs: int, threads: int, *precision: str) -> None:
    import thespis

    far = 10**9
    options: dict[str, Any] = {"warmup": WARMUP["sac"]} if algo == "sac" else {"rollout": 256}
    if precision:
        options["precision"] = precision[0]
    thespis.train(
        algo, env=env, out=f"run-{os.getpid()}", steps=far, threads=threads, num_envs=num_envs, **options,
        eval_every=far, eval_episodes=1, compile_after=0, checkpoint_every=10_000 if algo == "sac" else 100_000, panel=False,
    )  # fmt: skip


def train_sb3(algo: str, env: Counted, num_envs: int, threads: int) -> None:
    import torch
    from stable_baselines3 import PPO, SAC
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    torch.set_num_threads(threads)
    envs = DummyVecEnv([env] * num_envs)
    if algo == "sac":
        SAC("MlpPolicy", envs, learning_starts=WARMUP["sac"], gradient_steps=-1, seed=0, device="cpu").learn(10**9)
    else:
        PPO("MlpPolicy", VecNormalize(envs), n_steps=256, batch_size=64, seed=0, device="cpu").learn(10**9)


def train_sbx(algo: str, env: Counted, num_envs: int, threads: int) -> None:
    os.environ["XLA_FLAGS"] = f"--xla_cpu_multi_thread_eigen={'false' if threads == 1 else 'true'}"
    os.environ["NPROC"] = str(threads)
    from sbx import SAC
    from stable_baselines3.common.vec_env import DummyVecEnv

    assert algo == "sac"
    SAC("MlpPolicy", DummyVecEnv([env] * num_envs), learning_starts=WARMUP["sac"], gradient_steps=-1, seed=0).learn(10**9)


TRAIN = {"thespis": train_thespis, "sb3": train_sb3, "sbx": train_sbx}


def begin(peer: str, algo: str, env: Counted, num_envs: int, place: str) -> None:
    os.chdir(place)
    library, threads, *more = peer.split(":")
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    TRAIN[library](algo, env, num_envs, int(threads), *more)


def busy() -> None:
    while True:
        pass


def turns(
    peers: list[str], algo: str, env: str, num_envs: int, rounds: int, seconds: float, load: bool
) -> dict[str, list[float]]:
    """Rates by peer, one a round."""
    context, place = mp.get_context("spawn"), tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    counters = {peer: context.Value("q", 0) for peer in peers}
    processes = {}
    other = context.Process(target=busy, daemon=True)
    try:
        for peer in peers:  # one at a time past the warm-up, the compilation and a while more
            os.environ["OMP_NUM_THREADS"] = peer.split(":")[1]
            job = (peer, algo, Counted(env, counters[peer]), num_envs, place.name)
            processes[peer] = process = context.Process(target=begin, args=job, daemon=True)
            process.start()
            while counters[peer].value < WARMUP[algo] + 1_500:
                time.sleep(0.2)
                if not process.is_alive():
                    raise SystemExit(f"{peer} ended early")
            os.kill(process.pid or 0, signal.SIGSTOP)
        if load:
            other.start()
        rates: dict[str, list[float]] = {peer: [] for peer in peers}
        for _ in range(rounds):
            for peer, process in processes.items():
                os.kill(process.pid or 0, signal.SIGCONT)
                time.sleep(0.2)
                first, began = counters[peer].value, time.perf_counter()
                time.sleep(seconds)
                rates[peer].append((counters[peer].value - first) / (time.perf_counter() - began))
                os.kill(process.pid or 0, signal.SIGSTOP)
        return rates
    finally:
        for process in [*processes.values(), other]:
            if process.pid:
                process.kill()
                process.join()
        place.cleanup()


def against(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Thespis's rate over each other library's, round by round, each at its best."""
    middle = {peer: statistics.median(r) for peer, r in rates.items()}
    kinds = {peer: ":".join([peer.split(":")[0], *peer.split(":")[2:]]) for peer in rates}
    best = {kind: max((p for p in rates if kinds[p] == kind), key=middle.__getitem__) for kind in dict.fromkeys(kinds.values())}
    ours, others = [p for k, p in best.items() if k.startswith("thespis")], [p for k, p in best.items() if "thespis" not in k]
    out = {}
    for a in ours:
        for b in others:
            ratios = [x / y for x, y in zip(rates[a], rates[b], strict=True)]
            out[f"{a} / {b}"] = spread(ratios)
    return out


def told(rates: dict[str, list[float]]) -> dict[str, Any]:
    return {"steps_per_second": {peer: quartiles(r) for peer, r in rates.items()}, "ratio": against(rates)}


def draw(result: dict[str, Any]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.5, 3.6), layout="constrained")
    axes = figure.subplots()
    colours = {"thespis": "#1f5fd1", "sb3": "#c4661f", "sbx": "#2f8f5b"}
    for peer in result["num_envs"]["1"]["steps_per_second"]:
        by = {int(n): row["steps_per_second"][peer] for n, row in result["num_envs"].items()}
        library, threads, *more = peer.split(":")
        label = " ".join([{"thespis": "Thespis", "sb3": "Stable-Baselines3", "sbx": "SBX"}[library], *more])
        line = {"color": colours[library], "ls": "--" if more else "-"}
        axes.plot(list(by), [r["median"] for r in by.values()], "o", **line, label=f"{label}, {threads} threads", ms=4)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(by), list(map(str, by)))
    axes.set(xlabel="environments", ylabel="environment steps a second", ylim=(0, None), title=f"SAC on {result['env']}")
    plain(axes)
    axes.legend(frameon=False)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", nargs="+", default=["thespis:1", "sb3:1"], help="library:threads[:precision]")
    parser.add_argument("--algo", choices=("sac", "ppo"), default="sac")
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--num-envs", type=int, help="default: 1, of PPO 8")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one turn")
    parser.add_argument("--load", action="store_true", help="another process keeps a core busy")
    parser.add_argument("--grow", action="store_true", help="against the number of environments")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    num_envs = args.num_envs or {"sac": 1, "ppo": 8}[args.algo]

    def measured(n: int) -> dict[str, Any]:
        return told(turns(args.peers, args.algo, args.env, n, args.rounds, args.seconds, args.load))

    result: dict[str, Any] = {
        "what": f"{args.algo.upper()}, environment steps per second in the steady phase",
        "env": args.env, "load": args.load, "rounds": args.rounds, "seconds_a_turn": args.seconds,
    }  # fmt: skip
    if args.grow:
        result["num_envs"] = {str(n): measured(n) for n in (1, 2, 4, 8, 16)}
    else:
        result |= {"num_envs": num_envs} | measured(num_envs)
    record(result, args.out, draw(result) if args.grow else None)


if __name__ == "__main__":
    main()
