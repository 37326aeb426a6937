"""Where environments come from: an id, a callable or an instance becomes a World, which makes as many as are needed."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import json
import os
import re
import sys
import traceback
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator, registry

from thespis.config import nearest
from thespis.core import Fault
from thespis.envs import actions, agents, contexts, goals, jaxed, masks, rewards, spaces, spaces_json
from thespis.envs.figures import Figures
from thespis.envs.flat import Flat, describe_error
from thespis.envs.rows import Batched
from thespis.envs.world import World
from thespis.envs.wrappers import imported, wrapped

__all__ = ["arguments", "known", "unsimulated", "world"]

Build = Callable[..., Any]
"""(render_mode=... or nothing) -> an environment, as far as one can know"""


PROVIDERS = {
    "dm_control/": ("dm-control", "shimmy", "dm_control"),
    "Fetch|Hand|Adroit|PointMaze|AntMaze|FrankaKitchen": ("robotics", "gymnasium_robotics"),
}
"""what an id begins with: the extra that brings it, the package that registers it, and what that needs"""


def unsimulated(name: str, observation_space: gym.Space[Any], action_space: gym.Space[Any]) -> World:
    """A World of recorded data alone."""

    def make(render_mode: str | None = None) -> Flat:
        raise Fault(f"env: {name} is recorded data; name an environment with these spaces")

    return World(name, observation_space, action_space, actions.spec(observation_space, action_space), make, simulated=False)


def known(name: str) -> bool:
    """Whether an id is found without importing a module that only the id names."""
    ours = any(name.startswith(f"{agents.PREFIX}{package}.") for package in ("mpe2", "pettingzoo"))
    return ours or name in registry or jaxed.ours(name) or _provider(name) is not None


def _provider(key: str) -> tuple[str, ...] | None:
    return next((found for ids, found in PROVIDERS.items() if re.match(ids, key)), None)


def world(
    env: str | Callable[..., gym.Env[Any, Any]] | gym.Env[Any, Any], args: Mapping[str, Any] | None = None,
    wrappers: Sequence[str] = (),
) -> World:  # fmt: skip
    """The World of an id of gymnasium's registry ("Env-v0", or "module:Env-v0" to import what registers it), of `jaxed`
    ("brax/ant", "playground/CartpoleBalance") or of PettingZoo ("pettingzoo:mpe2.simple_spread_v3"); of a callable that returns
    a fresh environment (with a parameter `render_mode` if it is to be rendered); or of an instance, of which copies are made as
    it is now; one that cannot be copied is the only one there is. `args` go to the environment's maker, `wrappers` around it.

    Fault: an unknown id (near ones are named), a package that is missing, a callable that returns something else, an argument
    that it does not take, spaces that are not supported.
    """
    env = agents.joined(env)
    given = isinstance(env, gym.Env)
    if isinstance(env, str):
        name, build = env, _from_id(env, dict(args or {}))
    elif isinstance(env, gym.Env):
        if args or wrappers:
            what = f"env_args is {dict(args)}" if args else f"wrappers is {list(wrappers)}"
            raise Fault(f"{what}; {_name(env)} is made already: give an id or a callable, or change the instance")
        name, build = _name(env), _from_instance(env)
    elif callable(env):
        name, build = getattr(env, "__name__", "<lambda>"), _from_callable(partial(env, **args) if args else env)
    elif isinstance(env, list | tuple):
        raise Fault(
            f"env is a {type(env).__name__} of {len(env)}; give one id, callable or environment, and how many of it with num_envs"
            " (a callable may return a different one at each call)"
        )
    else:
        raise Fault(f"env is {spaces.short(env)}; it must be an id such as 'HalfCheetah-v5', a callable or a gymnasium.Env")
    build = wrapped(lambda inner=build, **mode: agents.joined(inner(**mode)), wrappers) if wrappers else build
    first = env if isinstance(env, gym.Env) else _made(name, build)
    if name in ("<lambda>", "partial"):
        name = _name(first)
    observed: Any = getattr(first, "observation_space", None)  # None: forgotten
    acted: Any = getattr(first, "action_space", None)
    try:
        spec = actions.spec(observed, acted)
        shape = spaces_json.to_json(observed), spaces_json.to_json(acted)
        limit, named = _limit(first), rewards.names(first)
        counted = rewards.counts(first, named)
        goal, (context, levels) = goals.found(name, first, partial(_made, name, build)), contexts.size(first)
        if masked := masks.in_info(first):
            observed = masks.Masked(first).observation_space
            spec = actions.spec(observed, acted)
    except Fault as fault:
        raise Fault(f"{name}: {fault}") from None
    finally:
        if not given:
            with contextlib.suppress(Exception):
                first.close()
    modes = list((first.metadata or {}).get("render_modes") or [])

    def make(render_mode: str | None = None) -> Flat:
        if render_mode is not None and render_mode not in modes:
            raise Fault(f"{name}: render_mode is {render_mode!r}; its environment declares {modes}")
        fresh = _made(name, build, **({} if render_mode is None else {"render_mode": render_mode}))
        if (spaces_json.to_json(fresh.observation_space), spaces_json.to_json(fresh.action_space)) != shape:
            raise Fault(f"{name}: its spaces differ from one environment to the next; they must stay the same")
        if render_mode is not None:
            _shown(name, fresh, render_mode)
        return Flat(masks.Masked(fresh) if masked else fresh, name, named)

    batch = partial(Batched, lambda n: jaxed.Rows(name, n)) if isinstance(env, str) and jaxed.ours(env) else None
    own, together = (getattr(first.unwrapped, k, None) for k in ("recorded", "batched"))
    if isinstance(env, str) and callable(together):
        batch = partial(Batched, together)
    batch = None if wrappers else batch  # they go around one environment each
    many = int((first.metadata or {}).get("agents", 1))
    spec = spec._replace(horizon=limit, rewards=named, agents=many, context=context, levels=levels)
    return World(
        name, observed, acted, spec, make, batch, named, counts=counted, recorded=own if callable(own) else None, goals=goal
    )  # fmt: skip


def arguments(pairs: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """What name=value texts say: each value is JSON, or else the text itself. Fault: one that is no such pair."""
    if isinstance(pairs, Mapping):
        return dict(pairs)
    found = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            raise Fault(f"env_args is {pair!r}; allowed: name=value, as in g=0.5")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found


def _limit(env: gym.Env[Any, Any]) -> int | None:
    """The steps after which an episode is cut off, where the environment says so."""
    limit = env.get_wrapper_attr("_max_episode_steps") if env.has_wrapper_attr("_max_episode_steps") else None
    if limit is None or (isinstance(limit, int | np.integer) and not isinstance(limit, bool) and limit >= 1):
        return None if limit is None else int(limit)
    raise Fault(f"_max_episode_steps is {spaces.short(limit)}; it must be a whole number of 1 or more, or None")


def _name(env: gym.Env[Any, Any]) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


# -------------------------------------------------------------------------------------------------- the three sources


def _from_id(name: str, args: dict[str, Any]) -> Build:
    if jaxed.ours(name):
        return _from_callable(partial(jaxed.single, name, **args))
    if name.startswith(agents.PREFIX):
        return _from_callable(partial(agents.maker(name), **args))
    module, _, key = name.rpartition(":")
    if module:
        imported(module, f"env is {name!r}")
    if key not in registry and not module and (provider := _provider(key)):
        extra, *packages = provider
        if missing := [p for p in packages if find_spec(p) is None]:
            raise Fault(f"env is {name!r}, which {missing[0]} brings: pip install 'thespis[{extra}]'")
        with warnings.catch_warnings(action="ignore"):
            importlib.import_module(packages[0])
    spec = registry.get(key)
    if spec is None:
        near = _near(key)
        hint = f"did you mean {' or '.join(near)}?" if near else "'module:Env-v0' imports the module that registers it"
        raise Fault(f"env is {name!r}, which {module or 'gymnasium'} does not register; {hint}")
    return _from_spec(spec, args)


def _from_spec(spec: EnvSpec, args: dict[str, Any]) -> Build:
    def build(**mode: Any) -> Any:
        if isinstance(spec.entry_point, str):
            load_env_creator(spec.entry_point)  # imports MuJoCo where it is one of its environments, so that it can be hushed
        with _hushed():
            return gym.make(
                spec, disable_env_checker=True, **args, **mode
            )  # Flat checks every step; gymnasium's checker the first

    return build


def _from_callable(env: Callable[..., Any]) -> Build:
    try:
        takes = {p.name if p.kind is not p.VAR_KEYWORD else "render_mode" for p in inspect.signature(env).parameters.values()}
    except (TypeError, ValueError):  # some builtins have no signature
        takes = set()

    def build(**mode: str) -> Any:
        with contextlib.suppress(Exception):
            importlib.import_module("mujoco")  # if there is one, before the callable does, so that it can be hushed
        with _hushed():
            return env(**(mode if "render_mode" in takes else {}))

    return build


def _from_instance(env: gym.Env[Any, Any]) -> Build:
    """Copies of it as it is now, with all that was changed on it by hand; or itself, once, where it cannot be copied."""
    try:
        pristine = _copied(env)
        _copied(pristine)
    except Exception as error:
        why, taken = describe_error(error), list[bool]()

        def only(render_mode: str | None = None) -> Any:
            if taken or render_mode is not None:
                raise Fault(f"{_name(env)}: this instance is the only one ({why}); give a callable that makes others")
            taken.append(True)
            return Borrowed(env)

        return only

    def build(render_mode: str | None = None) -> Any:
        fresh = _copied(pristine)
        if render_mode is not None:
            fresh.unwrapped.render_mode = render_mode
        return fresh

    return build


class Borrowed(gym.Wrapper[Any, Any, Any, Any]):
    """An instance that is its owner's to close."""

    def close(self) -> None:
        """It stays open."""


