"""HTML pages: escaping, structure, numbers drawn in the right places, nothing loaded from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jinja2
import numpy as np
import pytest
from hypothesis import given, strategies as st
from markupsafe import Markup
from PIL import Image

from graphrec.core.errors import ConfigError, DataError
from graphrec.runs import html
from graphrec.runs.html.charts import LEFT, RIGHT, WIDE, WIDTH, ticks

NASTY = "<script>alert('x')</script> & \"quoted\" <img src=http://evil.example/a.png onerror=1>"
VOID = {"img", "meta", "br"}


class Parsed(HTMLParser):
    """Checks that elements nest, and collects tags, attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, key, value) for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def values(self, tag: str, key: str) -> list[str]:
        return [v or "" for t, k, v in self.attributes if (t, k) == (tag, key)]


EVERYTHING = """{% extends "base.html" %}
{% block pill %}{{ title }}{% endblock %}
{% block lead %}{{ title }}{% endblock %}
{% block main %}{% call section(title, title) %}
<p>{{ title }}</p>
{{ html.table(table) }}{{ html.charts(charts) }}{{ html.facts({title: title}) }}
{{ html.gallery(title, title, cards) }}{{ html.command(title) }}
{% endcall %}{% endblock %}
{% block footer %}{{ title }}{% endblock %}
"""


@pytest.fixture
def rendered(tmp_path: Path) -> Callable[..., str]:
    """Renders a template from its text."""

    def render(text: str, **values: Any) -> str:
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.html"
        file.write_text(text, encoding="utf-8")
        return html.render(file, **{"title": "Title", **values})

    return render


@pytest.fixture
def whole(rendered: Callable[..., str]) -> Callable[[str], str]:
    """A page with one of everything, named ``title`` wherever a name can be."""

    def make(title: str) -> str:
        rows = [html.Heading(title, title), [title, html.Cell("1", title, "best")]]
        charts = [
            html.line_chart({title: [(1, 2), (2, 3)]}, title=title, x=title, y=title),
            html.bar_chart([title], {title: [html.Bar(0.5, 0.4, 0.6)]}, title=title, y=title),
        ]
        cards = [html.Card(title, hit=title, new=title)]
        table = html.Table([title, "n"], rows, title)
        return rendered(EVERYTHING, title=title, table=table, charts=charts, cards=cards)

    return make


def shown_table(rendered: Callable[..., str], *arguments: Any) -> str:
    """The markup of a table alone."""
    page = '{% extends "base.html" %}{% block main %}{{ html.table(table) }}{% endblock %}'
    text = rendered(page, table=html.Table(*arguments))
    return re.search(r"<main>(.*)</main>", text, re.S).group(1)  # type: ignore[union-attr]


def drawing(text: str) -> ElementTree.Element:
    """The drawing of a chart, without the legend's samples."""
    svg = re.search(r'<svg[^>]*role="img".*</svg>', text, re.S)
    assert svg is not None
    return ElementTree.fromstring(svg.group())


def test_titles_are_text_wherever_they_are(whole: Callable[[str], str]) -> None:
    parsed = Parsed(whole(NASTY))
    assert "script" not in parsed.tags
    assert "img" not in parsed.tags  # the only picture there could be is the one in the title
    assert not [key for _, key, _ in parsed.attributes if key.startswith("on")]
    assert parsed.text.count("<script>alert('x')</script>") >= 15


@given(st.text(max_size=60))
def test_any_text_comes_back_as_it_was(text: str) -> None:
    shown = html.escape(text)
    assert not set(shown) & {"<", ">", '"'}
    assert (
        Parsed(f"<p>{shown}</p>").words == [text]
        or re.search("[\x00-\x1f\x7f\r\n\ufffe\uffff]", text)
        or not text
    )
    shown.encode("utf-8")


def test_control_characters_and_surrogates_do_not_reach_the_page(whole: Callable[[str], str]) -> None:
    assert html.escape("a\x00b\x1bc\ud800d") == "a\ufffdb\ufffdc?d"
    assert html.escape(Markup("<b>")) == "<b>"
    text = whole("a\x00b\x1bc\ud800d")
    text.encode("utf-8")
    assert text.count("a\ufffdb\ufffdc?d") >= 15
    assert not set(text) & {"\x00", "\x1b"}


