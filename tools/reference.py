"""Pages that are made from the code: docs/options.md (every option of a run), docs/api.md (every name of `thespis`) and
docs/what-works.md (what each algorithm takes).

python tools/reference.py            writes them; make fix does so too
python tools/reference.py --check    exit code 1 where one is not up to date
"""

import ast
import dataclasses
import inspect
import itertools
import re
import sys
import typing
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import thespis
from thespis import config, envs
from thespis.algorithms import Algorithm, check_actions, takes
from thespis.engine.run import Run
from thespis.fault import Fault
from thespis.learner import ready

DOCS = Path(__file__).parents[1] / "docs"
MADE = "<!-- Made by tools/reference.py from the code. Do not edit it here. -->"
GROUPS = {
    "The task": "env env_args num_envs frame_stack vector steps seed data offline normalise_obs normalise_reward reward_unit",
    "The replay": "priority priority_beta",
    "Goals, rewards, agents": "hindsight hindsight_share weights agents",
    "Evaluation": "eval_every eval_episodes eval_env eval_steps eval_policy stop_at",
    "Beginning with another run": "freeze",
    "Logs and checkpoints": "log_every sinks checkpoint_every keep max_hours",
    "Weights & Biases": "wandb_project wandb_entity wandb_group wandb_tags",
    "Speed": "device threads precision compile_after",
    "Failures": "on_env_error env_timeout on_divergence",
    "More than one process": "collectors ray_address",
}
"""the names of Run's fields under each heading; what is named nowhere comes under "More" """
ORDER = (
    "train resume finetune evaluate load Policy Result algorithms report compare sweep study export push import_sb3 check_env"
    " Fault"
)
"""of the names; others come after them"""
ABOUT = """\
A run has two kinds of options. Those on this page are the same for every algorithm. The others belong to one algorithm, such as
`--lr` and `--hidden`. `thespis train sac --help` lists both kinds; the site has them on each algorithm's page.

On the command line a name has hyphens, as in `--num-envs 4`. In Python it is a keyword with underscores, as in
`thespis.train("sac", num_envs=4)`. To switch something on or off, write `--normalise-obs` or `--no-normalise-obs` in a shell, and
`True` or `False` in Python. Whole numbers may be written as `1e6`.

Four more options of `train` belong to the command, not to the run:

- `--out DIR` names the run directory. Without it, that is `runs/ALGORITHM-ENV-SEED`.
- `--overwrite` deletes a run that is in that directory already.
- `--start-from RUN` begins with the networks of another run ([details](runs.md#beginning-with-the-networks-of-another-run)).
- `--quiet` prints only what went wrong."""
TYPES = """\
- `Env`: a Gymnasium id, an environment, or a callable that makes one ([environments](python.md#environments))
- `Source`: the id or folder of a dataset, a file of columns, or a dictionary of arrays ([learning from data](offline.md))
- `Over`: a dictionary of options and their values, lists or text ([sweeps](sweep.md#from-python))
- `Callback`: a function of one row of metrics ([callbacks](python.md#callbacks))
- `parts`: networks of your own, by the name of the part ([networks of your own](python.md#networks-of-your-own))"""


# ------------------------------------------------------------------------------------------------------- from the source


def words_of_fields(cls: type) -> dict[str, str]:
    """The text under each field of a dataclass; "" where there is none."""
    (tree,) = ast.parse(inspect.cleandoc("\n" + inspect.getsource(cls))).body
    assert isinstance(tree, ast.ClassDef)
    found = {n.target.id: "" for n in tree.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)}
    for field, text in itertools.pairwise(tree.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(said))):
                found[name] = " ".join(said.split())
    return found


