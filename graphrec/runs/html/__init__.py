"""Self-contained HTML reports: tables, SVG charts and picture galleries in one file without a single request.

Whatever is not :class:`Html` is escaped, so titles and ids may hold anything. Colors follow the reader's
light or dark preference; a content security policy in the page forbids scripts and loading from elsewhere.
"""

from graphrec.runs.html.charts import Bar, bar_chart, line_chart, scatter_chart
from graphrec.runs.html.page import (
    Card,
    Cell,
    Heading,
    Html,
    Section,
    element,
    escape,
    facts,
    gallery,
    join,
    page,
    paragraph,
    table,
    thumbnail,
)

__all__ = [
    "Bar",
    "Card",
    "Cell",
    "Heading",
    "Html",
    "Section",
    "bar_chart",
    "element",
    "escape",
    "facts",
    "gallery",
    "join",
    "line_chart",
    "page",
    "paragraph",
    "scatter_chart",
    "table",
    "thumbnail",
]
