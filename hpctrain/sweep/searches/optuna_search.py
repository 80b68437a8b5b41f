"""Optuna's tree-structured Parzen estimator (Bergstra et al. 2011; Akiba et al. 2019), by any number of processes.

The study lives in a journal file that processes of several machines append to. It is made from the trials, which
stay the record: each time it is opened it is told what it does not know yet, so a lost journal is no loss.
"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from hpctrain.config import ComponentConfig
from hpctrain.errors import UserError
from hpctrain.registry import register
from hpctrain.sweep.searches.base import Parameters, Past, Told
from hpctrain.sweep.space import Choices, Range, Space, label

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution

JOURNAL = "optuna.journal"
_NUMBER = "hpctrain_trial"
"""Attribute of a trial of the study: its number in the sweep."""


@register("searches")
class OptunaSearch:
    """Proposes what did well among the trials that have ended, and not what others are trying now."""

    learns: ClassVar[bool] = True

    class Config(ComponentConfig):
        kind: Literal["optuna"] = "optuna"
        trials: PositiveInt = 20
        """How many; more may be asked for later."""
        startup: NonNegativeInt = 10
        """Trials drawn at random before it begins to learn."""
        seed: Annotated[int, Field(ge=0)] = 1
        """One trial at a time, the same seed searches the same way; several at once learn in the order they end."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, space: Space) -> None:
        """Raise ``UserError`` when Optuna is missing; imports nothing."""
        if importlib.util.find_spec("optuna") is None:
            raise UserError(
                "search.kind is optuna, but Optuna is not installed", hint="pip install 'hpctrain[sweep]'"
            )

    def count(self, space: Space) -> int:
        return self.config.trials

    def parameters(self, space: Space, number: int, past: Past) -> Parameters:
        """Ask for trial ``number``. Raises ``UserError`` when the journal is damaged."""
        study = self._open(space, past, number)
        kinds = {key: _distribution(axis) for key, axis in space.items()}
        trial = study.ask(kinds)
        trial.set_user_attr(_NUMBER, number)
        return {key: _value(axis, trial.params[key]) for key, axis in space.items()}

    def learn(self, space: Space, past: Past) -> None:
        """Tell it of every trial that has ended. Raises ``UserError`` when the journal is damaged."""
        self._open(space, past, 0)

    def _open(self, space: Space, past: Past, number: int) -> Study:
        import optuna
        from optuna.storages.journal import JournalFileBackend, JournalStorage

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # A sampler draws from its own numbers: processes with the same ones would all try the same.
        seed = int(np.random.SeedSequence([self.config.seed, number]).generate_state(1)[0])
        path = past.folder / JOURNAL
        try:
            study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(path))),
                sampler=optuna.samplers.TPESampler(
                    n_startup_trials=self.config.startup, seed=seed, constant_liar=True
                ),
                study_name=past.folder.resolve().name,
                direction="maximize" if past.direction == "maximise" else "minimize",
                load_if_exists=True,
            )
            _tell(study, space, past)
        except (ValueError, KeyError, TypeError, AttributeError, AssertionError, IndexError) as error:
            raise UserError(
                f"{path} is damaged: {type(error).__name__}: {error}",
                hint="Delete it: it is written again from the trials that have ended",
            ) from error
        return study


def _tell(study: Study, space: Space, past: Past) -> None:
    """Have the study know every trial that has ended; two processes that both tell one do no harm."""
    from optuna.trial import TrialState, create_trial

    known = study.get_trials(deepcopy=False)
    ended = {t.user_attrs.get(_NUMBER) for t in known if t.state == TrialState.COMPLETE}
    failed = {t.user_attrs.get(_NUMBER) for t in known if t.state == TrialState.FAIL}
    running = {t.user_attrs.get(_NUMBER): t.number for t in known if t.state == TrialState.RUNNING}
    for told in past.trials:
        if told.number in ended or (told.value is None and told.number in failed):
            continue
        state = TrialState.FAIL if told.value is None else TrialState.COMPLETE
        if told.number in running:
            study.tell(running[told.number], told.value, state=state, skip_if_finished=True)
        else:
            ended_trial = create_trial(
                state=state, value=told.value, user_attrs={_NUMBER: told.number},
                params=_named(space, told), distributions={k: _distribution(axis) for k, axis in space.items()},
            )  # fmt: skip
            study.add_trial(ended_trial)


def _distribution(axis: Choices | Range) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(axis, Choices):
        return CategoricalDistribution([label(value) for value in axis.choices])
    if axis.int:
        return IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return FloatDistribution(axis.low, axis.high, log=axis.log)


def _value(axis: Choices | Range, drawn: Any) -> Any:
    """What the experiment is given for what Optuna drew."""
    if isinstance(axis, Choices):
        return next(value for value in axis.choices if label(value) == drawn)
    return drawn


def _named(space: Space, told: Told) -> dict[str, Any]:
    return {
        key: label(told.parameters[key]) if isinstance(axis, Choices) else told.parameters[key]
        for key, axis in space.items()
    }
