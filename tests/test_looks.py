"""How pages look in a browser, at 400 and 1,400 pixels, light and dark: nothing cut off, everything legible.

With ``GRAPHREC_SCREENSHOTS=docs/images`` the pictures of the documentation are written as well.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from shop_agent import N_ITEMS, shop

from graphrec.core.random import numpy_rng
from graphrec.evaluation.report import Report
from graphrec.runs.comparison import Entry, compare_reports, to_html

SCREENSHOTS = os.environ.get("GRAPHREC_SCREENSHOTS")
IMAGES = Path(__file__).parent.parent / "docs" / "images"
SIZES = {400: 860, 1400: 900}
"""Width of a window -> its height, in pixels."""
SHOWN = ("comparison", "converse-items")
"""Pages in the documentation, at every size and in both color schemes."""
CUTS = (5, 10, 20, 50)
MODELS = {
    "BM3": (0.004, 21.0),
    "FREEDOM": (0.0055, 36.0),
    "item regression": (-0.004, 0.0),
    "LightGCN": (-0.02, 91.0),
    "popularity": (-0.08, 0.0),
}
"""Name of a model -> shift of its generated metrics, seconds of its training."""


def generated_entries() -> dict[str, list[Entry]]:
    """Reports of five models whose numbers are drawn, with everything that a page can show."""
    n = 400
    rng = numpy_rng(0, "tests/looks")
    base = rng.random(n) * 0.25
    entries: dict[str, list[Entry]] = {}
    for label, (shift, seconds) in MODELS.items():
        for seed in range(3 if seconds else 1):
            found = np.clip(base + shift + rng.normal(0, 0.03, n), 0, 1)
            metrics = {
                f"{m}@{k}": found * k**0.3 * s for m, s in (("recall", 0.4), ("ndcg", 0.2)) for k in CUTS
            }
            placed = "as trained" if label in ("LightGCN", "popularity") else "from content"
            meta = {
                "model": label,
                "split": "test",
                "seen": "train+valid",
                "n_items": 1007,
                "n_held_out": 1930,
            }
            meta |= {"cold_items": placed, "n_group": 130}
            groups = {
                name: Report(np.arange(200), {k: v[:200] * share for k, v in metrics.items()}, meta=meta)
                for name, share in (("items/warm", 0.9), ("items/cold", 0.2), ("items/cold/within", 1.2))
            }
            scalars = {"popularity@20": 300 - 2000 * shift, "coverage@20": 0.55 + 4 * shift}
            quality = float(metrics["recall@20"].mean())
            history = [
                {"epoch": e, "seconds": 1.0, "recall@20": quality * (1 - np.exp(-e / (4 - shift * 60)))}
                for e in range(1, 31)
            ]
            still = [{"epoch": 0, "seconds": 0.0, "recall@20": quality}]
            about = {
                "model": label,
                "dataset": {"name": "a generated shop", "fingerprint": "ab" * 32},
                "model_config": {"dim": 64, "n_layers": 2, "a_rather_long_option_name": 0.25},
                "train_config": {"epochs": 30, "learning_rate": 0.001},
            }
            report = Report(np.arange(n), metrics, scalars, groups=groups, meta=meta)
            curve = history if seconds else still
            trained = 640_000 if seconds else None
            entries.setdefault(label, []).append(Entry(report, seed, curve, seconds + seed, trained, about))
    return entries


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    pytest.importorskip("playwright", reason="playwright is not installed; pip install 'graphrec[dev]'")
    pytest.importorskip("uvicorn", reason="uvicorn is not installed; pip install 'graphrec[serve]'")
    pytest.importorskip("fastapi", reason="fastapi is not installed; pip install 'graphrec[serve]'")
    from browsing import CHROMIUM, FLAGS
    from playwright.sync_api import sync_playwright

    if CHROMIUM is None:
        pytest.skip("no Chromium; apt-get install chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def addresses(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Page -> where it is."""
    from browsing import Served

    from graphrec.cli import demo

    out = tmp_path_factory.mktemp("looks")
    compared = compare_reports(generated_entries(), metrics=["recall", "ndcg"], k=[10, 20])
    page = to_html(compared, out / "comparison.html", command="graphrec compare runs --html comparison.html")
    demo.run(out / "demo", n_items=120, n_users=150, epochs=4, quiet=True)
    pictures = out / "pictures"
    binary = Served(shop(pictures, pictures=N_ITEMS, belief="posterior", error=0.05))
    several = Served(shop(out / "more", "ask-then-recommend:2", questions="enumerated", k=6))
    yield {
        "comparison": page.as_uri(),
        "demo": (out / "demo" / "report.html").as_uri(),
        "converse": binary.address,
        "converse-several": several.address,
    }
    binary.stop()
    several.stop()


