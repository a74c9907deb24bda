"""An op whose reference runs on a GPU says so, once: no kernel is missing in silence."""

from __future__ import annotations

import inspect
import warnings
from importlib import import_module

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from captum_tracinwe import ops
from captum_tracinwe.rows.kernels import told as module


@pytest.fixture(autouse=True)
def _nothing_told(monkeypatch) -> None:
    monkeypatch.setattr(module, "_told", set())


def test_a_reference_on_a_gpu_is_told_of_once_for_each_op() -> None:
    with FakeTensorMode():
        tensor = torch.empty(1, device="cuda")
    called = module.told("row_dot", lambda *args: len(args))
    with pytest.warns(UserWarning, match=r"row_dot runs in plain torch on cuda:0: no CUDA kernel is loaded"):
        assert called(tensor, 1) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert called(tensor, 1) == 2
    with pytest.warns(UserWarning, match="posting_dot runs in plain torch"):
        module.told("posting_dot", lambda *args: None)(tensor)


def test_nothing_is_told_on_the_processor() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert module.told("row_dot", lambda *args: len(args))(torch.ones(1)) == 1


@pytest.mark.parametrize("name", sorted(ops.OPS))
def test_every_op_tells_where_its_kernel_is_not_loaded(name: str) -> None:
    op = import_module(f"captum_tracinwe.rows.kernels.{name}")
    assert f'told("{name}", reference)' in inspect.getsource(op)
