"""Training (PyTorch, Accelerate): hyper-architectures, and single architectures from scratch."""

from fade_study.config import BilevelConfig, DataConfig, NetworkConfig, OptimizerConfig, ScratchConfig
from fade_study.training.bilevel import HyperResult, combined_alpha, train_hyper_architecture
from fade_study.training.data import Data, Split, load_data
from fade_study.training.scratch import ScratchResult, recipe, train_from_scratch

__all__ = [
    "BilevelConfig",
    "Data",
    "DataConfig",
    "HyperResult",
    "NetworkConfig",
    "OptimizerConfig",
    "ScratchConfig",
    "ScratchResult",
    "Split",
    "combined_alpha",
    "load_data",
    "recipe",
    "train_from_scratch",
    "train_hyper_architecture",
]
