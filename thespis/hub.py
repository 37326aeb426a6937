"""A policy to the Hugging Face Hub with a card that says what it is, and from there into a folder. Reading: engine/fetch.py."""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path, PurePath
from typing import Any

from thespis import api
from thespis.core import Fault
from thespis.directory import place
from thespis.engine import checkpoint, fetch, log
from thespis.report import curve

PUSHED = ["README.md", "config.json", "policy/*", "curve.png", "replay.mp4"]  # what a push replaces or takes away


def push(path: str | Path | api.Result, repo: str, *, private: bool = False, algo: str | None = None, **parts: Any) -> str:
    """Uploads the policies of a run, with what they need, to the Hub's model `repo`, "owner/name"; returns its address.

    A repository that does not exist is created, `private` or public. Raises Fault if the policy cannot be loaded, or if the Hub
    refuses it.
    """
    if not re.fullmatch(fetch.NAME, repo):
        raise Fault(f"repo is {repo!r}; allowed: owner/name")
    policy, folder = api.load(path, algo=algo, **parts), api.path_of(path)
    hub = fetch.client()
    if not fetch.token():
        raise Fault("the Hub wants a token that may write: run 'hf auth login', or set HF_TOKEN")
    with tempfile.TemporaryDirectory() as aside:
        fill(Path(aside), folder, f"{fetch.SCHEME}{repo}", policy)
        try:
            hub.create_repo(repo, private=private, exist_ok=True)
            said = f"{policy.about['algo']} of step {policy.about['step']}, by Thespis {api.thespis.__version__}"
            hub.upload_folder(repo_id=repo, folder_path=aside, commit_message=said, delete_patterns=PUSHED)
        except Exception as error:  # of the client, of its transport
            raise Fault(f"{repo} cannot be pushed to: {fetch.reason(error)}") from error
    return f"{fetch.SCHEME}{repo}"


def bring(path: str, out: str | Path | None = None) -> Path:
    """The files of hf://owner/name in a new folder `out` (default: runs/NAME) that `evaluate` understands."""
    if not fetch.named(path):
        raise Fault(f"{path!r} is no place on the Hub; allowed: hf://owner/name or hf://owner/name@revision")
    target = place(out) if out else Path("runs") / path.removeprefix("hf://").partition("@")[0].rpartition("/")[2]
    if target.exists():
        raise Fault(f"out: {target} exists; give another with --out")
    source = fetch.local(path)
    target.parent.mkdir(parents=True, exist_ok=True)

    def fill(aside: Path) -> None:
        (aside / "policy").mkdir(parents=True)
        for name in fetch.FILES:
            if (source / name).is_file():
                shutil.copyfile(source / name, aside / name)

    checkpoint.write(target, fill)
    return target


def fill(aside: Path, folder: Path, address: str, policy: api.Policy) -> None:
    """What is pushed: the policies of the run `folder`, and a card that names the `address` to load them from. Of JSON, all but
    the places on this machine that it names."""
    (aside / "policy").mkdir()
    for name in fetch.FILES:
        if not (folder / name).is_file():
            continue
        if name.endswith(".json"):
            about = checkpoint.read_json(folder / name)
            if sealed := "sha256" in about:
                checkpoint.unseal(about, folder / name)
            (checkpoint.write_sealed if sealed else checkpoint.write_json)(aside / name, _nameless(about))
        else:
            shutil.copyfile(folder / name, aside / name)
    if (folder / "curve.png").is_file():
        shutil.copyfile(folder / "curve.png", aside / "curve.png")
    if videos := sorted((folder / "videos").glob("*.mp4"), key=lambda p: p.stat().st_mtime):
        shutil.copyfile(videos[-1], aside / "replay.mp4")
    (aside / "README.md").write_text(_card(aside, folder, address, policy), encoding="utf-8")


def _nameless(about: dict[str, Any]) -> dict[str, Any]:
    run, start = about["run"], about.get("start")
    data = {"data": PurePath(run["data"]).name} if run.get("data") else {}
    begun = {"start": start | {"run": PurePath(str(start.get("run"))).name}} if isinstance(start, dict) else {}
    kept, name = {k: v for k, v in about.items() if k != "origin"}, PurePath(about["algo"]).name
    title = {"title": about["title"].replace(about["algo"], name)} if isinstance(about.get("title"), str) else {}
    return kept | begun | title | {"algo": name, "run": run | data}


def evaluated(folder: Path, step: int) -> dict[str, Any] | None:
    """The newest evaluation of the run up to that step: a row of metrics.jsonl."""
    return next((r for r in reversed(curve.rows(folder)) if r["step"] <= step and r.get("eval/return_mean") is not None), None)


def _card(aside: Path, folder: Path, address: str, policy: api.Policy) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    about = _nameless(policy.about)
    env, algo, run = about["run"]["env"], about["algo"], about["run"]
    known = api.algorithms().get(algo)
    rows = ["| policy | of step | return | evaluated at step | episodes |", "|---|---|---|---|---|"]
    results = []
    for which in ("last", "best"):
        file = aside / "policy" / f"{which}.json"
        row = evaluated(folder, step := checkpoint.read_json(file)["step"]) if file.is_file() else None
        if row is None:
            continue
        mean, std, episodes = row["eval/return_mean"], row["eval/return_std"], len(row["eval/returns"])
        rows.append(f"| {which} | {step:,} | {log.spread(mean, std)} | {row['step']:,} | {episodes} |")
        if which == "last":
            value = f"{mean:.2f} +/- {std:.2f}"
            results.append(EvalResult(
                task_type="reinforcement-learning", task_name="reinforcement-learning", dataset_type=env, dataset_name=env,
                metric_type="mean_reward", metric_name=f"mean return over {episodes} episodes", metric_value=value,
            ))  # fmt: skip
    tags = ["reinforcement-learning", "actor-critic", algo, env]
    more: Any = {"model_name": address.rpartition("/")[2], "eval_results": results} if results else {}
    data = ModelCardData(library_name="thespis", pipeline_tag="reinforcement-learning", tags=tags, **more)
    again = (" --env ENV" if about["own_env"] else "") + ("" if known else f" --algo {algo}")
    result = ["## Result", "", *rows, "", RESULT] if len(rows) > 2 else []
    lines = [
        "---", data.to_yaml(), "---", "", f"# {algo} on {env}", "",
        f"A policy made with Thespis {about.get('thespis', '')}, a PyTorch library of actor-critic learning.", "",
        f"- algorithm: {algo}" + (f", {known.paper}" if known and known.paper else ""),
        f"- environment: {env}" + (", the author's own" if about["own_env"] else ""),
        f"- environment steps: {about['step']:,}", f"- seed: {run.get('seed', 'not known')}",
        "- `config.json` has every other number", "", *result,
        "## Use", "", *(["With `thespis[hub]` installed:", ""] if fetch.named(address) else []),
        "```sh", f"thespis evaluate {address} --episodes 10{again}", "```", "",
        "```python", "import thespis", "", f'policy = thespis.load("{address}")', "action = policy.act(obs)", "```", "",
        "The files are JSON and safetensors, no pickle: loading them runs no code from them.", "",
        *(["![Return over environment steps](curve.png)", ""] if (aside / "curve.png").is_file() else []),
    ]  # fmt: skip
    return "\n".join(lines)


RESULT = """\
Return is the mean and the standard deviation over whole episodes with the mean action, in one run of one seed. The best policy
was chosen by that number among all evaluations, so expect less of it.
"""
