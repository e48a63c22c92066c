"""SCPR: asks or recommends, as a small value network decides from the conversation so far.

Lei et al., "Interactive Path Reasoning on Graph for Conversational Recommendation", KDD 2020,
https://arxiv.org/abs/2007.00194. What to ask and what to recommend follows from the vectors of an FM and the
candidates (:mod:`graphrec.conversation`); this learns when to do which.

``Eq. n`` refers to the numbered equations in docs/models/scpr.md.

Differences from the authors' code:
- several conversations are played at a time (``parallel``), each step followed by as many updates;
- conversations to learn from are those of the validation pairs, as in the code, but a share of these pairs
  (``held``) is kept for choosing the epoch; the code chooses by hand, on test;
- the learning rate is an option; the code parses one and trains with RMSprop's default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from graphrec.conversation.agent import ConversationalRecommender
from graphrec.conversation.belief import Setting
from graphrec.conversation.catalog import Catalog
from graphrec.conversation.config import SPOKEN, ConversationConfig
from graphrec.conversation.dialogue import Action, Dialogue
from graphrec.conversation.play import DialogueTask, step
from graphrec.conversation.replay import Replay, Transitions
from graphrec.conversation.simulator import Simulator
from graphrec.conversation.states import ACTIONS, Part, Trained, state, width
from graphrec.conversation.vectors import read_vectors
from graphrec.core.errors import ConfigError, DataError
from graphrec.core.random import numpy_rng
from graphrec.data.dataset import Dataset
from graphrec.data.interactions import Interactions
from graphrec.models.base import Features, Model, ModelConfig
from graphrec.models.batches import EpochContext


class SCPR(Model):
    """A deep Q-network over two actions: ask the best question, recommend the best items."""

    class Config(ModelConfig, ConversationConfig):
        """Options of SCPR; the defaults are the authors'."""

        scorer: Path | None = None
        """Where the vectors of users, items and attributes come from: a run of ``graphrec train fm``, or an
        ``.npz`` with ``ui_emb`` and ``feature_emb``. Needed."""
        state: tuple[Part, ...] = ("history", "length")
        """What the network sees, see :func:`graphrec.conversation.states.state`."""
        hidden: int = Field(512, ge=1)
        """Width of the network."""
        double: bool = False
        """The network chooses what the target network values (https://arxiv.org/abs/1509.06461)."""
        gamma: float = Field(0.999, ge=0, le=1)
        """Discount of what comes later (Eq. 3)."""
        memory: int = Field(50_000, ge=1)
        """Transitions that are remembered."""
        episodes: int = Field(800, ge=1)
        """Conversations per epoch."""
        parallel: int = Field(16, ge=1)
        """Conversations played at a time."""
        target_every: int = Field(20, ge=1)
        """Conversations between copies of the network into the target network."""
        explore: tuple[float, float, float] = (0.9, 0.05, 200.0)
        """Share of random actions at first, in the end, and the decisions over which it falls by e."""
        held: float = Field(0.2, ge=0, lt=1)
        """Share of the validation pairs that is not learned from, to validate on."""
        validated: int | None = Field(2000, ge=1)
        """Conversations in a validation; None takes all that are held."""

    name = "scpr"
    data_parallel = "dialogues"
    converses = True
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 1e-2, "batch_size": 128, "epochs": 63, "patience": None,
    }  # fmt: skip
    select: ClassVar[str] = "sr@15"
    config: Config
    decided: Tensor
    finished: Tensor

    def __init__(self, setting: Setting, pairs: Interactions, held: Interactions, config: Config) -> None:
        super().__init__()
        self.config, self.setting, self.pairs, self.held = config, setting, pairs, held
        s = width(setting, config.state)
        self.network = Network(s, config.hidden, config.seed)
        self.target = Network(s, config.hidden, config.seed).requires_grad_(False)
        for parameter in self.network.parameters():
            parameter.register_hook(lambda gradient: gradient.clamp(-1, 1))
        self.replay = Replay(config.memory, s)
        self.register_buffer("decided", torch.zeros((), dtype=torch.int64))
        self.register_buffer("finished", torch.zeros((), dtype=torch.int64))

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """See :meth:`graphrec.models.base.Model.build`; learns from conversations about ``data.valid``."""
        config = config or cls.Config()
        if config.scorer is None:
            raise ConfigError(
                "SCPR needs the vectors of a scorer; run: graphrec train fm DATASET --out RUN, and give "
                "--set model.scorer=RUN"
            )
        rules = ConversationConfig(**{k: getattr(config, k) for k in ConversationConfig.model_fields})
        setting = Setting(Catalog.from_dataset(data), read_vectors(config.scorer, data), rules)
        pairs = data.valid.where(setting.catalog.described[data.valid.items])
        if not len(pairs):
            raise DataError(f"{data.name}: no validation pair has an item with attributes; nothing to learn")
        order = numpy_rng(config.seed, "scpr/held").permutation(len(pairs))
        held = np.isin(np.arange(len(pairs)), order[: round(len(pairs) * config.held)])
        return cls(setting, pairs.where(~held), pairs.where(held), config)

    def task(self, data: Dataset | None = None) -> DialogueTask:
        """Conversations about the pairs that are held."""
        split = self.held if len(self.held) else self.pairs
        return DialogueTask(self.setting, split, self.simulator("validate"), self.config.validated)

    def conversational_agent(self, data: Dataset) -> ConversationalRecommender:
        """An agent that asks and recommends as the trained policy decides."""
        rules = self.setting.config.replace(**SPOKEN)
        setting = Setting(self.setting.catalog, self.setting.vectors, rules)
        return ConversationalRecommender.from_policy(self.trained(), setting, data)

    def simulator(self, purpose: str) -> Simulator:
        """Simulated users."""
        seed = int(numpy_rng(self.config.seed, f"scpr/{purpose}").integers(2**31))
        return Simulator(self.setting.catalog, self.setting.enumerated, seed=seed)

    # -- states and actions ----------------------------------------------------------------------------------

    def state(self, dialogue: Dialogue) -> np.ndarray:
        """What the network sees of a conversation ``(s,) float32`` (Eq. 1)."""
        return state(dialogue, self.config.state)

    @torch.no_grad()
    def act(self, dialogues: Sequence[Dialogue], chance: np.ndarray | None = None) -> list[Action]:
        """The action worth most in each conversation (Eq. 2); chance has no part in it."""
        states = torch.from_numpy(np.stack([self.state(d) for d in dialogues]))
        best = self.network(states.to(self.decided.device)).argmax(1)
        return [ACTIONS[i] for i in best.tolist()]

    def trained(self) -> Trained:
        """The policy as it is now, for conversations without this class."""
        first, second = self.network.first, self.network.second
        tensors = {"first": first.weight, "first_bias": first.bias,
                   "second": second.weight, "second_bias": second.bias}  # fmt: skip
        return Trained(self.config.state, {k: v.detach().cpu().numpy().copy() for k, v in tensors.items()})

    # -- learning --------------------------------------------------------------------------------------------

    def batches(self, plan: EpochContext) -> Iterator[Transitions]:
        """Plays conversations and yields a batch of remembered transitions for every step of each."""
        config, rng = self.config, plan.rng("scpr/play")
        users = rng.choice(np.flatnonzero(self.pairs.user_degree), config.episodes)
        nth = (rng.random(config.episodes) * self.pairs.user_degree[users]).astype(np.int64)
        targets = self.pairs.items[self.pairs.indptr[users] + nth]
        talks = self.simulator("train").talks(targets, config.turns, plan.epoch)
        waiting = enumerate(zip(users.tolist(), talks, strict=True))
        begun = ((n, Dialogue(self.setting, *who)) for n, who in waiting)
        going = list(islice(begun, config.parallel))
        states = [self.state(d) for _, d in going]
        while going:
            came = step(going, self.explore(states, rng), self.state)
            for place in reversed(range(len(going))):
                before, done = states[place], came.over[place]
                states[place] = before if done else came.after[place]
                self.replay.add(before, came.actions[place], came.rewards[place], states[place], not done)
                if done:
                    self.finished += 1
                    if self.finished % config.target_every == 0:
                        self.target.load_state_dict(self.network.state_dict())
                    following = list(islice(begun, 1))  # none in the end
                    going[place : place + 1] = following
                    states[place : place + 1] = [self.state(d) for _, d in following]
                if len(self.replay) >= min(plan.batch_size, config.memory):
                    yield self.replay.draw(plan.batch_size, rng)
        if len(self.replay) < plan.batch_size:  # too few conversations for a step of the usual kind
            yield self.replay.draw(plan.batch_size, rng)

    def explore(self, states: Sequence[np.ndarray], rng: np.random.Generator) -> list[int]:
        """An action in each conversation: mostly the best, some at random, fewer and fewer."""
        first, last, span = self.config.explore
        share = last + (first - last) * np.exp(-(int(self.decided) + np.arange(len(states))) / span)
        self.decided += len(states)
        with torch.no_grad():
            best = self.network(torch.from_numpy(np.stack(states)).to(self.decided.device)).argmax(1)
        random = rng.random(len(states)) < share
        found: list[int] = np.where(random, rng.integers(0, 2, len(states)), best.cpu().numpy()).tolist()
        return found

    def loss(self, batch: Transitions) -> dict[str, Tensor]:
        """``td``: Huber loss of ``Q(s, a)`` against ``r + gamma max_a' Q'(s', a')`` (Eqs. 3 and 4)."""
        q = self.network(batch.states).gather(1, batch.actions[:, None])[:, 0]  # (B,)
        with torch.no_grad():
            values = self.target(batch.after)  # (B, 2)
            chosen = (self.network(batch.after) if self.config.double else values).argmax(1, keepdim=True)
            later = values.gather(1, chosen)[:, 0] * batch.goes_on  # (B,)
        return {"td": nn.functional.smooth_l1_loss(q, batch.rewards + self.config.gamma * later)}

    def optimizer(self, config: Any) -> torch.optim.Optimizer:
        """RMSprop."""
        return torch.optim.RMSprop(self.network.parameters(), lr=config.learning_rate)


class Network(nn.Module):
    """``W_2 relu(W_1 s + b_1) + b_2``: what each action is worth (Eq. 2)."""

    def __init__(self, s: int, hidden: int, seed: int) -> None:
        super().__init__()
        rng = numpy_rng(seed, "init/scpr")
        self.first, self.second = nn.Linear(s, hidden), nn.Linear(hidden, len(ACTIONS))
        for layer in (self.first, self.second):  # weights as the authors', biases as torch's
            bound = layer.in_features**-0.5
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(rng.normal(0, 0.1, tuple(layer.weight.shape))))
                layer.bias.copy_(torch.from_numpy(rng.uniform(-bound, bound, len(layer.bias))))

    def forward(self, states: Tensor) -> Tensor:
        """Values ``(B, 2)`` of states ``(B, s)``."""
        found: Tensor = self.second(torch.relu(self.first(states)))
        return found
