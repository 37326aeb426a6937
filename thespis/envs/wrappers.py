"""Wrappers by name, put around an environment from the inside out: "TimeLimit(max_episode_steps=50)", "my_wrappers:Shaped"."""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import partial, reduce
from types import ModuleType
from typing import Any

import gymnasium as gym

from thespis.config import near
from thespis.core import Fault
from thespis.envs.flat import describe_error
from thespis.envs.observations import short

__all__ = ["foreign", "imported", "wrapped"]

FORM = "Wrapper, module:Wrapper or module:Wrapper(name=value, ...)"
WRITES = ("RecordVideo",)
"""of Gymnasium's wrappers: those that write files where their arguments say"""


def wrapped(build: Callable[..., Any], wrappers: Sequence[str]) -> Callable[..., Any]:
    """What `build` makes, in these wrappers, the last outermost. One without a module is of `gymnasium.wrappers`; what a module
    has is called with the environment and the arguments. Fault: text of another form, a wrapper that is not there."""
    if isinstance(wrappers, str) or not all(isinstance(text, str) for text in wrappers):
        raise Fault(f"wrappers is {short(wrappers)}; allowed: any number of names, each {FORM}")
    makers = [(text, *_parts(text)) for text in wrappers]
    for text, module, name, _ in makers:
        _found(text, module, name)

    def made(**mode: Any) -> Any:
        return reduce(_around, makers, build(**mode))

    return made if makers else build


def foreign(wrappers: Sequence[str]) -> list[str]:
    """Those that may run code, or write files, which only the file that names them asks for: all but Gymnasium's own."""
    return [text for text in wrappers if (parts := _parts(text))[0] or parts[1] in WRITES]


def imported(module: str, field: str) -> ModuleType:
    """A module, also of the working directory. Fault, which begins with `field`: it cannot be imported."""
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m thespis` has it; last, so that nothing there hides an installed package
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise Fault(f"{field}; its module cannot be imported ({describe_error(error)})") from error


def _parts(text: str) -> tuple[str, str, dict[str, Any]]:
    """Module (or ""), name and arguments."""
    parts = re.fullmatch(r"(?:([\w.]+):)?([A-Za-z_]\w*)(\(.*\))?", text.strip(), re.DOTALL)
    with contextlib.suppress(SyntaxError, ValueError, RecursionError):
        call = ast.parse(f"f{parts[3] or '()'}" if parts else "", mode="eval").body
        if parts and isinstance(call, ast.Call) and not call.args and all(word.arg for word in call.keywords):
            return parts[1] or "", parts[2], {str(word.arg): _value(ast.unparse(word.value)) for word in call.keywords}
    raise Fault(f"wrappers has {text!r}; allowed: {FORM}, where a value is a number, a text in quotes or a list")


def _value(text: str) -> Any:
    try:
        return json.loads(text)  # true, false, null
    except ValueError:
        return ast.literal_eval(text)


def _found(text: str, module: str, name: str) -> Callable[..., Any]:
    if not module:
        ours = [k for k, v in vars(gym.wrappers).items() if isinstance(v, type) and issubclass(v, gym.Wrapper)]
        if name not in ours:
            raise Fault(f"wrappers has {text!r}, which gymnasium.wrappers does not have{near(name, ours)}")
        return getattr(gym.wrappers, name)
    if not callable(maker := getattr(imported(module, f"wrappers has {text!r}"), name, None)):
        raise Fault(f"wrappers has {text!r}; {module} has no {name} that can be called")
    return maker


def _around(env: Any, maker: tuple[str, str, str, dict[str, Any]]) -> Any:
    text, module, name, args = maker
    try:
        made = partial(_found(text, module, name), env)(**args)
    except Fault:
        raise
    except Exception as error:
        raise Fault(f"wrappers has {text!r}, which cannot be made ({describe_error(error)})") from error
    if not isinstance(made, gym.Env):
        raise Fault(f"wrappers has {text!r}, which made {short(made)}; it must make a gymnasium.Env")
    return made
