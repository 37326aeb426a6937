"""What is in a dataset, in numbers and in a picture: episodes, returns, and how much of what there is was seen and done."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from thespis.report.style import COLOURS, MUTED, dress, entitle

__all__ = ["CELLS", "numbers", "picture"]

CELLS = 32  # to a side of the plane that coverage is counted on
SHOWN = 20_000  # steps at most that the plane is found from


def numbers(obs: Any, action: Any, reward: Any, terminated: Any, lengths: Any) -> dict[str, Any]:
    """Of T steps in E episodes: obs (T, D), action (T, A) in [-1, 1] or choices, reward and terminated (T,), lengths (E,)."""
    ends = np.cumsum(lengths)
    returns = np.add.reduceat(reward.astype(np.float64), ends - lengths)
    _, seen = _plane(obs)
    cells = np.histogramdd(seen, bins=CELLS)[0]
    ended = terminated[ends - 1]
    found: dict[str, Any] = {
        "episodes": len(lengths), "steps": int(ends[-1]), "return": _spread(returns), "length": _spread(lengths),
        "reward": _spread(reward), "terminated": float(ended.mean()), "cut_off": float(1 - ended.mean()),
        "observation": [_spread(column) for column in obs.T],
        "coverage": float((cells > 0).mean()), "distinct_observations": len(np.unique(obs, axis=0)),
        "returns": returns, "lengths": np.asarray(lengths),
    }  # fmt: skip
    if action.dtype.kind == "f":
        found |= {"action": [_spread(column) for column in action.T], "at_bounds": float((np.abs(action) > 0.999).mean())}
    else:
        columns = action.reshape(len(action), -1).T
        found["choices"] = [(np.bincount(column) / len(column)).tolist() for column in columns]
    return found


def _spread(x: Any) -> dict[str, float]:
    low, q1, middle, q3, high = np.quantile(np.asarray(x, np.float64), (0, 0.25, 0.5, 0.75, 1))
    return {"mean": float(np.mean(x)), "std": float(np.std(x)), "min": low, "q1": q1, "median": middle, "q3": q3, "max": high}


def _plane(obs: Any) -> tuple[float, Any]:
    """The share of variance in, and the steps projected on, the two directions in which normalised observations vary most."""
    varying = obs[:, obs.std(0) > 0]
    if varying.shape[1] == 0:
        return 1.0, np.zeros((len(obs), 1))
    x = (varying - varying.mean(0)) / varying.std(0)
    some = x[:: max(len(x) // SHOWN, 1)]
    values, vectors = np.linalg.eigh(np.cov(some.T.astype(np.float64)).reshape(x.shape[1], x.shape[1]))
    return float(values[-2:].sum() / values.sum()), x @ vectors[:, -2:][:, ::-1]


def picture(found: dict[str, Any], obs: Any, action: Any, title: str) -> Figure:
    """Returns and lengths as histograms, what was seen as a plane, what was done."""
    figure = Figure(figsize=(10, 7), facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    (returns, lengths), (seen, done) = figure.subplots(2, 2)
    returns.hist(found["returns"], bins=30, color=COLOURS[0])
    dress(returns, "return of an episode", "episodes", size=10)
    lengths.hist(found["lengths"], bins=30, color=COLOURS[1])
    dress(lengths, "steps of an episode", "episodes", size=10)
    share, plane = _plane(obs)
    if plane.shape[1] == 2:
        seen.hexbin(*plane.T, gridsize=CELLS, bins="log", cmap="Blues", mincnt=1)
        dress(seen, "first direction", f"second direction; the two hold {share:.0%} of the variance", size=10)
    else:
        seen.hist(plane[:, 0], bins=CELLS, color=COLOURS[0])
        dress(seen, "observation", "steps", size=10)
    for i, column in enumerate(action.reshape(len(action), -1).T[: len(COLOURS)]):
        if action.dtype.kind == "f":
            done.hist(column, bins=41, range=(-1, 1), histtype="step", color=COLOURS[i], label=f"action {i}")
        else:
            counts = np.bincount(column)
            done.bar(np.arange(len(counts)) + 0.1 * i, counts, width=0.8, color=COLOURS[i], label=f"choice {i}")
    done.legend(fontsize=9, frameon=False, labelcolor=MUTED)
    dress(done, "action, between the bounds" if action.dtype.kind == "f" else "choice", "steps", size=10)
    parts = ((returns, "Returns"), (lengths, "Lengths"), (seen, f"Seen: {found['coverage']:.0%} of the plane"), (done, "Done"))
    for axes, words in parts:
        entitle(axes, words, size=12)
    figure.suptitle(title)
    return figure
