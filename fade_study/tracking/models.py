"""Trained networks as MLflow models, which load without this package."""

from __future__ import annotations

import io
import tempfile
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow.entities import LoggedModelOutput

FLOAT = np.dtype("float32")


def pack_model(classifier: Any, image_shape: tuple[int, int, int], labels: Sequence[int]) -> bytes:
    """An MLflow model as a ZIP file, of a module that maps images ``(B, C, H, W)`` to probabilities ``(B, classes)``.

    The labels of the classes become the model's metadata ``labels``.
    """
    # Imported here, since they load so many objects that collecting garbage after each training would take far longer.
    from mlflow.models import ModelSignature
    from mlflow.pytorch import save_model
    from mlflow.types import Schema, TensorSpec

    signature = ModelSignature(
        inputs=Schema([TensorSpec(FLOAT, (-1, *image_shape))]), outputs=Schema([TensorSpec(FLOAT, (-1, len(labels)))])
    )
    file = io.BytesIO()
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of the internals of its export
        folder = Path(place) / "model"
        save_model(
            classifier,
            folder,
            signature=signature,
            input_example=np.zeros((2, *image_shape), FLOAT),  # with one image, the batch size would be fixed at 1
            serialization_format="pt2",
            pip_requirements=["torch"],
            metadata={"labels": list(labels)},
        )
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in sorted(folder.rglob("*")):
                archive.write(path, path.relative_to(folder))
    return file.getvalue()


def deliver_model(client: mlflow.MlflowClient, run_id: str, name: str, data: bytes, register: str | None) -> None:
    """Send a model from :func:`pack_model` to the server, except for what an earlier attempt has sent.

    If ``register`` is a name, the model is registered under it.
    """
    experiment = client.get_run(run_id).info.experiment_id
    earlier = client.search_logged_models([experiment], f"source_run_id = '{run_id}' AND name = '{name}'")
    model = next((model for model in earlier if model.status == "READY"), None)
    if model is None:
        model = client.create_logged_model(experiment, name, run_id)
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(io.BytesIO(data)) as archive:
            archive.extractall(folder)
            client.log_model_artifacts(model.model_id, folder)
        client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    if register is not None:
        versions = client.search_model_versions(f"name = '{register}'")
        if all(version.model_id != model.model_id for version in versions):
            mlflow.register_model(f"models:/{model.model_id}", register)
