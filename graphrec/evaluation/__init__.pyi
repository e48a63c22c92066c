from .ranking import RankingTask as RankingTask, evaluate as evaluate
from .report import Report as Report
