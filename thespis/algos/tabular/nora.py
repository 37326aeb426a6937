"""NORA: an optimistic critic of the optimal values, exchanged rarely; the actor starts anew whenever it is.

Paper: Tan, Fan, Wei 2025, "Actor-Critics Can Achieve Optimal Sample Efficiency", arXiv:2505.03710.
Parent: optimistic value iteration (LSVI-UCB, arXiv:1907.05388, with a table for its features), which it becomes as lr grows
without bound and switch goes to 0: the greedy policy of a critic that is fitted anew in every episode.
Departures: a table for each step of the episode, for the paper's function classes; of the confidence set the member whose
budget is spent evenly on all pairs of state and action, for the set's most optimistic one, which cannot be found in general.
Assumed: of the paper the abstract alone could be read: optimism, an off-policy critic that targets the optimal values, rare
switching with policy resets, a critic that begins with offline data (hybrid), and a form without optimism. The names NORA and
NOAH, the test for a switch and its constant 5, and the actor's exponential weights are from memory. lr and radius are tuned.
Presets: noah, the same paper: no optimism, for runs that begin with data.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from thespis.config import Positive, Rate, Schedule
from thespis.core import Batch, Discrete, Fault, Learner, Metrics, Spec, replace, tree, tree_map
from thespis.data import OnPolicy


@dataclass(frozen=True)
class Config:
    lr: Rate = 1.0
    """eta of the actor's exponential weights, a step an episode; the theory's is sqrt(log(actions) / (horizon^2 episodes))"""
    radius: Positive = 0.3
    """root of the confidence set's budget for one pair of state and action; the theory's is of the order of the horizon"""
    switch: Positive = 5.0
    """how many budgets a critic's squared error may exceed the least one by, at any step, before it is exchanged"""
    optimism: bool = True
    """of the confidence set an optimistic member; else the one with the least error"""


PRESETS = {"noah": Config(optimism=False)}


@tree
class State:
    logits: Tensor
    """of the policy, (H, S, A)"""
    critic: Tensor
    """f, in use since the last switch, (H, S, A)"""
    visits: Tensor
    """of each step, state and action, (H, S, A)"""
    earned: Tensor
    """sums of their rewards, (H, S, A)"""
    followed: Tensor
    """how often each state came next, (H, S, A, S)"""
    switches: Tensor
    episodes: Tensor


def make(cfg: Config, spec: Spec) -> Learner:
    """For worlds whose rewards are within [0, 1] and whose observations are the step, one-hot, then the state, one-hot."""
    if not isinstance(spec.action, Discrete) or not spec.horizon or spec.obs.dim <= spec.horizon:
        raise Fault(
            "nora: a world of tables is needed: one choice, episodes with a last step, and observations that are the step and "
            f"the state, one-hot each, as thespis/RiverSwim-v0 has; here they are {spec.obs.dim} numbers, actions are "
            f"{spec.action}, and the last step is {spec.horizon}"
        )
    steps, states, actions = spec.horizon, spec.obs.dim - spec.horizon, spec.action.n
    shape, budget = (steps, states, actions), states * actions * cfg.radius**2

    def place(obs: Tensor) -> tuple[Tensor, Tensor]:
        return obs[..., :steps].argmax(-1), obs[..., steps:].argmax(-1)

    def counted(s: State, rows: Batch) -> State:
        (h, x), (_, after) = place(rows.obs), place(rows.next_obs)
        pair = ((h * states + x) * actions + rows.action.long()).flatten()
        one, on = torch.ones_like(rows.reward).flatten(), (rows.discount > 0).type_as(rows.reward).flatten()

        def add(table: Tensor, index: Tensor, what: Tensor) -> Tensor:
            return table.flatten().scatter_add(0, index, what).view(table.shape)

        return replace(
            s, visits=add(s.visits, pair, one), earned=add(s.earned, pair, rows.reward.flatten()),
            followed=add(s.followed, pair * states + after.flatten(), on),
        )  # fmt: skip

    def backup(s: State, h: int, ahead: Tensor) -> Tensor:  # reward and the optimal value of what follows, in the mean: (S, A)
        return (s.earned[h] + s.followed[h] @ ahead) / s.visits[h].clamp(min=1)

    def fitted(s: State) -> Tensor:  # of the optimal values, backwards
        ahead, found = torch.zeros_like(s.critic[0, :, 0]), []
        for h in reversed(range(steps)):
            f, n = backup(s, h, ahead), s.visits[h]
            if cfg.optimism:
                f = torch.where(n > 0, f + cfg.radius / n.clamp(min=1).sqrt(), float(steps - h))
            found.append(f.clamp(0, steps - h))
            ahead = found[-1].amax(-1)
        return torch.stack(found[::-1])

    def excess(s: State) -> Tensor:  # squared error of each step's critic beyond the least possible, (H,)
        ahead = [*s.critic[1:].amax(-1), torch.zeros_like(s.critic[0, :, 0])]
        error = torch.stack([s.critic[h] - backup(s, h, ahead[h]) for h in range(steps)])
        return (s.visits * error.square()).sum((-2, -1))

    def prepare(s: State, rollout: Batch) -> tuple[State, Batch, Metrics]:
        s = counted(s, rollout)
        worst = excess(s).amax() / budget
        now = worst >= cfg.switch
        s = replace(
            s, critic=torch.where(now, fitted(s), s.critic), logits=torch.where(now, 0.0, s.logits),
            switches=s.switches + now.type_as(s.switches),
        )  # fmt: skip
        rows = tree_map(lambda x: x.flatten(0, 1), replace(rollout, extra={}))
        return s, rows, {"excess": worst, "switches": s.switches.clone()}

    def actor_loss(logits: Tensor, s: State, b: Batch) -> tuple[Tensor, Metrics]:
        h, x = place(b.obs)
        pi = logits[h, x].softmax(-1)
        return -(pi * s.critic[h, x]).sum(-1).mean(), {"entropy": -(pi * (pi + 1e-12).log()).sum(-1).mean()}

    def update(s: State, b: Batch, k: int = 0) -> tuple[State, Metrics]:  # pi exp(lr f), in every state
        loss, metrics = actor_loss(s.logits, s, b)
        lr, metrics = cfg.lr, {"actor_loss": loss, **metrics}
        if isinstance(lr, Schedule):
            step = metrics["actor_lr"] = lr(s.episodes)
        else:
            step = torch.full_like(s.episodes, lr)
        logits = s.logits + step * s.critic
        return replace(s, logits=logits - logits.amax(-1, keepdim=True), episodes=s.episodes + 1), metrics

    def init() -> State:
        one, followed = torch.zeros(shape), torch.zeros(*shape, states)
        s = State(one, one, one, one, followed, torch.zeros(()), torch.zeros(()))
        return replace(s, critic=fitted(s))

    def given(s: State, data: Batch) -> State:  # the hybrid form
        s = counted(s, data)
        return replace(s, critic=fitted(s))

    def act(p: dict[str, Tensor], obs: Tensor, explore: bool) -> Tensor:
        logits = p["logits"][place(obs)]
        noise = -torch.empty_like(logits).exponential_().log() if explore else 0.0  # Gumbel's: its argmax is a sample
        return (logits + noise).argmax(-1)

    return Learner(
        init, update, lambda s: {"logits": s.logits}, act, prepare=prepare, losses={"actor": actor_loss},
        experience=OnPolicy(gamma=1.0, rollout=steps, epochs=1, batch_size=steps), given=given,
    )  # fmt: skip
