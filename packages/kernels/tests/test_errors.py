"""Errors go from process to process."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from plait_kernels import errors

KINDS = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, errors.PlaitError) and kind is not errors.RequestsFailed
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("way", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_an_error_is_the_same_elsewhere(kind: type[errors.PlaitError], way: object) -> None:
    assert callable(way)
    error = way(kind("what, got, allowed, remedy"))
    assert type(error) is kind
    assert str(error) == "what, got, allowed, remedy"


@pytest.mark.parametrize("way", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy])
def test_requests_that_failed_keep_errors_and_outputs(way: object) -> None:
    assert callable(way)
    failed = errors.RequestsFailed("1 of 2", {1: errors.AdapterError("damaged")}, ["good", None])
    error = way(failed)
    assert type(error) is errors.RequestsFailed
    assert str(error) == "1 of 2"
    assert list(error.errors) == [1]
    assert type(error.errors[1]) is errors.AdapterError
    assert str(error.errors[1]) == "damaged"
    assert error.outputs == ["good", None]


def test_a_message_can_be_written_whatever_it_quotes() -> None:
    error = errors.AdapterError("the field \ud800é is unknown")
    assert str(error) == "the field \\ud800é is unknown"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