@pytest.fixture
def opened(browser: Any, addresses: dict[str, str]) -> Iterator[Callable[..., Any]]:
    """Opens a page at a width and in a color scheme; a narrow one is a phone's."""
    from browsing import PATIENCE

    contexts = []

    def open_page(name: str, width: int, scheme: str = "light", height: int | None = None) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": height or SIZES[width]},
            color_scheme=scheme,
            has_touch=width == 400,
            is_mobile=width == 400,
        )
        context.set_default_timeout(PATIENCE * 1000)
        contexts.append(context)
        page = context.new_page()
        page.goto(addresses[name])
        return page

    yield open_page
    for context in contexts:
        context.close()


def photograph(page: Any, name: str, colors: int = 64) -> None:
    """A picture for the documentation, where one is asked for."""
    if SCREENSHOTS:
        width = page.viewport_size["width"]
        clip = {"x": 0, "y": 0, "width": width, "height": 560 if width == 1400 else 620}
        picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
        reduced = picture.quantize(colors, kmeans=4, dither=Image.Dither.NONE)
        reduced.save(Path(SCREENSHOTS) / f"{name}.png", optimize=True)


FACTS = """() => {
  const inside = (r) => r.left >= -0.5 && r.right <= innerWidth + 0.5;
  const tables = [...document.querySelectorAll("table")].map((table) => {
    const box = table.closest(".scroll, .sheet");
    const hint = box?.querySelector(".hint");
    return {
      inside: !!box && inside(box.getBoundingClientRect()),
      cut: !!box && box.scrollWidth > box.clientWidth + 1,
      scrolls: !!box && getComputedStyle(box).overflowX === "auto" && box.tabIndex === 0,
      hint: !!hint && hint.offsetHeight > 8 && getComputedStyle(hint).visibility === "visible",
    };
  });
  const charts = [...document.querySelectorAll("figure > svg")].map((svg) => {
    const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    const texts = [...svg.querySelectorAll("text")].filter((text) => text.textContent);
    return {
      inside: inside(svg.getBoundingClientRect()),
      texts: texts.every((text) => inside(text.getBoundingClientRect())),
      size: Math.min(...texts.map((text) => parseFloat(getComputedStyle(text).fontSize) * scale)),
    };
  });
  return { width: document.documentElement.scrollWidth, tables, charts };
}"""
"""Whether tables and charts fit into the window, and what is said where they do not."""

CONTRASTS = """() => {
  const parse = (color) => {
    const n = color.match(/[\\d.]+/g).map(Number);
    return n.length === 3 ? [...n, 1] : n;
  };
  const light = (color) => {
    const shares = color.map((c) => c / 255);
    const [r, g, b] = shares.map((s) => (s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3]));
  const ground = (element) => {
    if (!element) return [255, 255, 255];
    const color = parse(getComputedStyle(element).backgroundColor);
    return color[3] === 1 ? color : over(color, ground(element.parentElement));
  };
  const found = {};
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim()) continue;
    if (element.closest("title, script, style, :disabled")) continue;
    if (!element.checkVisibility({ visibilityProperty: true }) || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const below = ground(element);
    const color = over(parse(element.closest("svg") ? style.fill : style.color), below);
    const [dim, bright] = [light(color), light(below)].sort((a, b) => a - b);
    const name = `${element.tagName} ${element.getAttribute("class") || ""} ${element.id}`;
    found[name] = Math.min(found[name] ?? 99, (bright + 0.05) / (dim + 0.05));
  }
  return found;
}"""
"""Least contrast of the texts of each kind with what is behind them (WCAG 2.2, 1.4.3)."""


def check(page: Any, width: int) -> dict[str, Any]:
    """Asserts that a page fits and can be read; returns the facts."""
    facts: dict[str, Any] = page.evaluate(FACTS)
    assert facts["width"] == width, "the page does not scroll sideways"
    for table in facts["tables"]:
        assert table["inside"]
        assert not table["cut"] or (table["scrolls"] and table["hint"]), "what is cut off says so"
        assert table["cut"] or not table["hint"], "and nothing else does"
    for chart in facts["charts"]:
        assert chart["inside"]
        assert chart["texts"]
        assert chart["size"] >= 10, "letters of at least 10 pixels"
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) >= 5
    assert {name: c for name, c in contrasts.items() if c < 4.5} == {}
    return facts


everywhere = pytest.mark.parametrize(
    ("width", "scheme"), [(width, scheme) for width in SIZES for scheme in ("light", "dark")]
)


