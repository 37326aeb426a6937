"""What README.md and docs/ say is so: their examples are files that run, their commands run, their names exist."""

import contextlib
import dataclasses
import io
import itertools
import json
import re
import runpy
import shlex
import shutil
import textwrap
from pathlib import Path

import gymnasium as gym
import pytest

import thespis
from thespis import api, cli, config
from thespis.engine.run import Run
from thespis.study import studies

HOUSE = Path(__file__).parents[2]
PAGES = [HOUSE / "README.md", *sorted((HOUSE / "docs").glob("*.md"))]
EXAMPLES = sorted((HOUSE / "docs/examples").glob("*.py"))
page = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)

TINY = {"--env": "Pendulum-v1", "--steps": "60", "--warmup": "20", "--hidden": "8", "--eval-episodes": "1"}


def blocks(text: str) -> list[tuple[str, str]]:
    """(language, text) of each fenced block, in order."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """The page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


WRITING = {"--model": "tiny:dim=16,layers=1", "--steps": "16", "--questions": "2", "--warm-start": "64", "--eval-episodes": "2"}


def commands(block: str) -> list[list[str]]:
    return [shlex.split(line, comments=True)[1:] for line in block.splitlines() if line.startswith("thespis ")]


def tiny(args: list[str]) -> list[str]:
    """The same command, so small that it ends in a second."""
    if args[0] in ("train", "resume", "finetune", "sweep") and "--help" not in args:
        more = {k: v for k, v in TINY.items() if args[0] not in ("resume", "finetune") or (k == "--steps" and k in args)}
        if args[0] == "train" and getattr(thespis.algorithms().get(args[1]), "family", "") == "language":
            more = WRITING
        if args[0] == "train" and getattr(thespis.algorithms().get(args[1]), "family", "") in (
            "diversity",
            "flow",
            "supervised",
        ):  # worlds of their own
            more = {k: v for k, v in more.items() if k in ("--steps", "--eval-episodes")}
        if args[0] == "sweep":  # one run, as each has a process of its own
            more |= {"--seeds": "1"} | ({"--search": "1"} if "--search" in args else {})
            args = [a.partition(",")[0] if "=" in a else a for a in args]
        if "--data" in args and "--env" not in args:  # from data alone: no steps
            more = {k: v for k, v in more.items() if k not in ("--env", "--warmup")}
        if args[1] in ("nora", "noah"):  # a table: no network, a world of its own
            more = {k: v for k, v in more.items() if k in ("--steps", "--eval-episodes")}
        if args[1] in ("mamql", "gmorl_edge"):  # a world of several agents, or rewards
            more = {k: v for k, v in more.items() if k not in ("--env", "--warmup")}
        if args[1] == "tbsac":  # three rows
            more = {k: v for k, v in more.items() if k != "--env"}
        if "--rollout" in args and "--warmup" in more:  # on-policy: no warm-up
            more["--rollout"] = more.pop("--warmup")
        for name in more:
            if name in args:
                at = args.index(name)
                rest = itertools.dropwhile(lambda word: not word.startswith("--"), args[at + 1 :])
                args = [*args[:at], *rest]
        args = [*args, *(word for pair in more.items() for word in pair)]
    if args[0] == "study" and len(args) > 1:
        known = {name for stage in studies()[args[1]].module.STAGES.values() for name in stage.names()}
        less = {k[2:].replace("-", "_"): v for k, v in (TINY | WRITING | {"--count": "8", "--each": "2"}).items() if k != "--env"}
        args = [*args, "--seeds", "1", "--quiet", *(w for k, v in less.items() if k in known for w in ("--set", f"{k}={v}"))]
    if args[0] in ("estimate", "record"):
        for name in ("--episodes", "--updates"):
            if name in args:
                args = [*args[: args.index(name) + 1], "2", *args[args.index(name) + 2 :]]
    if args[0] == "evaluate":  # a video wants a package and a way to draw
        at = args.index("--episodes") if "--episodes" in args else len(args)
        args = [a for a in args[:at] + args[at + 2 :] if a != "--video"] + ["--episodes", "1"]
    return args


