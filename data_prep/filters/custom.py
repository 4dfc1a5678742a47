"""Filters of the user's own: by a score that the records have, or by a Python function."""

import hashlib
import importlib
import importlib.util
import sys
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from configs.load import Config, UserError
from data_prep.filters.verdicts import F64, Flags, Verdicts

_MAX_REASON = 80


class FilterableDocument(Protocol):
    """What a filter sees of a document besides its text."""

    @property
    def id(self) -> str: ...

    @property
    def metadata(self) -> Mapping[str, Any] | None: ...


class _LimitsConfig(Config):
    """Limits of a score."""

    min: float | None = None
    """Least score that is kept; null: any."""
    max: float | None = None
    """Greatest score that is kept; null: any."""

    @model_validator(mode="after")
    def _are_in_order(self) -> "_LimitsConfig":
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min ({self.min}) is greater than max ({self.max})")
        return self

    @property
    @abstractmethod
    def label(self) -> str:
        """How its reasons start."""

    def drop_by_score(self, scores: F64, verdicts: Verdicts, weights: Any = None) -> None:
        """Drops the documents whose score, [D], is outside the limits; NaN is not."""
        if self.min is not None or self.max is None:
            least = np.nan if self.min is None else self.min
            verdicts.drop_below(f"{self.label} too low", scores, least, weights)
        if self.max is not None:
            verdicts.drop_above(f"{self.label} too high", scores, self.max, weights)


class ScoreFilterConfig(_LimitsConfig):
    """Drops documents by a number that their records have, such as the score of a classifier."""

    type: Literal["score"]
    field: str = Field(max_length=60)
    """The field, one of the reader's `metadata_fields`."""
    missing: Literal["drop", "keep"] = "drop"
    """What happens to a document whose record has no number there."""

    @property
    def label(self) -> str:
        return self.field

    def judge(
        self, batch: Sequence[FilterableDocument], texts: Sequence[bytes], verdicts: Verdicts
    ) -> None:
        """Drops documents of a batch; adds the scores."""
        scores = np.array([_number((d.metadata or {}).get(self.field)) for d in batch], np.float64)
        if self.missing == "drop":
            verdicts.drop(f"{self.field} missing", np.isnan(scores))
        self.drop_by_score(scores, verdicts)


def _number(value: Any) -> float:
    """A value as a number; NaN if it is none. CSV has numbers as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return float("nan")
    try:
        return float(value)
    except (ValueError, OverflowError):
        return float("nan")


def _has_two_names(function: str) -> str:
    module, _, name = function.rpartition(":")
    if not module or not name.isidentifier():
        raise ValueError("must be MODULE:FUNCTION or FILE.py:FUNCTION")
    return function


class PythonFilterConfig(_LimitsConfig):
    """Drops documents by a Python function; see docs/extending.md."""

    type: Literal["python"]
    function: Annotated[str, AfterValidator(_has_two_names)]
    """MODULE:FUNCTION or FILE.py:FUNCTION. Its file is part of the frozen plan: when it changes,
    documents have to be filtered again. What it imports is not."""
    per: Literal["document", "batch"] = "document"
    """document: the function is called with a text and its metadata (a dict) and returns what
    becomes of it. batch: with a list of texts and a list of dicts, and returns a list.

    True or None keeps a document, False drops it, a string drops it with this reason, and a number
    is a score, to which `min` and `max` apply."""
    name: str | None = Field(default=None, min_length=1, max_length=40)
    """What the filter is called in the report; the function's name if not given."""

    @property
    def label(self) -> str:
        return self.name or self.function.rpartition(":")[2]

    def judge(
        self, batch: Sequence[FilterableDocument], texts: Sequence[bytes], verdicts: Verdicts
    ) -> None:
        """Drops documents of a batch; adds the scores. UserError if the function fails."""
        numbers, weights = np.flatnonzero(verdicts.to_measure).tolist(), verdicts.weights
        results = self._results([batch[k] for k in numbers], [texts[k] for k in numbers])
        scores = np.full(len(batch), np.nan)
        without_score: Flags = np.zeros(len(batch), dtype=bool)
        for number, result in zip(numbers, results, strict=True):
            if isinstance(result, np.generic):
                result = result.item()
            if result is False:
                verdicts.drop_one(self.label, number)
            elif isinstance(result, str):
                verdicts.drop_one(f"{self.label}: {result}"[:_MAX_REASON], number)
            elif isinstance(result, int | float) and result is not True:
                scores[number] = result
                without_score[number] = np.isnan(scores[number])
            elif result is not True and result is not None:
                raise UserError(
                    f"filter {self.function}: returned {type(result).__name__} for document "
                    f"{batch[number].id!r}; it must return True, False, None, a reason or a score"
                )
        verdicts.drop(f"{self.label} is no number", without_score)
        if not np.isnan(scores).all():
            self.drop_by_score(scores, verdicts, weights)

    def _results(
        self, documents: Sequence[FilterableDocument], texts: Sequence[bytes]
    ) -> list[Any]:
        if not documents:
            return []
        function = imported(self.function)
        decoded = [text.decode("utf-8") for text in texts]
        metadata = [dict(document.metadata or {}) for document in documents]
        if self.per == "batch":
            where = f"{len(documents):,} documents from {documents[0].id!r}"
            with _named(self.function, where):
                results = list(function(decoded, metadata))
            if len(results) != len(documents):
                raise UserError(
                    f"filter {self.function}: returned {len(results):,} values for {where}"
                )
            return results
        results = []
        for document, text, fields in zip(documents, decoded, metadata, strict=True):
            with _named(self.function, f"document {document.id!r}"):
                results.append(function(text, fields))
        return results


