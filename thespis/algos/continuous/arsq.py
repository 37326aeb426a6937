"""Auto-Regressive Soft Q-learning: an action's digits, coarse to fine, each with a soft advantage given those before it.

Paper: Liu et al. 2025, arXiv:2502.00288, "Learning from Suboptimal Data in Continuous Control via Auto-Regressive Soft
Q-Network".
Parent: soft Q-learning (arXiv:1702.08165) on a grid of actions, which it is with one dimension and one level. Without
`autoregressive` a dimension's advantage stands alone given the level, as in coarse-to-fine Q-learning (arXiv:2407.07787).
Departures: one step size (the authors' code: two); the run's own good episodes do not become demonstrations; the code's bias
head and its log-sum-exp form of the demonstration loss are left out.
Assumed: the fields that say so, and that the demonstration loss is a mean over demonstrated rows; the equations are as read in
the authors' code.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import log_softmax

from thespis import nets, ops
from thespis.config import Ascending, Count, Fraction, Members, Natural, NonNegative, Positive, Range, Rate
from thespis.core import Batch, Box, Fault, Learner, Metrics, OffPolicy, Params, Spec, Trained, replace, tree
from thespis.optim import descend, fresh, polyak


@dataclass(frozen=True)
class Config:
    lr: Rate = 3e-4
    """Adam step size of values and advantages (assumed)"""
    tau: Fraction = 0.005
    """target smoothing coefficient (assumed)"""
    hidden: tuple[Count, ...] = (512, 512, 512)
    """widths of the hidden layers, tanh between them (authors' code)"""
    critics: Members = 2
    """pairs of a value and an advantage; targets and acting take the minimum (authors' code)"""
    alpha: Positive = 0.01
    """temperature, in the unit of the rewards: about a hundredth of their size (assumed)"""
    levels: Count = 2
    """times that each dimension's interval is split (the paper, on D4RL)"""
    bins: Annotated[int, Range(2)] = 7
    """parts that it is split into each time (the paper, on D4RL)"""
    autoregressive: bool = True
    """whether an advantage is given its own level's earlier dimensions, or the levels before alone"""
    demo_weight: NonNegative = 1.0
    """weight of the demonstration loss (assumed)"""
    margin: NonNegative = 0.01
    """a demonstrated bin's advantage is pushed this far above the others', -C_m (assumed; as arXiv:2407.07787)"""
    demo_fraction: Fraction = 0.5
    """part of a batch that is drawn from the demonstrations, where there is a dataset (assumed)"""
    demo_slice: Annotated[tuple[Fraction, Fraction], Ascending()] = (0.0, 1.0)
    """the demonstrations among a dataset's episodes: quantiles of return, 0 the worst (authors' code)"""
    pretrain: Natural = 10_000
    """updates on a dataset before the first step (authors' code: some epochs; how many is assumed)"""
    gamma: Fraction = 0.99
    """discount of future rewards (assumed)"""
    n_step: Count = 1
    """steps of reward before the bootstrap (assumed)"""
    batch_size: Count = 256
    """transitions in an update (assumed)"""
    replay_size: Count = 1_000_000
    """transitions kept, beside a dataset's (assumed)"""
    warmup: Natural = 0
    """uniformly random environment steps before the first update (authors' code)"""
    updates_per_step: Positive = 1.0
    """gradient steps for each environment step (assumed)"""


@tree
class State:
    critic: Trained  # value.* and advantage.*, all members on a leading axis
    target: Params  # of the values


def make(cfg: Config, spec: Spec) -> Learner:
    if not isinstance(spec.action, Box):
        raise Fault(f"arsq: continuous actions (a Box) are needed, the environment's are {spec.action}")
    obs_dim, dim, levels, bins, alpha = spec.obs.dim, spec.action.dim, cfg.levels, cfg.bins, cfg.alpha
    places = levels * dim  # level by level, dimension by dimension
    values = nets.ensemble(nets.orthogonal((obs_dim, *cfg.hidden, 1), torch.tanh, 0.01), cfg.critics)
    scores = nets.ensemble(nets.orthogonal((obs_dim + dim, *cfg.hidden, places * bins), torch.tanh, 0.01), cfg.critics)

    def part(p: Params, name: str) -> Params:
        return {k.removeprefix(name): x for k, x in p.items() if k.startswith(name)}

    def v(p: Params, obs: Tensor) -> Tensor:  # (critics, B)
        return values.apply(p, obs).squeeze(-1)

    def score(p: Params, obs: Tensor, given: Tensor) -> Tensor:  # (critics, ..., places, bins)
        return scores.apply(p, torch.cat([obs, given], -1)).unflatten(-1, (places, bins))

    def centre(cell: Tensor, level: int) -> Tensor:  # of a cell among bins^level in [-1, 1]
        return (2 * cell + 1) / bins**level - 1

    def cells(action: Tensor) -> list[Tensor]:  # the cell of each dimension after 0 .. levels splits, each (B, action)
        finest = ((action + 1) / 2 * bins**levels).long().clamp(0, bins**levels - 1)
        return [finest // bins ** (levels - j) for j in range(levels + 1)]

    def known(old: Tensor, new: Tensor) -> Tensor:  # (B, action, action): what each dimension's advantage is given of all
        earlier = torch.ones(dim, dim, device=old.device).tril(-1) * cfg.autoregressive
        return torch.where(earlier > 0, new[:, None], old[:, None])

    def advantages(p: Params, obs: Tensor, cell: list[Tensor]) -> Tensor:  # along an action's way: (critics, B, places, bins)
        given = torch.cat([known(centre(cell[j], j), centre(cell[j + 1], j + 1)) for j in range(levels)], 1)
        own = score(p, obs[:, None].expand(-1, places, -1), given).diagonal(0, -3, -2).transpose(-1, -2)
        return alpha * log_softmax(own / alpha, -1)  # so that exp(A / alpha) sums to 1: the policy

    def critic_loss(p: Params, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        cell = cells(b.action)
        chosen = torch.cat([c % bins for c in cell[1:]], 1).unsqueeze(-1).expand(cfg.critics, -1, -1, -1)
        every, value = advantages(part(p, "advantage."), b.obs, cell), v(part(p, "value."), b.obs)
        taken = every.gather(-1, chosen)
        q = value + taken.sum((-2, -1))  # the soft advantage of an action is the sum of its digits'
        y = ops.backup(b.reward, b.discount, v(s.target, b.next_obs).amin(0))
        td = (q - y).square().mean(-1).sum()
        over = (every - taken).clamp(min=-cfg.margin).sum((-2, -1)) / (bins - 1)  # the chosen bin's own is 0
        demo = (over * b.extra["demo"]).sum() / b.extra["demo"].sum().clamp(min=1)
        return td + cfg.demo_weight * demo, {"q": q.mean(), "v": value.mean(), "td": td, "demo": demo}

    def init() -> State:
        p = {f"value.{k}": x for k, x in values.init().items()} | {f"advantage.{k}": x for k, x in scores.init().items()}
        return State(fresh(p), part(p, "value."))

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:
        critic, metrics = descend(s.critic, critic_loss, cfg.lr, s, b)
        return State(critic, polyak(s.target, part(critic.params, "value."), cfg.tau)), metrics

    def act(p: Params, obs: Tensor, explore: bool) -> Tensor:
        cell = torch.zeros(obs.shape[0], dim, dtype=torch.long, device=obs.device)
        for j in range(levels):
            new = cell * bins
            for d in range(dim):
                given = known(centre(cell, j), centre(new, j + 1))[:, d]
                logits = log_softmax(score(p, obs, given)[:, :, j * dim + d] / alpha, -1).amin(0)
                if explore:  # the largest after Gumbel noise is a draw
                    logits = logits - (-torch.rand_like(logits).log()).log()
                new = new + logits.argmax(-1, keepdim=True) * (torch.arange(dim, device=obs.device) == d)
            cell = new
        return centre(cell, levels)

    feed = OffPolicy(cfg.gamma, cfg.n_step, cfg.batch_size, cfg.replay_size, cfg.warmup, cfg.updates_per_step)
    return Learner(
        init, update, lambda s: part(s.critic.params, "advantage."), act,
        losses={"critic": critic_loss}, needs=frozenset({"demo"}),
        experience=replace(feed, demo_fraction=cfg.demo_fraction, demo_slice=cfg.demo_slice, pretrain=cfg.pretrain),
    )  # fmt: skip
