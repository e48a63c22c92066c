"""A generated catalog: a small synthetic shop with images, texts and purchases, written as ordinary files.

All of it is synthetic, and its README says so. It is meant for demonstrations, tests and first steps.

Every item has a look (colors and a pattern), visible only in its image; a theme and a use (purpose and
material), stated only in its text; and a kind (mug, lamp, ...), which appears in both and does not affect
purchases. Each user has one to three tastes, each for a look, a theme and a use. Images and texts therefore
explain different parts of a purchase, and the content of a new item predicts its buyers. With
``sounds=True`` every item also has a timbre, audible only in its sound, and every taste is for a timbre too.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from graphrec.core.errors import ConfigError, DataError
from graphrec.core.files import write_text
from graphrec.core.random import numpy_rng
from graphrec.data import generated_sounds
from graphrec.data.generated_pictures import KINDS, LOOKS, SIZE, render

README_MARK = "GENERATED DATA"
N_USES = 3
"""Uses per theme."""
SOFT = frozenset({"cushion", "tote bag"})
NAMES = (
    "Alder", "Arbor", "Aster", "Birch", "Briar", "Cedar", "Clover", "Corin", "Dahlia", "Elm", "Fenn", "Fjord",
    "Hazel", "Heron", "Ivo", "Juniper", "Kestrel", "Larch", "Linden", "Lumen", "Marlow", "Mira", "Nera",
    "Olin", "Orla", "Pella", "Quill", "Rowan", "Sable", "Sorrel", "Tansy", "Tern", "Thea", "Vale", "Wren",
    "Yara",
)  # fmt: skip


class Theme(NamedTuple):
    """Vocabulary of the texts of a theme."""

    hard: tuple[str, ...]
    """Materials of rigid items."""
    soft: tuple[str, ...]
    """Materials of cushions and bags."""
    uses: tuple[str, ...]
    """What the item is for."""
    words: tuple[str, ...]
    """Adjectives."""
    tags: tuple[str, ...]
    """Words for titles."""


THEMES: dict[str, Theme] = {
    "camping": Theme(
        ("enamelled steel", "brushed aluminum"), ("waxed canvas", "ripstop"),
        ("weekends under canvas", "long walks in the hills", "evenings around the camp fire"),
        ("rugged", "weatherproof", "packable"), ("Trail", "Summit", "Camp"),
    ),
    "bakery": Theme(
        ("glazed stoneware", "oven-proof ceramic"), ("brushed flannel", "thick kitchen cotton"),
        ("slow Sunday breakfasts", "baking days with flour everywhere", "serving warm bread"),
        ("hearty", "homely", "rustic"), ("Hearth", "Crumb", "Bakehouse"),
    ),
    "study": Theme(
        ("oiled walnut", "matt black metal"), ("felted wool", "tweed"),
        ("late hours at the desk", "reading in a quiet corner", "a tidy home office"),
        ("scholarly", "quiet", "restrained"), ("Library", "Desk", "Scholar"),
    ),
    "nursery": Theme(
        ("rounded beech", "shatter-proof resin"), ("organic jersey", "brushed cotton muslin"),
        ("bedtime stories", "little hands and big games", "the first years"),
        ("gentle", "playful", "washable"), ("Lullaby", "Playroom", "Cradle"),
    ),
    "spa": Theme(
        ("sealed bamboo", "polished soapstone"), ("terry cloth", "waffle linen"),
        ("long warm baths", "a calm bathroom shelf", "yoga before breakfast"),
        ("soothing", "airy", "unhurried"), ("Bath", "Retreat", "Stillwater"),
    ),
    "garden": Theme(
        ("frost-proof terracotta", "galvanised zinc"), ("outdoor acrylic", "jute"),
        ("potting sheds and balconies", "summer suppers on the terrace", "seedlings and cut flowers"),
        ("earthy", "sun-fast", "botanical"), ("Terrace", "Orchard", "Potting"),
    ),
    "festive": Theme(
        ("mouth-blown crystal", "gilded porcelain"), ("crushed velvet", "sequinned satin"),
        ("toasts and birthdays", "a table set for guests", "parties that go on past midnight"),
        ("glamorous", "sparkling", "opulent"), ("Gala", "Soiree", "Toast"),
    ),
}  # fmt: skip
OPENINGS = (
    "A {word} {kind} in {material}, made for {use}.",
    "Made of {material}, this {kind} is at home with {use}.",
    "For {use}: a {word} {kind} of {material}.",
    "This {word} {kind} was designed with {use} in mind and is made of {material}.",
)
CLOSINGS = (
    "{Word2} in character and easy to live with.",
    "Think of {use2}.",
    "It also suits {use2}.",
    "Our {word2} favorite, finished by hand.",
    "A {word2} present for anyone who loves {use2}.",
    "",
)


class _Items(NamedTuple):
    look: np.ndarray
    theme: np.ndarray
    use: np.ndarray
    kind: np.ndarray
    popularity: np.ndarray
    has_image: np.ndarray
    has_text: np.ndarray
    timbre: np.ndarray | None
    has_sound: np.ndarray


def write_catalog(
    directory: str | Path, n_items: int = 640, n_users: int = 1500, seed: int = 0, *, sounds: bool = False
) -> Path:
    """Writes a generated shop: ``interactions.csv``, ``items.csv``, ``images/<n>.png`` and ``README.txt``;
    with ``sounds`` also ``sounds/<n>.wav``.

    ``interactions.csv`` has the columns user, item, time (seconds); ``items.csv`` has item, title,
    description, image, and with ``sounds`` audio. About one item in twelve has no picture, one in twelve no
    text and one in twelve no sound.

    Args:
        directory: directory to create; a generated catalog in it is replaced.
        n_items: number of items, at least 20.
        n_users: number of users, at least 20.
        seed: random seed.
        sounds: give items a timbre, which decides on purchases too, and most of them a WAV file with it. The
            purchases differ from those without sounds; items, pictures and texts are the same.

    Returns:
        The directory.

    Raises:
        ConfigError: too few items or users.
        DataError: the directory holds files that were not generated; they are not changed.
    """
    if n_items < 20 or n_users < 20:
        raise ConfigError(f"{n_items} items and {n_users} users; expected at least 20 of each")
    directory = Path(directory)
    _refuse_foreign_files(directory)
    items = _draw_items(n_items, seed, sounds)
    users, purchased, times = _purchases(items, n_users, seed)
    option = ", sounds=True" if sounds else ""
    header = ["item", "title", "description", "image", *(["audio"] if sounds else [])]
    # README first: if a later step fails, the directory is still recognized as generated.
    write_text(
        directory / "README.txt",
        f"{README_MARK}\n\nThis catalog was generated by graphrec.data.generated.write_catalog with "
        f"n_items={n_items}, n_users={n_users}, seed={seed}{option}.\n"
        "No item, picture, text, sound, user or purchase in it is real.\n\n"
        f"items.csv          {n_items} items: {', '.join(header)}\n"
        f"interactions.csv   {len(users)} purchases of {n_users} users: user, item, time (Unix seconds)\n"
        f"images/            {int(items.has_image.sum())} pictures, {SIZE} x {SIZE}\n"
        + (f"sounds/            {int(items.has_sound.sum())} sounds, WAV\n" if sounds else ""),
    )
    _draw_pictures(items, directory / "images", seed)
    _write_sounds(items, directory / "sounds", seed)
    titles, descriptions = _write_texts(items, seed)
    pictures = [f"images/{i + 1}.png" if has else "" for i, has in enumerate(items.has_image)]
    ids = [f"P{i + 1:04d}" for i in range(n_items)]
    columns = [ids, titles, descriptions, pictures]
    if sounds:
        columns.append([f"sounds/{i + 1}.wav" if has else "" for i, has in enumerate(items.has_sound)])
    write_text(directory / "items.csv", _csv_text(header, zip(*columns, strict=True)))
    names = [f"U{u + 1:05d}" for u in range(n_users)]
    purchases = zip([names[u] for u in users], [ids[i] for i in purchased], times.tolist(), strict=True)
    write_text(directory / "interactions.csv", _csv_text(["user", "item", "time"], purchases))
    return directory


def generated_options(*, sounds: bool = False) -> dict[str, Any]:
    """Options with which the ``table`` reader reads a generated catalog.

    ``load_dataset("table", directory, **generated_options())`` holds a tenth of the items out of train, half
    of them for validation and half for test, and splits the interactions with the other items 8:1:1 at
    random.

    Args:
        sounds: whether it was written with sounds.
    """
    return {
        "name": "generated",
        "interactions": "interactions.csv",
        "user": "user",
        "item": "item",
        "time": "time",
        "items": "items.csv",
        "text": ["title", "description"],
        "image": "image",
        **({"audio": "audio"} if sounds else {}),
        "split": {"name": "cold-items", "share": 0.1, "then": {"name": "random", "valid": 0.1, "test": 0.1}},
        "seed": 0,
    }


def _refuse_foreign_files(directory: Path) -> None:
    """Refuses to overwrite files that were not generated."""
    readme = directory / "README.txt"
    if readme.is_file() and readme.read_text(encoding="utf-8", errors="replace").startswith(README_MARK):
        return
    names = ("items.csv", "interactions.csv", "images", "sounds", "README.txt")
    taken = [n for n in names if (directory / n).exists()]
    if taken:
        raise DataError(f"{directory}: holds {taken}, which were not generated; choose another directory")


def _csv_text(header: list[str], rows: Iterable[tuple[Any, ...]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _draw_pictures(items: _Items, folder: Path, seed: int) -> None:
    folder.mkdir(exist_ok=True)
    drawn = set()
    for item in np.flatnonzero(items.has_image).tolist():
        rng = numpy_rng(seed, "generated/picture", item)
        picture = render(int(items.kind[item]), int(items.look[item]), rng)
        picture.save(folder / f"{item + 1}.png", compress_level=4)
        drawn.add(f"{item + 1}.png")
    _remove_others(folder, "*.png", drawn)


def _write_sounds(items: _Items, folder: Path, seed: int) -> None:
    """Writes the sounds, and removes those of a former catalog."""
    written = set()
    if items.timbre is not None:
        folder.mkdir(exist_ok=True)
        for item in np.flatnonzero(items.has_sound).tolist():
            sound = generated_sounds.render(int(items.timbre[item]), numpy_rng(seed, "generated/sound", item))
            generated_sounds.write_wav(folder / f"{item + 1}.wav", sound)
            written.add(f"{item + 1}.wav")
    _remove_others(folder, "*.wav", written)


def _remove_others(folder: Path, pattern: str, names: set[str]) -> None:
    for left in folder.glob(pattern):
        if left.name not in names:
            left.unlink()


def _draw_items(n_items: int, seed: int, sounds: bool) -> _Items:
    rng = numpy_rng(seed, "generated/items")
    rank = rng.permutation(n_items)
    missing = rng.random((2, n_items)) < 0.08
    # A generator of its own, so that items are the same with and without sounds.
    audible = numpy_rng(seed, "generated/timbres")
    timbre = audible.integers(len(generated_sounds.TIMBRES), size=n_items)
    return _Items(
        look=rng.integers(len(LOOKS), size=n_items),
        theme=rng.integers(len(THEMES), size=n_items),
        use=rng.integers(N_USES, size=n_items),
        kind=rng.integers(len(KINDS), size=n_items),
        popularity=(rank + 8.0) ** -0.6,
        has_image=~missing[0],
        has_text=~missing[1],
        timbre=timbre if sounds else None,
        has_sound=(audible.random(n_items) >= 0.08) & sounds,
    )


def _purchases(items: _Items, n_users: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users, items and times ``(E,) int64``, by user and then by time."""
    rng = numpy_rng(seed, "generated/purchases")
    n_items = len(items.look)
    timbres = numpy_rng(seed, "generated/timbre-tastes")
    pull = np.zeros((n_users, n_items))
    n_tastes = rng.choice((1, 2, 3), size=n_users, p=(0.4, 0.4, 0.2))
    for taste in range(3):
        look = rng.integers(len(LOOKS), size=n_users)[:, None]
        theme = rng.integers(len(THEMES), size=n_users)[:, None]
        use = rng.integers(N_USES, size=n_users)[:, None]
        of_theme = items.theme == theme
        liking = np.exp(1.5 * of_theme + 2.0 * (of_theme & (items.use == use)) + 1.5 * (items.look == look))
        if items.timbre is not None:
            timbre = timbres.integers(len(generated_sounds.TIMBRES), size=n_users)[:, None]
            liking *= np.exp(1.5 * (items.timbre == timbre))
        pull += liking * (taste < n_tastes)[:, None] / n_tastes[:, None]
    # A tenth of the purchases follow popularity alone, like gifts and shared accounts.
    pull = 0.9 * pull / pull.mean(axis=1, keepdims=True) + 0.1
    score = np.log(pull * items.popularity) + rng.gumbel(size=pull.shape)
    counts = np.round(9 + rng.gamma(1.1, 7.0, size=n_users)).astype(np.int64)
    counts = np.minimum(counts, min(60, n_items // 2))
    chosen = np.argsort(-score, axis=1, kind="stable")
    users = np.repeat(np.arange(n_users), counts)
    bought = chosen[np.arange(n_items) < counts[:, None]]
    # Purchase times do not depend on preference.
    start, year = 1_672_531_200, 365 * 86_400
    times = start + (rng.random(len(users)) * 2 * year).astype(np.int64)
    order = np.lexsort((times, users))
    return users[order], bought[order], times[order]


def _write_texts(items: _Items, seed: int) -> tuple[list[str], list[str]]:
    """Title and description of each item, empty where it has no text."""
    themes, kinds = list(THEMES.values()), list(KINDS)
    titles, descriptions = [], []
    for item, (theme_index, kind_index, use_index) in enumerate(
        zip(items.theme, items.kind, items.use, strict=True)
    ):
        rng = numpy_rng(seed, "generated/text", item)
        theme, kind = themes[theme_index], kinds[kind_index]
        material = str(rng.choice(theme.soft if kind in SOFT else theme.hard))
        word, word2 = (str(w) for w in rng.permutation(theme.words)[:2])
        use, use2 = theme.uses[use_index], theme.uses[(use_index + 1) % N_USES]
        words = {"word": word, "word2": word2, "Word2": word2.capitalize(), "use": use, "use2": use2}
        opening, closing = str(rng.choice(OPENINGS)), str(rng.choice(CLOSINGS))
        title = f"{rng.choice(NAMES)} {rng.choice(theme.tags)} {kind}"
        described = f"{opening} {closing}".strip().format(material=material, kind=kind, **words)
        described = re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", described)
        titles.append(title if items.has_text[item] else "")
        descriptions.append(described if items.has_text[item] else "")
    return titles, descriptions
