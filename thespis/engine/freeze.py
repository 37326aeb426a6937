"""Parts of an algorithm's State that a run leaves as they are."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from thespis.core import Batch, Fault, Learner, Metrics, replace


def frozen(learner: Learner, state: type, names: tuple[str, ...]) -> Learner:
    """The learner, but these fields of its `state` stay. Fault: there is no such field, or all begin anew now and then."""
    if not names:
        return learner
    known = [f.name for f in fields(state)]
    if unknown := [name for name in names if name not in known]:
        raise Fault(f"freeze is {unknown[0]!r}; allowed: {', '.join(known)}")
    if getattr(learner.experience, "reset_every", None):
        raise Fault(f"freeze: {', '.join(names)} would begin anew at every reset of the networks; leave it or the resets out")

    def kept(old: Any, new: Any) -> Any:
        return replace(new, **{name: getattr(old, name) for name in names})

    def update(s: Any, b: Batch, k: int = 0) -> tuple[Any, Metrics]:
        new, metrics = learner.update(s, b, k)
        return kept(s, new), metrics

    def prepare(s: Any, rollout: Batch) -> tuple[Any, Batch, Metrics]:
        assert learner.prepare is not None
        new, rows, metrics = learner.prepare(s, rollout)
        return kept(s, new), rows, metrics

    return replace(learner, update=update, prepare=prepare if learner.prepare else None)