def test_nothing_is_loaded_from_elsewhere(whole: Callable[[str], str], rendered: Callable[..., str]) -> None:
    page = '{% extends "base.html" %}{% block main %}{{ html.gallery("g", "", cards) }}{% endblock %}'
    for address in ("http://example.org/a.png", "//a/b", "data:text/html,x", "javascript:alert(1)"):
        with pytest.raises(ConfigError, match=re.escape(repr(address))):
            rendered(page, cards=[html.Card("a", address)])
    text = whole("plain")
    assert not re.search(r"https?:|//|@import|url\(", text)
    policy = Parsed(text).values("meta", "content")[0]
    assert policy.startswith("default-src 'none'")


def test_page_is_navigable_and_sections_differ(rendered: Callable[..., str]) -> None:
    page = """{% extends "base.html" %}{% block main %}{% for heading in headings %}
    {% call section(heading) %}x{% endcall %}{% endfor %}{% endblock %}"""
    parsed = Parsed(rendered(page, headings=["One & two", "Three"]))
    targets = {v.removeprefix("#") for v in parsed.values("a", "href")}
    assert targets == set(parsed.values("section", "id")) == {"one-two", "three"}
    assert set(parsed.values("section", "aria-labelledby")) <= set(parsed.values("h2", "id"))
    assert parsed.values("html", "lang") == ["en"]
    with pytest.raises(ConfigError, match="'A b' and 'a-B'"):
        rendered(page, headings=["A b", "a-B"])


def test_a_value_that_a_template_lacks_is_an_error(rendered: Callable[..., str]) -> None:
    with pytest.raises(jinja2.UndefinedError, match="absent"):
        rendered('{% extends "base.html" %}{% block main %}{{ absent }}{% endblock %}')


def test_table_has_caption_scopes_and_marks(rendered: Callable[..., str]) -> None:
    rows = [html.Heading("group"), ["m1", html.Cell("0.5", "0.4 to 0.6", "best")], ["m2", "0.1"]]
    text = shown_table(rendered, ["model", "recall"], rows, "what it shows")
    parsed = Parsed(text)
    assert parsed.tags.count("caption") == 1
    assert parsed.values("th", "scope") == ["col", "col", "rowgroup", "row", "row"]
    assert re.search(r'<td><span class="best">0\.5</span><small>0\.4 to 0\.6</small></td>', text)
    assert "<td>0.1</td>" in text
    with pytest.raises(DataError, match="row 1 has 1 cells; expected 2"):
        html.Table(["a", "b"], [["x", "y"], ["x"]], "c")


def test_line_chart_draws_points_in_place() -> None:
    text = html.line_chart(
        {"a": [(1, 0.1), (2, 0.3), (3, 0.2)], "b": [(0, 0.15)], "c": []}, title="t", x="epoch", y="r"
    )
    svg = drawing(text)
    line = svg.find("polyline")
    assert line is not None
    points = np.array([[float(v) for v in p.split(",")] for p in line.attrib["points"].split()])
    assert np.all(np.diff(points[:, 0]) > 0)
    # Down the page is less: the second point is highest, the third halfway between the others.
    assert points[1, 1] < points[2, 1] < points[0, 1]
    assert points[2, 1] == pytest.approx((points[0, 1] + points[1, 1]) / 2, abs=0.11)
    hover = [t.text for t in svg.iter("title")]
    assert "a, epoch 2: 0.3" in hover
    assert [e for e in svg.iter("line") if "stroke-dasharray" in e.attrib], "a single point is a dashed line"
    assert Parsed(text).text.startswith("t a b "), "the legend names what is drawn, and only that"
    for bad in ({"a": [(1.0, float("nan"))]}, {}):
        with pytest.raises(DataError, match="expected finite numbers"):
            html.line_chart(bad, title="t", x="x", y="y")


