"""Thespis: actor-critic learning that is readable, fast and complete."""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Read as torch is first imported: its idle threads look for work for some 0.1 ms before they sleep, not for milliseconds, or a
# run with two threads would be tens of times slower where one core has something else to do; 3% slower where none has.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

from thespis import worlds  # noqa: F401, for it registers them
from thespis.config import Schedule
from thespis.fault import Fault

if TYPE_CHECKING:
    from thespis.algorithms import algorithms
    from thespis.api import compare, evaluate, report, resume, train
    from thespis.checking import check_env
    from thespis.directory import Result
    from thespis.export import export
    from thespis.finetuning import finetune
    from thespis.hub import push
    from thespis.policy import Policy, load
    from thespis.sb3 import import_sb3
    from thespis.study.study import study
    from thespis.sweep.sweep import sweep

__all__ = [
    "Fault", "Policy", "Result", "Schedule", "algorithms", "check_env", "compare", "evaluate", "export", "finetune", "import_sb3",
    "load", "push", "report", "resume", "study", "sweep", "train",
]  # fmt: skip

_FROM = {
    "Policy": "policy", "Result": "directory", "algorithms": "algorithms", "check_env": "checking", "compare": "api",
    "evaluate": "api", "export": "export", "finetune": "finetuning", "import_sb3": "sb3", "load": "policy", "push": "hub",
    "report": "api", "resume": "api", "study": "study", "sweep": "sweep", "train": "api",
}  # fmt: skip
"""each name above: the module that has it, which is imported when the name is first used, since nearly all of them need torch"""


def __getattr__(name: str) -> Any:
    if name not in _FROM:
        if not name.startswith("_") and find_spec(f"{__name__}.{name}"):
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value = getattr(import_module(f"{__name__}.{_FROM[name]}"), name)
    return value


class _Package(ModuleType):
    """A function keeps its name where a module has the same: importing thespis.report leaves thespis.report the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _FROM and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
