"""Features from a language model: preferences, attributes and profiles, requested once and cached.

:mod:`~graphrec.features.extract.llm.jobs` builds the prompts of the three jobs and reads the replies,
:mod:`~graphrec.features.extract.llm.requests` sends them to any OpenAI-compatible server, and
:mod:`~graphrec.features.extract.llm.catalog` computes a baseline without a model. The results are written to
the feature store; training sends no requests.
"""
