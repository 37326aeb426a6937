"""The networks of an old run as the beginning of a new one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from thespis.core import Fault, Learner, Params, Trained, leaves, rebuild
from thespis.engine import checkpoint


@dataclass(frozen=True)
class Start:
    """What an old run holds that a new one may begin with."""

    where: Path
    """the file that the tensors are from"""
    about: dict[str, Any]
    """what its config.json or its policy's JSON says"""
    step: int
    state: Params
    """all tensors of its State; none where only its policy is kept"""
    policy: Params

    def graft(self, learner: Learner, state: Any) -> Any:
        """`state` with the old networks, targets, temperature and statistics. Optimisers, their counters too, begin anew: their
        moments are of other losses, and schedules count by them. Of another algorithm, or of a run that has only its
        policy, the policy alone is taken, those of its parts that both have, where the tensors have the same names.
        Fault: shapes that do not fit."""
        mine = leaves(state)
        if self.whole(mine):
            learnt = _learnt(state)
            found = {k: self.state[k] for k in learnt}
            checkpoint.fit(found, learnt, self.where)
        else:
            acting, place = leaves(learner.policy(state)), {id(x): name for name, x in mine.items()}
            parts = {name.partition(".")[0] for name in self.policy}
            acting = {k: x for k, x in acting.items() if "." not in k or k.partition(".")[0] in parts} or acting
            checkpoint.fit(self.policy, acting, self.where)
            if any(id(x) not in place for x in acting.values()):
                raise Fault(f"start_from: {self.where} is a policy alone, which is not how this algorithm keeps one")
            found = {place[id(x)]: self.policy[name] for name, x in acting.items()}
        return rebuild(state, mine | found)

    def words(self, state: Any) -> str:
        """What a run that begins with it says."""
        what = "networks" if self.whole(leaves(state)) else "policy, and nothing else,"
        named = f"{self.about.get('title', 'unknown')}, step {self.step:,}"
        return f"begins with the {what} of another run ({named}); optimisers, experience and steps begin anew"

    def whole(self, wanted: Mapping[str, Tensor]) -> bool:
        """Whether it is of the algorithm whose State has these tensors."""
        return self.state.keys() == wanted.keys()


def read(folder: Path, which: str = "last") -> Start:
    """From the newest sound checkpoint of a run directory and its last policy; a policy alone, as of the Hub, will do."""
    file = folder / "policy" / f"{which}.json"
    if not file.exists():
        raise Fault(f"start_from: {folder} {'holds no policy yet' if folder.is_dir() else 'does not exist'}")
    about = checkpoint.read_json(file)
    if not isinstance(about, dict) or type(about.get("step")) is not int:
        raise Fault(f"{file} is damaged, or was not written by Thespis")
    if sealed := "sha256" in about:
        checkpoint.unseal(about, file)
    policy = checkpoint.read_tensors(file.with_suffix(".safetensors"), sealed)
    path, tensors = checkpoint.newest(folder)
    state = {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}
    return Start(path or file.with_suffix(".safetensors"), about, int(path.name) if path else about["step"], state, policy)


def _learnt(node: Any, path: str = "") -> dict[str, Tensor]:
    """Every tensor of a State by its name, but the moments and counters of optimisers."""
    if isinstance(node, Trained):
        return leaves(node.params, f"{path}.params")
    if isinstance(node, Tensor):
        return {path: node}
    items = node.items() if isinstance(node, Mapping) else ((f.name, getattr(node, f.name)) for f in fields(node))
    return {k: v for name, child in items for k, v in _learnt(child, f"{path}.{name}" if path else name).items()}
