"""One runnable script per dataset; ``python -m experiments.amazon_baby --help``."""
