"""Opens the agent of a run directory."""

from __future__ import annotations

from pathlib import Path

from graphrec.conversation.agent import MANIFEST, ConversationalRecommender
from graphrec.core.errors import CheckpointError
from graphrec.runs.record import read_meta
from graphrec.runs.run import CONVERSATION


def open_agent(path: str | Path) -> ConversationalRecommender:
    """Opens the agent of a run, or a saved agent.

    Args:
        path: a run directory, or a directory that :meth:`ConversationalRecommender.save` wrote.

    Raises:
        CheckpointError: the directory holds no agent, or a damaged one.
    """
    path = Path(path)
    folder = next((p for p in (path, path / CONVERSATION) if (p / MANIFEST).exists()), None)
    if folder is None:
        meta = read_meta(path)
        raise CheckpointError(
            f"{path}: a run of {meta.get('model')!r}, which has no conversational agent; train scpr, or fm "
            "on a dataset with attributes, or finish the training (--resume)"
        )
    return ConversationalRecommender.load(folder)
