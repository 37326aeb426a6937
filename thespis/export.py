"""A policy as one file that runs without Thespis: ONNX, or a program of torch.export, with the environment's own numbers.

Inputs and outputs have names, and a leading batch axis of any length. In: the observation as the environment gives it, each part
of a Dict or Tuple apart, and the action mask where there is one; where the policy has a memory that matters, also `look` and that
memory. Out: the action as the environment takes it, each part apart, and the memory for the next step. The action is the mean
action, as `Policy.act` gives it.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import Space, spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from thespis import adapters, api, ops
from thespis.core import Fault, Params, leaves, rebuild
from thespis.directory import place
from thespis.engine import checkpoint, fetch
from thespis.envs import actions
from thespis.envs.flat import describe_error
from thespis.envs.observations import flat_dim, image, ordered
from thespis.envs.spaces_json import to_json

SUFFIX = {"onnx": ".onnx", "torch": ".pt2", "peft": ".peft"}
OPSET = 20
# observations that a file is tried on; the difference allowed, in half widths of a Box of actions: far above float32's rounding,
# which deep and normalised nets amplify to 1e-5, and far below a mistake
CHECKS, TOLERANCE = 100, 1e-4
Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]


@dataclass(frozen=True)
class Exported:
    path: Path
    inputs: dict[str, str]
    """by name: "float32 (batch, 17)" """
    outputs: dict[str, str]
    difference: float
    """the largest from `Policy.act` over the observations that the file was tried on"""


def export(
    path: str | Path | api.Result, format: str = "onnx", *, which: str = "last", out: str | Path | None = None,
    force: bool = False, algo: str | None = None, **parts: Any,
) -> Exported:  # fmt: skip
    """Writes a run's policy to `out` (default: RUN/policy/last.onnx, or .pt2), after trying it beside `Policy.act`; with "peft" a
    folder, the adapter of an actor that writes.

    Raises Fault where the file exists (and not `force`), or the policy cannot be exported.
    """
    if format not in SUFFIX:
        raise Fault(f"format is {format!r}; allowed: {', '.join(SUFFIX)}")
    if out is None and fetch.named(path):
        raise Fault(f"out: where to? {path} is no run directory; give a file with --out")
    file = place(out) if out else api.path_of(path) / "policy" / f"{which}{SUFFIX[format]}"
    if format == "peft":
        return Exported(file, {}, {}, adapters.write(api.path_of(fetch.local(path)), file, which, force))
    policy = api.load(path, which, algo=algo, **parts)
    if file.is_dir() or (file.exists() and not force):
        raise Fault(f"out: {file} exists; give another with --out" + ("" if file.is_dir() else ", or --force to replace it"))
    if not file.parent.is_dir():
        raise Fault(f"out: there is no directory {file.parent}")
    module, about = Acting(policy), _about(policy, which) | ({} if fetch.named(path) else _ranges(api.path_of(path)))
    with _quiet():
        try:
            with torch.no_grad():
                dynamic = ({name: {0: torch.export.Dim("batch")} for name in module.example},)
                program = torch.export.export(module, (module.example,), dynamic_shapes=dynamic)
            for node in program.graph.nodes:
                node.meta.pop("stack_trace", None)  # would tell this machine's paths
            data, run = (_onnx if format == "onnx" else _torch)(program, module, about)
        except Fault:
            raise
        except Exception as error:  # a module of the user's own may hold anything
            raise Fault(f"{policy.about['algo']} cannot be exported as {format}: {describe_error(error)}") from error
    difference = _try(policy, module, run)
    checkpoint.write(file, lambda aside: aside.write_bytes(data))
    return Exported(file, _words(module.example), _words(module(module.example)), difference)


def _about(policy: api.Policy, which: str) -> dict[str, str]:
    """What the file says of itself; ONNX holds text only."""
    about = policy.about
    words = {"thespis": api.thespis.__version__, "algorithm": Path(about["algo"]).name, "environment": about["run"]["env"]}
    words |= {"policy": which, "step": str(about["step"])}
    return words | {k: json.dumps(to_json(getattr(policy, k))) for k in ("observation_space", "action_space")}


def _ranges(folder: Path) -> dict[str, str]:
    """{"observed": the least and the largest of each number of the observations in the run's replay, two lists}; nothing where
    it has none, or a damaged one, or where they are images."""
    low, high = [], []
    for file in sorted((folder / "replay").glob("*.safetensors")):
        try:
            held = checkpoint.read_tensors(file)
        except Fault:
            return {}
        for x in (held[k].numpy() for k in ("obs", "finals") if k in held and held[k].dtype == torch.float32 and len(held[k])):
            low.append(x.min(0))
            high.append(x.max(0))
    if not low:
        return {}
    return {"observed": json.dumps([np.min(low, 0).tolist(), np.max(high, 0).tolist()])}


# ------------------------------------------------------------------------------------------------------------ what is traced


class Acting(nn.Module):
    """The policy between the environment's own observation and action: {input: tensor} -> {output: tensor}."""

    def __init__(self, policy: api.Policy):
        super().__init__()
        self.learner, self.like = policy.learner, policy.params
        self.kind = actions.spec(policy.observation_space, policy.action_space).action
        self.parts, self.memory = _named(ordered(policy.observation_space)), _remembered(policy)
        self.acts = _named(policy.action_space, "action")
        self.example = {name: torch.zeros(2, *space.shape, dtype=_dtype(space)) for name, space in self.parts.items()}
        if self.memory:
            self.example |= {"look": torch.ones(2, dtype=torch.bool)} | {f"memory_{k}": x for k, x in self.memory.items()}
        for i, x in enumerate(leaves(policy.params).values()):
            self.register_buffer(f"p{i}", x.contiguous())
        for name, space in self.acts.items():
            if isinstance(space, spaces.Box):  # (middle, half width, low, high), each (dim,)
                exact = space.dtype.kind != "f" or space.dtype.itemsize > 4
                bounds = torch.from_numpy(np.stack(actions.affine(space)))
                self.register_buffer(f"bounds_of_{name}", bounds if exact else bounds.float())

    def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        obs = torch.cat([_flat(inputs[name], space) for name, space in self.parts.items()], -1)
        params = rebuild(self.like, {name: getattr(self, f"p{i}") for i, name in enumerate(leaves(self.like))})
        if self.learner.memory is None:
            return self._translated(self.learner.act(params, obs, False))
        if not self.memory:
            rows = obs.shape[0]
            blank, look = self.learner.memory(rows), torch.ones(rows, dtype=torch.bool)
            return self._translated(self.learner.act(params, obs, False, blank, look)[0])
        memory = {k: inputs[f"memory_{k}"] for k in self.memory}
        action, memory = self.learner.act(params, obs, False, memory, inputs["look"])
        return self._translated(action) | {f"next_memory_{k}": memory[k] for k in self.memory}

    def _translated(self, row: Tensor) -> dict[str, Tensor]:  # as envs.spaces.translator
        vector, taken = ops.parts(self.kind, row)
        choices, out = list(taken), {}
        for name, space in self.acts.items():
            if isinstance(space, spaces.Box):
                middle, half, low, high = getattr(self, f"bounds_of_{name}")
                x, vector = vector[:, : len(low)], vector[:, len(low) :]
                x = torch.minimum(torch.maximum(x.to(half.dtype) * half + middle, low), high)
                x = x.round() if space.dtype.kind in "iub" else x
            else:
                many = len(actions.choice_sizes(space))
                start = torch.as_tensor(getattr(space, "start", 0)).flatten()
                x, choices = torch.stack(choices[:many], -1) + start, choices[many:]
            out[name] = x.reshape(-1, *space.shape).to(_dtype(space))
        return out


def _remembered(policy: api.Policy) -> Params:
    """Two rows of its memory, if that changes while it acts without exploring: srl's plan does, flashsac's noise does not."""
    learner = policy.learner
    if learner.memory is None:
        return {}
    before, obs = learner.memory(2), torch.zeros(2, flat_dim(policy.observation_space))
    with torch.no_grad():
        after = learner.act(policy.params, obs, False, before, torch.ones(2, dtype=torch.bool))[1]
    if all(after[k] is x for k, x in before.items()):
        return {}
    if any(x.any() for x in before.values()):
        raise Fault(f"{policy.about['algo']} cannot be exported: its memory does not begin an episode at zero")
    return before


def _named(space: Space[Any], name: str = "observation") -> dict[str, Any]:
    """The parts of a space that are no Dict or Tuple, each by a name that is a word: {"observation_speed": Box(...)}."""
    if not isinstance(space, spaces.Dict | spaces.Tuple):
        return {name: space}
    found: dict[str, Any] = {}
    for key, part in space.spaces.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces):
        more = _named(part, _joined(name, key))
        if twice := found.keys() & more.keys():
            raise Fault(f"{name}_space has two parts that would both be {min(twice)}; rename one")
        found |= more
    return found


