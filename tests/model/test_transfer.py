"""Copies of host tensors to a device."""

from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch

from model.transfer import copy_into, to_device


def test_on_the_host_nothing_is_copied() -> None:
    tensor = torch.arange(4)
    assert to_device(tensor, torch.device("cpu")) is tensor


def test_a_copy_to_a_gpu_comes_from_pinned_memory_and_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A GPU is not needed to see which calls are made."""
    pinned = mock.Mock()
    tensor: Any = SimpleNamespace(device=torch.device("cpu"), pin_memory=lambda: pinned)
    device = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert to_device(tensor, device) is pinned.to.return_value
    pinned.to.assert_called_once_with(device, non_blocking=True)


def test_what_is_on_the_gpu_already_is_not_pinned() -> None:
    tensor: Any = mock.Mock(device=torch.device("cuda", 0))
    to_device(tensor, torch.device("cuda", 0))
    tensor.pin_memory.assert_not_called()


def test_a_copy_into_a_buffer_of_a_gpu_comes_from_pinned_memory_and_does_not_wait() -> None:
    pinned = mock.Mock()
    tensor: Any = SimpleNamespace(pin_memory=lambda: pinned)
    buffer: Any = mock.Mock(device=torch.device("cuda", 0))
    copy_into(buffer, tensor)
    buffer.copy_.assert_called_once_with(pinned, non_blocking=True)


def test_a_copy_into_a_buffer_of_the_host_has_its_values() -> None:
    buffer = torch.zeros(3, dtype=torch.int64)
    copy_into(buffer, torch.arange(3))
    assert buffer.tolist() == [0, 1, 2]
