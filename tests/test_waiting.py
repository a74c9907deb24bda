"""Collection as a GPU has it, played on the CPU: nothing is read of a batch that was just asked for; the rows are the same."""

from __future__ import annotations

import sys
import warnings
from collections import Counter

import pytest
import torch
from captum_tracinwe.losses import TokenLoss
from cases import CASES, Examples, bert_mapping, cnn, tracin_of
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from captum_tracinwe import RowGradients, ops, waiting
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, toy_texts
from captum_tracinwe.gradients.room import Room

# What torch cannot do without reading numbers of the device.
READS = (
    "_local_scalar_dense",
    "nonzero",
    "masked_select",
    "unique",
    "bincount",
    "equal",
    "is_nonzero",
    "_unique2",
    "tolist",
)


@pytest.fixture
def gpu(monkeypatch):
    """From here on the CPU counts as a device that has to be waited for."""
    return lambda: monkeypatch.setattr(waiting, "AT_ONCE", ())


class Waits(TorchDispatchMode):
    """Counts what would be waited for, by the function of the package that asks."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        unsized = func is torch.ops.aten.repeat_interleave.Tensor and (kwargs or {}).get("output_size") is None
        if name in READS or by_mask or unsized:
            self.note()
        return func(*args, **(kwargs or {}))

    def note(self) -> None:
        frame = sys._getframe(1)
        while frame and not str(frame.f_globals.get("__name__")).startswith("captum_tracinwe"):
            frame = frame.f_back
        self.found[frame.f_code.co_name if frame else "elsewhere"] += 1


def rows_of(case, folder, **options):
    paths = scatter_checkpoints(case.model, folder, rates=(0.3, 0.1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return tracin_of(case, paths, **options).row_gradients()


def made(name):
    """A case with the weights that it had before."""
    torch.manual_seed(0)
    return CASES[name]()


OPTIONS = {
    "plain": {},
    "top_k_words": {"top_k_words": 2},
    "exclude_tokens": {"exclude_tokens": [3, 5, 7]},
    "many excluded": {"exclude_tokens": list(range(2, 40, 2))},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("name", CASES)
def test_rows_are_those_of_a_device_that_is_not_waited_for(name, options, gpu, tmp_path):
    expected = rows_of(made(name), tmp_path, **OPTIONS[options])
    gpu()
    found = rows_of(made(name), tmp_path, **OPTIONS[options])
    for part in ("ptr", "ids", "values"):
        assert torch.equal(getattr(found, part), getattr(expected, part)), part


@pytest.mark.parametrize("table", [("input", "bag"), "bag", "both"])
def test_rows_of_other_tables_are_the_same_too(table, gpu, tmp_path):
    name, options = ("t5", {"loss_fn": TokenLoss(shift=False)}) if table == "both" else ("cnn", {})
    expected = rows_of(made(name), tmp_path, table=table, **options)
    gpu()
    found = rows_of(made(name), tmp_path, table=table, **options)
    assert torch.equal(found.ids, expected.ids)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["cnn", "cnn without padding_idx", "bert, tuples", "bert, mappings", "gpt2, untied"])
@pytest.mark.parametrize("what", ["rows", "influence", "self_influence"])
def test_no_batch_is_waited_for(name, what, gpu, tmp_path):
    gpu()
    assert _waits(name, what, tmp_path, 1) == _waits(name, what, tmp_path, 3)  # seven batches, and three


@pytest.mark.parametrize(
    "options", [{"top_k_words": 2}, {"exclude_tokens": [3, 5]}, {"table": ("input", "bag")}], ids=str
)
def test_no_batch_is_waited_for_where_some_words_or_other_tables_count(options, gpu, tmp_path):
    gpu()
    assert _waits("cnn", "rows", tmp_path, 1, **options) == _waits("cnn", "rows", tmp_path, 3, **options)


@pytest.mark.parametrize("name", ["cnn", "bert, mappings"])
def test_where_the_host_does_not_wait_nothing_is_put_off(name, tmp_path):
    """The counts above are of something."""
    assert _waits(name, "rows", tmp_path, 1) != _waits(name, "rows", tmp_path, 3)


def _waits(name, what, folder, batch_size, **options) -> Counter[str]:
    case = made(name)
    tracin = tracin_of(case, scatter_checkpoints(case.model, folder), batch_size=batch_size, probe=False, **options)
    asks = {
        "rows": tracin.row_gradients,
        "influence": lambda: tracin.influence(case.test),
        "self_influence": tracin.self_influence,
    }
    with Waits() as counting:
        asks[what]()
    del counting.found["without_targets"]  # of labels in the host's memory
    del counting.found["__torch_function__"]  # what the model reads itself, as transformers' does of masks
    return counting.found


def test_texts_as_many_as_their_words_are_told_apart_without_waiting(gpu, tmp_path):
    gpu()
    ids, _, labels = toy_texts(8, seed=1)
    case = cnn()
    case.train = ids[:, :8].repeat(3, 1)[:16], labels.repeat(3)[:16]
    assert ids.shape[1] >= 8
    paths = scatter_checkpoints(case.model, tmp_path)
    with Waits() as counting:
        tracin_of(case, paths, batch_size=8, probe=False).row_gradients()
    assert "of_batch" not in counting.found


def test_a_product_is_of_several_batches(gpu, tmp_path, monkeypatch):
    case, calls = cnn(), []
    tracin = tracin_of(case, scatter_checkpoints(case.model, tmp_path), batch_size=1)
    expected = tracin.influence(case.test)
    dot = ops.row_dot
    monkeypatch.setattr("captum_tracinwe.rows.ops.row_dot", lambda *args: calls.append(len(args[3]) - 1) or dot(*args))
    gpu()
    assert torch.equal(tracin.influence(case.test), expected)
    assert set(calls) == {7}


def test_a_token_without_a_row_is_refused_when_its_batch_is_read(gpu, tmp_path):
    case = cnn()
    case.train[0][5, 2] = 3000
    gpu()
    with pytest.raises(
        ValueError, match=r"The embedding, of \d+ rows, is asked for token id 3000: expected ids from 0"
    ):
        rows_of(case, tmp_path, probe=False)


def test_a_gradient_that_is_not_finite_is_told_with_its_example(gpu, tmp_path):
    case = cnn()

    def loss(logits, labels):
        return nn.functional.cross_entropy(logits, labels, reduction="none") * torch.where(labels == 9, torch.inf, 1.0)

    case.loss = loss
    case.model = TinyCNN(classes=10, padding_idx=0)
    case.train[1][4] = 9
    gpu()
    with pytest.raises(ValueError, match="The gradient of training example 4 is NaN or infinite at checkpoint"):
        rows_of(case, tmp_path, probe=False)


def test_examples_without_a_target_have_no_rows_there_either(gpu, tmp_path):
    case = bert_mapping()
    case.train["labels"][[1, 4]] = -100
    expected = rows_of(case, tmp_path)
    gpu()
    found = rows_of(case, tmp_path)
    assert torch.equal(found.ptr, expected.ptr)
    assert torch.equal(found.values, expected.values)


def test_repeats_are_added_in_the_order_of_their_positions(gpu):
    from captum_tracinwe.rows.folding import Roomy

    generator = torch.Generator().manual_seed(0)
    examples = torch.randint(0, 5, (400,), generator=generator).sort().values
    ids, values = torch.randint(0, 9, (400,), generator=generator), torch.randn(400, 3, generator=generator)
    kept = torch.rand(400, generator=generator) < 0.7
    rows = Roomy.of(examples, ids, [values], kept, 5)
    expected = RowGradients.from_positions(examples[kept], ids[kept], values[kept], 5)
    found = rows.rows(int(rows.ptr[-1]), rows.values[0])
    assert torch.equal(found.ptr, expected.ptr)
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.values, expected.values)
    nothing = Roomy.of(examples, ids, [values], torch.zeros_like(kept), 5)
    assert nothing.ptr.tolist() == [0] * 6
    assert nothing.numbers(torch.full_like(values, torch.nan)).tolist() == [
        0,
        1,
    ]  # what lies behind the rows is nobody's


@pytest.mark.parametrize("few", [[], [4], list(range(0, 60, 2))])
def test_ids_among_few_or_many(few):
    ids = torch.arange(-3, 70).reshape(1, -1)
    assert torch.equal(waiting.among(ids, few), torch.isin(ids, torch.tensor(few, dtype=torch.int64)))


# ---------------------------------------------------------------------------------------------------- memory that runs out


class Crowded(TinyCNN):
    """Takes no more than some examples at once."""

    def __init__(self, tell) -> None:
        super().__init__(padding_idx=0)
        self.tell = tell

    def forward(self, ids):
        if len(ids) > self.tell(len(ids)):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(ids)


def test_a_batch_for_which_there_is_no_room_goes_through_in_parts(tmp_path):
    ids, _, labels = toy_texts(16, seed=1)
    most, sizes = 16, []
    model = Crowded(lambda size: sizes.append(size) or most)
    case = cnn()
    case.model, case.train = model, (ids, labels)
    paths = scatter_checkpoints(model, tmp_path)
    expected = tracin_of(case, paths, batch_size=8, probe=False).row_gradients()
    most, sizes = 3, []
    with pytest.warns(
        UserWarning, match="Memory ran out for 8 examples at once: from here on they go through the model 2 at a"
    ):
        found = tracin_of(case, paths, batch_size=8, probe=False).row_gradients()
    assert sizes[:6] == [8, 4, 2, 2, 2, 2]
    assert set(sizes[6:]) == {2}  # what was learned is known from then on
    assert torch.equal(found.ptr, expected.ptr)
    assert torch.equal(found.ids, expected.ids)
    torch.testing.assert_close(found.values, expected.values, rtol=1e-5, atol=1e-7)


def test_without_room_for_one_the_error_is_that_of_the_whole_batch():
    def compute(batch):
        raise torch.OutOfMemoryError(f"of {len(batch[0])}")

    room = Room()
    with pytest.raises(torch.OutOfMemoryError, match="of 5"):
        room.through((list(range(5)), (torch.zeros(5, 2), torch.zeros(5))), compute)
    with pytest.raises(torch.OutOfMemoryError, match="of 2"):  # nothing says where to cut
        Room().through(([0, 1, 2], (torch.zeros(2, 2), torch.zeros(5))), compute)


# -------------------------------------------------------------------------------------------------------- kinds of models


def test_a_model_in_bfloat16_has_rows_in_float32(gpu, tmp_path):
    gpu()
    whole = rows_of(made("bert, mappings"), tmp_path / "whole", probe=False)
    half = rows_of(made("bert, mappings").to(torch.bfloat16), tmp_path / "half", probe=False)
    assert half.values.dtype == torch.float32
    assert torch.equal(half.ids, whole.ids)
    apart = (half.values - whole.values).norm() / whole.values.norm()
    assert 0 < apart < 0.1


def test_a_compiled_model_and_the_callers_autocast_change_nothing(gpu, tmp_path):
    gpu()
    case = cnn()
    expected = rows_of(case, tmp_path)
    case.model.forward = torch.compile(case.model.forward, backend="eager")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rows_of(case, tmp_path).values, expected.values)
    assert len(Examples(case.train)) == 7
