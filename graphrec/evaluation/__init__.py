"""Evaluation: metrics, full ranking, reports with intervals and paired tests."""

from graphrec.evaluation.ranking import RankingTask, evaluate
from graphrec.evaluation.report import Report

__all__ = ["RankingTask", "Report", "evaluate"]