def _copied(env: gym.Env[Any, Any], memo: dict[int, Any] | None = None) -> Any:
    """A deep copy of an environment by what it holds. Not by what it says when it is pickled: Gymnasium's EzPickle says only how
    it was made, and what was changed since would be lost."""
    memo = {} if memo is None else memo
    new = memo[id(env)] = object.__new__(type(env))
    if any(vars_ for kind in type(env).__mro__ if (vars_ := getattr(kind, "__slots__", None))):
        raise TypeError(f"{type(env).__name__} has slots")
    for name, value in vars(env).items():
        new.__dict__[name] = _copied(value, memo) if isinstance(value, gym.Env) else copy.deepcopy(value, memo)
    return new


def _near(key: str) -> list[str]:
    """The newest versions of the ids most like `key`, letter case apart; only one if it is the same name."""
    newest: dict[str, tuple[int, str]] = {}
    for spec in registry.values():
        base, version = _base(spec.id), -1 if spec.version is None else spec.version
        newest[base] = max(newest.get(base, (version, spec.id)), (version, spec.id))
    return [newest[name][1] for name in nearest(_base(key), newest)]


def _base(key: str) -> str:
    return re.sub(r"-v\d+$", "", key.lower())


# ------------------------------------------------------------------------------------------------------------- making


