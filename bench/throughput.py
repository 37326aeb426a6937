"""Environment steps per second in the steady phase: Thespis against Stable-Baselines3, in one interleaved run.

    python bench/throughput.py --env HalfCheetah-v5 --threads 1 --rounds 10 --out bench/results/throughput.json
    python bench/throughput.py --algo ppo --rounds 10 --seconds 20 --out bench/results/throughput_ppo.json

Each library trains in a process of its own, at the paper's settings: SAC with batch 256, 2 x 256 ReLU, one update a step; PPO as
in learn_sb3.py, with 8 environments. The two take turns of a few seconds: while one runs, the other is stopped (SIGSTOP), so both
see the same machine. Steps are counted inside the environment; PPO takes them rollout by rollout, so give it turns of many. What
is reported is the median rate of each, its quartiles, and the ratio of each round.
"""

import argparse
import json
import multiprocessing as mp
import os
import platform
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
                counter.value += 1
                return self.env.step(action)

        return Count(gym.make(self.env))


def train_thespis(algo: str, env: str, threads: int, counter: Any) -> None:
    import thespis

    folder = Path(tempfile.mkdtemp()) / "run"
    far = 10**9
    options: dict[str, Any] = {"warmup": WARMUP["sac"]} if algo == "sac" else {"num_envs": 8, "rollout": 256}
    thespis.train(
        algo, env=Counted(env, counter), out=folder, steps=far, threads=threads, **options,
        eval_every=far, eval_episodes=1, compile_after=0, checkpoint_every=10_000 if algo == "sac" else 100_000, panel=False,
    )  # fmt: skip


def train_sb3(algo: str, env: str, threads: int, counter: Any) -> None:
    import torch
    from stable_baselines3 import PPO, SAC
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    torch.set_num_threads(threads)
    make = Counted(env, counter)
    if algo == "sac":
        SAC("MlpPolicy", make(), learning_starts=WARMUP["sac"], seed=0, device="cpu").learn(10**9)
    else:
        PPO("MlpPolicy", VecNormalize(DummyVecEnv([make] * 8)), n_steps=256, batch_size=64, seed=0, device="cpu").learn(10**9)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--algo", choices=("sac", "ppo"), default="sac")
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5.0, help="of one turn")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    context = mp.get_context("spawn")
    peers: dict[str, Callable[..., None]] = {"thespis": train_thespis, "sb3": train_sb3}
    counters = {name: context.Value("q", 0, lock=False) for name in peers}
    given = args.algo, args.env, args.threads
    processes = {n: context.Process(target=f, args=(*given, counters[n]), daemon=True) for n, f in peers.items()}
    try:
        for name, process in processes.items():  # one at a time past the warm-up, the compilation and a while more
            process.start()
            while counters[name].value < WARMUP[args.algo] + 1_500:
                time.sleep(0.2)
                if not process.is_alive():
                    raise SystemExit(f"{name} ended early")
            os.kill(process.pid, signal.SIGSTOP)
        rates: dict[str, list[float]] = {name: [] for name in peers}
        for _ in range(args.rounds):
            for name, process in processes.items():
                os.kill(process.pid, signal.SIGCONT)
                time.sleep(0.2)
                first, began = counters[name].value, time.perf_counter()
                time.sleep(args.seconds)
                rates[name].append((counters[name].value - first) / (time.perf_counter() - began))
                os.kill(process.pid, signal.SIGSTOP)
    finally:
        for process in processes.values():
            process.kill()
    ratios = [a / b for a, b in zip(rates["thespis"], rates["sb3"], strict=True)]
    result = {
        "what": f"{args.algo.upper()}, environment steps per second in the steady phase",
        "env": args.env, "threads": args.threads, "rounds": args.rounds, "seconds_a_turn": args.seconds,
        "steps_per_second": {
            name: {"median": statistics.median(r), "quartiles": statistics.quantiles(r, n=4)} for name, r in rates.items()
        },
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "command": "python bench/throughput.py "
        f"--algo {args.algo} --env {args.env} --threads {args.threads} --rounds {args.rounds} --seconds {args.seconds:g}",
        "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
