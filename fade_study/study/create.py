"""Making, finding and deleting studies."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import optuna

from fade_study import samplers
from fade_study.arrays import to_integer
from fade_study.cells import CellSpace, DagSpace
from fade_study.exceptions import InvalidInputError
from fade_study.generation import IDENTITY, SPACE, STUDY
from fade_study.study.settings import check_same, describe_sampler, describe_space, plain
from fade_study.study.storage import open_storage, retried_on
from fade_study.study.study import Evaluates, FadeStudy


def create_study(
    *,
    space: CellSpace,
    depth: int,
    sampler: optuna.samplers.BaseSampler | None = None,
    study_name: str | None = None,
    storage: str | optuna.storages.BaseStorage | None = None,
    load_if_exists: bool = False,
    seed: int | None = None,
    evaluate: Evaluates = "anchor",
    conditions: Mapping[str, Any] | None = None,
) -> FadeStudy:
    """A new study, or with ``load_if_exists`` the one of that name.

    Args:
        space: The cells and their features.
        depth: Number of rows d, 1 or more.
        sampler: A :class:`~fade_study.samplers.RowSampler`, or any of Optuna's samplers; default
            :class:`~fade_study.samplers.PseudoGradientSampler`.
        study_name: Name of the study; None has Optuna generate one.
        storage: An Optuna storage or its URL; None keeps the study in memory.
        load_if_exists: Whether to continue a study of this name; its settings must be the same.
        seed: Root of the batches' seeds and of ties between cells; default the sampler's seed, otherwise a random one.
        evaluate: Which architecture of a generation its value is about: the ``anchor``'s (the paper's way), or the
            ``best_ranked`` one of its hyper-architecture.
        conditions: Anything else that must stay the same for the study's values to be comparable, such as the data's
            digest and the training's settings, as plain values; compared when the study is continued.

    Raises:
        InvalidInputError: (a ``ValueError``) for a bad depth, or a study that exists with other settings.
        optuna.exceptions.DuplicatedStudyError: where it exists, without ``load_if_exists``.
        StorageError: (an ``OSError``) where the storage can't be opened.
    """
    rows = to_integer(depth)
    if rows is None or rows < 1:
        raise InvalidInputError(f"expected a depth of 1 or more, got {depth!r}; it is the number of cells in a chain")
    root = _first(seed, getattr(sampler, "seed", None))
    if root is not None and (to_integer(root) is None or root < 0):
        raise InvalidInputError(f"expected a seed that is an integer of 0 or more, got {root!r}")
    if evaluate not in get_args(Evaluates):
        raise InvalidInputError(f"expected evaluate to be one of {', '.join(get_args(Evaluates))}, got {evaluate!r}")
    sampler = samplers.PseudoGradientSampler(seed=seed) if sampler is None else sampler
    settings = plain(
        {
            "space": describe_space(space),
            "depth": rows,
            "sampler": describe_sampler(sampler),
            "seed": root,
            "evaluate": evaluate,
            "conditions": conditions or {},
        }
    )
    arguments = getattr(space, "settings", None)
    opened = open_storage(storage)

    def create() -> FadeStudy:
        optuna_study = optuna.create_study(
            study_name=study_name,
            storage=opened,
            sampler=sampler,
            direction="maximize",
            load_if_exists=load_if_exists,
        )
        # Read the trials before the settings: a process that creates the same study at the same moment writes its
        # settings before its first trial.
        others = optuna_study.get_trials(deepcopy=False)
        stored = optuna_study.user_attrs.get(STUDY)
        if stored is None:
            if others or optuna_study.directions != [optuna.study.StudyDirection.MAXIMIZE]:
                raise InvalidInputError(
                    f"expected a study of fade_study, got {study_name!r}, another one; choose a name"
                )
            stored = settings | {"seed": _first(settings["seed"], np.random.SeedSequence().generate_state(1).item())}
            optuna_study.set_user_attr(IDENTITY, uuid.uuid4().hex)
            if arguments is not None:
                optuna_study.set_user_attr(SPACE, arguments)
            optuna_study.set_user_attr(STUDY, stored)
        check_same(stored, settings, optuna_study.study_name)
        return FadeStudy(optuna_study, space, stored)

    return retried_on(opened, study_name, create)


def load_study(
    *,
    study_name: str,
    storage: str | optuna.storages.BaseStorage,
    space: CellSpace | None = None,
    sampler: optuna.samplers.BaseSampler | None = None,
    conditions: Mapping[str, Any] | None = None,
) -> FadeStudy:
    """A study that exists.

    Args:
        study_name: Name of the study.
        storage: An Optuna storage or its URL.
        space: The space that it was created with; None makes a :class:`~fade_study.DagSpace` from its stored settings.
        sampler: The sampler that it was created with; None rebuilds a sampler of this package from its stored settings.
        conditions: Conditions as in :func:`create_study`; None compares none, which is enough to look at a study.

    Raises:
        KeyError: where there is no such study.
        InvalidInputError: (a ``ValueError``) where it has another space or sampler settings.
        StorageError: (an ``OSError``) where the storage can't be opened.
    """
    opened = open_storage(storage)

    def load() -> tuple[optuna.Study, Any]:
        try:
            optuna_study = optuna.load_study(study_name=study_name, storage=opened, sampler=sampler)
        except KeyError:
            there = sorted(optuna.get_all_study_names(opened))
            raise KeyError(f"expected a study that exists, got {study_name!r}; there are {there}") from None
        return optuna_study, optuna_study.user_attrs.get(STUDY)

    optuna_study, stored = retried_on(opened, study_name, load)
    if stored is None:
        raise InvalidInputError(f"expected a study of fade_study, got {study_name!r}, another one; choose its name")
    if sampler is None:
        sampler = _rebuild_sampler(stored["sampler"])
        optuna_study.sampler = sampler
    space = _rebuild_space(optuna_study.user_attrs.get(SPACE)) if space is None else space
    settings = stored | plain({"space": describe_space(space), "sampler": describe_sampler(sampler)})
    if conditions is not None:
        settings["conditions"] = plain(conditions)
    check_same(stored, settings, study_name)
    return FadeStudy(optuna_study, space, stored)


def delete_study(*, study_name: str, storage: str | optuna.storages.BaseStorage) -> None:
    """Delete a study and all its trials; a ``KeyError`` where there is none."""
    optuna.delete_study(study_name=study_name, storage=open_storage(storage))


def _rebuild_space(settings: dict[str, Any] | None) -> DagSpace:
    if settings is None:
        raise InvalidInputError("expected the space of this study, got None; pass it as space=")
    return DagSpace(**settings)


def _rebuild_sampler(settings: dict[str, Any]) -> samplers.RowSampler:
    arguments = dict(settings)
    name = arguments.pop("type")
    ours = {one.__name__: one for one in samplers.REGISTRY.values()}
    if name not in ours:
        raise InvalidInputError(f"expected the sampler of this study, got None; pass your {name}(...)")
    return ours[name](**arguments)


def _first(*values: int | None) -> int | None:
    return next((value for value in values if value is not None), None)
