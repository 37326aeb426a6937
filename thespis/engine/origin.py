"""Where a run comes from: when, on which machine, by which command, from which commit, with which versions. Starts no process."""

from __future__ import annotations

import platform
import re
import shlex
import socket
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch


def origin() -> dict[str, Any]:
    """For config.json, and for nothing that is given away: it names this machine."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "command": shlex.join(sys.argv),
        "commit": commit(Path.cwd()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "gymnasium": gymnasium.__version__,
    }


def commit(place: Path) -> str | None:
    """The commit that the git repository around `place` has checked out, read from its files; None: there is none to be read."""
    with suppress(OSError, ValueError, StopIteration):
        git = next(p / ".git" for p in (place, *place.parents) if (p / ".git").exists())
        if git.is_file():  # of a worktree: "gitdir: PLACE"
            git = (git.parent / git.read_text().removeprefix("gitdir:").strip()).resolve()
        head = (git / "HEAD").read_text().strip()
        shared = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
        if head.startswith("ref:"):
            name = head.removeprefix("ref:").strip()
            loose = [p for p in (git / name, shared / name) if p.is_file()]
            head = loose[0].read_text().strip() if loose else _packed(shared, name)
        return head if re.fullmatch("[0-9a-f]{40,64}", head) else None
    return None


def _packed(git: Path, name: str) -> str:
    lines = (git / "packed-refs").read_text().splitlines()
    return next(line.partition(" ")[0] for line in lines if line.endswith(f" {name}"))
