"""Every tolerance the tests use, each with the reason why it is looser than float32 allows (about 1e-7)."""

PARITY = 1e-5
"""Against numbers of the reference implementation: it sums in another order and adds 1e-7 to degrees."""

PROPAGATION = 1e-6
"""Two float32 sums over the same edges in another order."""

METRIC = 1e-9
"""Metrics are float64 sums of at most a few thousand terms."""

SCORE = 1e-6
"""One row of a float32 product may be accumulated in another order than many rows at once."""

BFLOAT16 = 2e-3
"""Scores after training on bfloat16 features, root mean square over their spread: a mantissa of 8 bits rounds
every feature by up to 2^-9 of itself, and the projections see it through a loss of small weight alone."""

BFLOAT16_BM3 = 1e-2
"""The same for BM3, whose losses on features weigh as much as the others and whose targets move with them."""

ON_DISK = 2e-6
"""Of the weights (about 1) after some epochs: features read from disk are projected in products of another
shape."""
