"""Report of an evaluation: a value per user and metric, with intervals, paired tests and tables."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from graphrec.core.bundle import FileFormat
from graphrec.core.errors import ConfigError, DataError, nearest
from graphrec.core.files import atomic_write, digest, explain_os_errors
from graphrec.core.text_table import Format, emphasize, escape, render
from graphrec.evaluation.metrics import bootstrap_means, direction, holm, permutation_p

if TYPE_CHECKING:
    import pyarrow as pa

FORMAT = FileFormat("report", 2, {1: dict}, sealed_since=2)
HEADER = "graphrec_report"
"""Key of the schema's metadata in a Parquet file under which scalars and meta are stored as JSON."""
Test = Literal["permutation", "t", "wilcoxon"]


@dataclass(frozen=True, eq=False)
class Report:
    """Metrics of one model on one split.

    Attributes:
        users: evaluated users ``(n,) int64``, ascending.
        metrics: full name, such as ``"recall@20"`` -> ``(n,) float64``.
        scalars: metrics of all lists together, such as ``"coverage@20"``.
        groups: label -> report over that group.
        meta: what was evaluated and how: model, split, seen, counts, fingerprint of the data; JSON values.

    Raises:
        DataError: lengths differ, users repeat or a value is not finite.
    """

    users: np.ndarray
    metrics: Mapping[str, np.ndarray]
    scalars: Mapping[str, float] = field(default_factory=dict)
    groups: Mapping[str, Report] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        users = np.asarray(self.users, np.int64)
        values = {name: np.asarray(v, dtype=np.float64) for name, v in self.metrics.items()}
        if users.ndim != 1 or np.any(users[1:] <= users[:-1]):
            raise DataError(
                f"report users of shape {users.shape}; expected (n,), ascending and without repeats"
            )
        for name, vector in values.items():
            if vector.shape != users.shape or not np.isfinite(vector).all():
                raise DataError(
                    f"report metric {name!r} has shape {vector.shape}; expected {users.shape}, all finite"
                )
        object.__setattr__(self, "users", users)
        object.__setattr__(self, "metrics", values)

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.meta.get("model") or "report")

    def __len__(self) -> int:
        return len(self.users)

    def __getitem__(self, metric: str) -> np.ndarray:
        """One value a user ``(n,) float64``."""
        if metric in self.scalars:
            raise ConfigError(
                f"{metric!r} is one value for all lists, not one a user; read .scalars[{metric!r}]"
            )
        if metric not in self.metrics:
            known = list(self.metrics)
            raise ConfigError(f"metric {metric!r} is not one of {known}.{nearest(metric, known)}")
        return self.metrics[metric]

    def __repr__(self) -> str:
        """The table, not the values of all users."""
        return str(self)

    def __str__(self) -> str:
        return "\n".join(filter(None, [self._heading(), render(*self.cells(), "plain")]))

    def _repr_html_(self) -> str:
        """For notebooks: a table of the metrics over all users, with 95% intervals."""
        table = render(*replace(self, groups={}).cells("html", intervals=True), "html")
        groups = f"Groups, in .groups: {', '.join(self.groups)}" if self.groups else ""
        lines = [escape(line, "html") for line in (self._heading() or self.name, groups) if line]
        return f"<p>{'<br/>'.join(lines)}</p>\n{table}"

    def _heading(self) -> str:
        """What was evaluated and left out; empty for a group, or a report that is not from evaluate()."""
        meta = self.meta
        if "n_users" not in meta:
            return ""
        return (
            f"{self.name} on {meta['split']}, {meta['seen'] or 'nothing'} masked; left out: "
            f"{meta['n_excluded']:,} users with nothing held out, {meta['n_outside']:,} held-out pairs "
            "outside the candidates"
        )

    def mean(self) -> dict[str, float]:
        """Mean over users of each metric, then the scalars; NaN where there are no users."""
        means = {n: float(v.mean()) if len(v) else np.nan for n, v in self.metrics.items()}
        return means | dict(self.scalars)

    def summary(self, intervals: bool = True) -> dict[str, Any]:
        """Means over users by group as JSON values; ``all`` is all users, None is undefined.

        Args:
            intervals: add 95% bootstrap intervals over users.
        """
        groups = {}
        for label, report in {"all": self, **self.groups}.items():
            means = {n: None if np.isnan(v) else float(v) for n, v in report.mean().items()}
            groups[label] = {"users": len(report), "mean": means}
            if intervals:
                known = [name for name in report.metrics if means[name] is not None]
                groups[label]["interval"] = {name: list(report.interval(name)) for name in known}
        return {"model": self.name, "groups": groups}

    def where(self, mask: np.ndarray, **meta: Any) -> Report:
        """The same metrics over some of the users ``(n,) bool``; scalars and groups are not carried over."""
        values = {name: vector[mask] for name, vector in self.metrics.items()}
        return Report(self.users[mask], values, meta={**self.meta, **meta})

    def interval(self, metric: str, level: float = 0.95, n: int = 2000, seed: int = 0) -> tuple[float, float]:
        """Percentile bootstrap interval of the mean over users: (low, high).

        It shows how much the mean would change with other users, not with another training seed.

        Args:
            metric: full name.
            level: coverage, between 0 and 1.
            n: number of resamples, drawn under ``seed``.
            seed: any integer.

        Raises:
            ConfigError: no such metric, or a level outside 0..1.
            DataError: the report holds no users.
        """
        return _bootstrap_interval(self[metric], level, n, seed)

    def compare(
        self, other: Report, metric: str, test: Test = "permutation", *, level: float = 0.95, seed: int = 0
    ) -> Comparison:
        """Paired comparison of this report with another over the same users.

        Args:
            other: the report to compare with, usually a baseline.
            metric: full name.
            test: ``"permutation"`` (10,000 random signs of the differences), ``"t"`` or ``"wilcoxon"``,
                all two-sided.
            level: of the bootstrap interval of the mean difference.
            seed: of the bootstrap and the permutations.

        Raises:
            ConfigError: unknown test or metric.
            DataError: users, held-out pairs or masking differ, so that the numbers cannot be compared.
        """
        if test not in get_args(Test):
            raise ConfigError(f"test {test!r} is not one of {get_args(Test)}.{nearest(test, get_args(Test))}")
        comparable(self, other)
        a = self[metric]
        b = other[metric]
        difference = a - b
        baseline_mean = float(b.mean())
        mean_difference = float(difference.mean())
        return Comparison(
            model=self.name,
            baseline=other.name,
            metric=metric,
            mean=float(a.mean()),
            baseline_mean=baseline_mean,
            difference=mean_difference,
            relative=mean_difference / baseline_mean if baseline_mean else float("nan"),
            interval=_bootstrap_interval(difference, level, 2000, seed),
            p=_p_value(difference, test, seed),
            test=test,
            n_users=len(a),
        )

    def cells(self, form: Format = "plain", intervals: bool = False) -> tuple[list[str], list[list[str]]]:
        """Header and rows of a table: a row per group and metric, a column per cut-off.

        Args:
            form: the cells of the rows are escaped for it.
            intervals: add 95% bootstrap intervals over users.
        """
        cuts = list(dict.fromkeys(n.partition("@")[2] for n in (*self.metrics, *self.scalars)))
        rows = []
        for label, report in {"all": self, **self.groups}.items():
            for base in dict.fromkeys(n.partition("@")[0] for n in (*report.metrics, *report.scalars)):
                values = [_cell(report, f"{base}@{c}" if c else base, intervals) for c in cuts]
                rows.append([escape(c, form) for c in (label, f"{len(report):,}", base, *values)])
        return ["group", "users", "metric", *(f"@{c}" for c in cuts)], rows

    def to_markdown(self, intervals: bool = False) -> str:
        """:meth:`cells` as a Markdown table."""
        return render(*self.cells("markdown", intervals), "markdown")

    def to_latex(self, intervals: bool = False) -> str:
        """:meth:`cells` as a LaTeX ``tabular`` (needs booktabs), with special characters escaped."""
        return render(*self.cells("latex", intervals), "latex")

    def to_parquet(self, path: str | Path) -> Path:
        """Writes one row per group and user; scalars and meta go into the schema's metadata as JSON.

        Columns: ``group`` (empty for all users), ``user``, and one per metric.

        Raises:
            DataError: the file cannot be written; what was there is intact.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        parts = {"": self, **self.groups}
        labels = [label for label, part in parts.items() for _ in range(len(part))]
        columns = {
            "group": pa.array(labels, pa.string()),
            "user": np.concatenate([part.users for part in parts.values()]),
            **{name: np.concatenate([part[name] for part in parts.values()]) for name in self.metrics},
        }
        facts = {label: part._header() for label, part in parts.items()}
        # As it will be read: text keys, lists.
        header = json.loads(json.dumps({**FORMAT.header, "parts": facts}, allow_nan=False))
        rows = pa.table(columns)
        header["seal"] = _seal(rows, header)
        rows = rows.replace_schema_metadata({HEADER: json.dumps(header, allow_nan=False)})
        with explain_os_errors(path, DataError), atomic_write(path) as file:
            pq.write_table(rows, file, compression="zstd")
        return Path(path)

    @classmethod
    def from_parquet(cls, path: str | Path) -> Report:
        """Reads what :meth:`to_parquet` wrote.

        Raises:
            DataError: no such file, not a report, or not as it was written.
        """
        import pyarrow.parquet as pq

        remedy = "write it again with Report.to_parquet"
        try:
            rows = pq.read_table(path)
            header = json.loads(rows.schema.metadata[HEADER.encode()])
            FORMAT.check(header, path, remedy, DataError)
            sealed = FORMAT.carries_seal(header)
            intact = not sealed or header.pop("seal", None) == _seal(rows, header)
            header = FORMAT.upgrade(header)
            group = np.asarray(rows["group"].to_pylist(), dtype=str)
            columns = {name: rows[name].to_numpy() for name in rows.column_names if name != "group"}
            parts = {}
            for label, part in header["parts"].items():
                values = {name: column[group == label] for name, column in columns.items()}
                scalars = {name: np.nan if v is None else v for name, v in part["scalars"].items()}
                parts[label] = cls(values.pop("user"), values, scalars, meta=part["meta"])
            report = replace(parts.pop(""), groups=parts)
        except FileNotFoundError as cause:
            raise DataError(f"{path}: no such file") from cause
        except DataError:
            raise
        except Exception as cause:  # a damaged file may cause any exception
            raise DataError(
                f"{path}: not a report ({type(cause).__name__}: {cause}); restore it or {remedy}"
            ) from cause
        if not intact:
            raise DataError(f"{path}: its content is not what was written; restore it or {remedy}")
        return report

    def _header(self) -> dict[str, Any]:
        """Scalars, with None for NaN, and meta, as JSON values."""
        scalars = {name: None if np.isnan(value) else value for name, value in self.scalars.items()}
        return {"scalars": scalars, "meta": dict(self.meta)}


@dataclass(frozen=True)
class Comparison:
    """A paired comparison over users.

    Attributes:
        model: name of the first.
        baseline: name of the second.
        metric: full name.
        mean: of the first.
        baseline_mean: of the second.
        difference: mean of first minus second.
        relative: difference / baseline mean; NaN where that is 0.
        interval: bootstrap interval of the difference.
        p: two-sided, not corrected; from ``test``.
        n_users: users compared.
        p_holm: corrected for the number of comparisons, where several were made.
    """

    model: str
    baseline: str
    metric: str
    mean: float
    baseline_mean: float
    difference: float
    relative: float
    interval: tuple[float, float]
    p: float
    test: str
    n_users: int
    p_holm: float | None = None


class Comparisons(tuple[Comparison, ...]):
    """Several comparisons with one baseline; prints as a table."""

    __slots__ = ()

    def table(self, form: Format = "plain") -> str:
        """One row a comparison, as ``"plain"``, ``"markdown"``, ``"html"`` or ``"latex"``."""
        return render(*self.cells(form), form)

    def cells(self, form: Format = "plain") -> tuple[list[str], list[list[str]]]:
        """Header and rows of :meth:`table`; the cells of the rows are escaped for the form."""
        header = ["model", "metric", "mean", "difference", "relative", "interval", "p", "p (Holm)"]
        rows = [
            (
                f"{c.model} vs {c.baseline}", c.metric, f"{c.mean:.4f}", f"{c.difference:+.4f}",
                "-" if math.isnan(c.relative) else f"{c.relative:+.1%}",
                f"[{c.interval[0]:+.4f}, {c.interval[1]:+.4f}]", f"{c.p:.2g}",
                "-" if c.p_holm is None else f"{c.p_holm:.2g}",
            )
            for c in self
        ]  # fmt: skip
        return header, [[escape(cell, form) for cell in row] for row in rows]

    __str__ = table

    def _repr_html_(self) -> str:
        return self.table("html")


def compare_all(
    reports: Mapping[str, Report], metric: str, *, baseline: str, test: Test = "permutation", seed: int = 0
) -> Comparisons:
    """Every report against the baseline, with p-values corrected by :func:`holm`.

    Raises:
        ConfigError: the baseline is not among the reports.
    """
    if baseline not in reports:
        raise ConfigError(f"baseline {baseline!r} is not one of {list(reports)}.{nearest(baseline, reports)}")
    return corrected(
        replace(r.compare(reports[baseline], metric, test, seed=seed), model=name, baseline=baseline)
        for name, r in reports.items()
        if name != baseline
    )


def corrected(comparisons: Iterable[Comparison]) -> Comparisons:
    """The same comparisons, with p-values corrected by :func:`holm` for their number."""
    several = list(comparisons)
    p_values = holm([c.p for c in several])
    return Comparisons(replace(c, p_holm=float(p)) for c, p in zip(several, p_values, strict=True))


def table(
    reports: Mapping[str, Report],
    metrics: Iterable[str] = (),
    form: Format = "markdown",
    intervals: bool = True,
) -> str:
    """Models as rows, metrics as columns; best bold, second underlined (LaTeX, HTML) or italic.

    Scalars are not marked, as neither direction of popularity is better by itself.

    Args:
        reports: name -> report.
        metrics: full names; default: all metrics of the first report with one value a user.
        form: ``"markdown"``, ``"latex"`` (needs booktabs), ``"html"`` or ``"plain"`` (best ``**``, second
            ``*``).
        intervals: add 95% bootstrap intervals over users.

    Raises:
        ConfigError: no such metric or form.
        DataError: the reports cannot be compared (see :meth:`Report.compare`).
    """
    if not reports:
        raise DataError("no reports to tabulate; expected at least one")
    first = next(iter(reports.values()))
    means = {label: report.mean() for label, report in reports.items()}
    names = list(metrics or first.metrics)
    known = [name for mean in means.values() for name in mean]
    for name in names:
        if name not in known:
            raise ConfigError(f"metric {name!r} is in no report.{nearest(name, known)}")
    rows: list[list[str]] = []
    for label, report in reports.items():
        comparable(first, report)
        row = [escape(label, form)]
        for name in names:
            text = escape(_cell(report, name, intervals), form)
            if name in report.metrics:
                sign = direction(name)
                value = sign * means[label][name]
                better = {mean[name] for mean in means.values() if name in mean and sign * mean[name] > value}
                text = emphasize(text, len(better), form)
            row.append(text)
        rows.append(row)
    return render(["model", *names], rows, form)


def comparable(a: Report, b: Report) -> None:
    """Checks that the numbers of two reports can be compared.

    Raises:
        DataError: users, held-out pairs, masking, candidates or group differ; names both models.
    """
    if not np.array_equal(a.users, b.users):
        common = np.isin(a.users, b.users).sum()
        raise DataError(
            f"{a.name} covers {len(a):,} users and {b.name} {len(b):,}, of which {common:,} are common; "
            "expected the same users: evaluate both on the same split and group"
        )
    keys = [[r.meta.get(key) for key in ("data", "group", "ranked_among")] for r in (a, b)]
    if keys[0] != keys[1] and all(key[0] for key in keys):
        raise DataError(
            f"{a.name} was evaluated on {keys[0]}, {b.name} on {keys[1]}; expected the same split, seen, "
            "candidates and group"
        )


def _seal(rows: pa.Table, header: Mapping[str, Any]) -> str:
    """Digest of all that a report's file holds, but for the seal itself."""
    values = [rows[name].to_numpy() for name in rows.column_names if name != "group"]
    return digest("report", header, rows.column_names, rows["group"].to_pylist(), *values)


def _p_value(difference: np.ndarray, test: Test, seed: int) -> float:
    from scipy.stats import ttest_1samp, wilcoxon

    if len(difference) < 2 or not difference.any():
        return 1.0
    if test == "permutation":
        return permutation_p(difference, seed)
    return float(ttest_1samp(difference, 0).pvalue if test == "t" else wilcoxon(difference).pvalue)


def _bootstrap_interval(values: np.ndarray, level: float, n: int, seed: int) -> tuple[float, float]:
    means = bootstrap_means(values, n, seed)
    if not 0 < level < 1:
        raise ConfigError(f"level {level}; expected a number between 0 and 1, such as 0.95")
    return float(np.quantile(means, (1 - level) / 2)), float(np.quantile(means, (1 + level) / 2))


def _cell(report: Report, name: str, intervals: bool) -> str:
    value = report.mean().get(name, float("nan"))
    if value != value:
        return "-"
    if not intervals or name not in report.metrics:
        return f"{value:.4f}"
    return f"{value:.4f} [{', '.join(f'{bound:.4f}' for bound in report.interval(name))}]"
