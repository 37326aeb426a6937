"""Checkpoints that a kill at any moment leaves whole: written aside, made durable, renamed.

DIR/replay/000000000.safetensors          steps of experience from that number on; only ever added
DIR/replay/2-000000000.safetensors        the same of collector 2, where there are several
DIR/checkpoints/000010000/tensors.safetensors, checkpoint.json
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from thespis.core import Fault
from thespis.data import Experience, Recorded, Replay, Rollout

FORMAT = 2
MISFIT = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, AssertionError, MemoryError)
"""what torch, numpy and gymnasium raise over values that are none of theirs"""
MOST = 10**18
"""steps of a run: fewer"""
SEGMENT = "(0-|[1-9][0-9]{0,5}-)?(0|[1-9][0-9]{0,17})"
"""a segment's name in a checkpoint: its replay, where there are several, and its first step"""
SEALED = "its checksum is not the one that it was written with"


def write(path: Path, fill: Callable[[Path], object]) -> None:
    """`fill` writes a file or folder aside; then it takes its place in one step, durably.

    Fault where that cannot be done, as on a full disk: what was there stays as it was, and nothing half-written is left.
    """
    aside = path.with_name(f".{path.name}.tmp")
    try:
        _folder(path.parent)
        _remove(aside)
        fill(aside)
        for file in [*aside.rglob("*"), aside] if aside.is_dir() else [aside]:
            if file.is_file():
                file.chmod(0o644)  # safetensors makes files that nobody else can read
            _sync(file)
        os.replace(aside, path)
        _sync(path.parent)
    except (OSError, SafetensorError, Fault) as error:
        with suppress(OSError):
            _remove(aside)
        if isinstance(error, Fault):
            raise
        why = error.strerror if isinstance(error, OSError) else str(error).rpartition("I/O error: ")[2].partition(" (os error")[0]
        raise Fault(f"{path} could not be written: {why}; what was there before stands") from error


