"""How many rewards a step gives, and which of them have a floor."""

from collections.abc import Sequence

from thespis.core import Fault, Spec


def reward_shape(spec: Spec) -> tuple[int, ...]:
    """Of a step's reward: () of one, (R,) of more."""
    return () if len(spec.rewards) == 1 else (len(spec.rewards),)


def floors(spec: Spec, given: Sequence[str], field: str = "floors") -> dict[int, float | None]:
    """The rewards that `given` names, by their place: "NAME=NUMBER", the least that a step may give on average, or "NAME" (None:
    as much as the recorded steps give). Nothing given: every reward but the first. Fault, of the `field`: an unknown name, or no
    number."""
    if not given:
        return dict.fromkeys(range(1, len(spec.rewards)))
    found: dict[int, float | None] = {}
    for text in given:
        name, equals, number = text.partition("=")
        if name not in spec.rewards:
            raise Fault(f"{field}: {name!r} is no reward of the environment; allowed: {', '.join(spec.rewards)}")
        try:
            found[spec.rewards.index(name)] = float(number) if equals else None
        except ValueError:
            raise Fault(f"{field}: {text!r}; allowed: NAME, or NAME=NUMBER") from None
    return found
