import numpy as np
import pytest
import torch

from fade_study import Dag, HyperArchitecture, create_study, enumerate_dags, ranking
from fade_study.training import BilevelConfig, DataConfig, NetworkConfig, OptimizerConfig, load_data
from fade_study.training import train_hyper_architecture as train
from fade_study.training.alphas import row_regularization

HYPER = HyperArchitecture((tuple(enumerate_dags(2)), tuple(enumerate_dags(3)[:2])))
FAST = {"batch_size": 32, "optimizer": OptimizerConfig(learning_rate=0.01), "alpha_learning_rate": 0.05}
FAST |= {"paths": "alphas", "estimator": "straight-through"}


def test_a_result_is_what_its_documentation_says(digits):
    seen = []
    result = train(HYPER, digits, BilevelConfig(epochs=3, **FAST), seed=0, on_epoch=lambda *a: seen.append(a))
    assert result.alpha.shape == (2, 2)
    assert result.alpha_history.shape == (3, 2, 2)
    np.testing.assert_array_equal(result.alpha, result.alpha_history[-1])
    ranking.check_alpha(result.alpha, (2, 2))
    assert [set(epoch) for epoch in result.epochs] == [{"loss/weights", "loss/alpha", "accuracy/validation"}] * 3
    assert [(epoch, metrics) for epoch, _, metrics in seen] == list(enumerate(result.epochs))
    assert 0 <= result.accuracy <= 1


@pytest.mark.parametrize("share_weights", [False, True])
def test_the_same_seed_gives_the_same_result_whatever_ran_before(digits, share_weights):
    config = BilevelConfig(epochs=2, share_weights=share_weights, alpha_init_std=1.0, **FAST)
    first = train(HYPER, digits, config, seed=3)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again, other = (train(HYPER, digits, config, seed=seed) for seed in (3, 4))
    np.testing.assert_array_equal(first.alpha_history, again.alpha_history)
    assert (first.epochs, first.accuracy) == (again.epochs, again.accuracy)
    assert not np.array_equal(first.alpha, other.alpha)
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers were touched"


@pytest.mark.parametrize("estimator", ["marginal", "straight-through"])
def test_alphas_find_the_cell_that_learns(estimator):
    """A cell of seven vertices in a line, without normalization, blocks the signal; a single convolution doesn't."""
    data = load_data(DataConfig())
    chain = Dag(7, tuple((v, v + 1) for v in range(6)))
    hyper = HyperArchitecture(((Dag(1), chain),))
    config = BilevelConfig(epochs=6, **FAST | {"alpha_learning_rate": 0.1, "estimator": estimator})
    result = train(hyper, data, config, network=NetworkConfig(normalization="none"), seed=0)
    assert result.alpha[0, 0] > 0.8


def test_alpha_steps_are_counted_over_epochs(digits):
    steps = digits.weight.steps(32)
    result = train(HYPER, digits, BilevelConfig(epochs=3, alpha_every=2 * steps, **FAST), seed=0)
    assert ["loss/alpha" in epoch for epoch in result.epochs] == [False, True, False]
    with pytest.raises(ValueError, match=f"an alpha step within 3 epochs of {steps} weight steps"):
        train(HYPER, digits, BilevelConfig(epochs=3, alpha_every=3 * steps + 1, **FAST), seed=0)


def test_regularization_holds_alphas_back(digits):
    free, held = (
        train(HYPER, digits, BilevelConfig(epochs=4, regularization=c, **FAST), seed=0).alpha for c in (0.0, 20.0)
    )
    assert np.abs(held - 0.5).max() < np.abs(free - 0.5).max()


def test_paths_that_are_asked_for_are_measured(digits):
    paths = [(0, 0), (1, 1), (0, 0)]
    result = train(HYPER, digits, BilevelConfig(epochs=3, **FAST), seed=0, paths=paths)
    first, _, again = result.path_accuracies
    assert first == again
    plain = train(HYPER, digits, BilevelConfig(epochs=3, **FAST), seed=0)
    np.testing.assert_array_equal(result.alpha, plain.alpha)
    assert plain.path_accuracies.shape == (0,)


def test_deeper_rows_are_slowed_down_more():
    torch.testing.assert_close(row_regularization(BilevelConfig(regularization=0.5), 3), torch.tensor([0.5, 1.0, 1.5]))
    torch.testing.assert_close(
        row_regularization(BilevelConfig(regularization=(3.0, 1.0)), 2), torch.tensor([3.0, 1.0])
    )
    with pytest.raises(ValueError, match="one per row"):
        row_regularization(BilevelConfig(regularization=(1.0, 2.0)), 3)


def test_a_supernet_that_has_not_trained_is_reported(digits):
    with pytest.warns(UserWarning, match=r"hardly trained: one-shot accuracy 0\.\d+, chance 0\.100"):
        result = train(HYPER, digits, BilevelConfig(epochs=1, batch_size=40), seed=0)
    assert result.warning is not None


@pytest.mark.slow
@pytest.mark.filterwarnings("error::UserWarning")
def test_the_digits_preset_trains_its_supernet():
    """The preset trains a hyper-architecture of its own space to well above chance.

    Each cell has weights of its own, and a seventh of the steps.
    """
    from pathlib import Path

    from fade_study.studies.options import parse_config
    from fade_study.studies.schemas import SearchConfig

    folder = Path(__file__).parents[2] / "fade_study" / "studies" / "configs" / "search"
    config = parse_config(SearchConfig, folder, ["--preset", "digits"])
    study = create_study(
        space=config.space.open(),
        depth=config.depth,
        sampler=config.sampler.open(5),
    )
    data = load_data(config.data)
    result = train(study.ask().hyper_architecture, data, config.bilevel, network=config.network, seed=0)
    assert result.accuracy >= 0.25
    assert result.warning is None


@pytest.mark.filterwarnings("ignore:the supernet has hardly trained")
def test_threads_are_given_back(digits):
    before = torch.get_num_threads()
    train(HYPER, digits, BilevelConfig(epochs=1, threads=1, **FAST), seed=0)
    assert torch.get_num_threads() == before


@pytest.fixture
def precision(monkeypatch):
    """Set the precision as a launcher does."""
    from accelerate.state import AcceleratorState

    def choose(name):
        AcceleratorState._reset_state(reset_partial_state=True)
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", name)

    yield choose
    AcceleratorState._reset_state(reset_partial_state=True)


def test_half_precision_is_refused(digits, precision):
    precision("fp16")
    with pytest.raises(ValueError, match=r"got fp16.*use bf16"):
        train(HYPER, digits, BilevelConfig(epochs=1, **FAST), seed=0)


def test_bfloat16_trains_nearly_as_single_precision(digits, precision):
    config = BilevelConfig(epochs=4, **FAST)
    single = train(HYPER, digits, config, seed=0)
    precision("bf16")
    half = train(HYPER, digits, config, seed=0)
    assert not np.array_equal(half.alpha, single.alpha)
    assert half.accuracy == pytest.approx(single.accuracy, abs=0.15)
    np.testing.assert_allclose(half.alpha, single.alpha, atol=0.15)


def test_more_processes_than_gpus_are_refused(digits, monkeypatch):
    """A GPU is pretended, since the tests need none."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    with pytest.raises(ValueError, match=r"expected a GPU for each process, got 4 processes and 1 GPUs; start fewer"):
        train(HYPER, digits, BilevelConfig(epochs=1, **FAST), seed=0)
