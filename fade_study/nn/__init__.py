"""Networks (PyTorch): cells, the macro-architecture, single architectures, and supernets of hyper-architectures."""

from fade_study.builders import build_cell
from fade_study.nn.cell import CellContext, DagCell, build_module
from fade_study.nn.classifier import Classifier
from fade_study.nn.macro import Macro, MacroPlan, plan_macro
from fade_study.nn.network import Network, flops, parameters
from fade_study.nn.operation import build_operation, check_operation, convolution
from fade_study.nn.supernet import Supernet

__all__ = [
    "CellContext",
    "Classifier",
    "DagCell",
    "Macro",
    "MacroPlan",
    "Network",
    "Supernet",
    "build_cell",
    "build_module",
    "build_operation",
    "check_operation",
    "convolution",
    "flops",
    "parameters",
    "plan_macro",
]