def shown(value: Any) -> str:
    """A default, as it is written on the command line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)


def sentence(text: str) -> str:
    text = text[0].upper() + text[1:] if text[:2].isalpha() else text
    return text if text.endswith((".", ")", "!")) else text + "."


# --------------------------------------------------------------------------------------------------------------- options


def options() -> str:
    """docs/options.md"""
    hints, said = typing.get_type_hints(Run, include_extras=True), words_of_fields(Run)
    fields = {f.name: f for f in dataclasses.fields(Run)}
    groups = {title: names.split() for title, names in GROUPS.items()}
    groups["More"] = [n for n in fields if not any(n in names for names in groups.values())]
    parts = [
        "# Every option of a run",
        MADE,
        ABOUT,
    ]
    for title, names in groups.items():
        rows = [
            f"| `--{n.replace('_', '-')}` | {shown(fields[n].default)} | {cell(allowed(hints[n]))} | {cell(sentence(said[n]))} |"
            for n in names
            if n in fields
        ]
        if rows:
            parts.append("\n".join([f"## {title}\n", "| option | default | allowed | what it is |", "|---|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def allowed(hint: Any) -> str:
    """What its type allows; that it may be left out is said by its default."""
    return re.sub(r"'(\w+)'", r"`\1`", config.words(hint).removesuffix(" or None"))


def cell(text: str) -> str:
    return text.replace("|", r"\|")


# -------------------------------------------------------------------------------------------------------------- functions


def api() -> str:
    """docs/api.md"""
    names = sorted(thespis.__all__, key=lambda n: (*ORDER.split(), n).index(n))
    parts = [
        "# Every name of `thespis`",
        MADE,
        "This page lists what `import thespis` gives you, with signatures. [From Python](python.md) shows how to use it, and\n"
        "[every option of a run](options.md) lists what `options` may be. Other names are internal, and may change.",
        "Types that have no entry of their own:",
        TYPES,
        *(part for name in names for part in entry(name, getattr(thespis, name))),
    ]
    return "\n\n".join(parts) + "\n"


def entry(name: str, thing: Any) -> Iterator[str]:
    yield f"## {name}"
    if inspect.isfunction(thing):
        yield signature(f"thespis.{name}", thing)
        yield inspect.getdoc(thing) or ""
        return
    said = inspect.getdoc(thing) if thing.__doc__ and not thing.__doc__.startswith(f"{name}(") else None
    yield said or ""
    if isinstance(thing, type) and dataclasses.is_dataclass(thing):
        words = words_of_fields(thing)
        kinds = {f.name: kind(f.type) for f in dataclasses.fields(thing)}
        yield "\n".join(f"- `{n}: {kinds[n]}`" + (f": {text}" if text else "") for n, text in words.items())
    for method, f in vars(thing).items():
        if inspect.isfunction(f) and f.__doc__ and (not method.startswith("_") or method == "__call__"):
            yield signature(name if method == "__call__" else f"{name}.{method}", f)
            yield inspect.getdoc(f) or ""


def signature(name: str, f: Any) -> str:
    """name(parameters) -> type, as a block: on one line where it fits, else a parameter a line."""
    signed = inspect.signature(f)
    parts, starred = [], False
    for p in signed.parameters.values():
        if p.name == "self":
            continue
        if p.kind is p.KEYWORD_ONLY and not starred:
            parts.append("*")
        starred |= p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        text = "*" * ((p.kind is p.VAR_POSITIONAL) + 2 * (p.kind is p.VAR_KEYWORD)) + p.name
        text += "" if p.annotation is p.empty else f": {kind(p.annotation)}"
        parts.append(text if p.default is p.empty else f"{text} = {getattr(p.default, '__name__', None) or repr(p.default)}")
    back = "" if signed.return_annotation is signed.empty else f" -> {kind(signed.return_annotation)}"
    line = f"{name}({', '.join(parts)}){back}"
    if len(line) > 100:
        line = "\n".join([f"{name}(", *(f"    {p}," for p in parts), f"){back}"])
    return f"```text\n{line}\n```"


def kind(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)


# ------------------------------------------------------------------------------------------------- what works with what

BOX = gym.spaces.Box(-1, 1, (2,))
KINDS = {
    "vectors": BOX,
    "without bounds": gym.spaces.Box(-np.inf, np.inf, (2,)),
    "a choice": gym.spaces.Discrete(3),
    "several choices": gym.spaces.MultiDiscrete([2, 3]),
    "both": gym.spaces.Dict({"move": BOX, "say": gym.spaces.Discrete(3)}),
}
"""a kind of actions, by an example"""
WORKS = """\
What each algorithm takes. Every cell was made by asking the algorithm, as `thespis train` does before it starts. A preset takes
what its algorithm takes. The columns:

- Actions: a `Box` with bounds (*vectors*), a `Box` *without bounds*, a `Discrete` (*a choice*), a `MultiDiscrete` or
  `MultiBinary` (*several choices*), or a `Dict` or `Tuple` that has *both* ([actions](actions.md)).
