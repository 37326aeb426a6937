"""Datasets made of runs: what a policy does, or all that a run has seen; and what is in a dataset."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

import thespis
from thespis import config, envs
from thespis.core import Box, Fault, OffPolicy
from thespis.data import Replay, Source, dataset, experience, minari
from thespis.data.minari import Episode
from thespis.directory import Env, Result, open_run, path_of, place, world_of
from thespis.engine import agents, checkpoint, fetch
from thespis.engine.act import Actor
from thespis.engine.collect import random_actions
from thespis.envs.flat import TASK_REWARD
from thespis.policy import Policy, load
from thespis.report import dataset as drawing
from thespis.worlds import feeds, live_feed, live_log


@dataclass(frozen=True)
class _Asked:
    episodes: config.Count
    noise: config.NonNegative
    seed: config.Natural | None
    which: Literal["last", "best", "first", "random"]


CONTEXTS = "run: {} draws a context for each episode, which a dataset does not have"


@dataclass(frozen=True)
class Recording:
    path: Path
    episodes: int
    steps: int
    return_mean: float


def record(
    run: str | Path | Result, out: str | Path, episodes: int = 10, *,
    noise: float = 0.0, which: Literal["last", "best", "first", "random"] = "last", replay: bool = False, seed: int | None = None,
    env: Env | None = None, wrappers: Sequence[str] | None = None, algo: str | None = None, **parts: Any,
) -> Recording:  # fmt: skip
    """Whole episodes with the mean action of a run's policy, or with `replay` all that the run has seen: a dataset in Minari's
    format, in the new folder OUT.

    `noise`: standard deviation of normal noise on an action in [-1, 1]; of choices, the share that is drawn at random. `which`
    may be "random": uniformly random actions in the run's environment.
    """
    asked, out = config.check(_Asked(episodes, float(noise), seed, which)), place(out)
    if out.exists():
        raise Fault(f"out: {out} exists; give another")
    folder = path_of(fetch.local(run))
    about, found, cfg, settings, world = open_run(folder, env, algo, None, wrappers)
    if replay:
        if asked.noise or which != "last":
            raise Fault("replay: what a run has seen is as it is; leave out noise and which")
        if world.weights:
            raise Fault("replay: the run keeps the weighted sum of its rewards alone; leave it out, to record its policy")
        learner = found.module.make(cfg, agents.each(world.spec, settings.agents), **parts)
        if learner.context:
            raise Fault(CONTEXTS.format(folder))
        feed = learner.experience
        if settings.offline or not isinstance(feed, OffPolicy):
            raise Fault(f"replay: {folder} keeps nothing of what it has seen; leave it out, to record its policy")
        held = experience(world.spec, feed, settings.num_envs, 0, frozenset(), settings.collectors)
        checkpoint.load(folder, held, lambda note: None)
        made: Iterator[Episode] = (e for part in held.parts if isinstance(part, Replay) for e in _seen(part, world))
        recipe = f"all that {about['title']} has seen"
    else:
        first = settings.seed + 2_000_000 if seed is None else seed
        policy = None if which == "random" else load(folder, which, algo=algo, **parts)
        if policy and policy.contexts is not None:
            raise Fault(CONTEXTS.format(folder))
        made = _played(world, policy, asked, first)
        what = "uniformly random actions" if policy is None else f"the {which} policy of {about['title']}, noise {asked.noise:g}"
        recipe = f"{what}, seed {first}"
    returns, steps = [], 0

    def kept() -> Iterator[Episode]:
        nonlocal steps
        for episode in made:
            returns.append(float(world.total(episode.rewards).sum()))
            steps += len(episode.rewards)
            yield episode

    spec = gym.spec(world.name).to_json() if world.name in gym.registry else None
    words = {"env_spec": spec, "description": recipe, "algorithm_name": found.name, "author": f"thespis {thespis.__version__}"}
    both = world.observation_space, world.action_space
    checkpoint.write(out, lambda aside: minari.write(aside / "data", out.name, *both, kept(), words))
    return Recording(out, len(returns), steps, float(np.mean(returns)))


def log(
    env: str, out: str | Path, steps: int = 100_000, *, seed: int = 0, env_args: Mapping[str, Any] | None = None
) -> Recording:
    """What a world of a feed logs under its own behaviour: the new file OUT (.npz), columns as a dataset's and `propensities`,
    the probability that each recorded choice had; or of live streams .csv, as `fit_world` takes it. Fault: another world, another
    kind of file."""
    out = Path(out)
    if out.suffix not in (".npz", ".csv") or out.exists():
        raise Fault(f"out: {out}{' exists; give another' if out.exists() else '; allowed: a file .npz'}")
    world = envs.world(env, args=env_args).make()
    if not isinstance(world.unwrapped, feeds.Feed):
        raise Fault(f"env is {env!r}; allowed: a world that is a feed, as thespis/ShortVideo-v0")
    if out.suffix == ".csv" and not isinstance(world.unwrapped, live_feed.LiveFeed):
        raise Fault(f"out: {out}; allowed: a file .npz, or .csv of thespis/LiveFeed-v0")
    columns: dict[str, Any] = feeds.log(world.unwrapped, steps, seed)

    def fill(aside: Path) -> None:
        if out.suffix == ".csv":
            lines = zip(*(x.tolist() for x in live_log.table(columns).values()), strict=True)
            aside.write_text("\n".join(",".join(map(str, line)) for line in [live_log.COLUMNS, *lines]) + "\n")
            return
        with aside.open("wb") as file:
            np.savez(file, **columns)

    checkpoint.write(out, fill)
    episodes, total = int((columns["terminals"] | columns["timeouts"]).sum()), columns["rewards"]
    return Recording(out, episodes, len(total), float(total.sum() / episodes))


def fit_world(source: str | Path, out: str | Path, *, seed: int = 0) -> dict[str, int]:
    """Fits thespis/LiveFeed-v0 to a log, .csv or .parquet (worlds/live_log.py has its columns), and writes the new world file OUT
    (.json), for env_args file=OUT. How many users, sessions, requests and shown lives it was fitted to."""
    out = Path(out)
    if out.suffix != ".json" or out.exists():
        raise Fault(f"out: {out}{' exists; give another' if out.exists() else '; allowed: a file .json'}")
    of, about = live_log.fit(live_log.read(Path(source)), seed)
    checkpoint.write(out, lambda aside: aside.write_text(live_feed.text(of, about)) and None)
    return about


class _Watched(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps what the environment shows, in its own terms."""

    def __init__(self, env: gym.Env[Any, Any]):
        super().__init__(env)
        self.seen: list[Any] = []

    def reset(self, **how: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(**how)
        self.seen = [copy.deepcopy(obs)]
        return obs, info

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        self.seen.append(copy.deepcopy(result[0]))
        return result


def _played(world: envs.World, policy: Policy | None, asked: _Asked, seed: int) -> Iterator[Episode]:
    """Episodes in the environment's own terms, guarded as a live run's are."""
    rng, translate = np.random.default_rng(seed), envs.spaces.translator(world.action_space)
    flat, kind = world.make(), world.spec.action
    flat.env = watched = _Watched(flat.env)
    actor = None if policy is None else Actor(policy.learner, 1)
    torch.manual_seed(seed)
    try:
        for _ in range(asked.episodes):
            start = int(rng.integers(2**31))
            obs, _ = flat.reset(seed=start)
            if actor:
                actor.begin(torch.tensor([0]))
            actions, rewards, terminated, truncated = [], [], False, False
            while not (terminated or truncated):
                chosen = random_actions(world.spec, obs[None], rng)[0]
                if actor and policy and (isinstance(kind, Box) or rng.random() >= asked.noise):
                    chosen = actor(policy.params, torch.from_numpy(obs)[None], False)[0].numpy()
                    if isinstance(kind, Box) and asked.noise:
                        chosen = np.clip(chosen + asked.noise * rng.normal(size=kind.dim), -1, 1).astype(np.float32)
                actions.append(translate(chosen))
                obs, reward, terminated, truncated, info = flat.step(chosen)
                rewards.append(info[TASK_REWARD] if world.weights else reward)
            seen = _stacked(watched.seen, world.observation_space)
            yield Episode(seen, _stacked(actions, world.action_space), np.array(rewards), terminated, truncated, start)
    finally:
        flat.close()


def _seen(part: Replay, world: envs.World) -> Iterator[Episode]:
    """What a replay holds, from the oldest step on: an episode of each environment after the other."""
    translate, n = envs.spaces.translator(world.action_space), part.num_envs
    for env in range(n):
        row = (np.arange(part.oldest(), part.steps) * n + env) % len(part.obs)
        over = part.ended[row]
        over[-1:] = True
        for rows in np.split(row, np.flatnonzero(over)[:-1] + 1):
            end = rows[-1]
            last = part.finals[part.final_at[end]] if part.ended[end] else part.obs[(end + n) % len(part.obs)]
            obs = envs.spaces.unflatten(world.observation_space, np.concatenate([part.obs[rows], last[None]]))
            actions = _stacked([translate(a) for a in part.action[rows]], world.action_space)
            terminated = bool(part.terminated[end])
            yield Episode(obs, actions, part.reward[rows].astype(np.float64), terminated, not terminated, None)


def _stacked(values: list[Any], space: gym.Space[Any]) -> Any:
    if isinstance(space, spaces.Dict):
        return {k: _stacked([v[k] for v in values], part) for k, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_stacked([v[i] for v in values], part) for i, part in enumerate(space.spaces))
    return np.stack([np.asarray(v, space.dtype) for v in values])


def inspect(source: Source, env: Env | None = None, out: str | Path | None = None) -> dict[str, Any]:
    """What is in a dataset: numbers, and where they can be drawn a picture, OUT (default: beside the dataset, as NAME.png)."""
    world = world_of(env, source)
    data = dataset.read(source, world.observation_space, world.action_space, envs.spaces.flatten, envs.spaces.unscale_action)
    reward = data.reward if data.reward.ndim == 1 else data.reward.sum(1)
    found = drawing.numbers(data.obs, data.action, reward, data.terminated, data.lengths)
    name = dataset.origin(source).name
    picture = place(out) if out else Path(f"{re.sub(r'[^a-zA-Z0-9_.-]+', '-', name)}.png")
    drawn = drawing.picture(found, data.obs, data.action, name)
    checkpoint.write(picture, lambda aside: drawn.savefig(aside, dpi=150, format=picture.suffix[1:] or "png"))
    table = {k: v for k, v in found.items() if k not in ("returns", "lengths")}
    return {
        "name": name,
        "env": world.name if world.simulated else None,
        **table,
        "notes": list(data.notes),
        "picture": str(picture),
    }
