"""Thespis: actor-critic learning that is readable, fast and complete."""

__version__ = "0.1.0"

from thespis import worlds  # noqa: F401, for it registers them
from thespis.api import Policy, Result, algorithms, compare, evaluate, load, report, resume, train
from thespis.core import Fault
from thespis.export import export
from thespis.hub import push
from thespis.sb3 import import_sb3
from thespis.sweep import sweep

__all__ = [
    "Fault", "Policy", "Result", "algorithms", "compare", "evaluate", "export", "import_sb3", "load", "push", "report", "resume",
    "sweep", "train",
]  # fmt: skip
