"""Trained networks that are kept as MLflow models."""

from __future__ import annotations

import warnings

from torch import Tensor

from fade_study import Architecture, tracking
from fade_study.config import NetworkConfig
from fade_study.nn import Classifier, Network
from fade_study.training import Data


def keep_model(
    run: tracking.Run,
    architecture: Architecture,
    state: dict[str, Tensor],
    data: Data,
    network: NetworkConfig,
    register: str | None,
) -> None:
    """Log a trained network as the model ``best`` of a run, and say how it is loaded.

    Args:
        run: Run of the model.
        architecture: Architecture of the network.
        state: State of the trained network.
        data: Images that it was trained on.
        network: Macro-architecture and normalization.
        register: Name under which the model is registered; None registers nothing.
    """
    untrained = Network(architecture, data.image_shape, data.classes, network)
    classifier = Classifier(untrained, state, data.mean, data.deviation)
    try:
        run.model("best", classifier, data.image_shape, data.labels, register=register)
    except RuntimeError as error:  # PyTorch can't export every operation that a user may have registered
        warnings.warn(f"the network is not kept as a model, since PyTorch can't export it: {error}", stacklevel=2)
    else:
        print(f"Kept as a model: mlflow.pytorch.load_model('runs:/{run.id}/best')")
