"""Checkpoints that a kill at any moment leaves whole: written aside, made durable, renamed.

DIR/replay/000000000.safetensors          steps of experience from that number on; only ever added
DIR/checkpoints/000010000/tensors.safetensors, checkpoint.json
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from thespis.core import Fault
from thespis.data import Replay

FORMAT = 1


def write(path: Path, fill: Callable[[Path], object]) -> None:
    """`fill` writes a file or folder aside; then it takes its place in one step, durably."""
    aside = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.unlink(missing_ok=True)
    fill(aside)
    for file in [*aside.rglob("*"), aside] if aside.is_dir() else [aside]:
        _sync(file)
    os.replace(aside, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    write(path, lambda p: p.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n"))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    write(path, lambda p: save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, p))


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise Fault(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise Fault(f"{path} is damaged: {error}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, "pt"):  # reads the header alone: a wrong file is told before it is mapped
            return load_file(path)
    except FileNotFoundError:
        raise Fault(f"{path} is missing") from None
    except (OSError, SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise Fault(f"{path} is damaged: {error}") from None


def fit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: object) -> None:
    """Raises Fault where the tensors found are not those wanted, by name, shape and type."""
    for name in wanted.keys() | found.keys():
        a, b = (f"{tuple(t.shape)} {t.dtype}" if t is not None else "absent" for t in (found.get(name), wanted.get(name)))
        if a != b:
            raise Fault(f"{where} does not fit this environment and configuration: {name} is {a}, wanted {b}")


def save(folder: Path, step: int, meta: dict[str, Any], tensors: Mapping[str, Tensor], replay: Replay, keep: int) -> Path:
    """A checkpoint of `step` environment steps: only the experience that is not on disk yet is written."""
    (folder / "replay").mkdir(exist_ok=True)
    (folder / "checkpoints").mkdir(exist_ok=True)
    before = [read_json(c / "checkpoint.json") for c in checkpoints(folder)]
    segments: dict[str, int] = before[-1]["segments"] if before else {}
    start = max((int(first) + count for first, count in segments.items()), default=0)
    start = max(start, replay.oldest())
    if replay.steps > start:
        write_tensors(segment_path(folder, start), replay.segment(start, replay.steps))
        segments = segments | {str(start): replay.steps - start}
    segments = {first: count for first, count in segments.items() if int(first) + count > replay.oldest()}

    def fill(aside: Path) -> None:
        aside.mkdir()
        write_tensors(aside / "tensors.safetensors", tensors)
        digest = hashlib.sha256((aside / "tensors.safetensors").read_bytes()).hexdigest()
        write_json(aside / "checkpoint.json", {"format": FORMAT, **meta, "segments": segments, "sha256": digest})

    target = folder / "checkpoints" / f"{step:09d}"
    if target.exists():  # the same step again (resumed and stopped at once): the old one is as good
        return target
    write(target, fill)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    wanted = {first for c in checkpoints(folder) for first in read_json(c / "checkpoint.json")["segments"]}
    for file in (folder / "replay").glob("*.safetensors"):
        if str(int(file.stem)) not in wanted:
            file.unlink()
    return target


def segment_path(folder: Path, start: int) -> Path:
    return folder / "replay" / f"{start:09d}.safetensors"


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(p for p in (folder / "checkpoints").glob("[0-9]*") if p.is_dir())


def load(folder: Path, replay: Replay, say: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The newest sound checkpoint, and its experience in `replay`. A damaged one is told and the one before it is taken."""
    found = checkpoints(folder)
    if not found:
        raise Fault(f"{folder} holds no checkpoint: there is nothing to resume")
    for path in reversed(found):
        try:
            meta = read_json(path / "checkpoint.json")
            if not isinstance(meta, dict) or meta.get("format") != FORMAT:
                raise Fault(
                    f"{path} is of format {meta.get('format') if isinstance(meta, dict) else '?'}, this version reads {FORMAT}"
                )
            tensors = read_tensors(path / "tensors.safetensors")
            if hashlib.sha256((path / "tensors.safetensors").read_bytes()).hexdigest() != meta["sha256"]:
                raise Fault(f"{path / 'tensors.safetensors'} is damaged: its checksum differs from the one in checkpoint.json")
            break
        except Fault as fault:
            if path == found[0]:
                raise
            say(f"{fault}; taking the checkpoint before it")
            path.rename(path.with_name(f"damaged-{path.name}"))
    want = {name: getattr(replay, name) for name in ("obs", "action")}
    parts = []
    for first in sorted(meta["segments"], key=int):
        part = read_tensors(segment_path(folder, int(first)))
        for name, ring in want.items():
            if part[name].shape[1:] != ring.shape[1:]:
                raise Fault(
                    f"{folder}: replay holds {name} of {tuple(part[name].shape[1:])}, the environment has {tuple(ring.shape[1:])}"
                )
        parts.append((int(first), part))
    replay.load(parts, meta["replay_steps"])
    return meta, tensors
