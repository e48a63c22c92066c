"""Trains one row of a recorded table again, from its record, and fails where a value is off.

    python -m experiments.verify movielens_small                             # its quickest row that trains
    python -m experiments.verify movielens_small --row FREEDOM --seed 2
    python -m experiments.verify movielens_small --list                      # rows, and what they need
    python -m experiments.verify --list                                      # results

Every value that the table shows has to lie in its recorded spread: the mean over seeds ± three standard
deviations, at least ± 1 %. What is not trained in epochs depends on no seed and has to match to rounding.
(With --other-features to 1 %: encoders of another version or processor differ in the last digits.)
Of a row with one seed no spread is known; it is given ± 5 % (the standard deviation of 95 % of the rows
with several seeds is below that). Another seed than a recorded one may fall outside by chance, where few are
recorded.

Exit status: 0, all values are within; 1, a value is outside; 2, it could not be measured.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.recording import RESULTS, read_result
from experiments.retrain import Kind, RecordedRow, Where, kind_of
from graphrec.core.environment import differences, environment
from graphrec.core.errors import ConfigError, GraphrecError, nearest
from graphrec.runs.repeat import torch_threads

DEVIATIONS = 3.0
LEAST = 0.01
"""Relative tolerance of a row with several seeds, where its spread is smaller."""
ONE_SEED = 0.05
"""Relative tolerance of a row with one seed."""
ROUNDING = 1e-6
"""Relative tolerance of what depends on no seed; records have eight digits."""


@dataclass(frozen=True)
class Check:
    """One value measured again.

    Attributes:
        metric: its name.
        recorded: seed -> recorded value.
        low: smallest value that is accepted.
        high: largest.
        rule: how these follow from the recorded values.
        value: as measured now.
    """

    metric: str
    recorded: Mapping[int, float]
    low: float
    high: float
    rule: str
    value: float

    @property
    def within(self) -> bool:
        """Whether the value is accepted; NaN is not."""
        return self.low <= self.value <= self.high

    def __str__(self) -> str:
        values = list(self.recorded.values())
        known = f"{np.mean(values):.6f}" + (f" ± {np.std(values, ddof=1):.6f}" if len(values) > 1 else "")
        verdict = "within" if self.within else "OUTSIDE"
        return (
            f"{verdict}: {self.metric} is {self.value:.6f}; recorded {known} over seeds "
            f"{', '.join(map(str, self.recorded))}; accepted {self.low:.6f} to {self.high:.6f} ({self.rule})"
        )


def checked(metric: str, row: RecordedRow, value: float, other_features: bool = False) -> Check:
    """A value with the bounds that follow from the recorded ones.

    Args:
        metric: its name.
        row: as recorded.
        value: as measured now.
        other_features: it was measured with features that may differ from the recorded ones.
    """
    recorded = row.values[metric]
    values = list(recorded.values())
    mean = float(np.mean(values))
    if not row.trained and other_features:
        width, rule = LEAST * abs(mean), f"depends on no seed, but features may differ: ± {LEAST:.0%}"
    elif not row.trained:
        width, rule = ROUNDING * abs(mean), "depends on no seed: equal but for rounding"
    elif len(values) == 1:
        width, rule = ONE_SEED * abs(mean), f"one seed: ± {ONE_SEED:.0%}"
    else:
        width = DEVIATIONS * float(np.std(values, ddof=1))
        rule = f"mean ± {DEVIATIONS:g} standard deviations"
        if width < LEAST * abs(mean):
            width, rule = LEAST * abs(mean), f"mean ± {LEAST:.0%}, as the seeds differ less"
    return Check(metric, recorded, mean - width, mean + width, rule, value)


def verify(result: Mapping[str, Any], label: str, seed: int, where: Where) -> list[Check]:
    """Measures a row of a recorded result again and compares each value with its recorded spread.

    Args:
        result: as read from ``results/``.
        label: of the row.
        seed: of the training, a recorded one or another.
        where: where data, features and runs are.

    Raises:
        ConfigError: no such row, or the result is of no kind that can be measured again.
        DataError: the dataset is missing, or not the recorded one.
        FeatureError: the features are not the recorded ones.
    """
    kind = _kind(result)
    row = _row(kind, result, label)
    obstacle = kind.obstacle(result, label, where)
    if obstacle is not None:
        raise ConfigError(f"{label}: {obstacle}")
    with torch_threads((result.get("environment") or {}).get("threads")):
        measured = kind.measure(result, label, seed, where)
    return [checked(metric, row, measured[metric], where.other_features) for metric in row.values]


def quickest(rows: Mapping[str, RecordedRow]) -> str:
    """The row that was trained in the shortest time; without any, the first."""
    trained = {label: row.seconds for label, row in rows.items() if row.trained and row.seconds is not None}
    return min(trained, key=trained.__getitem__) if trained else next(iter(rows))


def _kind(result: Mapping[str, Any]) -> Kind:
    kind = kind_of(result)
    if kind is None:
        raise ConfigError(
            f"the record has {sorted(result)}; expected one of a kind that can be measured again (--list)"
        )
    return kind


def _rows(kind: Kind, result: Mapping[str, Any]) -> dict[str, RecordedRow]:
    """The rows of a result.

    Raises:
        ConfigError: the record is damaged.
    """
    try:
        return kind.rows(result)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as cause:
        raise ConfigError(
            f"the record is damaged ({type(cause).__name__}: {cause}); restore it, or record it again"
        ) from cause


def _row(kind: Kind, result: Mapping[str, Any], label: str) -> RecordedRow:
    rows = _rows(kind, result)
    if label not in rows:
        raise ConfigError(f"row {label!r} is not one of {list(rows)}.{nearest(label, rows)}")
    return rows[label]


def opened(name: str) -> dict[str, Any]:
    """A recorded result.

    Args:
        name: of a file in ``results/``, or the path of a record.

    Raises:
        ConfigError: there is none, or it is no JSON object.
    """
    path = Path(name) if name.endswith(".json") else RESULTS / f"{name}.json"
    if not path.is_file():
        known = sorted(p.stem for p in RESULTS.glob("*.json"))
        raise ConfigError(f"no recorded result {name!r}; there are {known}.{nearest(name, known)}")
    try:
        result = read_result(path)
    except ValueError as cause:
        raise ConfigError(f"{path}: not JSON ({cause}); restore it") from cause
    if not isinstance(result, dict):
        raise ConfigError(
            f"{path}: {type(result).__name__}; expected the JSON object that an experiment records"
        )
    return result


def listed(names: Sequence[str], where: Where, rows: bool) -> str:
    """Results, or their rows, with recorded seeds and seconds, and what keeps them from being verified."""
    lines = []
    for name in names:
        result = opened(name)
        kind = kind_of(result)
        if kind is None:
            lines.append(f"{name}: cannot be verified: its record is of no known kind ({sorted(result)[:5]})")
            continue
        known = _rows(kind, result)
        for label in known if rows else [quickest(known)]:
            row = known[label]
            seconds = "" if row.seconds is None else f", {row.seconds:.0f} s of training a seed"
            seeds = f"seeds {', '.join(map(str, row.seeds))}" if row.trained else "depends on no seed"
            try:
                obstacle = kind.obstacle(result, label, where)
            except GraphrecError as cause:
                obstacle = str(cause)
            state = "can be verified" if obstacle is None else f"cannot be verified here: {obstacle}"
            count = "" if rows else f" ({len(known)} rows)"
            lines.append(f"{name}{count}, {label}: {seeds}{seconds}; {state}")
    return "\n".join(lines)


def arguments() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", help="a result in experiments/results, or the path of a record")
    parser.add_argument("--row", help="label of the row (default: the quickest that trains)")
    parser.add_argument("--seed", type=int, help="default: the first that is recorded")
    parser.add_argument("--list", action="store_true", help="list results, or the rows of one; train nothing")
    parser.add_argument("--root", help="folder with the datasets (default: $GRAPHREC_DATA, else data)")
    parser.add_argument("--store", type=Path, default=Path("cache"), help="the feature store")
    parser.add_argument("--out", type=Path, help="keep runs here, and resume them (default: a temporary one)")
    parser.add_argument("--clones", nargs="+", type=Path, default=[], help="local clones the result is on")
    parser.add_argument(
        "--other-features", action="store_true", help="go on where features differ from the recorded ones"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Verifies or lists; returns the exit status.

    Raises:
        GraphrecError: it could not be measured.
    """
    where = Where(options.root, options.store, options.out or Path(), options.clones, options.other_features)
    if options.list:
        names = [options.name] if options.name else sorted(p.stem for p in RESULTS.glob("*.json"))
        print(listed(names, where, rows=options.name is not None))
        return 0
    if options.name is None:
        raise ConfigError("expected the name of a recorded result; --list lists them")
    result = opened(options.name)
    kind = _kind(result)
    label = options.row if options.row is not None else quickest(_rows(kind, result))
    row = _row(kind, result, label)
    seed = options.seed if options.seed is not None else row.seeds[0]
    note = "" if seed in row.seeds else ", which is not recorded"
    print(f"{options.name}, {label}, seed {seed}{note}", flush=True)
    with tempfile.TemporaryDirectory(prefix="verify-") as folder:
        checks = verify(result, label, seed, replace(where, out=options.out or Path(folder)))
    for check in checks:
        known = check.recorded.get(seed)
        same = known is not None and abs(check.value - known) <= ROUNDING * abs(known)
        of_seed = "" if known is None else f"; for this seed {'equal' if same else f'{known:.6f}'}"
        print(f"{check}{of_seed}")
    outside = [check.metric for check in checks if not check.within]
    if not outside:
        print(f"verified: {len(checks)} values are within their recorded spread")
        return 0
    print(f"NOT verified: {', '.join(outside)} of {label} outside the recorded spread", file=sys.stderr)
    causes = differences(result.get("environment") or {}, environment())
    print(f"possible causes: {'; '.join(causes) or 'nothing that is recorded differs'}", file=sys.stderr)
    return 1


def main() -> None:
    """Exits with the status of :func:`run`, or 2 with the reason why it could not be measured."""
    try:
        status = run(arguments().parse_args())
    except (GraphrecError, OSError) as cause:
        print(f"error: {cause}", file=sys.stderr)
        status = 2
    sys.exit(status)


if __name__ == "__main__":
    main()
