"""What a Config field may hold: types with ranges, checked in one place, to and from JSON."""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

import numpy as np

from thespis.fault import Fault

if TYPE_CHECKING:
    from torch import Tensor

C = TypeVar("C")
SCHEDULE = "a schedule, as linear:3e-4:1e-5"
COUNTED = 2**24
"""updates that a schedule can tell apart: the optimisers' counters are float32"""


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers low <= x <= high, or low < x <= high where `open`."""

    low: float
    high: float = math.inf
    open: bool = False

    def __contains__(self, x: float) -> bool:
        return (self.low < x if self.open else self.low <= x) and x <= self.high

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if self.open else f"{self.low:g} or more"
        return f"above {self.low:g} to {self.high:g}" if self.open else f"from {self.low:g} to {self.high:g}"


class Ascending:
    """Pairs low <= high."""

    def __contains__(self, x: tuple[float, float]) -> bool:
        return x[0] <= x[1]

    def __str__(self) -> str:
        return "in ascending order"


class Named:
    """Names of functions."""

    def __contains__(self, name: str) -> bool:
        module, colon, function = name.partition(":")
        return bool(colon and module and function)

    def __str__(self) -> str:
        return "module:function"


class Schedule(str):
    """A number that changes with the updates, written SHAPE:FIRST[:LAST][:warmup=SHARE][:updates=N].

    "linear" and "cosine" (half of one) lead from FIRST to LAST, or to 0, in N updates, or in those of the run; there it stays.
    "constant" stays at FIRST. In the first SHARE of the updates it rises along a line to FIRST. ValueError: other text.
    """

    shape: str
    first: float
    last: float
    warmup: float
    updates: int | None

    def __new__(cls, text: str) -> Self:
        parts = re.fullmatch("(constant|linear|cosine):([^:=]+)(?::([^:=]+))?(?::warmup=([^:=]+))?(?::updates=([^:=]+))?", text)
        if not parts or (parts[1] == "constant" and parts[3]):
            raise ValueError(f"{text!r} is not {SCHEDULE}")
        shape, first, last, warmup, updates = parts[1], *(float(x or 0) for x in parts.groups()[1:])
        if not (0 < first < math.inf and 0 <= last < math.inf and 0 <= warmup <= 1):
            raise ValueError(f"{text!r}: allowed are a first number above 0, a last of 0 or more, and a warmup from 0 to 1")
        if parts[5] and not (1 <= updates <= COUNTED and updates.is_integer()):
            raise ValueError(f"{text!r}: updates must be a whole number from 1 to {COUNTED:,}")
        words = [shape, _brief(first)] + [_brief(last)] * (last > 0) + [f"warmup={_brief(warmup)}"] * (warmup > 0)
        made = super().__new__(cls, ":".join(words + [f"updates={int(updates)}"] * bool(parts[5])))
        made.shape, made.first, made.last, made.warmup = shape, first, first if shape == "constant" else last, warmup
        made.updates = int(updates) if parts[5] else None
        return made

    def __call__(self, t: Tensor) -> Tensor:
        """Its value after `t` updates, a tensor of any shape."""
        if self.updates is None:
            raise Fault(f"{self} goes over the updates of a run, and there is none: say how many, as in {self}:updates=10000")
        rise = self.warmup * self.updates
        done = ((t - rise) / max(self.updates - rise, 1.0)).clamp(0, 1)
        left = 0.5 * (1 + (math.pi * done).cos()) if self.shape == "cosine" else 1 - done
        value = self.last + (self.first - self.last) * left
        return value * ((t + 1) / rise).clamp(max=1) if rise else value


def _brief(x: float) -> str:
    return f"{x:g}" if float(f"{x:g}") == x else repr(x)


Positive = Annotated[float, Range(0, open=True)]
Rate = Positive | Schedule
Fraction = Annotated[float, Range(0, 1)]
NonNegative = Annotated[float, Range(0)]
Natural = Annotated[int, Range(0)]
Count = Annotated[int, Range(1)]
Members = Annotated[int, Range(1, 1_000)]  # of networks: a damaged file may ask for any number
Interval = Annotated[tuple[float, float], Ascending()]
Function = Annotated[str, Named()]  # code: a run is not resumed with what only its own config.json names
Start = Literal["glorot", "torch"]  # of a network's parameters: nets.mlp
BatchNorm = Literal["shared", "apart", "none"]  # nets.bottleneck
Renorm = Literal["renorm", "batch", "none"]  # nets.renormed


def check(config: C, where: str = "") -> C:
    """The same config, where every field has its declared type and range. Raises Fault naming the first that has not."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    values = {}
    for f in dataclasses.fields(config):  # type: ignore[arg-type]
        given = getattr(config, f.name)
        try:
            values[f.name] = fit(hints[f.name], given)
        except (ValueError, OverflowError):
            shown = "a function, which no file can hold" if callable(given) and not isinstance(given, Schedule) else repr(given)
            raise Fault(f"{where}{f.name} is {shown}; allowed: {words(hints[f.name])}") from None
    return dataclasses.replace(config, **values)  # type: ignore[type-var]