@everywhere
@pytest.mark.parametrize("name", ["comparison", "demo"])
def test_reports_fit_and_can_be_read(opened: Callable[..., Any], name: str, width: int, scheme: str) -> None:
    page = opened(name, width, scheme)
    facts = check(page, width)
    assert len(facts["tables"]) >= 3
    assert len(facts["charts"]) >= 3
    if width == 400:
        assert any(table["cut"] for table in facts["tables"]), "there is something to give a hint of"
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(18, 20, 24)"
    assert dark == (scheme == "dark")
    if name in SHOWN:
        anchor = "results" if width == 400 else "the-answer"
        page.evaluate("id => document.getElementById(id).scrollIntoView()", anchor)
        photograph(page, f"{name}-{width}-{scheme}", colors=16)
    elif (width, scheme) == (1400, "light"):
        page.evaluate("document.querySelector('.person').scrollIntoView()")
        photograph(page, "report")


@everywhere
def test_conversations_fit_and_can_be_read(opened: Callable[..., Any], width: int, scheme: str) -> None:
    from browsing import at, begin, until

    page = opened("converse", width, scheme)
    until(page, "document.querySelectorAll('#offered button').length > 0")
    check(page, width)
    begin(page)
    check(page, width)
    for events, answer in enumerate(("yes", "yes", "no"), 1):
        page.locator(f"#{answer}").click()
        at(page, events)
    until(page, "[...document.images].every(image => image.complete)")
    check(page, width)
    assert page.locator("#cards button").count() == 10
    reasons = page.locator("#cards small").all_inner_texts()
    assert len(reasons) == len(set(reasons)), "no two cards repeat one reason"
    assert page.locator("#why").inner_text().startswith("Why? All of these have what you asked for: ")
    page.mouse.move(0, 0)
    photograph(page, f"converse-items-{width}-{scheme}")
    page = opened("converse-several", width, scheme)
    begin(page)
    check(page, width)


def test_a_phone_shows_the_way_on_and_no_keys(opened: Callable[..., Any]) -> None:
    from browsing import at, begin, until

    page = opened("converse", 400, height=640)
    until(page, "document.querySelectorAll('#offered button').length > 0")
    start = page.locator("#go").bounding_box()
    assert start["y"] + start["height"] <= 640, "Start is on the first screen"
    assert page.locator("#go").evaluate(
        "b => { const r = b.getBoundingClientRect();"
        " return document.elementFromPoint(r.x + r.width / 2, r.y + r.height / 2) === b; }"
    ), "and nothing lies on it"
    begin(page)
    page.locator("#yes").click()
    at(page, 1)
    for answer in ("yes", "no"):
        page.locator(f"#{answer}").click()
        at(page, 2 + (answer == "no"))
    keys = page.locator("kbd, .card .number, .keys")
    assert keys.count() > 10
    assert not any(key.is_visible() for key in keys.all())
    page = opened("converse", 1400)
    begin(page)
    assert page.locator("#yes kbd").is_visible()


def test_pictures_are_there_on_paper_and_rows_of_them_move_by_keys(opened: Callable[..., Any]) -> None:
    from browsing import until

    page = opened("demo", 400, "dark")
    row = page.locator(".strip .scroll").first
    row.focus()
    assert row.evaluate("row => row === document.activeElement")
    assert row.evaluate("row => row.scrollWidth > row.clientWidth")
    # A card is visible in part, as a sign that the row goes on.
    parts = row.evaluate(
        "row => [...row.querySelectorAll('.card')].map(c => c.getBoundingClientRect())"
        ".filter(r => r.left < row.getBoundingClientRect().right - 15"
        " && r.right > row.getBoundingClientRect().right + 15).length"
    )
    assert parts == 1
    page.keyboard.press("ArrowRight")
    until(page, "document.activeElement.scrollLeft > 0")
    page = opened("demo", 1400, "dark")
    page.emulate_media(media="print")
    pictures = page.evaluate("[...document.images].map(i => [i.complete, i.naturalWidth, i.loading])")
    assert len(pictures) >= 20
    assert all(complete and width and loading != "lazy" for complete, width, loading in pictures)
    ground = page.evaluate("getComputedStyle(document.querySelector('section')).backgroundColor")
    assert ground == "rgb(255, 255, 255)", "paper is light"
    boxes = "[...document.querySelectorAll('.scroll')].map(box => getComputedStyle(box).overflowX)"
    assert set(page.evaluate(boxes)) == {"visible"}, "and does not scroll"


def test_pictures_of_the_documentation_are_there_and_small() -> None:
    names = {
        f"{name}-{width}-{scheme}.png" for name in SHOWN for width in SIZES for scheme in ("light", "dark")
    }
    written = {path.name for path in IMAGES.glob("*.png")}
    assert written == names | {"report.png"}, "write them with GRAPHREC_SCREENSHOTS=docs/images"
    pages = [*IMAGES.parent.rglob("*.md"), IMAGES.parent.parent / "README.md"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in pages if "_build" not in path.parts)
    assert all(f"images/{name}" in text for name in written), "each is in the documentation"
    assert sum((IMAGES / name).stat().st_size for name in written) < 290_000
    for name in names:
        with Image.open(IMAGES / name) as picture:
            assert str(picture.width) in name
