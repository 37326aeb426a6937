"""How a bench ends: its figures with the command, the commit and the machine that they are of, printed and kept."""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def quartiles(values: Sequence[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), "quartiles": statistics.quantiles(values, n=4)}


def record(result: dict[str, Any], out: Path | None, machine: str = "") -> None:
    """Prints `result` and where it comes from, and writes both to `out`, where there is one; `machine` is said of it besides."""
    result = result | {
        "command": " ".join(["python", f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores{machine}",
    }
    text = json.dumps(result, indent=2)
    print(text)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
