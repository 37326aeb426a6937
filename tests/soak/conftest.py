"""What every soak test shares: `make soak` keeps its figures in bench/results/reliability."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[2]


@pytest.fixture
def record():
    """record(name, **figures) writes NAME.json, beside the figures that other tests of this name have left there."""
    began = time.monotonic()

    def write(name, **figures):
        if not os.environ.get("THESPIS_RECORD"):
            return
        file = HOUSE / f"bench/results/reliability/{name}.json"
        file.parent.mkdir(exist_ok=True)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=HOUSE, capture_output=True, text=True).stdout.strip()
        for part in figures.values():
            part |= {"seconds": round(time.monotonic() - began), "commit": commit}
        old = json.loads(file.read_text()) if file.exists() else {}
        file.write_text(json.dumps(old | {"command": "make soak"} | figures, indent=2, sort_keys=True) + "\n")

    return write
