"""What to do when numbers are no longer finite: it is told, and the run can go back to its last checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from thespis.core import Fault
from thespis.engine import checkpoint

IN_A_ROW = 5
"""how often a run goes back to one and the same checkpoint"""


class Diverged(Fault):
    """The learner's numbers are not finite: nothing of it may be saved."""


def told(folder: Path, step: int, what: str, *more: str) -> Diverged:
    """What is said of a run in FOLDER: what is not finite, what may be why, and where it was good."""
    kept = checkpoint.checkpoints(folder)
    good = f"the last good checkpoint is {kept[-1] if kept else 'none yet'}"
    return Diverged("; ".join([f"diverged by step {step}: {what}", *more, good]))


def sound(action: np.ndarray) -> np.ndarray:
    """The same actions. Diverged: one is not finite."""
    if not np.isfinite(action).all():
        raise Diverged("an action is not finite")
    return action


def rollback(folder: Path, why: Diverged) -> None:
    """Marks the newest checkpoint so that whoever goes on from it draws from new generators, and raises `why` where it cannot.

    The mark is written in one step: killed at any moment, the run goes on from it with the old generators or with the new.
    """
    found = checkpoint.checkpoints(folder)
    if not found:
        raise why
    best = folder / "policy" / "best.json"

    def mark(meta: dict[str, Any]) -> None:
        times = meta.get("rollback", {"times": 0})["times"] + 1
        if times > IN_A_ROW:
            raise Fault(f"{why}; from there it has diverged {times} times, each time with other random numbers") from why
        meta["rollback"] = {
            "times": times,
            "said": f"{why}; going on from there with other random numbers ({times} of {IN_A_ROW})",
        }
        faults = meta["progress"]["faults"]
        faults["rollbacks"] = faults.get("rollbacks", 0) + 1
        if best.exists():  # a policy that was better stays the best, though its evaluation is taken back
            meta["progress"]["best"] = checkpoint.read_json(best)["return_mean"]

    checkpoint.amend(found[-1], mark)


def seeds(seed: int | list[int], rollbacks: int = 0) -> list[int]:
    """Of torch, the replay, the collector and the evaluations: others after each rollback of the run."""
    entropy: Any = [seed, rollbacks] if rollbacks else seed
    return np.random.SeedSequence(entropy).generate_state(4).tolist()