def said(args: list[str]) -> tuple[int, str]:
    """What a command returns and prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            code = cli.main(args)
        except SystemExit as end:  # --help
            code = int(end.code or 0)
    return code, out.getvalue()


# ----------------------------------------------------------------------------------------------------------- the blocks


@page
def test_a_python_block_is_a_file_or_a_part_of_one(page: Path) -> None:
    for language, text in blocks(page.read_text()):
        if language != "python":
            continue
        first, _, rest = text.partition("\n")
        file = HOUSE / first.removeprefix("# ")
        assert first.startswith("# "), f"{page.name}: a python block must begin with the name of its file, not {first!r}"
        assert file.is_file(), first
        if file.parent.name == "examples":
            assert text == file.read_text(), f"{page.name} shows another {file.name} than docs/examples has"
        else:
            part = [textwrap.indent(rest, " " * n) for n in (0, 4)]
            assert any(p in file.read_text() for p in part), f"{page.name} shows what {first} does not have:\n{rest}"


def test_every_example_is_shown() -> None:
    shown = "".join(p.read_text() for p in PAGES)
    assert [e.name for e in EXAMPLES if f"# docs/examples/{e.name}\n" not in shown] == []


@page
def test_a_page_runs_from_top_to_bottom(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(HOUSE / "docs/examples", tmp_path / "docs/examples", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path / "docs/examples")  # as where Python runs a file
    for language, text in blocks(page.read_text()):
        first = text.partition("\n")[0].removeprefix("# ")
        if language == "python" and first.startswith("docs/examples/"):
            monkeypatch.setattr("sys.argv", [first])
            runpy.run_path(first, run_name="__main__")
        for args in commands(text) if language == "sh" else []:
            if args[0] == "study":  # many runs, whose pictures are drawn elsewhere
                monkeypatch.setattr("thespis.language._draw", lambda _: None)
            code, out = said(tiny(args))
            assert code == 0, f"thespis {shlex.join(tiny(args))}: {out}"


# ------------------------------------------------------------------------------------------------------------ the names


def test_every_option_named_exists() -> None:
    helps = [
        *(["train", name, "--help"] for name, a in thespis.algorithms().items() if a.file.stem == name),  # presets have the same
        ["sweep", "sac", "--help"],
        ["resume", "--help"],
        ["finetune", "--help"],
        ["evaluate", "--help"],
        ["import", "sb3", "--help"],
        *(
            [name, "--help"]
            for name in (
                "export",
                "push",
                "load",
                "report",
                "compare",
                "dashboard",
                "serve",
                "list",
                "record",
                "data",
                "estimate",
                "check-env",
                "model",
                "log",
                "study",
            )
        ),
    ]
    own = ["train", str(HOUSE / "docs/examples/own_algorithm.py"), "--help"]
    known = {"--help", "--version", "--nproc-per-node", "--no-deps"}  # the last two are torchrun's and pip's
    for args in [*helps, own]:
        code, out = said(args)
        assert code == 0, out
        known |= {o.replace("--algo.", "--") for o in re.findall(r"--[a-z][\w.-]*", out)}
    for p in PAGES:
        text = re.sub(r"^ {4,}.*$", "", p.read_text(), flags=re.MULTILINE)  # indented: printed, or a shell's
        for bench, options in re.findall(r"`python\s+bench/(\w+\.py)([^`]*)`", text):
            there = (HOUSE / "bench" / bench).read_text()
            assert all(f'"{o}"' in there for o in re.findall(r"--[a-z][a-z-]+", options)), f"{p.name}: {bench}{options}"
        text = re.sub(r"`python\s+bench/[^`]*`", "", text)
        unknown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - known
        assert not unknown, f"{p.name}: no command has {unknown}"


@page
def test_links_and_pictures_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(page.read_text())):
        if "://" in target:
            continue
        path, _, heading = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page.name}: {target} does not exist"
        if heading:
            headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", file.read_text(), flags=re.M | re.S), re.M)
            slugs = {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}
            assert heading in slugs, f"{page.name}: {file.name} has no heading {heading}"


@page
def test_every_make_target_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (HOUSE / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:`|^    )make ([a-z]+)", page.read_text(), re.MULTILINE))
    assert named <= targets, named - targets


def test_the_tree_of_the_house_is_what_there_is() -> None:
    tree = re.search(r"## The house\n\n((?: {4}.*\n)+)", (HOUSE / "README.md").read_text())
    assert tree
    above = HOUSE
    for line in tree[1].splitlines():
        names = re.split(r"\s{2,}", line[4:].lstrip())[0].split(", ")
        parent = HOUSE if not line.startswith("     ") else above
        for name in names:
            assert (parent / name).exists(), f"README.md: {name}"
        if parent is HOUSE:
            above = HOUSE / names[0]
    rooms = {p.name for p in (HOUSE / "thespis").iterdir() if p.is_dir() and (p / "__init__.py").exists()}
    assert rooms <= set(re.findall(r"^ {6}(\w+)/", tree[1], re.MULTILINE)), "README.md leaves a room out"


def test_the_table_of_a_run_directory_is_what_a_run_leaves(tmp_path: Path) -> None:
    small = {"steps": 60, "warmup": 20, "hidden": (8,), "eval_episodes": 1, "checkpoint_every": 20}
    thespis.train("sac", env="Pendulum-v1", out=tmp_path, panel=False, **small)
    left = {re.sub(r"\d{6,}", "N", p.relative_to(tmp_path).as_posix()) for p in tmp_path.rglob("*") if p.is_file()}
    left = {re.sub(r"^tensorboard/.*", "tensorboard/", name) for name in left}
    section = (HOUSE / "docs/runs.md").read_text().partition("## What is in it")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
    named = {re.sub(r"\d{6,}", "N", name) for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert named == left | {"videos/"}
    top = re.search(r"A run directory holds\n\n((?: {4}.*\n)+)", (HOUSE / "README.md").read_text())
    assert top
    assert {line.split()[0] for line in top[1].splitlines()} == {n.split("/")[0] + "/" * ("/" in n) for n in left if n[0] != "."}


class Telling(gym.Wrapper):
    """Every second episode ends before an evaluation cuts it, and says something."""

    def reset(self, *, seed=None, options=None):
        self.left = 100 if (seed or 0) % 2 else 1000
        return self.env.reset(seed=seed, options=options)

    def step(self, action):
        self.left -= 1
        obs, reward, terminated, truncated, _ = self.env.step(action)
        return obs, reward, terminated, truncated or self.left == 0, {"said": 1}


def test_the_names_of_metrics_are_those_of_a_run(tmp_path: Path) -> None:
    small = {"steps": 220, "warmup": 200, "hidden": (8,), "eval_episodes": 4, "log_every": 210}
    rare = {"eval_policy": "both", "eval_steps": 150}  # what not every run has
    thespis.train("sac", env=lambda: Telling(gym.make("Pendulum-v1")), out=tmp_path, panel=False, **small, **rare)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    had = {re.sub("(^train|info)/.*", r"\1/NAME", name) for row in rows for name in row} - {"step"}
    table = (HOUSE / "docs/python.md").read_text().partition("| name | is |")[2].partition("\n\n")[0]
    assert set(re.findall(r"`([^`]+/[^`]+)`", table)) == had


def test_each_choice_in_the_table_of_sac_is_a_line_of_its_file() -> None:
    source = (HOUSE / "thespis/algos/continuous/sac.py").read_text()
    table = (HOUSE / "docs/sac.md").read_text().partition("| choice |")[2].partition("\n\n")[0]
    quoted = [q.replace(r"\|", "|") for row in table.splitlines()[2:] for q in re.findall(r"`([^`]+)`", row)]
    quoted.remove("update")
    assert len(quoted) > 10
    assert [q for q in quoted if q not in source] == []


# ------------------------------------------------------------------------------------------------------------ the words


def test_exit_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = {int(c) for c in re.findall(r"^\| (\d+) \|", (HOUSE / "docs/runs.md").read_text(), re.MULTILINE)}
    assert codes == {0, 2, 130}
    assert said(["resume", str(tmp_path)])[0] == 2
    assert said(["list"])[0] == 0
    run = thespis.train("sac", env="Pendulum-v1", steps=10, hidden=(8,), eval_episodes=1, out=tmp_path / "run", panel=False)
    monkeypatch.setattr(api, "resume", lambda *a, **k: dataclasses.replace(run, finished=False))
    assert said(["resume", str(run.path)])[0] == 130


def test_a_policy_alone_can_be_loaded(tmp_path: Path) -> None:
    run = thespis.train("sac", env="Pendulum-v1", steps=10, hidden=(8,), eval_episodes=1, out=tmp_path / "run", panel=False)
    shutil.copytree(run.path / "policy", tmp_path / "elsewhere" / "policy")
    assert thespis.load(tmp_path / "elsewhere").act([1, 0, 0]).shape == (1,)


def test_names_of_stable_baselines3_lead_to_ours() -> None:
    """The page's table of options says what the error line of a wrong option says."""
    table = (HOUSE / "docs/from-stable-baselines3.md").read_text().partition("## Options")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", table, re.MULTILINE)
    assert len(rows) > 10
    fields = {
        f.name for cls in (Run, *(type(thespis.algorithms()[n].config) for n in ("sac", "ppo"))) for f in dataclasses.fields(cls)
    }
    for theirs, ours in rows:
        found = set(config.nearest(theirs, fields))
        assert found, theirs
        assert found <= {name.replace("-", "_") for name in re.findall(r"`--([\w-]+)`", ours)}, theirs
