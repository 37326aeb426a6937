"""Checkpoints that a kill at any moment leaves whole: written aside, made durable, renamed.

DIR/replay/000000000.safetensors          steps of experience from that number on; only ever added
DIR/replay/2-000000000.safetensors        the same of collector 2, where there are several
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
from thespis.data import Replay, Shards

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
    folder: Path, step: int, meta: dict[str, Any], tensors: Mapping[str, Tensor], replay: Replay | Shards, keep: int
) -> Path:  # fmt: skip
    """A checkpoint of `step` environment steps: only the experience that is not on disk yet is written."""
    target = folder / "checkpoints" / f"{step:09d}"
    if target.exists():  # the same step again (resumed and stopped at once): the old one is as good
        return target
    (folder / "replay").mkdir(exist_ok=True)
    (folder / "checkpoints").mkdir(exist_ok=True)
    found = checkpoints(folder)
    before = _segments(found[-1]) if found else {}
    held: dict[str, dict[str, Any]] = {}
    for name, part in _named(replay):
        segments = _of(name, before)
        start = max([part.oldest(), *(first + segment["steps"] for first, segment in segments.items())])
        if part.steps > start:
            file = segment_path(folder, start, name)
            write_tensors(file, part.segment(start, part.steps))
            segments[start] = {"steps": part.steps - start, "sha256": _digest(file.read_bytes())}
        held |= {f"{name}{first}": s for first, s in segments.items() if first + s["steps"] > part.oldest()}

    def fill(aside: Path) -> None:
        aside.mkdir()
        file = aside / "tensors.safetensors"
        write_tensors(file, tensors)
        about = {"format": FORMAT, **meta, "segments": held, "tensors": _digest(file.read_bytes())}
        write_json(aside / "checkpoint.json", about | {"sha256": _seal(about)})

    write(target, fill)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    kept = [_segments(c) for c in checkpoints(folder)]
    wanted = {segment_path(folder, first, name) for name, _ in _named(replay) for s in kept for first in _of(name, s)}
    for file in (folder / "replay").glob("*.safetensors"):
        if file not in wanted:
            file.unlink()
    return target


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _seal(about: dict[str, Any]) -> str:
    """The checksum of a checkpoint.json, over all that it says: what bears the right one was written here."""
    return _digest(json.dumps(about, sort_keys=True).encode())


def _named(replay: Replay | Shards) -> list[tuple[str, Replay]]:
    """Each replay, with what the names of its segments begin with: nothing where it is the only one."""
    return [(f"{i}-" if len(replay.parts) > 1 else "", part) for i, part in enumerate(replay.parts)]


def _of(name: str, segments: Mapping[str, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """One replay's segments by their first steps, in order."""
    found = {k.removeprefix(name): v for k, v in segments.items() if k.startswith(name)}
    return dict(sorted((int(first), segment) for first, segment in found.items()))


def _segments(path: Path) -> dict[str, dict[str, Any]]:
    """The segments that a checkpoint needs: {replay's name and first step: {"steps", "sha256"}}; none where it is damaged."""
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


def segment_path(folder: Path, start: int, name: str = "") -> Path:
    return folder / "replay" / f"{name}{start:09d}.safetensors"


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(p for p in (folder / "checkpoints").glob("[0-9]*") if p.is_dir())


def begun(folder: Path) -> bool:
    """Whether a run has saved anything yet. One that was killed before it did so begins again."""
    return bool(checkpoints(folder)) or (folder / "policy" / "last.json").exists()


def load(folder: Path, replay: Replay | Shards, say: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, Tensor]]:
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
    for part, segments, steps in zip(replay.parts, parts, _steps(meta), strict=True):
        part.load(segments, steps)
    return meta, tensors


Segments = list[tuple[int, dict[str, Tensor]]]
"""(first step, columns) in order"""


def _read(path: Path, replay: Replay | Shards) -> tuple[dict[str, Any], dict[str, Tensor], list[Segments]]:
    """A checkpoint and the segments that each replay needs. Raises Fault naming the file that is damaged or does not fit."""
    meta = _meta(path)
    tensors = _sound(path / "tensors.safetensors", meta["tensors"])
    if len(_steps(meta)) != len(replay.parts):
        raise Fault(f"{path} does not fit the run's collectors: it holds {len(_steps(meta))} replays, wanted {len(replay.parts)}")
    parts = []
    for (name, part), steps in zip(_named(replay), _steps(meta), strict=True):
        held: Segments = []
        end = max(steps - part.length, 0)
        for first, segment in _of(name, meta["segments"]).items():
            found = _sound(file := segment_path(path.parents[1], first, name), segment["sha256"])
            fit({k: found[k][:1] for k in ("obs", "action")}, {k: getattr(part, k)[:1] for k in ("obs", "action")}, file)
            if first > end or len(found["ended"]) != segment["steps"] * part.num_envs:
                raise Fault(f"{file} does not fit the run's num_envs and replay_size: experience would be missing or mixed up")
            held.append((first, found))
            end = first + segment["steps"]
        parts.append(held)
    return meta, tensors, parts


def _steps(meta: dict[str, Any]) -> list[int]:
    """Of each replay, the steps ever added."""
    steps = meta["replay_steps"]
    return steps if isinstance(steps, list) else [steps]


def _sound(path: Path, digest: str) -> dict[str, Tensor]:
    tensors = read_tensors(path)
    if _digest(path.read_bytes()) != digest:
        raise Fault(f"{path} is damaged: its checksum is not the one that it was written with")
    return tensors
