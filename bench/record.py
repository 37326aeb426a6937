"""How a bench ends: its figures with the command, the commit and the machine that they are of, printed and kept; its picture."""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def quartiles(values: Sequence[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "quartiles": statistics.quantiles(values, n=4)}


def machine() -> str:
    """Its cores, and those of its vector instructions that figures hang on."""
    place = Path("/proc/cpuinfo")
    words = set(place.read_text().split()) if place.exists() else set()
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in words]
    return f"{platform.machine()}, {os.cpu_count()} cores{''.join(f', {flag}' for flag in known)}"


def commit() -> str:
    """The one that is checked out."""
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


def write_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Raw results: JSON, a line a row."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def keep(name: str, result: dict[str, Any], figure: Any = None) -> None:
    """results/NAME.json, printed too, and NAME.png; `result` says itself by which command and at which commit it was made."""
    text = json.dumps(result, indent=2) + "\n"
    (RESULTS / f"{name}.json").write_text(text)
    if figure is not None:
        figure.savefig(RESULTS / f"{name}.png", dpi=160)
    print(text)


def plain(axes: Any, grid: str = "both") -> None:
    """A light grid, and no frame at the top and on the right."""
    axes.grid(alpha=0.25, axis=grid)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def band(axes: Any, x: Sequence[float] | np.ndarray, table: np.ndarray, colour: str, label: str, **line: Any) -> None:
    """The mean over seeds, and a band from the lowest to the highest; table: (seeds, x)."""
    axes.plot(x, table.mean(0), color=colour, lw=2, label=label, **line)
    axes.fill_between(x, table.min(0), table.max(0), color=colour, alpha=0.15, lw=0)


def record(result: dict[str, Any], out: Path | None, figure: Any = None) -> None:
    """Prints `result` and where it comes from, and writes both to `out`, where there is one, and the figure beside it."""
    result = result | {
        "command": " ".join(["python", f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": commit(),
        "machine": machine(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
        if figure is not None:
            figure.savefig(out.with_suffix(".png"), dpi=160)