def _folder(path: Path) -> None:
    """Makes a folder, and those above it, as durably as what will be in it."""
    if not path.is_dir():
        _folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync(path.parent)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    write(path, lambda p: p.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n"))


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """With a checksum of their own, for `read_tensors`."""
    plain = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    write(path, lambda p: save_file(plain, p, {"sha256": _checksum(plain)}))


def no_links(folder: Path) -> None:
    """Raises Fault where what a run writes to or deletes is a link: what it stands for may be anybody's."""
    for place in folder.iterdir():
        for path in () if place.name in ("wandb", "videos") else (place, *place.rglob("*")):
            if path.is_symlink():
                raise Fault(f"{path} is a link, and a run writes into its own directory alone; move there what it stands for")


def read_json(path: Path) -> Any:
    """Strict JSON: no NaN, no name twice."""
    with _reading(path):
        return json.loads(path.read_bytes(), parse_constant=_no_constant, object_pairs_hook=_no_name_twice)


def read_tensors(path: Path, sealed: bool | None = None) -> dict[str, Tensor]:
    """Those that `write_tensors` wrote there. `sealed`: whether there is to be a checksum; None: it may be absent."""
    with _reading(path):
        with safe_open(path, "pt") as header:  # a wrong file is told before it is mapped
            digest = (header.metadata() or {}).get("sha256")
        tensors = load_file(path)
        if sealed not in (None, digest is not None) or digest not in (None, _checksum(tensors)):
            raise ValueError(SEALED)
        return tensors


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What json and safetensors raise over a file that they cannot read, as a Fault."""
    if not path.is_file():  # nor a pipe, which could be read for ever
        raise Fault(f"{path} is {'not a file' if path.exists() else 'missing'}")
    try:
        yield
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, RuntimeError, OverflowError, MemoryError) as error:
        raise Fault(f"{path} is damaged: {' '.join(str(error).split())}") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _checksum(tensors: Mapping[str, Tensor]) -> str:
    """Over names, types, shapes and every bit."""
    total = hashlib.sha256()
    for name, x in sorted(tensors.items()):
        total.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        if x.numel():
            total.update(x.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def fit(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], where: object) -> None:
    """Raises Fault where the tensors found are not those wanted, by name, shape and type."""
    for name in sorted(wanted.keys() | found.keys()):
        a, b = (f"{tuple(t.shape)} {t.dtype}" if t is not None else "absent" for t in (found.get(name), wanted.get(name)))
        if a != b:
            raise Fault(f"{where} does not fit this environment and configuration: {name} is {a}, wanted {b}")


def one_row(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What `fit` is to look at where the number of rows is free; a tensor without rows gets none."""
    return {k: torch.empty((min(x.dim(), 1), *x.shape[1:]), dtype=x.dtype, device="meta") for k, x in tensors.items()}


@contextmanager
def fitting(folder: Path) -> Iterator[None]:
    """While a checkpoint's values are put to use: what they lead to where they are none that a run writes, as a Fault."""
    try:
        yield
    except MISFIT as error:
        newest, why = checkpoints(folder)[-1], " ".join(str(error).split())
        raise Fault(f"{newest} does not fit this environment and configuration: {type(error).__name__}: {why}") from error


def save(
    folder: Path, step: int, meta: dict[str, Any], tensors: Mapping[str, Tensor], replay: Experience | None, keep: int
) -> Path:
    """A checkpoint of `step` environment steps: only the experience that is not on disk yet is written."""
    target = folder / "checkpoints" / f"{step:09d}"
    if target.exists():  # the same step again (resumed and stopped at once): the old one is as good
        return target
    found = checkpoints(folder)
    before = _segments(found[-1]) if found else {}
    needed: dict[str, dict[str, Any]] = {}
    for name, part in _named(replay):
        segments = _of(name, before)
        start = max([part.oldest(), *(first + segment["steps"] for first, segment in segments.items())])
        if part.steps > start:
            file = segment_path(folder, start, name)
            write_tensors(file, part.segment(start, part.steps))
            segments[start] = {"steps": part.steps - start, "sha256": _digest(file)}
        needed |= {f"{name}{first}": s for first, s in segments.items() if first + s["steps"] > part.oldest()}

    def fill(aside: Path) -> None:
        aside.mkdir()
        file = aside / "tensors.safetensors"
        write_tensors(file, tensors)
        write_sealed(aside / "checkpoint.json", {"format": FORMAT, **meta, "segments": needed, "tensors": _digest(file)})

    write(target, fill)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)
    kept = [_segments(c) for c in checkpoints(folder)]
    wanted = {segment_path(folder, first, name) for name, _ in _named(replay) for s in kept for first in _of(name, s)}
    for file in (folder / "replay").glob("*.safetensors"):
        if re.fullmatch("([0-9]+-)?[0-9]+", file.stem) and file not in wanted:
            file.unlink()
    return target


