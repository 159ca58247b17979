"""Bi-level training of a hyper-architecture: DARTS over whole cells, with hard Gumbel-softmax (section 2.2).

Weight steps on the weight split train one path each. What alphas come from, steps of their own on the alpha split or
the losses of the weight steps, is described in :mod:`fade_study.training.alphas`.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
from fade_study.cells import feature_table
from fade_study.config import SWEEP_IMAGES, BilevelConfig, Estimator, NetworkConfig
from fade_study.effects import Effects, PathLosses, effects_to_alpha, losses_needed, marginal_effects, path_effects
from fade_study.exceptions import DivergedError, InvalidInputError
from fade_study.nn import Supernet, gumbel_noise
from fade_study.ranking import marginals
from fade_study.training.alphas import Marginal, StraightThrough, fair_paths
from fade_study.training.checkpoint import Progress, Stateful
from fade_study.training.data import Batches, Data, Minibatch
from fade_study.training.session import (
    accuracy,
    adam,
    add_up,
    backward,
    check_alike,
    copy_from_main,
    fingerprint,
    schedule,
    session,
)

__all__ = ["HyperResult", "check_schedule", "combined_alpha", "effects_of", "train_hyper_architecture"]

BILEVEL_VERSION = 2
"""Raised when a change of the code changes what a training gives: a checkpoint of before is not taken."""
ONE_HOT = 0.99
"""Alpha from which on a row has collapsed to one cell."""


@dataclass(frozen=True, slots=True)
class HyperResult:
    """A trained hyper-architecture."""

    alpha: NDArray[np.float64]
    """``(d, w)``, rows sum to 1, higher is better."""
    alpha_history: NDArray[np.float64]
    """After each epoch, ``(E, d, w)``; of marginal alphas, by the losses of weight steps."""
    accuracy: float
    """One-shot accuracy on the alpha split, mean over random paths. Near chance, alphas mean nothing."""
    path_accuracies: NDArray[np.float64]
    """One-shot accuracies ``(n,)`` on the alpha split of the paths that were asked for."""
    losses: PathLosses
    """Of the weight steps from epoch ``alpha_start`` on."""
    sweep: PathLosses
    """Of ``sweep_paths`` fair paths through the trained supernet, all on the same images of the alpha split."""
    effects: Effects | None
    """Of columns on the losses of the sweep, or, where there is none, of the weight steps; None for too few losses."""
    epochs: tuple[dict[str, float], ...]
    """Per epoch: ``loss/weights``, ``loss/alpha`` (once alpha steps are taken), ``accuracy/validation`` (of one random
    path)."""
    warning: str | None
    """Why the alphas mean nothing, where they don't."""
    seconds: float
    """Without those of ``path_accuracies``."""
    path_seconds: float
    """Of ``path_accuracies``."""
    weights: dict[str, Tensor] | None
    """Of the supernet, by name, where they were asked for."""


def train_hyper_architecture(
    hyper_architecture: HyperArchitecture,
    data: Data,
    config: BilevelConfig,
    *,
    network: NetworkConfig = NetworkConfig(),  # noqa: B008 - frozen
    seed: int = 0,
    paths: Sequence[Sequence[int]] = (),
    weights: Mapping[str, Tensor] | None = None,
    checkpoint: str | Path | None = None,
    on_epoch: Callable[[int, NDArray[np.float64], dict[str, float]], None] | None = None,
) -> HyperResult:
    """Train the supernet of a hyper-architecture and its alphas.

    Args:
        hyper_architecture: d rows of w cells.
        data: from ``load_data``.
        config: of both levels.
        network: macro-architecture and normalization.
        seed: of initialization, data order, paths and noise; the result is a function of the arguments.
        paths: ``(n, d)``, columns whose one-shot accuracies are measured when all is trained.
        weights: of a supernet trained before, with which to begin where cells are the same ({} for none): the result
            then holds this one's (section 2.4: weight sharing among successive hyper-architectures).
        checkpoint: file that keeps the state after each epoch. Where it holds that of the same training, this one goes
            on from there, to the same result. Remove it (``Checkpoint.remove``) once the result is safe.
        on_epoch: called with each epoch's number, alphas ``(d, w)`` and metrics; first of all with those that a
            checkpoint brings.

    Raises:
        DivergedError: (a ``FloatingPointError``) for a loss or gradient that is NaN or infinite.
    """
    with session(seed, config.threads) as (accelerator, generator):
        identity = fingerprint(
            accelerator,
            data,
            version=BILEVEL_VERSION,
            rows=[[cell.key for cell in row] for row in hyper_architecture.rows],
            bilevel=dataclasses.asdict(config),
            network=describe_network(network, (type(cell) for row in hyper_architecture.rows for cell in row)),
            seed=seed,
            processes=None if config.micro_batches else accelerator.num_processes,
            carried=None if weights is None else sorted(weights),
        )
        check_alike(accelerator, data=data.digest, training=identity)
        check_schedule(config, data, hyper_architecture.shape, accelerator.num_processes)
        trainer = _Trainer(hyper_architecture, data, config, network, accelerator, generator)
        if weights is not None:
            trainer.supernet.carry_over(weights)
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
        kept = None if weights is None else {name: w.cpu().clone() for name, w in trainer.supernet.weights().items()}
        history = np.stack([alpha.numpy() for alpha, _ in progress.history])
        path_seconds = progress.seconds - seconds
    collapsed = _collapsed(history) if config.estimator == "straight-through" else None
    found = [_untrained(one_shot, data.chance), collapsed]
    warning = "; ".join(text for text in found if text is not None) or None
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
        weights=kept,
    )


