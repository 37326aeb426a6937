"""A SAC policy of Stable-Baselines3 as a policy of our own.

The file that its `save` writes is a zip. Two parts of it are read: `data`, JSON, of which the plain numbers and names (the spaces
in it are pickles, so the environment tells them); and `policy.pth`, itself a zip of raw storages and one pickle that says which
tensor lies where. That pickle is read, not run: `_read` knows the 20 operations that torch writes for a dictionary of tensors and
the three names that they use, looks none of them up, calls nothing, and refuses all else. So what `torch.load` with
weights_only=True still allows (building parameters, devices and more by torch's own functions) is not wanted here either.
"""

from __future__ import annotations

import io
import json
import math
import pickletools
import re
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from thespis import api, config, envs
from thespis.core import Fault, leaves
from thespis.directory import place
from thespis.engine import checkpoint
from thespis.engine.run import Run

FIELDS = {
    "lr": "learning_rate", "tau": "tau", "gamma": "gamma", "batch_size": "batch_size", "replay_size": "buffer_size",
    "n_step": "n_steps",
}  # fmt: skip
"""of our Config, by their names in `data`"""
LARGEST = 2**30  # bytes that a part of the file may have


def import_sb3(file: str | Path, env: api.Env, out: str | Path | None = None) -> Path:
    """Writes a run directory (default: runs/sac-ENV-sb3) with the policy in `file`, for `load`, `evaluate`, `export` and `push`.

    `env` gives the spaces. Raises Fault if the file holds no SAC policy with ReLU layers only, or does not fit `env`.
    """
    data, state = _open(place(file, "file"))
    world = envs.world(env)
    if not isinstance(world.observation_space, spaces.Box) or envs.spaces.image(world.observation_space):
        raise Fault(f"env: the observations of {world.name} are {world.observation_space}; only vectors (a Box) can be imported")
    hidden, tensors = _actor(state, file)
    numbers = {ours: data[theirs] for ours, theirs in FIELDS.items() if type(data.get(theirs)) in (int, float)}
    algo = api.algorithm("sac")
    cfg = config.build(algo.module.Config, numbers | {"hidden": hidden}, f"{file}: ")
    learner = algo.module.make(cfg, world.spec)
    checkpoint.fit(tensors, leaves(learner.policy(learner.init())), file)
    steps, seed = (n if type(n := data.get(k)) is int and n >= 0 else 0 for k in ("num_timesteps", "seed"))
    run = Run(env=world.name, steps=max(steps, 1), seed=seed)
    about = api.describe(algo, cfg, run, world, own_env=not isinstance(env, str)) | {
        "title": f"{Path(file).name} on {world.name}"
    }
    name = re.sub(r"[^\w.-]+", "-", world.name)
    target = place(out) if out else Path("runs") / f"sac-{name}-sb3"
    if target.exists():
        raise Fault(f"out: {target} exists; give another with --out")
    target.parent.mkdir(parents=True, exist_ok=True)

    def fill(aside: Path) -> None:
        (aside / "policy").mkdir(parents=True)
        checkpoint.write_json(aside / "config.json", about)
        checkpoint.write_tensors(aside / "policy/last.safetensors", tensors)
        checkpoint.write_sealed(aside / "policy/last.json", about | {"step": steps, "return_mean": None})

    checkpoint.write(target, fill)
    return target


def _actor(state: dict[str, Tensor], file: str | Path) -> tuple[tuple[int, ...], dict[str, Tensor]]:
    """(hidden widths, our actor's tensors): theirs transposed, the heads for mean and log std side by side."""
    actor = {k.removeprefix("actor."): x for k, x in state.items() if k.startswith("actor.")}
    depth = sum(bool(re.fullmatch(r"latent_pi\.\d+\.weight", k)) for k in actor)
    layers = [f"latent_pi.{2 * i}" for i in range(depth)]  # an activation stands between two
    wanted = {f"{name}.{kind}" for name in (*layers, "mu", "log_std") for kind in ("weight", "bias")}
    if odd := sorted(actor.keys() ^ wanted):
        raise Fault(f"{file}: its actor is not linear layers with a head for mean and log std (no gSDE, no CNN): {odd[0]}")
    if any(x.ndim != 1 + k.endswith("weight") for k, x in actor.items()) or actor["mu.bias"].shape != actor["log_std.bias"].shape:
        raise Fault(f"{file} is damaged: the shapes of its actor's layers do not fit together")
    pairs = [(actor[f"{name}.weight"].T, actor[f"{name}.bias"]) for name in layers]
    heads = [torch.cat([actor[f"{name}.{kind}"] for name in ("mu", "log_std")]) for kind in ("weight", "bias")]
    pairs.append((heads[0].T, heads[1]))
    return tuple(len(b) for _, b in pairs[:-1]), {f"{k}{i}": x for i, p in enumerate(pairs) for k, x in zip("wb", p, strict=True)}


