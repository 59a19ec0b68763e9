"""Optuna's storage in a database that may be away for some minutes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import TrialState
from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from study.patience import AwayError, Patience

P = ParamSpec("P")
R = TypeVar("R")

# Of PostgreSQL: the server shuts down, was killed, starts, has no connection left. A class 08 is an
# error of the connection too, and one that has no code comes from this side of it.
_AWAY = ("57P01", "57P02", "57P03", "53300")

# A server that refuses a connection for good says so without a code; in other languages than this
# one it is waited for in vain.
_FOR_GOOD = ("does not exist", "authentication failed", "no pg_hba.conf entry")


def is_away(error: Exception | None) -> bool:
    """Whether an error of SQLAlchemy says that the server is away, for a time."""
    if not isinstance(error, DBAPIError):
        return False
    code: str | None = getattr(error.orig, "sqlstate", None)
    if code is None:
        refused = any(words in str(error.orig) for words in _FOR_GOOD)
        lost = error.connection_invalidated or isinstance(error, (OperationalError, InterfaceError))
        return lost and not refused
    return code in _AWAY or code.startswith("08")


def _raise_away(context: ExceptionContext) -> None:
    """Raises AwayError where the server is away, from inside SQLAlchemy: of its own errors Optuna
    takes some for others, and repeats a part by itself."""
    error = context.sqlalchemy_exception
    if is_away(error) and not context.is_pre_ping:  # a ping asks, and makes the connection anew
        assert error is not None
        error.__cause__ = context.original_exception
        if context.connection is not None:
            context.is_disconnect = True
        raise AwayError(error)


def _patient(method: Callable[Concatenate[Any, P], R]) -> Callable[Concatenate[Any, P], R]:
    """The method, called again while the server is away: one that may be carried out twice."""

    @wraps(method)
    def patient(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._patience(lambda again: method(self, *args, **kwargs))  # type: ignore[no-any-return]

    return patient


class PatientStorage(RDBStorage):
    """Waits where RDBStorage raises an error because its server is away.

    A request whose answer did not arrive is made again, though it may have been carried out. By the
    lease of the study (study.lease) nobody else can have done so. A study made twice is one that is
    there, and attributes are as they were; a trial made twice stays, and Ledger knows it by the
    index of its slot.
    """

    def __init__(self, template: str, engine_kwargs: Mapping[str, Any], patience: Patience) -> None:
        self._patience = patience
        make = super().__init__
        patience(lambda again: make(template, engine_kwargs=dict(engine_kwargs)))

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine, which RDBStorage makes and uses in one go."""
        return self._engine

    @engine.setter
    def engine(self, made: Engine) -> None:
        event.listen(made, "handle_error", _raise_away)
        self._engine = made

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """As RDBStorage's; True also where it was carried out, and only its answer was lost."""
        update = super().set_trial_state_values

        def request(again: bool) -> bool:
            try:
                return update(trial_id, state, values) or (again and self._is(trial_id, state))
            except UpdateFinishedTrialError:
                if again and self._is(trial_id, state):
                    return True
                raise

        return self._patience(request)

    def _is(self, trial_id: int, state: TrialState) -> bool:
        return RDBStorage.get_trial(self, trial_id).state == state

    create_new_study = _patient(RDBStorage.create_new_study)
    delete_study = _patient(RDBStorage.delete_study)
    set_study_user_attr = _patient(RDBStorage.set_study_user_attr)
    set_study_system_attr = _patient(RDBStorage.set_study_system_attr)
    get_study_id_from_name = _patient(RDBStorage.get_study_id_from_name)
    get_study_name_from_id = _patient(RDBStorage.get_study_name_from_id)
    get_study_directions = _patient(RDBStorage.get_study_directions)
    get_study_user_attrs = _patient(RDBStorage.get_study_user_attrs)
    get_study_system_attrs = _patient(RDBStorage.get_study_system_attrs)
    get_all_studies = _patient(RDBStorage.get_all_studies)
    _create_new_trial = _patient(RDBStorage._create_new_trial)
    _set_trial_param = _patient(RDBStorage._set_trial_param)
    get_trial_param = _patient(RDBStorage.get_trial_param)
    set_trial_intermediate_value = _patient(RDBStorage.set_trial_intermediate_value)
    set_trial_user_attr = _patient(RDBStorage.set_trial_user_attr)
    set_trial_system_attr = _patient(RDBStorage.set_trial_system_attr)
    get_trial_user_attrs = _patient(RDBStorage.get_trial_user_attrs)
    get_trial_system_attrs = _patient(RDBStorage.get_trial_system_attrs)
    get_trial_id_from_study_id_trial_number = _patient(
        RDBStorage.get_trial_id_from_study_id_trial_number
    )
    get_trial = _patient(RDBStorage.get_trial)
    _get_trials = _patient(RDBStorage._get_trials)
    _get_best_trial_id = _patient(RDBStorage._get_best_trial_id)