def _joined(name: str, key: object) -> str:
    """The name of a part. An action mask and a context are one by themselves, and what stands beside them is the observation."""
    if name == "observation" and key in ("observation", "action_mask", "context"):
        return str(key)
    return re.sub(r"\W", "_", f"{name}_{key}")


def _dtype(space: Space[Any]) -> torch.dtype:
    return torch.from_numpy(np.zeros(0, space.dtype)).dtype


def _flat(x: Tensor, space: Space[Any]) -> Tensor:  # as envs.spaces.flatten
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete):
        n, first = (space.n, space.start) if isinstance(space, spaces.Discrete) else (space.nvec, space.start)
        ns, start = np.atleast_1d(n).ravel(), np.atleast_1d(first).ravel()
        which = torch.from_numpy(np.repeat(np.arange(len(ns)), ns))
        value = torch.from_numpy(np.concatenate([np.arange(n) + s for n, s in zip(ns, start, strict=True)]))
        return (x.reshape(-1, len(ns)).long()[:, which] == value).float()
    x = x.reshape(-1, math.prod(space.shape)).float()  # type: ignore[arg-type]
    return x / 255 if image(space) else x


# ------------------------------------------------------------------------------------------------------------ the two formats


def _onnx(program: torch.export.ExportedProgram, module: Acting, about: dict[str, str]) -> tuple[bytes, Run]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError:
        raise Fault('ONNX needs packages of its own: pip install "thespis[onnx]"') from None
    names: Any = {"input_names": list(module.example), "output_names": list(module(module.example))}
    made = torch.onnx.export(program, dynamo=True, verbose=False, opset_version=OPSET, **names)
    assert made is not None
    made.model.metadata_props.update(about)
    model = made.model_proto
    model.producer_name, model.producer_version = "thespis", about["thespis"]
    for node in model.graph.node:
        node.ClearField("metadata_props")  # where in the program each came from: most of a small file
    symbol = model.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = dim.dim_param.replace(symbol, "batch")
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    outputs = [x.name for x in session.get_outputs()]
    return data, lambda inputs: dict(zip(outputs, session.run(None, inputs), strict=True))