# ------------------------------------------------------------------------------------------------------------- the file


def _open(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """(what `data` says of a SAC with ReLU, the tensors of policy.pth by name)."""
    try:
        with zipfile.ZipFile(file) as parts:
            data = json.loads(_part(parts, "data"))
            policy = _part(parts, "policy.pth")
    except FileNotFoundError:
        raise Fault(f"{file} is missing") from None
    except (OSError, zipfile.BadZipFile, ValueError, KeyError, RecursionError) as error:
        raise Fault(f"{file} is no file that Stable-Baselines3 saved: {error}") from None
    cls, kwargs = ({} if type(v := data.get(k)) is not dict else v for k in ("policy_class", "policy_kwargs"))
    if (module := cls.get("__module__")) != "stable_baselines3.sac.policies":
        raise Fault(f"{file} has a policy of {module}; allowed: stable_baselines3.sac.policies")
    if not str(kwargs.get("activation_fn", ".ReLU'>")).endswith(".ReLU'>"):
        raise Fault(f"{file}: activation_fn is {kwargs['activation_fn']}; allowed: ReLU, the only one that sac has")
    try:
        return data, _tensors(policy)
    except (zipfile.BadZipFile, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise Fault(f"{file}: policy.pth is damaged, or holds more than tensors by name: {error}") from None


def _part(parts: zipfile.ZipFile, name: str) -> bytes:
    if parts.getinfo(name).file_size > LARGEST:
        raise ValueError(f"{name} is larger than {LARGEST:,} bytes")
    return parts.read(name)


class _Global(NamedTuple):
    """A name that a pickle mentions. It is compared, never looked up."""

    name: str


class _Tensor(NamedTuple):
    key: str
    numel: int
    offset: int
    shape: tuple[int, ...]


def _tensors(data: bytes) -> dict[str, Tensor]:
    """What torch.save wrote of a dictionary of float32 tensors."""
    with zipfile.ZipFile(io.BytesIO(data)) as parts:
        root = next(n for n in parts.namelist() if n.endswith("/data.pkl")).removesuffix("data.pkl")
        if _part(parts, f"{root}byteorder") != b"little":
            raise ValueError("its numbers are not little-endian")
        found = _read(_part(parts, f"{root}data.pkl"))
        stored = {k: np.frombuffer(_part(parts, f"{root}data/{t.key}"), "<f4") for k, t in found.items() if type(t) is _Tensor}
    if type(found) is not dict or found.keys() != stored.keys():
        raise ValueError("an entry is no tensor")
    size = {k: math.prod(t.shape) for k, t in found.items()}
    if odd := [k for k, t in found.items() if t.offset < 0 or t.offset + size[k] > len(stored[k]) or min(t.shape, default=0) < 0]:
        raise ValueError(f"{odd[0]} is larger than what is stored of it")
    return {k: torch.tensor(stored[k][t.offset : t.offset + size[k]]).reshape(t.shape) for k, t in found.items()}


def _read(pickled: bytes) -> Any:
    """The value that a pickle of torch's describes, worked out without running it: tensors as `_Tensor`, names as `_Global`."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}

    def since_mark() -> list[Any]:
        at = marks.pop()
        taken = stack[at:]
        del stack[at:]
        return taken

    for operation, arg, _ in pickletools.genops(pickled):
        match operation.name:
            case "PROTO":
                pass
            case "GLOBAL":
                stack.append(_Global(str(arg)))
            case "BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1":
                stack.append(arg)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(operation.name == "NEWTRUE")
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                stack[-int(name[-1]) :] = [tuple(stack[-int(name[-1]) :])]
            case "EMPTY_DICT":
                stack.append({})
            case "SETITEM" | "SETITEMS" as name:
                items = since_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "BINPERSID":
                kind, storage, key, _device, numel = stack.pop()
                if (kind, storage) != ("storage", _Global("torch FloatStorage")):
                    raise ValueError(f"{storage} is not torch FloatStorage")
                stack.append(_Tensor(key, numel, 0, ()))
            case "REDUCE":
                args, function = stack.pop(), stack.pop()
                stack.append(_made(function, *args))
            case "BUILD":
                stack.pop()  # the dictionary's own attributes: versions
            case "STOP":
                return stack.pop()
            case other:
                raise ValueError(f"the operation {other}")
    raise ValueError("it has no end")


def _made(function: _Global, *args: Any) -> Any:
    """The two calls that torch writes for a dictionary of tensors."""
    if function == _Global("collections OrderedDict") and not args:
        return {}
    if function != _Global("torch._utils _rebuild_tensor_v2"):
        raise ValueError(f"a call of {function}")
    storage, offset, shape, stride = args[:4]
    if stride != tuple(math.prod(shape[i + 1 :]) for i in range(len(shape))):
        raise ValueError(f"a tensor of shape {shape} with the strides {stride}")
    return storage._replace(offset=offset, shape=shape)
