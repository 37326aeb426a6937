"""Pages that are made from the code: docs/options.md (every option of a run) and docs/api.md (every name of `thespis`).

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
from pathlib import Path
from typing import Any

import thespis
from thespis import config
from thespis.engine.run import Run

DOCS = Path(__file__).parents[1] / "docs"
MADE = "<!-- Made by tools/reference.py from the code. Do not edit it here. -->"
GROUPS = {
    "The task": "env env_args num_envs frame_stack vector steps seed data offline normalise_obs normalise_reward reward_unit",
    "Goals, rewards, agents": "hindsight hindsight_share weights agents",
    "Evaluation": "eval_every eval_episodes eval_env eval_steps eval_policy stop_at",
    "Logs and checkpoints": "log_every sinks checkpoint_every keep max_hours",
    "Weights & Biases": "wandb_project wandb_entity wandb_group wandb_tags",
    "Speed": "device threads precision compile_after",
    "Failures": "on_env_error env_timeout on_divergence",
    "More than one process": "collectors ray_address",
}
"""the names of Run's fields under each heading; what is named nowhere comes under "More" """
ORDER = "train resume evaluate load Policy Result algorithms report compare sweep export push import_sb3 check_env Schedule Fault"
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


# ------------------------------------------------------------------------------------------------------------------ pages

PAGES = {"options.md": options, "api.md": api}


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
