"""Thespis: actor-critic learning that is readable, fast and complete."""

import os

__version__ = "0.1.0"

# Read as torch is first imported: its idle threads look for work for some 0.1 ms before they sleep, not for milliseconds, or a
# run with two threads would be tens of times slower where one core has something else to do; 3% slower where none has.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

from thespis import worlds  # noqa: F401, for it registers them
from thespis.api import Policy, Result, algorithms, compare, evaluate, load, report, resume, train
from thespis.config import Schedule
from thespis.core import Fault
from thespis.export import export
from thespis.hub import push
from thespis.sb3 import import_sb3
from thespis.sweep import sweep

__all__ = [
    "Fault", "Policy", "Result", "Schedule", "algorithms", "compare", "evaluate", "export", "import_sb3", "load", "push",
    "report", "resume", "sweep", "train",
]  # fmt: skip
