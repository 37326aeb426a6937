"""The zoo: the policies of the bench's runs, for a release. What make zoo runs.

    python tools/zoo.py [--runs runs] [--out zoo]

zoo/ROW-CURVE-SEED/   what `thespis push` would upload: config.json, policy/, a card, curve.png; thespis.load takes it
zoo/README.md         a table of them, and by which command each that is missing is made
zoo/SHA256SUMS        of every file, for sha256sum --check
"""

import argparse
import hashlib
import re
import shlex
import shutil
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from thespis import api, config, hub
from thespis.core import Fault
from thespis.directory import read_about
from thespis.engine import checkpoint, fetch
from thespis.engine.run import Run
from thespis.report import statistics

HOUSE = Path(__file__).parents[1]
ROWS = HOUSE / "bench" / "rows"
DRAWS = 20_000
algorithm = cache(api.algorithm)


@dataclass(frozen=True)
class Wanted:
    """A run that a row of the bench names."""

    row: str
    curve: str
    seed: int
    env: str
    steps: int
    algo: str
    options: dict[str, Any] = field(hash=False)

    @property
    def run(self) -> str:
        return f"bench-{self.row}-{self.curve}-{self.seed}"

    @property
    def name(self) -> str:
        """Of its folder: letters, digits and .-_ alone, as "make run" has a space."""
        return re.sub(r"[^\w.-]+", "-", f"{self.row}-{self.curve}-{self.seed}", flags=re.ASCII)


def wanted(rows: Path = ROWS) -> Iterator[Wanted]:
    """Every run of the rows that leaves a policy of ours under runs/: not a peer's script, another row's curve, a language model,
    or what is only timed (`target`)."""
    for file in sorted(rows.glob("*.toml")):
        row = tomllib.loads(file.read_text())
        for name, what in row.get("curves", {}).items():
            if "script" in what or "raw" in what or "target" in row or algorithm(what["algo"]).family == "language":
                continue
            for seed in row["seeds"]:
                yield Wanted(file.stem, name, seed, row["env"], row["steps"], what["algo"], what.get("options", {}))


def lacks(one: Wanted, folder: Path) -> str | None:
    """Why the run cannot go into the zoo; None where it can."""
    if not (file := folder / "policy" / "last.json").is_file():
        return "no run"
    about = read_about(file, step=int)
    if about["step"] < one.steps:
        return f"stopped at step {about['step']:,} of {one.steps:,}"
    here = about["run"] | about["algo_config"] | {"algo": about["algo"]}
    for name, value in _settings(one).items():
        if here.get(name) != value:  # the row was changed since
            return f"{name} is {here.get(name)}, in the row {value}; move {folder.name} away first"
    return None


def _settings(one: Wanted) -> dict[str, Any]:
    """What the row names, as a policy's JSON has it."""
    algo = algorithm(one.algo).config
    usual = vars(Run()) | vars(algo)
    options = {k.replace("-", "_"): v for k, v in one.options.items()}
    options = {k: [v] if isinstance(usual.get(k), tuple) and not isinstance(v, list) else v for k, v in options.items()}
    own = {k: v for k, v in options.items() if k in vars(algo)}
    run = {k: v for k, v in options.items() if k not in own} | {"env": one.env, "seed": one.seed}
    both = config.to_json(config.build(Run, run)) | config.to_json(config.build(type(algo), own))
    return {"algo": one.algo} | {k: both[k] for k in (*run, *own)}


