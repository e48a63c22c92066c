"""SCPR: a small value network decides from the conversation so far whether to ask or to recommend.

Lei et al., "Interactive Path Reasoning on Graph for Conversational Recommendation", KDD 2020,
https://arxiv.org/abs/2007.00194. What to ask and what to recommend follows from the vectors of an FM and the
candidates (:mod:`graphrec.conversation`); the network learns when to do which.

``Eq. n`` refers to the numbered equations in docs/models/scpr.md.

Differences from the authors' code:
- several conversations are simulated at a time (``parallel``), each step followed by as many updates;
- training conversations are those of the validation pairs, as in the code, but a share of these pairs
  (``holdout_fraction``) is held out to choose the epoch; the code's authors chose it by hand, on test;
- the learning rate is an option; the code parses one and trains with RMSprop's default.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
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
from graphrec.conversation.config import INTERACTIVE_RULES, ConversationConfig
from graphrec.conversation.dialogue import Action, Dialogue
from graphrec.conversation.play import DialogueTask, step
from graphrec.conversation.replay import Replay, Transitions
from graphrec.conversation.simulator import Simulator
from graphrec.conversation.states import ACTIONS, StateField, TrainedPolicy, encode_state, state_width
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
        """Source of the vectors of users, items and attributes: a run of ``graphrec train fm``, or an
        ``.npz`` with ``ui_emb`` and ``feature_emb``. Required."""
        state: tuple[StateField, ...] = ("history", "length")
        """Fields of the network's input, see :func:`graphrec.conversation.states.encode_state`."""
        hidden: int = Field(512, ge=1)
        """Width of the hidden layer."""
        double: bool = False
        """Double Q-learning: the network chooses the action that the target network values
        (https://arxiv.org/abs/1509.06461)."""
        gamma: float = Field(0.999, ge=0, le=1)
        """Discount of future rewards (Eq. 3)."""
        memory: int = Field(50_000, ge=1)
        """Size of the replay memory in transitions."""
        episodes: int = Field(800, ge=1)
        """Conversations per epoch."""
        parallel: int = Field(16, ge=1)
        """Simultaneous conversations."""
        target_every: int = Field(20, ge=1)
        """Conversations between copies of the network into the target network."""
        explore: tuple[float, float, float] = (0.9, 0.05, 200.0)
        """Share of random actions at the beginning, at the end, and the number of decisions over which it
        falls by a factor of e."""
        holdout_fraction: float = Field(0.2, ge=0, lt=1)
        """Share of the validation pairs that is held out of the training to validate on."""
        validation_conversations: int | None = Field(2000, ge=1)
        """Maximum number of conversations in a validation; None: one for each held-out pair."""

        renamed_options: ClassVar[Mapping[str, str]] = {
            "held": "holdout_fraction",
            "validated": "validation_conversations",
        }

    name = "scpr"
    data_parallel = "dialogues"
    converses = True
    train_defaults: ClassVar[Mapping[str, Any]] = {
        "learning_rate": 1e-2,
        "batch_size": 128,
        "epochs": 63,
        "patience": None,
    }
    select: ClassVar[str] = "sr@15"
    reads_valid = True
    config: Config
    decided: Tensor
    finished: Tensor

    def __init__(self, setting: Setting, pairs: Interactions, holdout: Interactions, config: Config) -> None:
        super().__init__()
        self.config = config
        self.setting = setting
        self.pairs = pairs
        self.holdout = holdout
        width = state_width(setting, config.state)
        self.network = Network(width, config.hidden, config.seed)
        self.target = Network(width, config.hidden, config.seed).requires_grad_(False)
        for parameter in self.network.parameters():
            parameter.register_hook(lambda gradient: gradient.clamp(-1, 1))
        self.replay = Replay(config.memory, width)
        self.register_buffer("decided", torch.zeros((), dtype=torch.int64))
        self.register_buffer("finished", torch.zeros((), dtype=torch.int64))

    @classmethod
    def build(cls, data: Dataset, features: Features | None = None, config: Any = None) -> Self:
        """See :meth:`graphrec.models.base.Model.build`; trains on conversations about ``data.valid``."""
        config = config or cls.Config()
        if config.scorer is None:
            raise ConfigError(
                "SCPR needs the vectors of a scorer; run: graphrec train fm DATASET --out RUN, and give "
                "--set model.scorer=RUN"
            )
        rules = ConversationConfig(**{k: getattr(config, k) for k in ConversationConfig.model_fields})
        setting = Setting(Catalog.from_dataset(data), read_vectors(config.scorer, data), rules)
        pairs = data.valid.where(setting.catalog.has_attributes[data.valid.items])
        if not len(pairs):
            raise DataError(
                f"{data.name}: no validation pair has an item with attributes; nothing to train on"
            )
        order = numpy_rng(config.seed, "scpr/held").permutation(len(pairs))
        n_holdout = round(len(pairs) * config.holdout_fraction)
        is_holdout = order.argsort() < n_holdout
        return cls(setting, pairs.where(~is_holdout), pairs.where(is_holdout), config)

    def task(self, data: Dataset | None = None) -> DialogueTask:
        """Conversations about the held-out pairs."""
        split = self.holdout if len(self.holdout) else self.pairs
        return DialogueTask(
            self.setting, split, self.simulator("validate"), self.config.validation_conversations
        )

    def conversational_agent(self, data: Dataset) -> ConversationalRecommender:
        """An agent that follows the trained policy."""
        setting = replace(self.setting, config=self.setting.config.replace(**INTERACTIVE_RULES))
        return ConversationalRecommender.from_policy(self.trained_policy(), setting, data)

    def simulator(self, purpose: str) -> Simulator:
        """Simulated users, with a seed of this purpose."""
        seed = int(numpy_rng(self.config.seed, f"scpr/{purpose}").integers(2**31))
        return Simulator(self.setting.catalog, self.setting.enumerated, seed=seed)

    # -- states and actions ----------------------------------------------------------------------------------

    def state(self, dialogue: Dialogue) -> np.ndarray:
        """The network's input for a conversation ``(s,) float32`` (Eq. 1)."""
        return encode_state(dialogue, self.config.state)

    @torch.no_grad()
    def act(self, dialogues: Sequence[Dialogue], uniform: np.ndarray | None = None) -> list[Action]:
        """The action of highest value in each conversation (Eq. 2); ``uniform`` is not used."""
        states = torch.from_numpy(np.stack([self.state(d) for d in dialogues]))
        best = self.network(states.to(self.decided.device)).argmax(1)
        return [ACTIONS[i] for i in best.tolist()]

    def trained_policy(self) -> TrainedPolicy:
        """A copy of the current policy, for conversations without this class."""
        tensors = {
            "first": self.network.first.weight,
            "first_bias": self.network.first.bias,
            "second": self.network.second.weight,
            "second_bias": self.network.second.bias,
        }
        weights = {name: tensor.detach().cpu().numpy().copy() for name, tensor in tensors.items()}
        return TrainedPolicy(self.config.state, weights)

    # -- learning --------------------------------------------------------------------------------------------

    def batches(self, plan: EpochContext) -> Iterator[Transitions]:
        """Simulates conversations and yields a batch of remembered transitions for every step of each."""
        config = self.config
        rng = plan.rng("scpr/play")
        users = rng.choice(np.flatnonzero(self.pairs.user_degree), config.episodes)
        nth = (rng.random(config.episodes) * self.pairs.user_degree[users]).astype(np.int64)
        targets = self.pairs.items[self.pairs.indptr[users] + nth]
        simulated = self.simulator("train").users(targets, config.turns, plan.epoch)
        dialogues = (
            (number, Dialogue(self.setting, user, respondent))
            for number, (user, respondent) in enumerate(zip(users.tolist(), simulated, strict=True))
        )
        active = list(islice(dialogues, config.parallel))
        states = [self.state(dialogue) for _, dialogue in active]
        while active:
            result = step(active, self.explore(states, rng), self.state)
            for i in reversed(range(len(active))):
                state = states[i]
                done = result.done[i]
                states[i] = state if done else result.next_states[i]
                self.replay.add(state, result.actions[i], result.rewards[i], states[i], not done)
                if done:
                    self.finished += 1
                    if self.finished % config.target_every == 0:
                        self.target.load_state_dict(self.network.state_dict())
                    following = list(islice(dialogues, 1))  # empty at the end
                    active[i : i + 1] = following
                    states[i : i + 1] = [self.state(dialogue) for _, dialogue in following]
                if len(self.replay) >= min(plan.batch_size, config.memory):
                    yield self.replay.draw(plan.batch_size, rng)
        if len(self.replay) < plan.batch_size:  # too few conversations for a regular step
            yield self.replay.draw(plan.batch_size, rng)

    def explore(self, states: Sequence[np.ndarray], rng: np.random.Generator) -> list[int]:
        """An action for each conversation: the best one, or with decreasing probability a random one."""
        first, last, span = self.config.explore
        share = last + (first - last) * np.exp(-(int(self.decided) + np.arange(len(states))) / span)
        self.decided += len(states)
        with torch.no_grad():
            best = self.network(torch.from_numpy(np.stack(states)).to(self.decided.device)).argmax(1)
        is_random = rng.random(len(states)) < share
        actions: list[int] = np.where(is_random, rng.integers(0, 2, len(states)), best.cpu().numpy()).tolist()
        return actions

    def loss(self, batch: Transitions) -> dict[str, Tensor]:
        """``td``: Huber loss of ``Q(s, a)`` against ``r + gamma max_a' Q'(s', a')`` (Eqs. 3 and 4)."""
        q = self.network(batch.states).gather(1, batch.actions[:, None])[:, 0]  # (B,)
        with torch.no_grad():
            values = self.target(batch.next_states)  # (B, 2)
            choice = self.network(batch.next_states) if self.config.double else values
            next_value = values.gather(1, choice.argmax(1, keepdim=True))[:, 0] * batch.not_done  # (B,)
        return {"td": nn.functional.smooth_l1_loss(q, batch.rewards + self.config.gamma * next_value)}

    def optimizer(self, config: Any) -> torch.optim.Optimizer:
        """RMSprop."""
        return torch.optim.RMSprop(self.network.parameters(), lr=config.learning_rate)


class Network(nn.Module):
    """``W_2 relu(W_1 s + b_1) + b_2``: the value of each action (Eq. 2)."""

    def __init__(self, width: int, hidden: int, seed: int) -> None:
        super().__init__()
        rng = numpy_rng(seed, "init/scpr")
        self.first = nn.Linear(width, hidden)
        self.second = nn.Linear(hidden, len(ACTIONS))
        for layer in (self.first, self.second):  # weights as in the authors' code, biases as in torch
            bound = layer.in_features**-0.5
            with torch.no_grad():
                layer.weight.copy_(torch.from_numpy(rng.normal(0, 0.1, tuple(layer.weight.shape))))
                layer.bias.copy_(torch.from_numpy(rng.uniform(-bound, bound, len(layer.bias))))

    def forward(self, states: Tensor) -> Tensor:
        """Values ``(B, 2)`` of states ``(B, s)``."""
        values: Tensor = self.second(torch.relu(self.first(states)))
        return values
