"""What the extraction of features costs beside the model itself: 2,000 generated posters and texts.

    python -m experiments.bench.extraction [--models ViT-B-32] [--pictures 2000] [--quick]

Prints seconds and ratios, all measured in this run. The bare forward pass is the model (with random weights)
over batches that were decoded, resized and stacked before the clock started; the whole extraction reads,
hashes, decodes, resizes, encodes and writes. Both run after one another several times, and the ratio is the
median of the pairs. The floor is the time that all this work takes on all cores if none ever waits.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import statistics
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from experiments.bench import measure
from graphrec.core.random import numpy_rng
from graphrec.data import Content, Dataset, Interactions, Vocabulary
from graphrec.features import FeatureStore, extract as features
from graphrec.features.extract.decoding import decode
from graphrec.features.extract.extraction import extract
from graphrec.features.extract.image import OpenClip

SIZE = (182, 268)
WORDS = 5_000


def poster(number: int) -> bytes:
    """One JPEG: a color gradient, some shapes, a little noise."""
    rng = numpy_rng(0, "bench/poster", number)
    width, height = SIZE
    ends = rng.integers(0, 256, (2, 3))
    ramp = np.linspace(0, 1, height)[:, None, None]
    ground = ends[0] * (1 - ramp) + ends[1] * ramp + rng.normal(0, 8, (height, width, 3))
    picture = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for shape in (draw.ellipse, draw.rectangle, draw.ellipse, draw.rectangle):
        x, y = rng.integers(0, width - 40), rng.integers(0, height - 40)
        shape(
            (x, y, x + rng.integers(20, 120), y + rng.integers(20, 120)), fill=tuple(rng.integers(0, 256, 3))
        )
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()


def catalog(values: Sequence[str], kind: str, root: Path | None = None) -> Dataset:
    """A dataset with one content field, whose users each took one item."""
    n = len(values)
    none = Interactions(np.zeros(0, int), np.zeros(0, int), n, n)
    pairs = Interactions(np.arange(n), np.arange(n), n, n)
    users, items = (Vocabulary((f"{kind}{i}" for i in range(n)), kind) for kind in ("user", "item"))
    return Dataset("bench", users, items, pairs, none, none, content={kind: Content(kind, values, root)})  # type: ignore[arg-type]


def sentences(n: int) -> list[str]:
    """Texts of 40 words, frequent and rare ones."""
    rng = numpy_rng(0, "bench/texts")
    return [" ".join(f"w{w}" for w in rng.zipf(1.3, 40) % WORDS) for _ in range(n)]


def measured(work: Callable[[], object]) -> measure.Spent:
    """What one call takes."""
    with measure.spent() as result:
        work()
    return result


def whole(dataset: Dataset, kind: str, extractor: features.Extractor) -> measure.Spent:
    """One extraction into an empty store."""
    with tempfile.TemporaryDirectory() as folder:
        return measured(lambda: extract(dataset, kind, extractor, FeatureStore(folder), progress=False))


def writing(dataset: Dataset, kind: str, dim: int) -> float:
    """Seconds for a table of ready vectors: everything in an extraction but reading and encoding."""

    class Ready:
        name = "ready"

        def __init__(self) -> None:
            self.kind, self.dim = "text", dim

        def describe(self) -> dict[str, str]:
            return {"name": self.name}

        def encode(self, batch: list[str]) -> np.ndarray:
            return np.ones((len(batch), dim), dtype=np.float32)

    texts = catalog([f"text {i}" for i in range(dataset.n_items)], "text")
    return whole(texts, "text", Ready()).seconds  # type: ignore[arg-type]


def parts(dataset: Dataset, prepare: Callable[[Image.Image], object], n: int) -> dict[str, float]:
    """Seconds that reading, hashing, decoding and preparing all pictures take in one thread, each alone."""
    content = dataset.field("image")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    paths = [content.path(row) for row in range(n)]
    files: list[bytes] = []
    pictures: list[Image.Image] = []
    spent = {
        "reading": measured(lambda: files.extend(p.read_bytes() for p in paths if p is not None)).seconds,
        "hashing": measured(lambda: [hashlib.sha256(data).digest() for data in files]).seconds,
        "decoding": measured(lambda: pictures.extend(map(decode, files))).seconds,
    }
    spent["resizing"] = measured(lambda: deque(map(prepare, pictures), maxlen=0)).seconds
    torch.set_num_threads(threads)
    return spent


def open_clip_rows(name: str, dataset: Dataset, repeats: int) -> None:
    """Prints the table of one open_clip model."""
    clip = OpenClip(name, None, random_init=True)
    clip.encode([Image.new("RGB", SIZE)] * clip.batch_size)
    content = dataset.field("image")
    n = len(content)
    pictures = [decode(path.read_bytes()) for row in range(n) if (path := content.path(row)) is not None]
    starts = range(0, n, clip.batch_size)
    batches = [clip.to_tensor([clip.prepare(p) for p in pictures[i : i + clip.batch_size]]) for i in starts]
    del pictures

    def forward() -> None:
        for batch in batches:
            clip.forward(batch)

    bare, all_, ratios = [], [], []
    for _ in range(repeats):
        bare.append(measured(forward))
        all_.append(whole(dataset, "image", clip))
        ratios.append(all_[-1].seconds / bare[-1].seconds)
    middle = sorted(range(repeats), key=ratios.__getitem__)[repeats // 2]
    one, other = bare[middle], all_[middle]
    rest = parts(dataset, clip.prepare, n)
    rest["writing"] = writing(dataset, "image", clip.dim)
    floor = (one.cpu + sum(rest.values())) / (os.cpu_count() or 1)
    print(f"\nopen_clip {name}, {n:,} pictures of {SIZE[0]} x {SIZE[1]}, batches of {clip.batch_size}")
    for what, took, ratio in (("bare forward", one, 1.0), ("extract", other, ratios[middle])):
        speed = f"{n / took.seconds:6.0f} pictures/s, {took.cpu:7.2f} s of processor"
        print(f"{what:20}  {took.seconds:8.2f} s   {ratio:.2f}   {speed}")
    print(f"floor on {os.cpu_count()} cores      {floor:8.2f} s   {floor / one.seconds:.2f}")
    print(f"extract over floor                 {other.seconds / floor:.2f}")
    print("all ratios            " + ", ".join(f"{r:.2f}" for r in ratios))
    print("beside the model, s   " + ", ".join(f"{k} {v:.2f}" for k, v in rest.items()))


def plain_row(name: str, dataset: Dataset, kind: str, repeats: int) -> None:
    """Prints the speed of an extractor without a model."""
    n = dataset.n_items
    runs = [whole(dataset, kind, features.extractor(name)) for _ in range(repeats)]
    seconds = statistics.median(r.seconds for r in runs)
    cpu = statistics.median(r.cpu for r in runs)
    print(f"\n{name}, {n:,} items: {seconds:.2f} s ({cpu:.2f} s of processor), {n / seconds:,.0f} a second")
    if kind == "image":
        tool = features.extractor(name)
        rest = parts(dataset, tool.prepare, n)  # type: ignore[attr-defined]
        prepared = [tool.prepare(Image.new("RGB", SIZE))] * 64  # type: ignore[attr-defined]
        rest["encoding"] = measured(lambda: [tool.encode(prepared) for _ in range(0, n, 64)]).seconds
        rest["writing"] = writing(dataset, kind, tool.dim)
        print("parts, s              " + ", ".join(f"{k} {v:.2f}" for k, v in rest.items()))
    else:
        texts = [text for text in dataset.field(kind) if text is not None]
        tool = features.extractor(name)
        fitting = measured(lambda: tool.fit(texts)).seconds  # type: ignore[attr-defined]
        encoding = measured(lambda: [tool.encode(texts[i : i + 64]) for i in range(0, n, 64)]).seconds
        print(
            f"parts, s              fitting {fitting:.2f}, encoding {encoding:.2f}, "
            f"writing {writing(dataset, kind, tool.dim):.2f}"
        )


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="ViT-S-32-alt,ViT-B-32", help="open_clip models, with commas")
    parser.add_argument("--pictures", type=int, default=2_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="256 pictures, the small model only")
    given = parser.parse_args()
    n, models = given.pictures, [name for name in given.models.split(",") if name]
    if given.quick:
        n, models = min(n, 256), models[:1]
    print(measure.machine())
    with tempfile.TemporaryDirectory() as folder:
        for i in range(n):
            (Path(folder) / f"{i}.jpg").write_bytes(poster(i))
        shop = catalog([f"{i}.jpg" for i in range(n)], "image", Path(folder))
        for name in models:
            open_clip_rows(name, shop, given.repeats)
        plain_row("hog-hsv", shop, "image", given.repeats)
    plain_row("tfidf-svd", catalog(sentences(n), "text"), "text", given.repeats)


if __name__ == "__main__":
    main()
