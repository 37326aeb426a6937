"""An archive of solutions that differ: at most one a cell, the fittest that fell into it (MAP-Elites, arXiv:1504.04909)."""

import torch
from torch import Tensor

from thespis.core import Batch, Params, replace, tree, tree_map

EMPTY = torch.finfo(torch.float32).min
"""the fitness of a cell without a solution: finite, as all that a run saves"""


@tree
class Archive:
    """K cells of a space of descriptors with D numbers."""

    centroids: Tensor  # (K, D)
    fitness: Tensor  # (K,), EMPTY where there is no solution
    descriptor: Tensor  # (K, D)
    genes: Params  # each (K, ...)

    @property
    def filled(self) -> Tensor:
        """(K,) bool"""
        return self.fitness > EMPTY


def empty(centroids: Tensor, genes: Params) -> Archive:
    """An empty one, for solutions like `genes`, each (n, ...)."""
    count = len(centroids)
    blank = {k: torch.zeros(count, *x.shape[1:]) for k, x in genes.items()}
    return Archive(centroids, torch.full((count,), EMPTY), torch.zeros_like(centroids), blank)


def grid(counts: tuple[int, ...], low: float = -1.0, high: float = 1.0) -> Tensor:
    """The middles of a grid's cells, (product of counts, D)."""
    axes = [low + (high - low) * (torch.arange(n) + 0.5) / n for n in counts]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)


def voronoi(cells: int, dim: int, low: float = -1.0, high: float = 1.0, samples: int = 20, rounds: int = 20) -> Tensor:
    """Centroids (cells, dim) that share a cube about evenly: k-means on `samples` random points a cell (CVT-MAP-Elites,
    arXiv:1610.05729)."""
    points = low + (high - low) * torch.rand(samples * cells, dim)
    centres = points[:cells]
    for _ in range(rounds):
        nearest = cell(points, centres)
        count = torch.zeros(cells).index_add(0, nearest, torch.ones(len(points)))
        total = torch.zeros(cells, dim).index_add(0, nearest, points)
        centres = torch.where(count[:, None] > 0, total / count[:, None].clamp(min=1), centres)
    return centres


def cell(descriptor: Tensor, centroids: Tensor) -> Tensor:
    """The nearest centroid (K, D) to each descriptor (n, D): (n,)."""
    return _far(descriptor, centroids).argmin(-1)


def _far(descriptor: Tensor, others: Tensor) -> Tensor:
    """(n, D), (K, D) -> (n, K): squared distances, less what is the same for all K."""
    return others.square().sum(-1) - 2 * descriptor @ others.T


def insert(a: Archive, genes: Params, fitness: Tensor, descriptor: Tensor) -> tuple[Archive, Tensor]:
    """Each of n solutions takes its cell where that is empty or less fit; of several the fittest, of equals the first.
    genes, each (n, ...), fitness (n,), descriptor (n, D). Returns the archive and which cells changed, (K,) bool."""
    cells, n = cell(descriptor, a.centroids), len(fitness)
    best = torch.full_like(a.fitness, EMPTY).scatter_reduce(0, cells, fitness, "amax")
    better = best > a.fitness
    row = torch.where(fitness == best[cells], torch.arange(n, device=fitness.device), n)
    first = torch.full_like(a.fitness, n, dtype=torch.int64).scatter_reduce(0, cells, row, "amin").clamp(max=n - 1)

    def taken(new: Tensor, old: Tensor) -> Tensor:
        return torch.where(better.view(-1, *[1] * (old.dim() - 1)), new[first], old)

    chosen = {k: taken(genes[k], old) for k, old in a.genes.items()}
    fitter = torch.where(better, best, a.fitness)
    return replace(a, fitness=fitter, descriptor=taken(descriptor, a.descriptor), genes=chosen), better


def drawn(a: Archive, n: int) -> Tensor:
    """n cells that are filled, (n,), uniformly and with replacement; of an empty archive any."""
    filled = a.filled
    count = filled.sum()
    order = torch.argsort((~filled).int(), stable=True)
    among = torch.where(count > 0, count, len(order))
    return order[(torch.rand(n, device=filled.device) * among).long().clamp(max=len(order) - 1)]


def elites(a: Archive, cells: Tensor) -> Params:
    """The solutions of these cells, each (n, ...)."""
    return {k: x[cells] for k, x in a.genes.items()}


def like(a: Archive, descriptor: Tensor) -> Tensor:
    """The cell of the solution whose descriptor is nearest to each of (n, D): (n,)."""
    return torch.where(a.filled, _far(descriptor, a.descriptor), torch.inf).argmin(-1)


def asked(a: Archive, n: int, explore: bool) -> Tensor:
    """Descriptors (n, D) to ask for, of solutions that there are: any, or without `explore` the same for the same archive, spread
    evenly over its filled cells."""
    if explore:
        return a.descriptor[drawn(a, n)]
    order = torch.argsort((~a.filled).int(), stable=True)
    place = torch.arange(n, device=order.device) * a.filled.sum() // n
    return a.descriptor[order[place.clamp(max=len(order) - 1)]]


def isoline(one: Params, two: Params, iso: float, line: float) -> Params:
    """Children of n pairs, each (n, ...): one + iso * noise in every number + line * (two - one) * a normal number a pair
    (Vassiliades & Mouret 2018, arXiv:1804.03906, eq. 1)."""
    first = next(iter(one.values()))
    along = line * torch.randn(len(first), device=first.device)
    return {k: x + iso * torch.randn_like(x) + along.view(-1, *[1] * (x.dim() - 1)) * (two[k] - x) for k, x in one.items()}


def quality(a: Archive) -> dict[str, Tensor]:
    """ "qd_score", the sum of fitness over all cells, an empty one 0; "coverage", the part of them that is filled; and
    "best", the largest fitness. Of an empty archive all are 0."""
    fitness = torch.where(a.filled, a.fitness, 0.0)
    best = torch.where(a.filled.any(), a.fitness.max(), 0.0)
    return {"qd_score": fitness.sum(), "coverage": a.filled.float().mean(), "best": best}


def first_episodes(reward: Tensor, ended: Tensor) -> tuple[Tensor, Tensor]:
    """Of a rollout, reward (T, N, R) and ended (T, N): the returns (N, R) of each environment's first episode, and which steps
    are of it, (T, N) bool."""
    over = ended.long()
    mine = over.cumsum(0) - over == 0
    return torch.where(mine[..., None], reward, 0.0).sum(0), mine


def flat(rollout: Batch) -> Batch:
    """Its rows, (T, N, ...) -> (T * N, ...)."""
    return tree_map(lambda x: x.flatten(0, 1), rollout)