_alive: weakref.WeakValueDictionary[int, gym.Env[Any, Any]] = weakref.WeakValueDictionary()
"""what was made and still exists, by id()"""


def _made(name: str, build: Build, **mode: str) -> gym.Env[Any, Any]:
    """A fresh environment, or the reason why not as a Fault."""
    try:
        env = agents.joined(build(**mode))
    except Fault:
        raise
    except (gym.error.DependencyNotInstalled, ImportError) as error:  # most of these say what to install, or where it went
        key = name.rpartition(":")[2]
        old = type(error) is ImportError or "mujoco_py" in str(error)  # as gymnasium, and gymnasium-robotics, say it
        moved = old and key in registry and _near(key) != [key]
        missing = "; install the package that provides it" if isinstance(error, ModuleNotFoundError) else ""
        hint = f"; did you mean {_near(key)[0]}?" if moved else missing
        raise Fault(f"{name}: cannot be made: {' '.join(str(error).split())}{hint}") from error
    except (Exception, SystemExit) as error:
        raise Fault(f"{name}: cannot be made ({describe_error(error)}){_graphics(error)}") from error
    if not isinstance(env, gym.Env):
        raise Fault(f"{name}: made {spaces.short(env)}; it must make one gymnasium.Env (no vector of them, not the old gym's)")
    if _alive.get(id(env.unwrapped)) is env.unwrapped:
        raise Fault(f"{name}: made the same environment twice; each call must make a fresh one")
    _alive[id(env.unwrapped)] = env.unwrapped
    return env


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Keeps MuJoCo's notes on deprecated attributes in model files, which no user can mend, off the screen and out of
    MUJOCO_LOG.TXT. Its other warnings become Python's; once made, an environment warns as ever."""
    mujoco = sys.modules.get("mujoco")
    if mujoco is None or mujoco.get_mju_user_warning() is not None:
        yield
        return
    said: list[str] = []
    mujoco.set_mju_user_warning(said.append)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(None)
        for text in said:
            if "deprecated" not in text:
                warnings.warn(f"MuJoCo: {text}", stacklevel=2)