def test_bar_lengths_are_proportional_and_whiskers_span_the_interval() -> None:
    bars = {"a": [html.Bar(0.2, 0.1, 0.3), html.Bar(0.4)], "b": [html.Bar(0.1), html.Bar(0.3)]}
    text = html.bar_chart(["g1", "g2"], bars, title="t", y="recall")
    svg = drawing(text)
    lengths = [float(r.attrib["width"]) for r in svg.iter("rect")]
    assert np.allclose(np.array(lengths) / lengths[0], [1, 0.5, 2, 1.5], atol=0.01)
    whisker = next(e for e in svg.iter("line") if e.attrib.get("class") == "whisker")
    assert float(whisker.attrib["x2"]) - float(whisker.attrib["x1"]) == pytest.approx(lengths[0], abs=0.11)
    assert "g1: a 0.200, b 0.100" in svg.attrib["aria-label"]
    tops = [float(r.attrib["y"]) for r in svg.iter("rect")]
    assert np.all(np.diff(tops) > float(next(svg.iter("rect")).attrib["height"])), "one below the other"
    with pytest.raises(DataError, match="1 bars; expected 2"):
        html.bar_chart(["g1", "g2"], {"a": [html.Bar(1)]}, title="t", y="y")
    with pytest.raises(DataError, match="from 0"):
        html.bar_chart(["g"], {"a": [html.Bar(-1)]}, title="t", y="y")


def test_every_bar_carries_its_name_and_value_however_many_there_are() -> None:
    text = html.bar_chart(["g"], {f"m{i}": [html.Bar(0.125)] for i in range(20)}, title="t", y="y")
    svg = drawing(text)
    said = {
        kind: [e.text for e in svg.iter("text") if e.get("class") == kind]
        for kind in ("name", "value", "group")
    }
    assert said == {"name": [f"m{i}" for i in range(20)], "value": ["0.125"] * 20, "group": ["g"]}
    assert "m19, g: 0.1250" in text
    long = html.bar_chart(["g"], {"n" * 200: [html.Bar(1)]}, title="t", y="y")
    assert len(next(e.text or "" for e in drawing(long).iter("text") if e.get("class") == "name")) < 50
    assert f"{'n' * 200}, g: 1.0000" in long, "the whole name on hovering"


def outlines(svg: ElementTree.Element) -> list[str]:
    return [e.attrib["d"] for e in svg.iter("path") if e.get("class") == "point"]


def test_series_differ_without_their_colors() -> None:
    lines = {f"m{i}": [(1.0, i), (2.0, i + 1.0)] for i in range(10)}
    for text in (
        html.line_chart(lines, title="t", x="x", y="y"),
        html.scatter_chart(lines, title="t", x="x", y="y"),
    ):
        assert len(set(outlines(drawing(text)))) == 10
        keys = [ElementTree.fromstring(key) for key in re.findall(r'<svg[^>]*class="key".*?</svg>', text)]
        assert len({outlines(key)[0] for key in keys}) == 10
    levels = {f"m{i}": [(0.0, float(i))] for i in range(5)} | {"line": [(1.0, 0.0), (2.0, 1.0)]}
    svg = drawing(html.line_chart(levels, title="t", x="x", y="y"))
    dashes = [e.attrib["stroke-dasharray"] for e in svg.iter("line") if "stroke-dasharray" in e.attrib]
    assert len(set(dashes)) == 5
    assert [e.text for e in svg.iter("text") if e.get("class") == "name"] == [f"m{i}" for i in range(5)]


def test_long_lines_have_few_markers_and_those_of_two_lines_are_at_different_points() -> None:
    line = [(float(i), 1.0) for i in range(60)]
    svg = drawing(html.line_chart({"a": line, "b": line}, title="t", x="x", y="y"))
    places = [e.attrib["transform"] for e in svg.iter("path") if e.get("class") == "point"]
    assert 12 <= len(places) == len(set(places)) <= 20
    assert sum(e.get("class") == "touch" for e in svg.iter("circle")) == 120


