"""Bi-level training of a hyper-architecture: DARTS over whole cells (section 2.2).

Each weight step on the weight split trains one path. The alphas are learned from alpha steps on the alpha split or from
the losses of paths, as :mod:`fade_study.training.alphas` describes.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor, nn

from fade_study import interrupt
from fade_study.architecture import HyperArchitecture
from fade_study.builders import describe_network
from fade_study.config import SWEEP_IMAGES, BilevelConfig, Estimator, NetworkConfig
from fade_study.effects import Effects, PathLosses, effects_to_alpha, losses_needed, marginal_effects, path_effects
from fade_study.exceptions import DivergedError, InvalidInputError
from fade_study.nn import Supernet
from fade_study.ranking import marginals
from fade_study.training.alphas import Marginal, StraightThrough, collapsed, fair_paths, gumbel_noise
from fade_study.training.checkpoint import CHECK_EVERY, Progress
from fade_study.training.data import Batches, Data, Minibatch
from fade_study.training.graphs import PathGraphs, usable
from fade_study.training.session import (
    accuracies,
    adam,
    add_up,
    backward,
    check_alike,
    copy_from_main,
    fingerprint,
    on_device,
    schedule,
    session,
)

BILEVEL_VERSION = 2
"""Version of the training, to be raised when a code change alters its results: older checkpoints are then ignored."""


@dataclass(frozen=True, slots=True)
class HyperResult:
    """A trained hyper-architecture."""

    alpha: NDArray[np.float64]
    """Alphas ``(d, w)``; rows sum to 1, higher is better."""
    alpha_history: NDArray[np.float64]
    """Alphas after each epoch, ``(E, d, w)``; marginal ones are estimated from the losses of the weight steps."""
    accuracy: float
    """One-shot accuracy on the alpha split, mean over random paths. The alphas are unreliable if it is near chance."""
    path_accuracies: NDArray[np.float64]
    """One-shot accuracies ``(n,)`` on the alpha split of the requested paths."""
    losses: PathLosses
    """Losses of the weight steps."""
    sweep: PathLosses
    """Losses of ``sweep_paths`` fair paths through the trained supernet, all on the same images of the alpha split."""
    effects: Effects | None
    """Effects of columns on the losses of the sweep or, without a sweep, of the weight steps; None for too few losses.
    """
    epochs: tuple[dict[str, float], ...]
    """Metrics by epoch: ``loss/weights``, ``loss/alpha`` (if there were alpha steps), and ``accuracy/validation`` (of
    one random path)."""
    warning: str | None
    """Reason the alphas are unreliable; None if they are usable."""
    seconds: float
    """Seconds of the training, without ``path_seconds``."""
    path_seconds: float
    """Seconds of measuring ``path_accuracies``."""


def train_hyper_architecture(
    hyper_architecture: HyperArchitecture,
    data: Data,
    config: BilevelConfig,
    *,
    network: NetworkConfig = NetworkConfig(),  # noqa: B008 - frozen
    seed: int = 0,
    paths: Sequence[Sequence[int]] = (),
    checkpoint: str | Path | None = None,
    on_epoch: Callable[[int, NDArray[np.float64], dict[str, float]], None] | None = None,
) -> HyperResult:
    """Train the supernet of a hyper-architecture and its alphas.

    Args:
        hyper_architecture: Hyper-architecture of d rows of w cells.
        data: Data set from ``load_data``.
        config: Settings of the training.
        network: Macro-architecture and normalization.
        seed: Seed for initialization, data order, paths and noise. The result is a function of the arguments.
        paths: Paths ``(n, d)`` whose one-shot accuracies are measured after the training.
        checkpoint: File for the state after each epoch. If it holds the state of the same training, that training is
            resumed, to the same result. Remove the file with ``Checkpoint.remove`` once the result is stored.
        on_epoch: Function that is called with the number of each epoch, alphas ``(d, w)`` and metrics, including the
            epochs that a checkpoint holds.

    Raises:
        DivergedError: (a ``FloatingPointError``) for a loss or gradient that is NaN or infinite.
        InvalidInputError: (a ``ValueError``) if data, settings and number of processes do not fit together.
    """
    with session(seed, config.threads) as (accelerator, generator):
        identity = fingerprint(
            accelerator,
            data,
            version=BILEVEL_VERSION,
            rows=hyper_architecture.keys,
            bilevel=dataclasses.asdict(config),
            network=describe_network(network, (type(cell) for row in hyper_architecture.rows for cell in row)),
            seed=seed,
            processes=None if config.micro_batches else accelerator.num_processes,
        )
        check_alike(accelerator, data=data.digest, training=identity)
        check_schedule(config, data, hyper_architecture.shape, accelerator.num_processes)
        trainer = _Trainer(hyper_architecture, data, config, network, accelerator, generator)
        copy_from_main([*trainer.supernet.parameters(), *trainer.logits], accelerator)
        progress = Progress(f"hyper {identity}", checkpoint, generator, trainer.parts, accelerator)
        for epoch, (alpha, metrics) in enumerate(progress.history):
            if on_epoch is not None:
                on_epoch(epoch, alpha.numpy(), metrics)
        for epoch in range(progress.epoch, config.epochs):
            metrics = trainer.epoch(progress)
            alpha = trainer.alpha()
            progress.end_epoch((torch.from_numpy(alpha), metrics))
            if on_epoch is not None:
                on_epoch(epoch, alpha, metrics)
        losses, sweep = trainer.marginal.seen(), trainer.sweep()
        effects = path_effects(sweep if config.sweep_paths else losses, hyper_architecture.width)
        one_shot = trainer.one_shot_accuracy(config.one_shot_paths)
        seconds = progress.seconds
        path_accuracies = trainer.accuracies(paths)
        history = np.stack([alpha.numpy() for alpha, _ in progress.history])
        path_seconds = progress.seconds - seconds
    one_hot = collapsed(history) if config.estimator == "straight-through" else None
    warning = "; ".join(filter(None, [untrained(one_shot, data.chance), one_hot])) or None
    if warning is not None:
        warnings.warn(warning, stacklevel=2)
    alpha = history[-1] if config.estimator == "straight-through" or effects is None else effects_to_alpha(effects)
    return HyperResult(
        alpha=alpha,
        alpha_history=history,
        accuracy=one_shot,
        path_accuracies=path_accuracies,
        losses=losses,
        sweep=sweep,
        effects=effects,
        epochs=tuple(metrics for _, metrics in progress.history),
        warning=warning,
        seconds=seconds,
        path_seconds=path_seconds,
    )


def combined_alpha(
    results: Sequence[HyperResult], estimator: Estimator, hyper_architecture: HyperArchitecture
) -> NDArray[np.float64]:
    """Combine several trainings of one hyper-architecture to alphas ``(d, w)``.

    Args:
        results: Results of R trainings.
        estimator: Estimator of these trainings. Marginal effects are averaged before they become alphas;
            straight-through alphas are averaged themselves (section 3.1).
        hyper_architecture: Trained hyper-architecture. Marginal effects of columns with the same cell are merged, and
            effects are pooled over rows by graph features of the cells, if the cells have such features.
    """
    effects = [result.effects for result in results if result.effects is not None]
    if estimator == "straight-through" or not effects:
        return marginals(np.stack([result.alpha for result in results]))
    return effects_to_alpha(marginal_effects(effects, hyper_architecture))


class _Trainer:
    """The state of a training: supernet, alphas and their optimizers; with weight steps and alpha steps."""

    def __init__(
        self,
        hyper_architecture: HyperArchitecture,
        data: Data,
        config: BilevelConfig,
        network: NetworkConfig,
        accelerator: Accelerator,
        generator: torch.Generator,
    ) -> None:
        self.depth, self.width = hyper_architecture.shape
        self.config = config
        self.accelerator = accelerator
        self.generator = generator
        self.data = on_device(data, accelerator.device)
        supernet = Supernet(
            hyper_architecture, data.image_shape, data.classes, network, share_weights=config.share_weights
        )
        # PyTorch's distributed wrapper is not used: it would exchange the gradients of all cells. See ``backward``.
        self.supernet = supernet.to(accelerator.device)
        self.optimizer = adam(supernet, config.optimizer)
        rank, ranks = accelerator.process_index, accelerator.num_processes
        self.weight_batches, self.alpha_batches = (
            Batches(split, config.batch_size, generator, micro_batches=config.micro_batches, rank=rank, ranks=ranks)
            for split in (self.data.weight, self.data.alpha)
        )
        steps = self.weight_batches.steps * config.epochs
        self.schedule = schedule(self.optimizer, config.schedule, steps)
        self.parameters = list(self.supernet.parameters())  # once, since listing them takes a tenth of a small step
        self.unchecked: dict[int, tuple[Sequence[Minibatch], Sequence[int]]] = {}
        """Batches and paths of the weight steps that were not checked for NaN and infinity yet, by number."""
        self.graphs = None
        cells = (type(cell) for row in hyper_architecture.rows for cell in row)
        alike = len(data.alpha) >= config.batch_size  # then both kinds of steps have batches of this size
        if config.micro_batches is None and usable(accelerator, network, cells):
            self.graphs = PathGraphs(
                supernet, self.parameters, accelerator, alpha_steps=config.straight_through and alike
            )
        logits = config.alpha_init_std * torch.randn(self.depth, self.width, generator=generator)
        self.marginal = Marginal((self.depth, self.width), accelerator.device)
        self.straight_through = None
        if config.straight_through:
            graphs = self.graphs if alike else None
            self.straight_through = StraightThrough(self.supernet, logits, config, accelerator, graphs)
        fair = config.paths == "fair"
        self.fair_paths = fair_paths(steps, (self.depth, self.width), generator) if fair else None
        self.parts: dict[str, Any] = {
            "supernet": self.supernet,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "marginal": self.marginal,
            "weight_batches": self.weight_batches,
            "alpha_batches": self.alpha_batches,
        }
        if self.straight_through is not None:
            self.parts["straight_through"] = self.straight_through

    @property
    def logits(self) -> list[Tensor]:
        """The alpha logits ``(d, w)``, if straight-through steps are taken."""
        return [] if self.straight_through is None else [self.straight_through.logits]

    def alpha(self) -> NDArray[np.float64]:
        """Current alphas ``(d, w)`` of the estimator, in double precision."""
        if self.config.estimator == "marginal":
            return self.marginal.alpha()
        assert self.straight_through is not None
        return self.straight_through.alpha()

    def epoch(self, progress: Progress) -> dict[str, float]:
        """Train for one epoch, or for the rest of an interrupted one, and return its metrics."""
        self.supernet.train()
        epoch, steps, running = progress.epoch, self.weight_batches.steps, progress.running
        if not running:
            running["noise"] = gumbel_noise((2, steps, self.depth, self.width), self.generator)
            running["losses"] = torch.zeros(2)  # sums over weight steps and alpha steps
            running["alpha_steps"] = torch.zeros(())
            running["diverged"] = torch.zeros(2)
        copy_from_main([running["noise"], *self.logits], self.accelerator)
        for name in ("losses", "diverged"):
            running[name] = running[name].to(self.accelerator.device)
        # While this is 1, fused Adam changes no weights, so that `check_finite` can repeat the first step that failed.
        self.optimizer.found_inf = running["diverged"][0]  # pyright: ignore[reportAttributeAccessIssue]
        noise = running["noise"]
        for step in progress.steps(steps):
            done = epoch * steps + step + 1
            path = self.path(done - 1, noise[0, step])
            batch = self.weight_batches.next()
            loss = self.weight_step(batch, path, running["diverged"])
            self.unchecked[step] = batch, path
            running["losses"][0] += loss
            alpha_step = self.straight_through is not None and done % self.config.alpha_every == 0
            if alpha_step or step + 1 == steps or len(self.unchecked) == CHECK_EVERY:
                self.check_finite(epoch, step, running["diverged"])
            self.marginal.observe(path, loss, epoch)
            if self.straight_through is not None and alpha_step:
                remaining = 1 - (done - 1) / (steps * self.config.epochs)
                try:
                    alpha_loss = self.straight_through.step(self.alpha_batches.next(), noise[1, step], remaining)
                except FloatingPointError as error:
                    raise _diverged(str(error), epoch, step) from None
                running["losses"][1] += alpha_loss
                running["alpha_steps"] += 1
        weight_loss, loss_of_alphas = running["losses"].tolist()
        metrics = {"loss/weights": weight_loss / steps, "accuracy/validation": self.one_shot_accuracy(1)}
        if alpha_steps := int(running["alpha_steps"]):
            metrics["loss/alpha"] = loss_of_alphas / alpha_steps
        return metrics

    def path(self, step: int, noise: Tensor) -> list[int]:
        """Path ``(d,)`` that a weight step trains: a fair one, or one drawn from the alphas with noise ``(d, w)``."""
        if self.fair_paths is not None:
            return self.fair_paths[step]
        assert self.straight_through is not None
        return self.straight_through.draw(noise)

    def weight_step(self, batch: Sequence[Minibatch], path: Sequence[int], diverged: Tensor) -> Tensor:
        """Train the weights along one path, and return the loss ``()``.

        The first number of ``diverged`` ``(2,)`` becomes 1 once a step was not finite; the second one counts that step
        and all later ones.
        """
        loss = self.backward(batch, path) if self.graphs is None else self.graphs.weight_step(batch[0], path)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        # This has to precede clipping, which makes infinite gradients finite.
        diverged[0].logical_or_(~torch.stack([loss, nn.utils.get_total_norm(gradients)]).isfinite().all())
        diverged[1] += diverged[0]
        nn.utils.clip_grad_value_(self.parameters, self.config.optimizer.gradient_clip)
        self.optimizer.step()
        self.schedule.step()
        return loss

    def backward(self, batch: Sequence[Minibatch], path: Sequence[int]) -> Tensor:
        """Compute the gradients of the weights along one path, and return the loss ``()``."""

        def loss_of(micro_batch: Minibatch) -> Tensor:
            with self.accelerator.autocast():
                return micro_batch.loss(self.supernet(micro_batch.images, path))

        in_order = self.config.micro_batches is not None
        return backward(batch, loss_of, self.parameters, self.accelerator, in_order=in_order)

    def sweep(self) -> PathLosses:
        """Losses of fair paths, all on the same images of the alpha split; the paths are divided among processes."""
        paths = fair_paths(self.config.sweep_paths, (self.depth, self.width), self.generator)
        split, rank, ranks = self.data.alpha, self.accelerator.process_index, self.accelerator.num_processes
        images, labels = split.images[:SWEEP_IMAGES], split.labels[:SWEEP_IMAGES]
        columns = np.array(paths, dtype=np.int64).reshape(-1, self.depth)
        epochs = np.full(len(paths), self.config.epochs - 1)
        if not paths:
            return PathLosses(columns, np.empty(0), epochs)
        losses = [images.new_zeros(())] * len(paths)
        with torch.no_grad(), self.accelerator.autocast():
            for i, scores in self.supernet.along(images, paths[rank::ranks]):
                interrupt.check()
                losses[rank + i * ranks] = F.cross_entropy(scores, labels, reduction="sum") / len(images)
        (total,) = add_up([[torch.stack(losses)]], self.accelerator)
        found = total.double().cpu().numpy()
        if not np.isfinite(found).all():
            raise DivergedError(
                f"expected finite losses of all paths, got {found[~np.isfinite(found)][0]} of path "
                f"{paths[int(np.isfinite(found).argmin())]}; try a lower learning rate, or a normalization"
            )
        return PathLosses(columns, found, epochs)

    def check_finite(self, epoch: int, step: int, diverged: Tensor) -> None:
        """Raise on all processes if a loss or gradient up to this step was not finite, and name the first one.

        The weights are still those before that step, so it is repeated to see in which row it begins.
        """
        unchecked, self.unchecked = self.unchecked, {}
        lost = int(diverged[1])
        if not lost:
            return
        first = step + 1 - lost
        if first not in unchecked:  # it came before an interruption
            raise _diverged("a loss or gradient", epoch, first)
        batch, path = unchecked[first]
        rows: list[int] = []

        def note(row: int) -> Callable[..., None]:
            return lambda _module, _inputs, output: None if output.isfinite().all() else rows.append(row)

        hooks = [self.supernet.cells(i)[j].register_forward_hook(note(i)) for i, j in enumerate(path)]
        self.backward(batch, path)
        for hook in hooks:
            hook.remove()
        if rows := gather_object(sorted(rows)[:1]):
            raise _diverged(f"the output of row {min(rows)}", epoch, first)
        # Gradients go from deep rows to shallow ones, so the deepest row with a bad one is where it began.
        bad = [i for i, j in enumerate(path) if not all(p.grad is None or p.grad.isfinite().all()
               for p in self.supernet.cells(i)[j].parameters())]  # fmt: skip
        if bad:
            raise _diverged(f"the gradient of row {bad[-1]}", epoch, first)
        finite = all(p.grad is None or p.grad.isfinite().all() for p in self.parameters)  # operations may be random
        raise _diverged("a loss or gradient" if finite else "the gradient outside of all rows", epoch, first)

    def accuracies(self, paths: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """One-shot accuracies ``(n,)`` of paths ``(n, d)`` on the alpha split, with batch statistics."""
        if not len(paths):
            return np.empty(0)
        along = partial(self.supernet.along, paths=paths)
        return np.array(accuracies(along, len(paths), self.data.alpha, self.accelerator))

    def one_shot_accuracy(self, paths: int) -> float:
        """Mean one-shot accuracy of uniformly random paths."""
        columns = torch.randint(self.width, (paths, self.depth), generator=self.generator).tolist()
        return float(self.accuracies(columns).mean())


def check_schedule(config: BilevelConfig, data: Data, shape: tuple[int, int], processes: int = 1) -> None:
    """Raise an ``InvalidInputError`` unless a training of shape ``(d, w)`` has enough batches and steps."""
    for split in (data.weight, data.alpha):
        Batches(split, config.batch_size, torch.Generator(), micro_batches=config.micro_batches, ranks=processes)
    steps = data.weight.steps(config.batch_size)
    total = config.epochs * steps
    if config.estimator == "marginal":
        if 0 < config.sweep_paths < (needed := losses_needed(shape, 1)):
            raise InvalidInputError(
                f"expected {needed} sweep_paths or more, from whose losses the effects of {shape[0]} rows of "
                f"{shape[1]} columns are estimated, got {config.sweep_paths}; 0 uses the losses of weight steps instead"
            )
        needed = losses_needed(shape, config.epochs)
        if total < needed:
            raise InvalidInputError(
                f"expected {needed} weight steps or more, from whose losses the effects of {shape[0]} rows of "
                f"{shape[1]} columns are estimated, got {total} within {config.epochs} epochs of {steps}; train "
                "longer, or in smaller batches"
            )
    elif total < config.alpha_every:
        raise InvalidInputError(
            f"expected an alpha step within {config.epochs} epochs of {steps} weight steps, got none with alpha_every "
            f"= {config.alpha_every}; lower it, or alphas never change"
        )


def _diverged(found: str, epoch: int, step: int) -> DivergedError:
    return DivergedError(
        f"expected finite losses and gradients, got NaN or infinity in {found}, epoch {epoch}, step {step}; try a "
        "lower learning rate, or a normalization"
    )


def untrained(one_shot: float, chance: float) -> str | None:
    """Warning for a one-shot accuracy less than a tenth of the way from chance to 1; None if it is higher."""
    bound = chance + 0.1 * (1 - chance)
    if one_shot >= bound:
        return None
    return (
        f"the supernet has hardly trained: one-shot accuracy {one_shot:.3f}, chance {chance:.3f}, expected {bound:.3f} "
        "or more. Its alphas are unreliable; train longer, in smaller batches, or at a higher learning rate"
    )
