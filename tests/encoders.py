"""A sentence encoder small enough to be made by a test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest


def sentence_encoder(root: Path, words: Sequence[str]) -> Path:
    """Saves an encoder of one layer, 32 positions and 16 columns that knows some words; its directory."""
    library = pytest.importorskip("sentence_transformers")
    from transformers import BertConfig, BertModel, BertTokenizerFast

    try:
        from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    except ImportError:  # before 5.2
        from sentence_transformers.models import Pooling, Transformer
    raw, tokens = root / "bert", ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    raw.mkdir()
    (raw / "vocab.txt").write_text("\n".join(tokens))
    BertTokenizerFast(vocab_file=str(raw / "vocab.txt")).save_pretrained(raw)
    BertModel(BertConfig(vocab_size=len(tokens), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                         intermediate_size=16, max_position_embeddings=32)).save_pretrained(raw)  # fmt: skip
    library.SentenceTransformer(modules=[Transformer(str(raw)), Pooling(16)]).save(str(root / "tiny"))
    return root / "tiny"