def _torch(program: torch.export.ExportedProgram, module: Acting, about: dict[str, str]) -> tuple[bytes, Run]:
    program.example_inputs = None  # the only thing in the file that would be a pickle
    torch.export.save(program, buffer := io.BytesIO(), extra_files={"thespis.json": json.dumps(about)})
    run = program.module()

    def called(inputs: Arrays) -> Arrays:
        return {k: x.numpy() for k, x in run({k: torch.from_numpy(x) for k, x in inputs.items()}).items()}

    return buffer.getvalue(), called


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters tell much that no user can mend."""
    with warnings.catch_warnings(action="ignore"):
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


# ------------------------------------------------------------------------------------------------------------ the trial


def _try(policy: api.Policy, module: Acting, run: Run) -> float:
    """The largest difference from `policy.act` along an episode's worth of made-up observations. Fault where it is too large."""
    rng, largest = np.random.default_rng(0), 0.0
    acts = module.acts
    unit = {name: actions.affine(x)[1].reshape(x.shape) if isinstance(x, spaces.Box) else 1.0 for name, x in acts.items()}
    memory = {k: x[:1].numpy() for k, x in module.memory.items()}
    for _ in range(CHECKS):
        obs = _observed(policy.observation_space, rng)
        given = _split(obs)
        inputs = {name: np.asarray(given[name], part.dtype)[None] for name, part in module.parts.items()}  # in their order
        if memory:
            inputs |= {"look": np.array([True])} | {f"memory_{k}": x for k, x in memory.items()}
        outputs = run(inputs)
        memory = {k: outputs[f"next_memory_{k}"] for k in memory}
        for name, wanted in _split(policy.act(obs), "action").items():
            difference = np.abs(outputs[name][0] - np.asarray(wanted, np.float64)) / unit[name]
            largest = max(largest, float(np.max(difference)))
    if not largest <= TOLERANCE:
        raise Fault(f"{policy.about['algo']} cannot be exported: its actions would differ by up to {largest:.2g}")
    return largest


def _observed(space: Space[Any], rng: np.random.Generator) -> Any:
    """An observation of `space`, of the size that numbers usually have, whatever the bounds."""
    if isinstance(space, spaces.Dict):
        return {key: _observed(part, rng) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_observed(part, rng) for part in space.spaces)
    if isinstance(space, spaces.Box):
        x = rng.integers(256, size=space.shape) if image(space) else 2 * rng.standard_normal(space.shape)
        return np.clip(x if space.dtype.kind == "f" else np.rint(x), space.low, space.high).astype(space.dtype)
    space.seed(int(rng.integers(2**31)))
    return space.sample()


def _split(obs: Any, name: str = "observation") -> dict[str, Any]:
    """The parts of an observation by the names of `_named`."""
    if not isinstance(obs, dict | tuple):
        return {name: obs}
    parts = obs.items() if isinstance(obs, dict) else enumerate(obs)
    return {k: x for key, part in parts for k, x in _split(part, _joined(name, key)).items()}


def _words(tensors: dict[str, Tensor]) -> dict[str, str]:
    shapes = {k: ", ".join(["batch", *map(str, x.shape[1:])]) for k, x in tensors.items()}
    return {k: f"{str(x.dtype).removeprefix('torch.')} ({shapes[k]})" for k, x in tensors.items()}
