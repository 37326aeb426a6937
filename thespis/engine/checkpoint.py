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
from thespis.data import Replay, Rollout

FORMAT = 1


def write(path: Path, fill: Callable[[Path], object]) -> None:
    """`fill` writes a file or folder aside; then it takes its place in one step, durably."""
    aside = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.unlink(missing_ok=True)
    fill(aside)
    for file in [*aside.rglob("*"), aside] if aside.is_dir() else [aside]:
        if file.is_file():
            file.chmod(0o644)  # safetensors makes files that nobody else can read
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
    except (OSError, ValueError, RecursionError) as error:
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
    for name in sorted(wanted.keys() | found.keys()):
        a, b = (f"{tuple(t.shape)} {t.dtype}" if t is not None else "absent" for t in (found.get(name), wanted.get(name)))
        if a != b:
            raise Fault(f"{where} does not fit this environment and configuration: {name} is {a}, wanted {b}")


def save(
    folder: Path, step: int, meta: dict[str, Any], tensors: Mapping[str, Tensor], replay: Replay | Rollout, keep: int
) -> Path:
    """A checkpoint of `step` environment steps: only the experience that is not on disk yet is written."""
    target = folder / "checkpoints" / f"{step:09d}"
    if target.exists():  # the same step again (resumed and stopped at once): the old one is as good
        return target
    (folder / "replay").mkdir(exist_ok=True)
    (folder / "checkpoints").mkdir(exist_ok=True)
    found = checkpoints(folder)
    segments = _segments(found[-1]) if found else {}
    start = max([replay.oldest(), *(int(first) + segment["steps"] for first, segment in segments.items())])
    if replay.steps > start:
        file = segment_path(folder, start)
        write_tensors(file, replay.segment(start, replay.steps))
        segments = segments | {str(start): {"steps": replay.steps - start, "sha256": _digest(file.read_bytes())}}
    held = {first: segment for first, segment in segments.items() if int(first) + segment["steps"] > replay.oldest()}

    def fill(aside: Path) -> None:
        aside.mkdir()
        file = aside / "tensors.safetensors"
        write_tensors(file, tensors)
        about = {"format": FORMAT, **meta, "segments": held, "tensors": _digest(file.read_bytes())}
        write_json(aside / "checkpoint.json", about | {"sha256": _seal(about)})

    write(target, fill)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    wanted = {int(first) for c in checkpoints(folder) for first in _segments(c)}
    for file in (folder / "replay").glob("*.safetensors"):
        if int(file.stem) not in wanted:
            file.unlink()
    return target


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _seal(about: dict[str, Any]) -> str:
    """The checksum of a checkpoint.json, over all that it says: what bears the right one was written here."""
    return _digest(json.dumps(about, sort_keys=True).encode())


def _segments(path: Path) -> dict[str, dict[str, Any]]:
    """The segments that a checkpoint needs: {first step: {"steps", "sha256"}}; none where it is damaged."""
    try:
        return _meta(path)["segments"]
    except Fault:
        return {}


def _meta(path: Path) -> dict[str, Any]:
    file = path / "checkpoint.json"
    meta = read_json(file)
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise Fault(f"{file} is not a checkpoint of format {FORMAT}, which this version of Thespis reads")
    if meta.pop("sha256", None) != _seal(meta):
        raise Fault(f"{file} is damaged: its checksum is not the one that it was written with")
    return meta


def segment_path(folder: Path, start: int) -> Path:
    return folder / "replay" / f"{start:09d}.safetensors"


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(p for p in (folder / "checkpoints").glob("[0-9]*") if p.is_dir())


def begun(folder: Path) -> bool:
    """Whether a run has saved anything yet. One that was killed before it did so begins again."""
    return bool(checkpoints(folder)) or (folder / "policy" / "last.json").exists()


def load(folder: Path, replay: Replay | Rollout, say: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The newest sound checkpoint, and its experience in `replay`. A damaged one is told and the one before it is taken."""
    found = checkpoints(folder)
    if not found:
        raise Fault(f"{folder} holds no checkpoint: there is nothing to resume")
    damaged: list[tuple[Path, Fault]] = []
    for path in reversed(found):
        try:
            meta, tensors, parts = _read(path, replay)
            break
        except Fault as fault:
            damaged.append((path, fault))
    else:
        raise damaged[0][1]
    for path, why in damaged:
        say(f"{why}; taking the checkpoint before it")
        path.rename(path.with_name(f"damaged-{path.name}"))
    replay.load(parts, meta["replay_steps"])
    return meta, tensors


def _read(path: Path, replay: Replay | Rollout) -> tuple[dict[str, Any], dict[str, Tensor], list[tuple[int, dict[str, Tensor]]]]:
    """A checkpoint and the segments it needs. Raises Fault naming the file that is damaged or does not fit."""
    meta = _meta(path)
    tensors = _sound(path / "tensors.safetensors", meta["tensors"])
    parts, end = [], max(meta["replay_steps"] - replay.length, 0)
    for first, segment in sorted((int(k), v) for k, v in meta["segments"].items()):
        part = _sound(file := segment_path(path.parents[1], first), segment["sha256"])
        fit({k: part[k][:1] for k in ("obs", "action")}, {k: getattr(replay, k)[:1] for k in ("obs", "action")}, file)
        if first > end or len(part["ended"]) != segment["steps"] * replay.num_envs:
            raise Fault(f"{file} does not fit the run's num_envs and replay_size: experience would be missing or mixed up")
        parts.append((first, part))
        end = first + segment["steps"]
    return meta, tensors, parts


def _sound(path: Path, digest: str) -> dict[str, Tensor]:
    tensors = read_tensors(path)
    if _digest(path.read_bytes()) != digest:
        raise Fault(f"{path} is damaged: its checksum is not the one that it was written with")
    return tensors
