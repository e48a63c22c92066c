"""What a language model says of a catalog: preferences, attributes and profiles, asked once and kept.

:mod:`graphrec.features.extract.llm.jobs` does the three jobs with any :class:`~graphrec.features.extract.llm.client.Chat`;
:mod:`graphrec.features.extract.llm.catalog` does them by counting, with no model at all. What comes out is written into the
feature store; training never asks anybody.
"""