- *a state*: a finite world, whose observation is a step and a state and whose action is a choice.
- *masks*: it never takes an action that is [masked](actions.md#masks).
- *images*: it has convolutions of its own. The others see an image as one long vector, unless you give
  [your own network](own-network.md).
- *goals*: `--hindsight` relabels its replay.
- *priority*: `--priority` may choose the rows of its [replay](replay.md).
- *data*: *beside* its own steps, *alone* ([learning from data](offline.md)), or either.
- *rewards*: it learns from several at once. The others take several with `--weights`.
- *levels*: it chooses the [levels](diversity.md#levels-plr-dred) that it plays, and needs an environment that takes them.
- *memory*: acting has one: of what was observed (`recurrent_sac`, `recurrent_ppo`), of a plan (`srl`), of its noise (`flashsac`).
- *collectors*: `--collectors` can step its environments in other processes."""


class Blank(gym.Env[Any, Any]):
    """Has spaces, and is never stepped."""

    def __init__(self, action_space: gym.Space[Any]):
        self.observation_space, self.action_space = gym.spaces.Box(-1, 1, (3,)), action_space

    def reset(self, **_: Any) -> tuple[Any, dict[str, Any]]:
        return np.zeros(3, np.float32), {}


class Levels(Blank):
    """Takes levels."""

    context_space = gym.spaces.MultiDiscrete([2, 3])


def works() -> str:
    """docs/what-works.md"""
    worlds = {kind: envs.world(partial(Blank, space)) for kind, space in KINDS.items()}
    worlds |= {"a state": envs.world("thespis/DeepSea-v0")}
    levels = {kind: envs.world(partial(Levels, space)) for kind, space in KINDS.items()}
    several = envs.world("thespis/Omni-v0")
    pixels, goals = envs.world("thespis/PixelPendulum-v0"), [envs.world(f"thespis/{n}-v0") for n in ("Reach", "BitFlip")]
    heads = [*KINDS, "a state", "masks", "images", "goals", "priority", "data", "rewards", "levels", "memory", "collectors"]
    rows = [f"| | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for algo in thespis.algorithms().values():
        if algo.file.stem != algo.name or algo.family == "language":
            continue  # a preset; or its actor writes, and takes none of these
        taken, alone = takes(algo), Run(offline=True)
        steps = {kind: tried(algo, world) for kind, world in (worlds | {"images": pixels}).items()}
        data = {kind: tried(algo, world, alone, {}) for kind, world in worlds.items()}
        found = {kind: steps[kind] or data[kind] for kind in worlds}
        played = {} if any(found.values()) else {kind: tried(algo, world, Run(), {}) for kind, world in levels.items()}
        found |= played
        found["vectors"] = found["vectors"] or steps["images"] or tried(algo, several)
        beside = any(tried(algo, world, Run(), {}) for kind, world in (worlds | {"images": pixels}).items() if steps[kind])
        cells = [
            *(bool(learner) for learner in found.values()),
            "mask" in taken,
            "images" in taken,
            any(tried(algo, world, Run(hindsight="future")) for world in goals),
            any(tried(algo, world, Run(priority=0.6)) for kind, world in (worlds | {"images": pixels}).items() if steps[kind]),
            " or ".join(["beside"] * beside + ["alone"] * any(data.values())),
            "rewards" in taken,
            any(played.values()),
            any(learner and learner.memory for learner in found.values()),
            any(tried(algo, world, Run(collectors=1)) for kind, world in worlds.items() if steps[kind]),
        ]
        rows.append(f"| `{algo.name}` | {' | '.join(c if isinstance(c, str) else 'yes' if c else '' for c in cells)} |")
    return "\n\n".join(["# What works with what", MADE, WORKS, "\n".join(rows)]) + "\n"


def tried(algo: Algorithm, world: envs.World, run: Run | None = None, source: dict[str, Any] | None = None) -> Any:
    """The learner, with small networks; None where they do not go together."""
    small = {f.name: (8,) for f in dataclasses.fields(algo.config) if isinstance(f.default, tuple) and "hidden" in f.name}
    try:
        cfg = dataclasses.replace(algo.config, **small)
        algo.module.make(cfg, world.spec)  # first, since `ready` is slow to say no
        check_actions(algo, world)
        return ready(algo, cfg, run or Run(), world, {}, source)
    except Fault:
        return None


# ------------------------------------------------------------------------------------------------------------------ pages

PAGES = {"options.md": options, "api.md": api, "what-works.md": works}


def main(args: list[str]) -> int:
    stale = [name for name, make in PAGES.items() if not (DOCS / name).is_file() or (DOCS / name).read_text() != make()]
    for name in stale:
        if "--check" in args:
            print(f"docs/{name} is not what the code says now: python tools/reference.py writes it", file=sys.stderr)
        else:
            (DOCS / name).write_text(PAGES[name]())
            print(f"wrote docs/{name}")
    return 1 if stale and "--check" in args else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
