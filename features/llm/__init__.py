"""What a language model says of a catalogue: preferences, attributes and profiles, asked once and kept.

:mod:`features.llm.jobs` does the three jobs with any :class:`~features.llm.client.Chat`;
:mod:`features.llm.catalogue` does them by counting, with no model at all. What comes out is written into the
feature store; training never asks anybody.
"""
