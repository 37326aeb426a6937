"""What a run tells its user's functions at each row of metrics, and what it hears of them: whether to end."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from thespis.core import Fault
from thespis.engine.progress import Progress
from thespis.engine.run import Run
from thespis.envs.flat import describe_error


@dataclass(frozen=True)
class Row:
    """A row of metrics, as a callback is given it."""

    step: int
    """of the run"""
    metrics: dict[str, Any]
    """by name, as in metrics.jsonl: "eval/return_mean", "train/entropy", ..."""
    path: Path
    """the run directory"""
    save: Callable[[str], None]
    """keeps the policy of this step as policy/NAME, for thespis.load(path, NAME)"""


Callback = Callable[[Row], Any]
"""False ends the run, and so does a text, which is why; anything else goes on"""


def checked(given: Callback | Sequence[Callback] | None) -> list[Callback]:
    """Raises Fault for what cannot be called."""
    found: list[Any] = list(given) if isinstance(given, list | tuple) else [] if given is None else [given]
    if bad := [f for f in found if not callable(f)]:
        raise Fault(f"callback is {bad[0]!r}; allowed: a function of one row of metrics, or a list of such")
    return found


class Callbacks:
    def __init__(self, functions: Sequence[Callback], run: Run, path: Path, save: Callable[[str], None]):
        self.functions, self.run, self.path, self.policy = functions, run, path, save

    def __call__(self, progress: Progress, metrics: dict[str, Any], note: Callable[[str], None]) -> None:
        """Sets progress.ended where the run is to end. torch's random numbers stay as they are. Fault: a function has failed."""
        found, bar = metrics.get("eval/return_mean"), self.run.stop_at
        why = None if bar is None or found is None or found < bar else f"eval/return_mean is {found:g}, and stop_at {bar:g}"
        row = Row(progress.steps, dict(metrics), self.path, self._save)
        for function in self.functions:
            name = getattr(function, "__name__", type(function).__name__)
            try:
                with torch.random.fork_rng(devices=[]):
                    said = function(row)
            except Exception as error:
                raise Fault(f"the callback {name} raised {describe_error(error)}") from error
            if isinstance(said, str) or (isinstance(said, bool | np.bool_) and not said):
                why = why or (said if isinstance(said, str) else "") or f"the callback {name} said so"
        if why and not progress.ended and progress.steps < self.run.steps:
            progress.ended = why
            note(f"ends at step {progress.steps:,}: {why}")

    def _save(self, name: str) -> None:
        if not re.fullmatch(r"[\w-]+", name) or name in ("first", "last", "best"):
            raise Fault(f"save: name is {name!r}; allowed: letters, digits, _ and -, but not first, last or best")
        self.policy(name)