def _shown(name: str, env: gym.Env[Any, Any], mode: str) -> None:
    """Draws a first frame, since only that tells whether this machine can. Fault: it cannot."""
    headless = sys.platform == "linux" and not os.environ.get("DISPLAY") and not os.environ.get("WAYLAND_DISPLAY")
    chosen = os.environ.get("MUJOCO_GL")
    if Figures.possible(env):  # without a GPU most of a frame's time goes into shadows and smoothing
        quality = env.get_wrapper_attr("model").vis.quality
        quality.shadowsize, quality.offsamples = 1024, 0
    if headless:
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame's; without it SDL complains of a screen
    if headless and not chosen:
        os.environ["MUJOCO_GL"] = "egl"  # without it gymnasium takes GLFW, which needs a screen
    reason = _frame_fault(env, mode)
    if reason is None:
        return
    if headless and not chosen:
        del os.environ["MUJOCO_GL"]
    with contextlib.suppress(Exception):
        env.close()
    raise Fault(f"{name}: cannot be rendered as {mode!r} here: {reason}")


def _frame_fault(env: gym.Env[Any, Any], mode: str) -> str | None:
    if env.render_mode != mode:
        return f"it was made with render_mode {env.render_mode!r}; the callable must take render_mode and pass it on"
    if mode != "rgb_array":
        return None  # anything else opens windows
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None  # gymnasium's half-made viewer fails again when it is freed
    try:
        with warnings.catch_warnings(action="ignore"):
            env.reset()
            frame = env.render()
    except Exception as error:
        return f"{describe_error(error)}{_graphics(error)}"
    finally:
        sys.unraisablehook = hook
    if not isinstance(frame, np.ndarray) or frame.ndim != 3:
        return f"its render returned {spaces.short(frame)}; it must return an array (height, width, 3)"
    return None


GRAPHICS = {"mujoco_rendering", "rendering", "gl_context", "egl", "osmesa", "glfw", "cgl", "renderer"}
"""files and folders of MuJoCo and of Gymnasium's package for it that have to do with pictures"""


def _graphics(error: BaseException) -> str:
    """What to do, if it was MuJoCo's way to OpenGL that failed."""
    files = [Path(frame.filename) for frame in traceback.extract_tb(error.__traceback__)]
    if not any("mujoco" in f.parts and (f.stem in GRAPHICS or f.parent.name in GRAPHICS) for f in files):
        return ""
    return (
        f"; MUJOCO_GL is {os.environ.get('MUJOCO_GL', '')!r}: without a screen it must be egl (on Debian: apt install libegl1)"
        " or osmesa (apt install libosmesa6)"
    )
