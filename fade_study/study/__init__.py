"""The study, which hands out hyper-architectures and takes their alphas; its state lies in an Optuna storage."""

from fade_study.generation import Batch, CellTrial, Evaluation, OpenEvaluation
from fade_study.study.create import create_study, delete_study, load_study
from fade_study.study.study import Evaluates, FadeStudy
from fade_study.study.trials import Generation

__all__ = [
    "Batch",
    "CellTrial",
    "Evaluates",
    "Evaluation",
    "FadeStudy",
    "Generation",
    "OpenEvaluation",
    "create_study",
    "delete_study",
    "load_study",
]
