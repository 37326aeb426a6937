"""MAP-Elites: an archive of policies that end in different places, each the fittest that did; children of random parents.

Paper: Mouret, Clune 2015, "Illuminating search spaces by mapping elites", arXiv:1504.04909.
Parent: none. The cells are those of CVT-MAP-Elites (Vassiliades et al. 2016, arXiv:1610.05729), the variation that of
Vassiliades, Mouret 2018, arXiv:1804.03906. It takes no gradient.
Departures: the cells are found by k-means on 20 points a cell (50,000 in all); where a policy is acted with, it is the archive's
elite whose descriptor is next to the one that is asked for.
Assumed: numbers are those of the baseline in Faldor et al. 2023, arXiv:2303.03832.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis import nets, ops
from thespis.config import Count, Interval, NonNegative
from thespis.core import Batch, Box, Fault, Learner, Metrics, Params, Spec, replace, tree
from thespis.data import OnPolicy, described


@dataclass(frozen=True)
class Config:
    offspring: Count = 256
    """policies that are tried side by side, an environment each"""
    cells: Count = 1_024
    """cells of the archive"""
    grid: Count | None = None
    """cells along each number of the descriptor, of a grid; None: cells of about the same size"""
    bounds: Interval = (-1.0, 1.0)
    """least and greatest of each number of a descriptor"""
    iso: NonNegative = 0.005
    """noise in every parameter of a child"""
    line: NonNegative = 0.05
    """noise along the line from one parent to the other, in units of their distance"""
    hidden: tuple[Count, ...] = (128, 128)
    """widths of a policy's hidden layers, ReLU between them"""
    episode_steps: Count | None = None
    """steps in which a policy is tried; None: the time limit of the environment"""


TAKES = {"rewards"}
"""several rewards of a step"""


@tree
class State:
    archive: ops.archive.Archive
    candidates: Params
    """the policies that are tried now, each (offspring, ...)"""


def make(cfg: Config, spec: Spec, actor: nets.Build | None = None) -> Learner:
    """`actor(spec)`: your own module, obs -> action before its tanh. The first reward is the fitness; the others, summed over an
    episode, are the descriptor."""
    if not isinstance(spec.action, Box):
        raise Fault(f"map_elites: continuous actions (a Box) are needed, the environment's are {spec.action}")
    dim, steps = described("map_elites", spec, cfg.episode_steps)
    obs_dim = spec.obs.dim
    net = nets.custom(actor, spec, obs_dim, spec.action.dim) or nets.mlp((obs_dim, *cfg.hidden, spec.action.dim))
    each = torch.vmap(net.apply)

    def pi(p: Params, obs: Tensor) -> Tensor:  # policies (n, ...), an observation each (n, obs) -> (n, action)
        return each(p, obs[:, None, :obs_dim])[:, 0].tanh()

    def init() -> State:
        first = nets.ensemble(net, cfg.offspring).init()
        cells = ops.archive.grid((cfg.grid,) * dim, *cfg.bounds) if cfg.grid else ops.archive.voronoi(cfg.cells, dim, *cfg.bounds)
        return State(ops.archive.empty(cells, first), first)

    def prepare(s: State, rollout: Batch) -> tuple[State, Batch, Metrics]:  # evaluation and replacement
        returns, _ = ops.archive.first_episodes(rollout.reward, rollout.extra["ended"])
        archive, new = ops.archive.insert(s.archive, s.candidates, returns[:, 0], returns[:, 1:])
        told = ops.archive.quality(archive) | {"fitness": returns[:, 0].mean(), "inserted": new.float().sum()}
        return replace(s, archive=archive), ops.archive.flat(rollout), told

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # random selection and variation
        one, two = (ops.archive.elites(s.archive, ops.archive.drawn(s.archive, cfg.offspring)) for _ in range(2))
        apart = sum(((two[n] - x).flatten(1).square().sum(-1) for n, x in one.items()), start=torch.zeros(()))
        return replace(s, candidates=ops.archive.isoline(one, two, cfg.iso, cfg.line)), {"parents_apart": apart.sqrt().mean()}

    def act(a: ops.archive.Archive, obs: Tensor, explore: bool) -> Tensor:
        return pi(ops.archive.elites(a, ops.archive.like(a, obs[:, obs_dim:])), obs)

    return Learner(
        init, update, lambda s: s.archive, act, losses={}, prepare=prepare,
        experience=OnPolicy(1.0, steps, 1, steps * cfg.offspring, whole=True, policies=cfg.offspring),
        collect=lambda s, obs, rows: pi({k: x[rows] for k, x in s.candidates.items()}, obs),
        context=lambda s, n, explore: ops.archive.asked(s.archive, n, explore),
    )  # fmt: skip
