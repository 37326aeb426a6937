"""Seconds that a user waits: from the start of a process to the first step of the environment, and to so many updates of SAC.

    python bench/startup.py --rounds 3 --out bench/results/startup.json
    python bench/startup.py --answers --rounds 9 --out bench/results/answers.json

With --answers instead: processor seconds, user and system, until a command has answered, beside `import torch`.

HalfCheetah-v5, the paper's numbers but for 1,000 random steps first; each contender alone, with its defaults. Thespis is started
on a machine that has never compiled this ("cold"), on one that has ("warm"), and in eager mode.
"""

import argparse
import multiprocessing as mp
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import record, spread
from throughput import WARMUP, Counted, train_sb3, train_sbx

CONTENDERS = ("thespis, cold", "thespis, warm", "thespis, eager", "sb3", "sbx")
UPDATES = (1, 1_000, 3_000)
EVALUATED = 1_000
"""steps of the evaluation with which a Thespis run begins; its environment is counted, too"""


def begin(contender: str, env: Counted, threads: int) -> None:
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if contender == "thespis, cold":
        os.environ["XDG_CACHE_HOME"] = os.environ["TORCHINDUCTOR_CACHE_DIR"] = tempfile.mkdtemp()
    if contender.startswith("thespis"):
        import thespis

        far, more = 10**9, {"compile_after": -1} if contender.endswith("eager") else {}
        thespis.train(
            "sac", env=env, out=Path(tempfile.mkdtemp()) / "run", steps=far, warmup=WARMUP["sac"], eval_every=far,
            eval_episodes=1, panel=False, **more,
        )  # fmt: skip
    else:
        {"sb3": train_sb3, "sbx": train_sbx}[contender]("sac", env, 1, threads)


def waits(contender: str, env: str, threads: int) -> list[float]:
    """Seconds to the first step, then to each of UPDATES."""
    context = mp.get_context("spawn")
    counter = context.Value("q", 0)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    process = context.Process(target=begin, args=(contender, Counted(env, counter), threads), daemon=True)
    began, out, more = time.perf_counter(), [], EVALUATED if contender.startswith("thespis") else 0
    process.start()
    try:
        for count in (1, *(more + WARMUP["sac"] + u for u in UPDATES)):
            while counter.value < count:
                time.sleep(0.005)
                if not process.is_alive():
                    raise SystemExit(f"{contender} ended early")
            out.append(time.perf_counter() - began)
        return out
    finally:
        process.kill()
        process.join()


ANSWERS = {
    "import torch": ["-c", "import torch"],
    "import thespis": ["-c", "import thespis"],
    "import thespis; thespis.train": ["-c", "import thespis; thespis.train"],
    "thespis --help": ["-m", "thespis", "--help"],
    "thespis list": ["-m", "thespis", "list"],
    "thespis train sac --help": ["-m", "thespis", "train", "sac", "--help"],
    "thespis train sac --no-such-flag": ["-m", "thespis", "train", "sac", "--no-such-flag"],
}


def answers(rounds: int) -> dict[str, Any]:
    """Each command in turn, so that all meet the same machine; the first round, which fills the disk's cache, does not count."""
    times: dict[str, list[float]] = {name: [] for name in ANSWERS}
    for _ in range(rounds + 1):
        for name, args in ANSWERS.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, *args], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            times[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    what = "processor seconds, user and system, of a process until it has answered"
    return {"what": what, "rounds": rounds, "seconds": {name: spread(seconds[1:]) for name, seconds in times.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=CONTENDERS)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--answers", action="store_true", help="how long help and a wrong flag take, and nothing else")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    if args.answers:
        record(answers(args.rounds), args.out)
        return
    if "thespis, warm" in args.contenders:
        waits("thespis, warm", "HalfCheetah-v5", args.threads)  # it is compiled from now on
    times: dict[str, list[list[float]]] = {contender: [] for contender in args.contenders}
    for _ in range(args.rounds):
        for contender in args.contenders:
            times[contender].append(waits(contender, "HalfCheetah-v5", args.threads))
    names = ["first step", *(f"{u:,} update{'s' * (u > 1)}" for u in UPDATES)]

    def told(rows: list[list[float]]) -> dict[str, Any]:
        by = zip(names, zip(*rows, strict=True), strict=True)
        return {name: spread(seconds) for name, seconds in by}

    result = {
        "what": "SAC on HalfCheetah-v5: seconds from the start of the process, 1,000 random steps among them",
        "threads": args.threads, "rounds": args.rounds, "seconds": {c: told(rows) for c, rows in times.items()},
    }  # fmt: skip
    record(result, args.out)


if __name__ == "__main__":
    main()
