"""ArCHer: critics of whole utterances learn from a replay of conversations; what they say of one is REINFORCE's reward inside it.

Paper: Zhou et al. 2024, "ArCHer: Training Language Model Agents via Hierarchical Multi-Turn RL", arXiv:2402.19446.
Parent: lite_ppo, whose gradient the actor's is at ratio 1 (spread = none, average = constant) with the critics' advantage.
Departures: a batch is whole episodes, where the authors draw turns out of all: Q learns of every turn in it, V of some; a head is
linear on the last hidden layer of a decoder that reads a conversation at once, where theirs are three layers on what an encoder
says of observation and utterance apart; norms of critics and actor are bounded apart; the token baseline and the expectile loss
for recorded data are left out; of a turn at which an episode was cut off Q learns nothing, as what follows is not known.
Assumed: the critics begin as copies of the policy, with heads that say 0.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thespis import ops
from thespis.config import Count, Fraction, Natural, Positive, Rate
from thespis.core import Fault, Metrics
from thespis.data.conversations import Conversations
from thespis.lm import Model, padded
from thespis.turns import Out, Played, Rows, TextLearner, TextSpec, Turns, means, measured

HEADS = ("q1", "q2", "v1", "v2")


@dataclass(frozen=True)
class Config:
    lr: Rate = 1e-4
    """Adam step size of the actor, of a small model (paper, of 1.2e8 parameters: 1e-6 to 1e-5)"""
    critic_lr: Rate = 1e-3
    """Adam step size of the critics, likewise (paper: 2e-5)"""
    max_norm: Positive = 1.0
    """largest norm of a gradient (paper: 1)"""
    questions: Count = 64
    """episodes in an update, each of another task (paper: 128)"""
    warmup: Natural = 10
    """updates in which the critics learn alone (paper: 10 to 20)"""
    critic_updates: Count = 50
    """steps of the critics in an update (paper: 50)"""
    updates: Count = 3
    """steps of the actor in an update (paper: 3)"""
    episodes: Count = 24
    """episodes in the batch of a step, with all their turns (paper: 256 turns)"""
    turns: Count = 64
    """turns of such a batch at which V learns, each from a new answer of the policy (paper: 256, all of the batch)"""
    capacity: Count = 5_000
    """episodes that the replay holds, 14 bytes for each token of the model's context (paper: 100,000 turns)"""
    gamma: Fraction = 0.95
    """discount from a turn to the next (paper: 0.95)"""
    tau: Fraction = 0.1
    """share of the way that the slow copy goes at each step of the critics (paper: 0.1)"""


@dataclass(frozen=True)
class State:
    policy: Model
    critic: Model
    """Q and V twice, heads of one decoder: Q is read after an utterance, V before it"""
    target: Model
    """their slow copy"""
    replay: Conversations
    done: Tensor
    """() updates"""


def make(cfg: Config, spec: object) -> TextLearner:
    if not isinstance(spec, TextSpec):
        raise Fault(f"archer: a world that is spoken to is needed, the environment's actions are {getattr(spec, 'action', spec)}")
    limit = spec.answer_tokens

    def critic_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:
        def error(head: str, weight: Tensor) -> Tensor:
            return (weight * (out.heads(head) - getattr(b, head)).square()).sum()

        q, v = error("q1", b.after) + error("q2", b.after), error("v1", b.before) + error("v2", b.before)
        return q + v, {"q_error": q / 2, "v_error": v / 2}

    def policy_loss(out: Out, b: Rows) -> tuple[Tensor, Metrics]:
        return -(b.weight * b.advantage * out.logp).sum(), {}

    def init(model: Model) -> State:
        critic = model.copied()
        for head in HEADS:
            critic.add_head(head)
        replay = Conversations.empty(cfg.capacity, model.context)
        return State(model, critic, critic.frozen(), replay, torch.zeros(()))

    def update(s: State, t: Turns) -> tuple[State, Metrics]:
        plain = t.rows()
        old, entropy = s.policy.read(plain, Out.logp_entropy).unbind(-1)
        s.replay.add(t)
        told = []
        for _ in range(cfg.critic_updates):
            t = s.replay.draw(cfg.episodes)
            rows = targets(s.target, t, *anew(s.policy, t, limit, cfg.turns))
            told.append(s.critic.descend(critic_loss, rows, cfg.critic_lr, cfg.max_norm))
            s.target.follow(s.critic, cfg.tau)
        metrics = {f"critic_{k}" if k in ("loss", "grad_norm") else k: x for k, x in means(told).items()}
        told = []
        for _ in range(cfg.updates if s.done >= cfg.warmup else 0):
            t = s.replay.draw(cfg.episodes)
            rows, _ = anew(s.policy, t, limit)
            q, v = valued(s.critic, rows)
            a = q.amin(-1) - v.amin(-1)
            rows = rows.also(advantage=rows.mask * a[:, None], weight=ops.per_constant(rows.mask))
            told.append(s.policy.descend(policy_loss, rows, cfg.lr, cfg.max_norm) | {"advantage_std": a.std(unbiased=False)})
        metrics |= means(told) if told else {}
        return replace(s, done=s.done + 1), metrics | measured(plain, old, entropy)

    losses = {"critic": critic_loss, "policy": policy_loss}
    return TextLearner(init, update, lambda s: s.policy, losses, Played(cfg.questions, 1, cfg.gamma))


def anew(policy: Model, t: Turns, limit: int, most: int | None = None) -> tuple[Rows, Tensor]:
    """For all turns, or `most` of them at random: a row with what stood before it and the policy's answer now; which turns."""
    which = torch.randperm(len(t.row))[:most]
    before = t.prompts(which)
    said = policy.sample(before, limit)
    return padded((b + s, [False] * len(b) + [True] * len(s)) for b, (s, *_) in zip(before, said, strict=True)), which


def heads(model: Model, tokens: Tensor) -> Tensor:
    """(R, T, 4): what the critics say at each place."""
    none = Rows(tokens, torch.zeros(tokens.shape, dtype=torch.bool))  # nothing is to be written, so no logits are made
    return model.read(none, lambda out: torch.stack([out.heads(h) for h in HEADS], -1))


def valued(model: Model, rows: Rows) -> tuple[Tensor, Tensor]:
    """Q after and V before the one answer of each row: (N, 2), (N, 2)."""
    said, each = heads(model, rows.tokens), torch.arange(len(rows))
    return said[each, rows.last_written().int().argmax(-1), :2], said[each, rows.mask.int().argmax(-1) - 1, 2:]


def targets(target: Model, t: Turns, rows: Rows, which: Tensor) -> Rows:
    """What the critics learn of these episodes: Q(o, a) is r + d V'(o'), and V(o) at the turns `which` is Q'(o, a') of the
    policy's answer a' in `rows`; each of the two follows its own slow copy."""
    v = heads(target, t.tokens)[t.row, t.start - 1, 2:]
    known = (~t.ended | (t.discount == 0)).float()
    q = t.reward[:, None] + t.discount[:, None] * torch.cat([v[1:], v[-1:]])
    v = torch.zeros_like(q).index_copy(0, which, valued(target, rows)[0])
    drawn = torch.zeros_like(known).index_fill(0, which, 1.0)
    after, before = t.at_stop(known / known.sum().clamp(min=1)), t.before(drawn / len(which))
    columns = {f"{k}{j + 1}": place(x[:, j]) for k, x, place in (("q", q, t.at_stop), ("v", v, t.before)) for j in (0, 1)}
    return Rows(t.tokens, torch.zeros(t.tokens.shape, dtype=torch.bool), columns | {"after": after, "before": before})