def combined_alpha(
    results: Sequence[HyperResult], estimator: Estimator, hyper_architecture: HyperArchitecture
) -> NDArray[np.float64]:
    """Alphas ``(d, w)`` of one hyper-architecture from several trainings of it.

    Args:
        results: of R trainings.
        estimator: with which they were trained. Marginal effects are averaged before they become alphas;
            straight-through alphas are averaged themselves (section 3.1).
        hyper_architecture: that was trained. Marginal effects of columns with the same cell are merged, and those of
            rows borrow from each other through graph features of the cells, where cells have them.
    """
    effects = [result.effects for result in results if result.effects is not None]
    if estimator == "straight-through" or not effects:
        return marginals(np.stack([result.alpha for result in results]))
    return effects_to_alpha(effects_of(effects, hyper_architecture))


def effects_of(effects: Sequence[Effects], hyper_architecture: HyperArchitecture) -> Effects:
    """What several trainings of a hyper-architecture say of its columns, ``(d, w)``."""
    keys = [[cell.key for cell in row] for row in hyper_architecture.rows]
    return marginal_effects(effects, keys, feature_table(hyper_architecture.rows))


class _Trainer:
    """Supernet, alphas and their optimizers, and the two kinds of steps."""

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
        self.data = data.to(accelerator.device)
        supernet = Supernet(
            hyper_architecture, data.image_shape, data.classes, network, share_weights=config.share_weights
        )
        # Without PyTorch's distributed wrapper, which would exchange the gradients of all cells: see ``backward``.
        self.supernet = supernet.to(accelerator.device)
        self.optimizer = adam(supernet, config.optimizer)
        rank, ranks = accelerator.process_index, accelerator.num_processes
        self.weight_batches, self.alpha_batches = (
            Batches(split, config.batch_size, generator, micro_batches=config.micro_batches, rank=rank, ranks=ranks)
            for split in (self.data.weight, self.data.alpha)
        )
        self.schedule = schedule(self.optimizer, config.schedule, self.weight_batches.steps * config.epochs)
        self.parameters = list(self.supernet.parameters())  # to go through all modules takes a tenth of a small step
        logits = config.alpha_init_std * torch.randn(self.depth, self.width, generator=generator)
        self.marginal = Marginal((self.depth, self.width), accelerator.device)
        self.straight_through = None
        if config.straight_through:
            self.straight_through = StraightThrough(self.supernet, logits, config, accelerator)
        self.fair_paths = None
        if config.paths == "fair":
            steps = self.weight_batches.steps * config.epochs
            self.fair_paths = fair_paths(steps, (self.depth, self.width), generator)
        self.parts: dict[str, Stateful] = {
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
        """What straight-through steps move, ``(d, w)``, where they are taken."""
        return [] if self.straight_through is None else [self.straight_through.logits]

    def alpha(self) -> NDArray[np.float64]:
        """Alphas ``(d, w)`` by the estimator, in double precision."""
        if self.config.estimator == "marginal":
            return self.marginal.alpha()
        assert self.straight_through is not None
        return self.straight_through.alpha()

    def epoch(self, progress: Progress) -> dict[str, float]:
        """One pass over the weight split, with its alpha steps, or what is left of it; its metrics."""
        self.supernet.train()
        epoch, steps, running = progress.epoch, self.weight_batches.steps, progress.running
        if not running:
            running["noise"] = gumbel_noise((2, steps, self.depth, self.width), self.generator)
            running["losses"] = torch.zeros(2)  # of weights and alphas
            running["alpha_steps"] = torch.zeros(())
        copy_from_main([running["noise"], *self.logits], self.accelerator)
        running["losses"] = running["losses"].to(self.accelerator.device)
        noise = running["noise"]
        for step in progress.steps(steps):
            try:
                done = epoch * steps + step + 1
                path = self.path(done - 1, noise[0, step])
                loss = self.weight_step(self.weight_batches.next(), path)
                running["losses"][0] += loss
                if epoch < self.config.alpha_start:
                    continue
                self.marginal.observe(path, loss, epoch)
                if self.straight_through is not None and done % self.config.alpha_every == 0:
                    remaining = 1 - (done - 1) / (steps * self.config.epochs)
                    alpha_loss = self.straight_through.step(self.alpha_batches.next(), noise[1, step], remaining)
                    running["losses"][1] += alpha_loss
                    running["alpha_steps"] += 1
            except FloatingPointError as error:
                raise DivergedError(
                    f"expected finite losses and gradients, got NaN or infinity in {error}, epoch {epoch}, step "
                    f"{step}; try a lower learning rate, or a normalization"
                ) from None
        weight_loss, loss_of_alphas = running["losses"].tolist()
        metrics = {"loss/weights": weight_loss / steps, "accuracy/validation": self.one_shot_accuracy(1)}
        if alpha_steps := int(running["alpha_steps"]):
            metrics["loss/alpha"] = loss_of_alphas / alpha_steps
        return metrics

    def path(self, step: int, noise: Tensor) -> list[int]:
        """Columns ``(d,)`` that a weight step trains: a fair path, or one drawn from the alphas by noise ``(d, w)``."""
        if self.fair_paths is not None:
            return self.fair_paths[step]
        assert self.straight_through is not None
        return self.straight_through.draw(noise)

    def weight_step(self, batch: Sequence[Minibatch], path: Sequence[int]) -> Tensor:
        """Train the weights along one path; returns the loss."""

        def loss_of(micro_batch: Minibatch) -> Tensor:
            with self.accelerator.autocast():
                return micro_batch.loss(self.supernet(micro_batch.images, path))

        in_order = self.config.micro_batches is not None
        loss = backward(batch, loss_of, self.parameters, self.accelerator, in_order=in_order)
        self.check_finite(loss, batch, path)
        nn.utils.clip_grad_value_(self.parameters, self.config.optimizer.gradient_clip)
        self.optimizer.step()
        self.schedule.step()
        return loss

    def sweep(self) -> PathLosses:
        """Losses of fair paths on the same images of the alpha split, by batch statistics; processes share paths."""
        paths = fair_paths(self.config.sweep_paths, (self.depth, self.width), self.generator)
        split, rank, ranks = self.data.alpha, self.accelerator.process_index, self.accelerator.num_processes
        images, labels = split.images[:SWEEP_IMAGES], split.labels[:SWEEP_IMAGES]
        columns = np.array(paths, dtype=np.int64).reshape(-1, self.depth)
        epochs = np.full(len(paths), self.config.epochs - 1)
        if not paths:  # nothing to exchange
            return PathLosses(columns, np.empty(0), epochs)
        losses = [images.new_zeros(())] * len(paths)
        for i in range(rank, len(paths), ranks):
            interrupt.check()
            with torch.no_grad(), self.accelerator.autocast():
                losses[i] = F.cross_entropy(self.supernet(images, paths[i]), labels, reduction="sum") / len(images)
        (total,) = add_up([[torch.stack(losses)]], self.accelerator)
        found = total.double().cpu().numpy()
        if not np.isfinite(found).all():
            raise DivergedError(
                f"expected finite losses of all paths, got {found[~np.isfinite(found)][0]} of path "
                f"{paths[int(np.isfinite(found).argmin())]}; try a lower learning rate, or a normalization"
            )
        return PathLosses(columns, found, epochs)

    def check_finite(self, loss: Tensor, batch: Sequence[Minibatch], path: Sequence[int]) -> None:
        """Raise on all processes for a loss or gradient that isn't, with the row in which that begins."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        # before they are clipped, which would make infinite ones look well
        if torch.stack([loss, nn.utils.get_total_norm(gradients)]).isfinite().all():
            return
        rows: list[int] = []

        def note(row: int) -> Callable[..., None]:
            return lambda _module, _inputs, output: None if output.isfinite().all() else rows.append(row)

        hooks = [self.supernet.cells(i)[j].register_forward_hook(note(i)) for i, j in enumerate(path)]
        with torch.no_grad():
            for micro_batch in batch:
                self.supernet(micro_batch.images, path)
        for hook in hooks:
            hook.remove()
        if rows := gather_object(sorted(rows)[:1]):
            raise FloatingPointError(f"the output of row {min(rows)}")
        # backwards, it is the deepest row that is the first
        bad = [i for i, j in enumerate(path) if not all(p.grad is None or p.grad.isfinite().all()
               for p in self.supernet.cells(i)[j].parameters())]  # fmt: skip
        raise FloatingPointError(f"the gradient of row {bad[-1]}" if bad else "the gradient outside of all rows")

    def accuracies(self, paths: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        """One-shot accuracies ``(n,)`` of paths ``(n, d)`` on the alpha split, with batch statistics."""
        return np.array(
            [
                accuracy(lambda images, path=path: self.supernet(images, path), self.data.alpha, self.accelerator)
                for path in paths
            ]
        )

    def one_shot_accuracy(self, paths: int) -> float:
        """Mean one-shot accuracy of uniformly random paths."""
        columns = torch.randint(self.width, (paths, self.depth), generator=self.generator).tolist()
        return float(self.accuracies(columns).mean())


def check_schedule(config: BilevelConfig, data: Data, shape: tuple[int, int], processes: int = 1) -> None:
    """Raise unless a training on these data has work for all processes, and teaches its estimator something.

    Args:
        config: of the training.
        data: from ``load_data``.
        shape: ``(d, w)``.
        processes: that train together.
    """
    for split in (data.weight, data.alpha):
        Batches(split, config.batch_size, torch.Generator(), micro_batches=config.micro_batches, ranks=processes)
    steps = data.weight.steps(config.batch_size)
    total, start = config.epochs * steps, config.alpha_start * steps
    if config.estimator == "marginal":
        if 0 < config.sweep_paths < (needed := losses_needed(shape, 1)):
            raise InvalidInputError(
                f"expected sweep_paths of {needed} or more, since the effects of {shape[0]} rows of {shape[1]} columns "
                f"are told from their losses, got {config.sweep_paths}; or 0, to take the losses of weight steps"
            )
        needed, taught = losses_needed(shape, config.epochs - config.alpha_start), total - start
        if taught < needed:
            raise InvalidInputError(
                f"expected {needed} weight steps or more from epoch alpha_start = {config.alpha_start} on, since the "
                f"effects of {shape[0]} rows of {shape[1]} columns are told from their losses, got {taught} within "
                f"{config.epochs} epochs of {steps}; train longer, or in smaller batches"
            )
    elif total // config.alpha_every == start // config.alpha_every:
        raise InvalidInputError(
            f"expected an alpha step within {config.epochs} epochs of {steps} weight steps, got none with alpha_every "
            f"= {config.alpha_every} from epoch {config.alpha_start} on; lower them, or alphas never move"
        )


def _collapsed(history: NDArray[np.float64]) -> str | None:
    """Alphas ``(E, d, w)`` that are one-hot before half of the epochs are over say what one early epoch thought."""
    early = history[: len(history) // 2].max(axis=2) > ONE_HOT  # (E / 2, d)
    rows = np.flatnonzero(early.any(axis=0))
    if not len(rows):
        return None
    first = {int(row): int(early[:, row].argmax()) for row in rows}
    return (
        f"alphas have collapsed to one cell by half of the {len(history)} epochs, in rows (and epochs) {first}; they "
        "say little of the other cells: lower alpha_learning_rate, or raise regularization"
    )


def _untrained(one_shot: float, chance: float) -> str | None:
    """A tenth of the way from chance to perfect is the least at which paths can begin to be told apart."""
    bound = chance + 0.1 * (1 - chance)
    if one_shot >= bound:
        return None
    return (
        f"the supernet has hardly trained: one-shot accuracy {one_shot:.3f}, chance {chance:.3f}, expected {bound:.3f} "
        "or more. Its alphas mean nothing; train longer, in smaller batches, or at a higher learning rate"
    )