def _digest(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _seal(about: dict[str, Any]) -> str:
    """The checksum of a JSON object, over all that it says: what bears the right one is as it was written."""
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def write_sealed(path: Path, about: dict[str, Any]) -> None:
    """JSON with its checksum in it."""
    write_json(path, about | {"sha256": _seal(about)})


def unseal(about: dict[str, Any], file: Path) -> None:
    """Takes the checksum out of what `write_sealed` wrote. Raises Fault where it is absent or wrong."""
    if about.pop("sha256", None) != _seal(about):
        raise Fault(f"{file} is damaged: {SEALED}")


def _named(replay: Experience | None) -> list[tuple[str, Recorded | Replay | Rollout]]:
    """Each replay, with what the names of its segments begin with: nothing where it is the only one. None: there is none."""
    parts: Sequence[Recorded | Replay | Rollout] = () if replay is None else replay.parts
    return [(f"{i}-" if len(parts) > 1 else "", part) for i, part in enumerate(parts)]


def _of(name: str, segments: Mapping[str, dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """One replay's segments by their first steps, in order."""
    found = {int(k.removeprefix(name)): v for k, v in segments.items() if re.fullmatch(f"{name}[0-9]+", k)}
    return dict(sorted(found.items()))


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
    unseal(meta, file)
    segments, steps = meta.get("segments"), meta.get("replay_steps")
    parts = segments.items() if isinstance(segments, dict) else [("", None)]
    counts = steps if isinstance(steps, list) else [steps]
    if not all(type(n) is int and 0 <= n < MOST for n in counts) or not all(_is_segment(first, part) for first, part in parts):
        raise Fault(f"{file} is damaged: its replay_steps or segments are not as a run writes them")
    return meta


def part(name: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of a checkpoint's tensors whose names begin with `name` and a dot, without it."""
    return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}


def amend(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Changes what a checkpoint's JSON says, in one step."""
    meta = _meta(path)
    change(meta)
    write_sealed(path / "checkpoint.json", meta)


def _is_segment(name: str, part: Any) -> bool:
    count = part.get("steps") if isinstance(part, dict) else None
    return re.fullmatch(SEGMENT, name) is not None and type(count) is int and 0 < count < MOST


def segment_path(folder: Path, start: int, name: str = "") -> Path:
    return folder / "replay" / f"{name}{start:09d}.safetensors"


def checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints, oldest first."""
    return sorted(p for p in (folder / "checkpoints").glob("[0-9]*") if p.is_dir())


def has_saved(folder: Path) -> bool:
    """Whether a run has saved anything yet. One that was killed before it did so begins again."""
    return bool(checkpoints(folder)) or (folder / "policy" / "last.json").exists()


def load(folder: Path, replay: Experience | None, say: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, Tensor]]:
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
    for (_, part), segments, steps in zip(_named(replay), parts, _steps(meta), strict=True):
        part.load(segments, steps)
    return meta, tensors


def newest(folder: Path) -> tuple[Path | None, dict[str, Tensor]]:
    """The newest sound checkpoint and its tensors, without experience; None and none where there is no such."""
    for path in reversed(checkpoints(folder)):
        with suppress(Fault):
            return path, _sound(path / "tensors.safetensors", _meta(path).get("tensors"))
    return None, {}


Segments = list[tuple[int, dict[str, Tensor]]]
"""(first step, columns) in order"""


def _read(path: Path, replay: Experience | None) -> tuple[dict[str, Any], dict[str, Tensor], list[Segments]]:
    """A checkpoint and the segments that each replay needs. Raises Fault naming the file that is damaged or does not fit."""
    meta = _meta(path)
    tensors = _sound(path / "tensors.safetensors", meta.get("tensors"))
    if len(_steps(meta)) != (wanted_parts := len(_named(replay))):
        raise Fault(f"{path} does not fit the run's collectors: it holds {len(_steps(meta))} replays, wanted {wanted_parts}")
    parts = []
    for (name, part), steps in zip(_named(replay), _steps(meta), strict=True):
        found_segments: Segments = []
        end = max(steps - part.length, 0)
        for first, segment in _of(name, meta["segments"]).items():
            found = _sound(file := segment_path(path.parents[1], first, name), segment.get("sha256"))
            here, wanted = one_row(found), one_row(part.segment(0, 0))
            for names in ("obs", "action"), wanted.keys() | here.keys():  # these two say most
                fit({k: here[k] for k in names if k in here}, {k: wanted[k] for k in names if k in wanted}, file)
            rows = {"finals": int(found["ended"].sum()), "next": part.num_envs, "before": part.num_envs}
            if first > end or any(len(x) != rows.get(k, segment["steps"] * part.num_envs) for k, x in found.items()):
                raise Fault(f"{file} does not fit the run's num_envs and replay_size: experience would be missing or mixed up")
            if not part.can(found["action"]):
                raise Fault(f"{file} is damaged: it holds actions that the environment has not")
            found_segments.append((first, found))
            end = first + segment["steps"]
        parts.append(found_segments)
    return meta, tensors, parts


def _steps(meta: dict[str, Any]) -> list[int]:
    """Of each replay, the steps ever added."""
    steps = meta["replay_steps"]
    return steps if isinstance(steps, list) else [steps]


def _sound(path: Path, digest: Any) -> dict[str, Tensor]:
    with _reading(path):
        if _digest(path) != digest:
            raise ValueError(SEALED)
    return read_tensors(path)
