"""A cell space without graphs, which is searched and trained like any other."""

from dataclasses import dataclass

import numpy as np
from torch import nn

from fade_study import create_study
from fade_study.nn import CellContext, build_cell
from fade_study.samplers import PseudoGradientSampler
from fade_study.testing import check_cell_space
from fade_study.training import (
    BilevelConfig,
    OptimizerConfig,
    ScratchConfig,
    train_from_scratch,
    train_hyper_architecture,
)


@dataclass(frozen=True)
class MlpCell:
    hidden: int

    @property
    def key(self):
        return f"mlp-{self.hidden}"


class MlpSpace:
    features = ("log_hidden",)
    cells = tuple(MlpCell(2**k) for k in range(6))

    def __iter__(self):
        return iter(self.cells)

    def __len__(self):
        return len(self.cells)

    def embed(self, cell):
        return np.array([np.log2(cell.hidden) / 5])

    def nearest(self, point, rng=None):
        return self.cells[round(float(point[0]) * 5)]


@build_cell.register
def _(cell: MlpCell, context: CellContext) -> nn.Module:
    c = context.channels
    norm = nn.BatchNorm2d(c, track_running_stats=context.running_statistics)
    return nn.Sequential(nn.Conv2d(c, cell.hidden, 1), nn.ReLU(), nn.Conv2d(cell.hidden, c, 1), norm)


def test_an_mlp_cell_space(digits):
    check_cell_space(MlpSpace())
    study = create_study(space=MlpSpace(), depth=2, sampler=PseudoGradientSampler(0.3, seed=0))
    optimizer = OptimizerConfig(learning_rate=0.01)
    for _ in range(2):
        batch = study.ask()
        assert batch.hyper_architecture.shape == (2, 3)
        config = BilevelConfig(epochs=3, batch_size=32, optimizer=optimizer, alpha_learning_rate=0.1)
        result = train_hyper_architecture(batch.hyper_architecture, digits, config, seed=batch.seed)
        scratch = ScratchConfig(epochs=3, batch_size=32, optimizer=optimizer)
        value = train_from_scratch(batch.architecture, digits, scratch, seed=0).validation_accuracy
        study.tell(batch, result.alpha, value)
    assert study.best_architecture.key.startswith("mlp-")