def functions(cls: type, values: Mapping[str, Any]) -> dict[str, str]:
    """Of these fields those of type Function that name one which is not ours."""
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = [name for name, hint in hints.items() if Function in (hint, *typing.get_args(hint))]
    return {k: v for k in fields if (v := values[k]) and not v.startswith("thespis.")}


def build(cls: type[C], values: Mapping[str, Any], where: str = "") -> C:
    """A config from a mapping of field names (from keyword arguments or JSON). Raises Fault on an unknown or wrong field."""
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            raise Fault(f"{where}{name} is not an option{near(name, names)}")
    return check(cls(**values), where)


def read(hint: Any, text: str) -> Any:
    """The value of type `hint` that `text` stands for, or ValueError; the values of a tuple are apart by spaces."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return fit(hint, read(args[0], text))
    if origin in (typing.Union, types.UnionType):
        return None if text == "None" and type(None) in args else _first(read, args, text)
    if origin is Literal:
        return fit(hint, next((a for a in args if str(a) == text), text))
    if origin is tuple:
        words = text.split()
        return fit(
            hint, [read(h, w) for h, w in zip([args[0]] * len(words) if args[-1] is Ellipsis else args, words, strict=True)]
        )
    if hint is bool:
        return fit(hint, {"true": True, "false": False}.get(text.lower()))
    return fit(hint, text if hint in (str, Schedule) else int(text) if re.fullmatch("[+-]?[0-9]+", text) else float(text))


def to_json(config: Any) -> dict[str, Any]:
    """The fields as JSON values."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(config).items()}


ELSEWHERE = {
    "alpha": "ent_coef entropy_coef", "batch_size": "minibatch_size train_batch_size sgd_minibatch_size",
    "checkpoint_every": "save_freq checkpoint_freq save_interval", "clip": "clip_range clip_coef clip_param clip_ratio",
    "critics": "n_critics num_critics num_qs", "entropy_weight": "ent_coef entropy_coef vf_ent_coef entropy_coeff",
    "env": "env_id env_name task", "env_args": "env_kwargs", "epochs": "n_epochs update_epochs num_epochs num_sgd_iter",
    "episodes": "n_eval_episodes num_episodes n_episodes", "eval_episodes": "n_eval_episodes num_eval_episodes",
    "stop_at": "reward_threshold stop_reward target_return",
    "eval_every": "eval_freq eval_interval evaluation_interval", "explore": "deterministic stochastic", "gamma": "discount",
    "hidden": "net_arch policy_kwargs hidden_dim hidden_dims hidden_size hidden_sizes fcnet_hiddens", "lam": "gae_lambda lambda_",
    "log": "tensorboard_log track tensorboard wandb", "log_every": "log_interval log_freq", "max_norm": "max_grad_norm grad_clip",
    "lr": "learning_rate policy_lr q_lr actor_lr critic_lr anneal_lr step_size", "num_envs": "n_envs num_env num_workers",
    "out": "save_path logdir log_dir output_dir run_dir", "panel": "verbose progress_bar", "replay_size": "buffer_size buffer",
    "rollout": "n_steps num_steps rollout_length rollout_fragment_length", "tau": "polyak target_smoothing_coefficient",
    "steps": "total_timesteps total_steps timesteps max_steps num_timesteps total_env_steps n_timesteps max_timesteps",
    "wrappers": "wrapper env_wrapper wrapper_class",
    "updates_per_step": "gradient_steps train_freq utd utd_ratio update_to_data", "video": "capture_video record_video render",
    "warmup": "learning_starts start_steps random_steps",
}  # fmt: skip
"""our name of an option: what Stable-Baselines3, CleanRL, RLlib, Spinning Up and others call it"""
FEW = 20
"""names that a line may list"""


