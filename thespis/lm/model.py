"""A language model that owns its weights, in four verbs: sample, read, descend, publish (and its like, follow)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thespis.fault import Fault
from thespis.lm import soft
from thespis.lm.prompts import side_by_side
from thespis.lm.text import Text
from thespis.turns import Out, Rows

Loss = Callable[[Out, Rows], tuple[Tensor, dict[str, Tensor]]]
"""(what the model says of rows, the rows) -> (a sum over tokens, metrics that are sums too)"""
PIECE = 2**24
"""logits that are made at once"""


class Model:
    """A causal transformer, heads of one number on its last hidden layer, and Adam's moments of all that is trained."""

    def __init__(
        self, module: Any, text: Text, *, temperature: float = 1.0, heads: Sequence[str] = (), part: int = 2**14,
        adapter: Any = None,
    ):  # fmt: skip
        """`module` is a causal model of transformers; `part`: tokens that are learnt from, or read, at once; `adapter`: prompts
        of `lm.prompts`, which are then all that is learnt."""
        self.module, self.text, self.temperature, self.part = module.eval(), text, temperature, part
        self.adapter = adapter
        if adapter is not None:
            module.requires_grad_(False)
        self.soft: soft.Soft | None = None
        self.heads = nn.ModuleDict({name: nn.Linear(module.config.hidden_size, 1) for name in heads})
        named = self._named()
        self.params: dict[str, nn.Parameter] = dict(named)
        self.learns = [k for k, p in named if p.requires_grad]
        self._train()

    def _named(self) -> list[tuple[str, nn.Parameter]]:
        named = [*self.module.named_parameters(), *self.heads.named_parameters("heads")]
        return named if self.adapter is None else [*named, *self.adapter.named_parameters("adapter")]

    def _train(self) -> None:
        self.trained = {k: p for k, p in self.params.items() if p.requires_grad}
        self.m = {k: torch.zeros_like(p) for k, p in self.trained.items()}
        self.v = {k: torch.zeros_like(p) for k, p in self.trained.items()}
        self.t = torch.zeros(())

    def add_head(self, name: str) -> None:
        """A head of one number that begins at 0, where there is none of that name; all moments begin anew."""
        if name in self.heads:
            return
        head = nn.Linear(self.module.config.hidden_size, 1)
        for k, p in head.named_parameters():
            nn.init.zeros_(p)
            self.params[f"heads.{name}.{k}"] = p
            self.learns.append(f"heads.{name}.{k}")
        self.heads[name] = head
        self._train()

    @property
    def context(self) -> int:
        """Tokens of a conversation at most."""
        return self.module.config.max_position_embeddings - (0 if self.adapter is None else self.adapter.sizes.tokens)

    def weights(self) -> dict[str, Tensor]:
        """Those that are learnt, by the names that transformers has for them; of an adapted model the adapter's alone."""
        return {k: self.params[k].detach() for k in self.learns}

    def tensors(self) -> dict[str, Tensor]:
        """All that it has learnt, by name; the tensors are its own, so what is copied into them is what it then says."""
        moments = {f"{name}.{k}": x for name in ("m", "v") for k, x in getattr(self, name).items()}
        return {f"params.{k}": p for k, p in self.weights().items()} | moments | ({"t": self.t} if moments else {})

    def copied(self) -> Model:
        """Another with the same weights that learns apart from this one; its moments begin anew."""
        other = copy.copy(self)
        shared = {id(p): p for k, p in self.params.items() if k not in self.learns}  # what never changes is not copied
        other.module, other.heads, other.adapter = copy.deepcopy((self.module, self.heads, self.adapter), shared)
        other.params, other.learns = dict(other._named()), [*self.learns]
        other._train()
        return other

    def frozen(self) -> Model:
        """A copy that is read and never learns."""
        other = self.copied()
        for p in other.params.values():
            p.requires_grad_(False)
        other._train()
        return other

    # ------------------------------------------------------------------------------------------------------- the verbs

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[Sequence[int]], limit: int, rng: torch.Generator | None = None, greedy: bool = False,
        asked: Sequence[int] | None = None, adapters: Sequence[Any] | None = None,
    ) -> list[Any]:  # fmt: skip
        """For each prompt the tokens of an answer, its end among them where it came within `limit`, and their log-probabilities
        in the distribution that they were drawn from. A prompt that stands there several times is read once. `greedy`: the most
        probable token each time. With soft thinking also the mixtures, see `soft.sample`. `asked`: of each prompt the tokens
        before the first answer; default: all. `adapters`: prompts of `lm.prompts` for each, in place of its own. Fault: a prompt
        that leaves no room in the context."""
        if not prompts:
            return []
        if (longest := max(map(len, prompts))) + limit > self.context:
            raise Fault(
                f"a prompt has {longest:,} tokens and an answer may have {limit:,}, of {self.context:,} that the model can read:"
                " take shorter prompts, a smaller limit, or a model with a larger context"
            )
        if self.soft:
            return soft.sample(self, self.soft, prompts, limit, rng, greedy, asked)
        hidden, cache, there = self.begin(prompts, asked, adapters)
        alive, steps, position = torch.arange(len(prompts)), list[tuple[Tensor, Tensor, Tensor]](), there.sum(1)
        for i in range(limit):
            logp = self._score(hidden).log_softmax(-1)
            choice = logp.argmax(-1) if greedy else torch.multinomial(logp.exp(), 1, generator=rng)[:, 0]
            steps.append((alive, choice, logp.gather(1, choice[:, None])[:, 0]))
            goes_on = choice != self.text.end
            if i == limit - 1 or not goes_on.any():
                break
            if not goes_on.all():
                cache.batch_select_indices(goes_on.nonzero()[:, 0])
                alive, choice, there, position = (x[goes_on] for x in (alive, choice, there, position))
            there = torch.cat([there, there.new_ones(len(there), 1)], 1)
            hidden, cache = self._read_on(choice[:, None], there, position[:, None], cache)
            position = position + 1
        answers: list[tuple[list[int], list[float]]] = [([], []) for _ in prompts]
        for who, choice, logp in steps:
            for r, token, value in zip(who.tolist(), choice.tolist(), logp.tolist(), strict=True):
                answers[r][0].append(token)
                answers[r][1].append(value)
        return answers

    @torch.no_grad()
    def read(self, rows: Rows, want: Callable[[Out], Tensor] = lambda out: out.logp) -> Tensor:
        """(R, T): what `want` takes of what the model says of the rows; part by part, without gradients."""
        return torch.cat([want(self(part)) for part in rows.parts(self.part)])

    def descend(self, loss: Loss, rows: Rows, lr: Any, max_norm: float | None = None) -> dict[str, Tensor]:
        """One step of Adam (arXiv:1412.6980), in place, on the sum of `loss` over all parts of the rows; `max_norm` bounds the
        whole gradient. Returns what the loss told, summed over the parts, "loss" and "grad_norm"."""
        told: dict[str, Tensor] = {}
        for p in self.trained.values():
            p.grad = None
        for part in rows.parts(self.part):
            with torch.enable_grad():
                total, metrics = loss(self(part), part)
                total.backward()
            for name, value in {"loss": total, **metrics}.items():
                told[name] = told.get(name, torch.zeros(())) + value.detach()
        params = [p for p in self.trained.values() if p.grad is not None]
        grads = [p.grad for p in params if p.grad is not None]
        norm = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
        if max_norm is not None:
            torch._foreach_mul_(grads, (max_norm / (norm + 1e-6)).clamp(max=1))
        self._step(params, grads, lr(self.t) if callable(lr) else lr)
        for p in params:
            p.grad = None
        return told | {"grad_norm": norm}

    def follow(self, other: Model, tau: float = 1.0) -> None:
        """Its weights go the share `tau` of the way to the other's: the slow copy; its moments stay."""
        with torch.no_grad():
            for mine, theirs in zip(self.weights().values(), other.weights().values(), strict=True):
                mine.lerp_(theirs, tau)

    def publish(self, sampler: Model) -> None:
        """Gives its weights to the model that samples."""
        sampler.follow(self)

    # ---------------------------------------------------------------------------------------------------------- inside

    def __call__(self, rows: Rows) -> Out:
        """What it says of rows that are padded on the right: attention looks backwards, so padding needs no mask."""
        mixed = self.soft and "soft" in rows.columns
        x = soft.embeddings(self, self.soft, rows) if mixed and self.soft else None
        if self.adapter is not None:
            x = self.module.get_input_embeddings()(rows.tokens) if x is None else x
            hidden = self.adapter.read(self.module.get_decoder(), x, rows.mask.cumsum(1) == 0)[0]
        else:
            given = {"input_ids": rows.tokens} if x is None else {"inputs_embeds": x}
            hidden = self.module.get_decoder()(**given, use_cache=False).last_hidden_state
        before, after = hidden[:, :-1][rows.mask[:, 1:]], rows.tokens[:, 1:][rows.mask[:, 1:]]
        step = max(PIECE // self.module.config.vocab_size, 1)
        pieces = list(zip(before.split(step), after.split(step), strict=True))
        logp = [self._logp(*p) if len(pieces) == 1 else _again(self._logp, *p) for p in pieces]
        out = Out(hidden.new_zeros(()), rows, hidden, self._score, dict(self.heads.items()))
        said = torch.cat(logp)
        if mixed and self.soft:
            at, ids, g = (x[:, 1:][rows.mask[:, 1:]] for x in (rows.soft, rows.soft_ids, rows.soft_g))
            said = said.masked_scatter(at, soft.density(self._score(before[at]), ids[at], g[at], self.soft.noise))
        return Out(out.placed(said), rows, hidden, self._score, out.modules)

    def begin(
        self, prompts: Sequence[Sequence[int]], asked: Sequence[int] | None = None, adapters: Sequence[Any] | None = None
    ) -> tuple[Tensor, Any, Tensor]:
        """Reads prompts, each distinct one once: the last hidden state of each (R, H), the cache, and where tokens stand (R, T),
        padded on the left; soft tokens come before all."""
        longest = max(map(len, prompts))
        distinct: dict[Any, tuple[int, Sequence[int], int, Any]] = {}
        index = []
        for p, n, beside in zip(prompts, asked or map(len, prompts), adapters or [self.adapter] * len(prompts), strict=True):
            index.append(distinct.setdefault((tuple(p), n, id(beside)), (len(distinct), p, n, beside))[0])
        ids = torch.tensor([[0] * (longest - len(p)) + list(p) for _, p, _, _ in distinct.values()])
        there = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for _, p, _, _ in distinct.values()])
        if self.adapter is None and adapters is None:
            hidden, cache = self._read_on(ids, there, (there.cumsum(1) - 1).clamp(min=0), None)
        else:
            its = side_by_side([a for *_, a in distinct.values()]) if adapters else self.adapter
            question = (there > 0) & (there.cumsum(1) <= torch.tensor([[n] for _, _, n, _ in distinct.values()]))
            x, cache, there = its.read(self.module.get_decoder(), self.module.get_input_embeddings()(ids), question, there)
            hidden = x[:, -1]
        cache.batch_select_indices(torch.tensor(index))
        return hidden[index], cache, there[index]

    def _logp(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        return self._score(hidden).log_softmax(-1).gather(1, tokens[:, None])[:, 0]

    def _score(self, hidden: Tensor) -> Tensor:
        return self.module.get_output_embeddings()(hidden).float() / self.temperature

    def _read_on(self, ids: Tensor, there: Tensor, position: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """The last hidden state of each row (R, H) after these tokens, or embeddings (R, T, H), and the cache with them in it."""
        given = {"inputs_embeds" if ids.is_floating_point() else "input_ids": ids}
        out = self.module.get_decoder()(**given, attention_mask=there, position_ids=position, cache=cache, use_cache=True)
        return out.last_hidden_state[:, -1], out.cache

    @torch.no_grad()
    def _step(self, params: Sequence[Tensor], grads: list[Tensor], lr: Any, b1: float = 0.9, b2: float = 0.999) -> None:
        names = {id(p): k for k, p in self.trained.items()}
        m, v = ([moments[names[id(p)]] for p in params] for moments in (self.m, self.v))
        self.t += 1
        torch._foreach_lerp_(m, grads, 1 - b1)
        torch._foreach_mul_(v, b2)
        torch._foreach_addcmul_(v, grads, grads, 1 - b2)
        c1, c2 = (-torch.expm1(self.t * math.log(b)) for b in (b1, b2))  # 1 - b^t, to full precision
        spread = torch._foreach_sqrt(torch._foreach_div(v, c2))
        torch._foreach_add_(spread, 1e-8)
        torch._foreach_mul_(spread, c1 / lr)
        torch._foreach_addcdiv_([*params], m, spread, -1.0)


def _again(function: Callable[..., Tensor], *args: Tensor) -> Tensor:
    """Its inner values are made again in the backward pass instead of kept."""
    if not torch.is_grad_enabled():
        return function(*args)
    made = torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=False)
    assert isinstance(made, Tensor)
    return made


def padded(rows: Iterable[tuple[Sequence[int], Sequence[bool]]]) -> Rows:
    """Rows of tokens and of who wrote them, padded on the right."""
    rows = list(rows)
    width = max(len(tokens) for tokens, _ in rows)
    tokens = torch.tensor([[*t, *[0] * (width - len(t))] for t, _ in rows])
    return Rows(tokens, torch.tensor([[*w, *[False] * (width - len(w))] for _, w in rows]))