def make(rows: Path = ROWS, runs: Path = Path("runs"), out: Path = Path("zoo")) -> tuple[list[Wanted], dict[Wanted, str]]:
    """Writes `out` anew, whole or not at all; what is in it, and why each other is not.

    Raises Fault, having changed nothing, where a run is damaged, where there is none, or where `out` holds a file that would not
    be written again.
    """
    fetch.client()  # cards need its package
    if not out.name or out.is_symlink() or (out.exists() and not out.is_dir()):
        raise Fault(f"out is {out}; allowed: a folder by its name")
    everything = list(wanted(rows))
    missing = {one: why for one in everything if (why := lacks(one, runs / one.run))}
    there = [one for one in everything if one not in missing]
    if twice := {one.name for one in there if [x.name for x in there].count(one.name) > 1}:
        raise Fault(f"two curves would both be {out / min(twice)}; rename one in its row")
    if not there:
        raise Fault(
            f"no run of the bench is done under {runs}, so {out} is not written; python bench/learning.py run ROW makes them"
        )
    new, old = out.with_name(f".{out.name}.new"), out.with_name(f".{out.name}.old")
    try:
        checkpoint.write(new, partial(_fill, there=there, missing=missing, runs=runs, name=out.name))
        if kept := sorted(_files(out) - _files(new)):
            raise Fault(
                f"{out / kept[0]} would be lost, because it comes from no run under {runs}: move it away, or give another --out"
            )
        shutil.rmtree(old, ignore_errors=True)
        if out.exists():
            out.rename(old)
        new.rename(out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return there, missing


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _fill(aside: Path, there: list[Wanted], missing: dict[Wanted, str], runs: Path, name: str) -> None:
    for one in there:
        (aside / one.name).mkdir(parents=True)
        hub.fill(aside / one.name, runs / one.run, f"{name}/{one.name}", api.load(runs / one.run))
        for file in (aside / one.name / "policy").glob("*.json"):
            api.load(aside / one.name, file.stem)  # what is damaged is told here, and not to whoever fetches it
    lines = [_line(one, aside, runs) for one in there]
    (aside / "README.md").write_text(
        "\n".join([INDEX.format(name=name, one=there[0].name), *lines, *_absent(missing), ""]), "utf-8"
    )
    sums = [f"{_sha256(aside / file)}  {file}\n" for file in sorted(_files(aside))]
    (aside / "SHA256SUMS").write_text("".join(sums), "utf-8")


def _line(one: Wanted, aside: Path, runs: Path) -> str:
    file = f"{one.name}/policy/last.safetensors"
    row = hub.evaluated(runs / one.run, checkpoint.read_json(aside / one.name / "policy" / "last.json")["step"])
    returned, episodes = _returned(row) if row else ("not evaluated", 0)
    cells = (one.env, one.algo, one.curve, one.seed, returned, episodes, f"[{file}]({file})", f"`{_sha256(aside / file)}`")
    return f"| {' | '.join(map(str, cells))} |"


def _returned(row: dict[str, Any]) -> tuple[str, int]:
    """The mean return of an evaluation with its 95% bootstrap interval over the episodes, and how many they are."""
    mean, returns = f"{row['eval/return_mean']:,.1f}", np.asarray(row["eval/returns"])
    if len(returns) < 2:
        return mean, len(returns)
    low, high = statistics.interval(lambda scores: scores[0].mean(), [returns], draws=DRAWS)
    return f"{mean} [{low:,.1f}, {high:,.1f}]", len(returns)


def _absent(missing: dict[Wanted, str]) -> list[str]:
    """A row for each curve and reason."""
    alike: dict[tuple[str, str, str], list[Wanted]] = {}
    for one, why in missing.items():
        alike.setdefault((one.row, one.curve, why), []).append(one)
    lines = [
        f"| {row}/{name} | {', '.join(str(one.seed) for one in ones)} | {why} | `{command(ones, why)}` |"
        for (row, name, why), ones in alike.items()
    ]
    return ["", "## Not here", "", "| curve | seeds | why | made by |", "|---|---|---|---|", *lines] if lines else []


def command(ones: list[Wanted], why: str = "no run") -> str:
    """That trains them, or goes on. Not bench/learning.py: it leaves out a run whose curve is kept, though its policy is gone."""
    one, many = ones[0], len(ones) > 1
    if why.startswith("stopped"):
        return "; ".join(f'thespis resume "runs/{x.run}" --steps {x.steps}' for x in ones)
    words = ["thespis", "train", one.algo, "--env", one.env, "--steps", str(one.steps)]
    for option, value in one.options.items():
        name = option.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        else:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    seed = "$seed" if many else str(one.seed)
    folder = f'"runs/{one.run.rpartition("-")[0]}-{seed}"'
    line = f"{shlex.join(words)} --seed {seed} --out {folder}"
    return f"for seed in {' '.join(str(x.seed) for x in ones)}; do {line}; done" if many else line


INDEX = """\
# Policies of Thespis

The last policies of the runs that `bench/rows` names: all seeds that were run, none chosen. Each folder has a card, its settings
in `config.json`, and also the policy of its best evaluation. The return is the mean over the episodes of the last evaluation,
with its 95% bootstrap interval over them, so it is that of one seed; `bench/results` has what seeds differ by.

```sh
sha256sum --check SHA256SUMS
cd .. && thespis evaluate {name}/{one} --episodes 10
```

```python
import thespis

policy = thespis.load("{name}/{one}")
```

The files are JSON and safetensors, no pickle: loading them runs no code from them.

| environment | algorithm | curve | seed | return | episodes | file | sha256 |
|---|---|---|---|---|---|---|---|"""


def main() -> None:
    parser = argparse.ArgumentParser(description="The policies of the bench's runs, with cards and an index.")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where bench/learning.py left them (default: runs)")
    parser.add_argument("--out", type=Path, default=Path("zoo"), help="the folder to write (default: zoo)")
    args = parser.parse_args()
    try:
        there, missing = make(ROWS, args.runs, args.out)
    except Fault as fault:
        sys.exit(str(fault))
    print(f"wrote {args.out}/README.md and {len(there)} policies; {len(missing)} runs are missing: it has the command of each")


if __name__ == "__main__":
    main()
