"""Self-contained HTML reports: tables, SVG charts and picture galleries in one file that loads nothing.

Pages are Jinja templates that extend ``base.html``. Every value is escaped unless it is markup, so titles and
ids may hold anything. Colors follow the reader's light or dark preference; a content security policy in the
page forbids scripts and loading from elsewhere.
"""

from graphrec.runs.html.charts import Bar, bar_chart, line_chart, scatter_chart
from graphrec.runs.html.markup import escape
from graphrec.runs.html.page import Card, Cell, Heading, Table, options, render, thumbnail

__all__ = [
    "Bar",
    "Card",
    "Cell",
    "Heading",
    "Table",
    "bar_chart",
    "escape",
    "line_chart",
    "options",
    "render",
    "scatter_chart",
    "thumbnail",
]