FLOAT = 3.4e38
"""the largest number that float32 has, rounded down"""


def near(name: str, names: Iterable[str]) -> str:
    """'; did you mean x, y?' where there are near names or others' names of them, else '; allowed: ...', the first of many."""
    if close := nearest(name, names := list(names)):
        return f"; did you mean {' or '.join(close)}?"
    more = f", ... ({len(names)} in all, see --help)" if len(names) > FEW else ""
    return f"; allowed: {', '.join(names[:FEW])}{more}"


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """Up to three that mean it elsewhere, or else that are like it, letter case apart; only one if it is the same name."""
    by_lower = {n.lower(): n for n in names}
    plain = _plain(name)
    if name.lower() in by_lower:
        return [by_lower[name.lower()]]
    if ours := [n for n in by_lower.values() if plain in ELSEWHERE.get(_plain(n), "").split()]:
        return ours[:3]
    return [by_lower[n] for n in difflib.get_close_matches(name.lower(), by_lower)] if len(plain) > 2 else []


def _plain(option: str) -> str:
    return option.lower().removeprefix("--").removeprefix("algo.").removeprefix("no-").replace("-", "_")


def fit(hint: Any, value: Any) -> Any:
    """The value as `hint` wants it (an int where a float is wanted, a list for a tuple), or ValueError."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        value = fit(args[0], value)
        if not all(value in r for r in args[1:] if isinstance(r, Range | Ascending | Named)):
            raise ValueError
        return value
    if origin in (typing.Union, types.UnionType):
        return None if value is None and type(None) in args else _first(fit, args, value)
    if origin is Literal and value in args:
        return value
    if origin is tuple and isinstance(value, list | tuple):
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return tuple(fit(h, v) for h, v in zip(inner, value, strict=True))
    if hint is Schedule and isinstance(value, str):
        return Schedule(value)
    if hint in (int, float):
        value = value.item() if isinstance(value, np.generic) else value
        if hint is float and type(value) is int:
            value = float(value)
        if hint is int and type(value) is float and value.is_integer():
            value = int(value)
    if type(value) is not hint or (hint is float and not abs(value) <= FLOAT):
        raise ValueError
    return value


def _first(take: Callable[[Any, Any], Any], hints: Iterable[Any], given: Any) -> Any:
    """What the first of these types that can makes of it, None apart; or ValueError."""
    for hint in hints:
        with suppress(ValueError):
            if hint is not type(None):
                return take(hint, given)
    raise ValueError


def over(config: C, updates: int) -> C:
    """The same config, where each schedule that goes over the updates of a run goes over so many. Fault: too many."""
    ours = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    open_ended = {k: v for k, v in ours.items() if isinstance(v, Schedule) and v.updates is None}
    for name, schedule in open_ended.items():
        if updates > COUNTED:
            most = f"{schedule}:updates={COUNTED}"
            raise Fault(f"{name} is {schedule} and the run makes {updates:,} updates; a schedule ends within {COUNTED:,}: {most}")
    return dataclasses.replace(config, **{k: Schedule(f"{v}:updates={max(updates, 1)}") for k, v in open_ended.items()})  # type: ignore[type-var]


def words(hint: Any) -> str:
    """What a type allows, for a person."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return " ".join([words(args[0]), *(str(r) for r in args[1:] if isinstance(r, Range | Ascending | Named))])
    if origin in (typing.Union, types.UnionType):
        return " or ".join("None" if a is type(None) else words(a) for a in args)
    if origin is Literal:
        return ", ".join(map(repr, args))
    if origin is tuple:
        return (
            f"any number of values, each {words(args[0])}"
            if args[-1] is Ellipsis
            else f"{len(args)} values, each {words(args[0])}"
        )
    named = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Schedule: SCHEDULE}
    return named.get(hint, str(hint))
