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


def machine() -> str:
    """Its cores, and those of its vector instructions that figures hang on."""
    place = Path("/proc/cpuinfo")
    words = set(place.read_text().split()) if place.exists() else set()
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in words]
    return f"{platform.machine()}, {os.cpu_count()} cores{''.join(f', {flag}' for flag in known)}"


def record(result: dict[str, Any], out: Path | None) -> None:
    """Prints `result` and where it comes from, and writes both to `out`, where there is one."""
    result = result | {
        "command": " ".join(["python", f"bench/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
        "commit": subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip(),
        "machine": machine(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if out:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