class _named:
    """Reports errors of the user's function with its name and the document."""

    def __init__(self, function: str, where: str) -> None:
        self._function, self._where = function, where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, Exception):
            while trace.tb_next is not None:
                trace = trace.tb_next
            place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
            raise UserError(
                f"filter {self._function}: {type(error).__name__}: {error} ({place}), for "
                f"{self._where}"
            ) from error


CustomFilterConfig = Annotated[ScoreFilterConfig | PythonFilterConfig, Field(discriminator="type")]


def source_file(function: str) -> Path:
    """The file that defines the `function` of a filter. UserError if it is not found."""
    module = function.rpartition(":")[0]
    if module.endswith(".py"):
        path = Path(module).expanduser().resolve()
        if not path.is_file():
            raise UserError(f"filter {function}: {path} does not exist")
        return path
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        raise UserError(
            f"filter {function}: no module {module!r} is found; give FILE.py:FUNCTION, or put its "
            "folder on PYTHONPATH"
        )
    return Path(spec.origin)


def source_hash(function: str) -> str:
    """The sha256 of the file that defines a function. UserError if it is not found."""
    return hashlib.sha256(source_file(function).read_bytes()).hexdigest()


def imported(function: str) -> Any:
    """The function, imported. UserError if that fails or it cannot be called."""
    return _imported(function, source_hash(function))


@cache
def _imported(function: str, sha256: str) -> Any:
    module_name, _, name = function.rpartition(":")
    path = source_file(function)
    try:
        if module_name.endswith(".py"):
            module_name = f"_filter_{path.stem}_{sha256[:16]}"
            spec = importlib.util.spec_from_file_location(module_name, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
    except Exception as error:
        raise UserError(
            f"filter {function}: importing it failed: {type(error).__name__}: {error}"
        ) from error
    found = getattr(module, name, None)
    if not callable(found):
        raise UserError(f"filter {function}: {path} has no function {name!r}")
    return found


def check_functions(filters: Iterable[ScoreFilterConfig | PythonFilterConfig]) -> None:
    """UserError for a Python function that cannot be imported or called."""
    for custom in filters:
        if isinstance(custom, PythonFilterConfig):
            imported(custom.function)


def settings_of(filters: Sequence[ScoreFilterConfig | PythonFilterConfig]) -> list[dict[str, Any]]:
    """The filters as JSON values, functions with a hash of their source."""
    return [
        {**f.model_dump(mode="json"), "source": source_hash(f.function)}
        if isinstance(f, PythonFilterConfig)
        else f.model_dump(mode="json")
        for f in filters
    ]