def test_scatter_chart_places_points_and_levels() -> None:
    near = {"a": [(10.0, 0.1), (20.0, 0.3)], "b": [(15.0, 0.2)], "c": []}
    text = html.scatter_chart(near, title="t", x="seconds", y="r", levels={"c": 0.2, "d": 0.1})
    svg = drawing(text)
    dots = np.array(
        [[float(c.attrib[k]) for k in ("cx", "cy")] for c in svg.iter("circle") if c.get("class") == "touch"]
    )
    assert dots[2] == pytest.approx((dots[0] + dots[1]) / 2, abs=0.11)
    assert dots[1, 1] < dots[0, 1]
    levels = {e[0].text: float(e.attrib["y1"]) for e in svg.iter("line") if "stroke-dasharray" in e.attrib}
    assert levels == {"c: 0.2": dots[2, 1], "d: 0.1": dots[0, 1]}
    assert "logarithmic" not in text
    assert Parsed(text).text.startswith("t a b c d ")
    for bad in ({"a": [(1.0, float("nan"))]}, {"a": []}):
        with pytest.raises(DataError, match="expected finite numbers"):
            html.scatter_chart(bad, title="t", x="x", y="y")


@given(st.lists(st.floats(1e-3, 1e6), min_size=2, max_size=6))
def test_times_far_apart_stand_on_a_logarithmic_axis(times: list[float]) -> None:
    text = html.scatter_chart({"a": [(t, 0.5) for t in times]}, title="t", x="seconds", y="r")
    places = [float(x) for x in re.findall(r'cx="([-\d.]+)" cy="[-\d.]+" r="10"', text)]
    assert ("logarithmic" in text) == (max(times) / min(times) >= WIDE)
    assert all(LEFT - 0.1 <= x <= WIDTH - RIGHT + 0.1 for x in places)
    order = np.argsort(times)
    assert np.all(np.diff(np.array(places)[order]) >= 0)
    if "logarithmic" in text:  # equal ratios are equal distances
        slope = np.polyfit(np.log(times), places, 1)
        assert np.allclose(np.polyval(slope, np.log(times)), places, atol=0.2)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_round_and_cover_the_range(low: float, width: float) -> None:
    made = ticks(low, low + width)
    step = made[1] - made[0]
    slack = 1e-6 * max(step, abs(low))
    assert made[0] <= low + slack
    assert made[-1] >= low + width - slack
    assert 2 <= len(made) <= 9
    assert np.allclose(np.diff(made), step)


def test_all_equal_values_still_make_a_chart() -> None:
    Parsed(html.line_chart({"a": [(1, 0.0), (2, 0.0)]}, title="t", x="x", y="y"))
    Parsed(html.bar_chart(["g"], {"a": [html.Bar(0.0, 0.0, 0.0)]}, title="t", y="y"))


def test_gallery_marks_hits_and_draws_a_placeholder(rendered: Callable[..., str], tmp_path: Path) -> None:
    Image.new("RGB", (400, 200), (200, 30, 30)).save(tmp_path / "a.png")
    picture = html.thumbnail(tmp_path / "a.png", side=64)
    cards = [html.Card("red", picture, hit="found"), html.Card("nameless", None, new="new")]
    page = '{% extends "base.html" %}{% block main %}{{ html.gallery("Row", "", cards) }}{% endblock %}'
    parsed = Parsed(rendered(page, cards=cards))
    assert parsed.values("img", "alt") == ["red"]
    assert parsed.values("img", "src") == [picture]
    assert parsed.values("li", "class") == ["card is-hit", "card"]
    assert "no picture" in parsed.text
    assert not parsed.values("img", "loading"), "pictures are there when the page is printed"
    row = [parsed.values("div", key) for key in ("tabindex", "role", "aria-label")]
    assert row == [["0"], ["group"], ["Row"]], "the row can be focused, to scroll it by keys"
    assert "nameless" in parsed.text


def test_thumbnail_is_a_small_jpeg(tmp_path: Path) -> None:
    import base64
    import io

    Image.new("RGBA", (400, 200), (200, 30, 30, 128)).save(tmp_path / "a.png")
    made = html.thumbnail(tmp_path / "a.png", side=64)
    head, _, data = made.partition(",")
    assert head == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as opened:
        assert (opened.format, opened.size) == ("JPEG", (64, 32))
    (tmp_path / "b.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match=r"b\.png: not readable as a picture"):
        html.thumbnail(tmp_path / "b.png")
