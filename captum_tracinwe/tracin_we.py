"""`TracInWE`: Captum's TracInCP on the word embedding, computed from sparse row gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from captum._utils.progress import NullProgress, progress
from captum.influence._core.tracincp import TracInCP, TracInCPBase
from captum.influence._utils.common import KMostInfluentialResults
from captum.log import log_usage
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader, Dataset

from captum_tracinwe import lengths
from captum_tracinwe.arguments import check_arguments, index_lists, is_whole
from captum_tracinwe.batches import (
    Batch,
    Loss,
    blocks,
    in_order,
    refuse_shuffling,
)
from captum_tracinwe.checkpoints import find_checkpoints, load_checkpoint
from captum_tracinwe.collate import collate_of
from captum_tracinwe.embedding import find_embedding, stack
from captum_tracinwe.from_index import FromIndex, opened
from captum_tracinwe.overflow import first_not_finite, overflow
from captum_tracinwe.passes import Passes
from captum_tracinwe.ranking import merge_top_k, top_k
from captum_tracinwe.rows import RowGradients
from captum_tracinwe.runs import FromRuns
from captum_tracinwe.words import WordInfluence, split_by_token

if TYPE_CHECKING:
    from captum_tracinwe.index import GradientIndex

__all__ = ["TracInWE"]


class TracInWE(FromRuns, FromIndex, Passes, TracInCP):
    r"""TracIn on the word embedding (TracIn-WE; Yeh et al., NeurIPS 2022, arXiv 2202.11844).

    ``influence(inputs)[i, j]`` = Σ over checkpoints c of η_c · Σ over tokens w in both texts of
    ⟨g_c(train j)_w, g_c(test i)_w⟩, where g(x)_w is the gradient of the loss of x in the embedding row of w, by way of
    the look-ups of w in x. Positive: proponent, a training step on j lowers the loss on i. Unit: learning rate × squared
    gradient, that is, of the loss. Equal to ``TracInCP(..., layers=[embedding])`` without ever making a dense gradient;
    with tied input and output embeddings only the input side counts.

    The model's weights, mode and ``requires_grad`` are after each call what they were before it, also where Ctrl-C ended it.
    Threads that ask one model, or models that share a part, take turns. Gradients are computed in eval mode. A score that is
    beyond float32 (float64 for such a model) is an error that names the example.

    Args:
        model (Module): any model with a word embedding.
        train_dataset (Dataset or DataLoader): M examples in a fixed order. Batches are tuples ``(inputs..., labels)``, as in
            :class:`captum.influence.TracInCP`, or mappings (``model(**batch)``, labels under ``labels``). Examples of a data
            set may be mappings of lists (`datasets.Dataset`); wherever ``inputs`` are asked for, a data set or a list of such
            mappings will do.
        checkpoints (str, Path or list): a directory, or the checkpoints.
        checkpoints_load_func (callable): ``(model, checkpoint) -> learning rate``. Default: :func:`load_checkpoint`.
        layers (list[str] or None): a list with the name of the embedding; None finds it.
        loss_fn, test_loss_fn (callable, optional): of training and of test examples; None: the model's own, and ``loss_fn``.
        batch_size (int): training examples to a pass.
        sample_wise_grads_per_batch (bool): accepted for compatibility. One backward per batch serves losses reduced by
            "none", "sum" and "mean" alike; each example gets the gradient of its loss taken alone.
        exclude_tokens (sequence of int): tokens that do not count (TracIn-WE-NoC: those common to all texts). Default: none.
        top_k_words (int, optional): keep only the k positions of each text with the largest gradient, at each checkpoint,
            after ``exclude_tokens`` (TracIn-WE-Topk; 10 in the paper). Default: all.
        side (str, optional): of an encoder-decoder whose halves share the table, count only the look-ups of the "encoder"
            or of the "decoder". Default: both, whose gradients of a word add up.
        label_names (str or list of str): labels not called ``labels`` or ``label``; of several the loss gets a dict.
        collate_fn (callable): makes a batch of a list of examples, of the training set and of ``inputs``; for raw texts
            :class:`captum_tracinwe.collate.TokenizeTexts`. Default: :class:`captum_tracinwe.collate.Collate`.
        order_by_length (bool): take the training texts from short to long and trim each batch's padding; results come in
            the order of ``train_dataset`` all the same. Needs a data set of mappings with ``attention_mask``, and a model
            that heeds it. Default: False.
        memory_limit (int): bytes for the scores and raw batches held at once. A training set that needs more is taken in
            blocks, and each checkpoint is loaded once per block. The row gradients of the test examples at all
            checkpoints come on top: about 4 · C · D bytes per distinct token of a text. Default: 1 GiB.
        index (str, Path or GradientIndex, optional): what :meth:`build_index` made. Scores then come from it.
            ``train_dataset`` may be None; if it is given, a few of its examples are read, and one that is not as it was when
            the index was built is an :class:`IndexMismatch`.

    Raises:
        ValueError, TypeError: see :func:`find_embedding`, :func:`find_checkpoints`; an empty or shuffled training set.

    Example:
        >>> import tempfile, torch
        >>> from captum_tracinwe import TracInWE, save_checkpoint
        >>> model = torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Flatten(), torch.nn.Linear(12, 2))
        >>> train = torch.utils.data.TensorDataset(torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([0, 1]))
        >>> folder = tempfile.mkdtemp()
        >>> save_checkpoint(f"{folder}/step-1.pt", model, learning_rate=0.1)
        >>> tracin = TracInWE(model, train, folder, loss_fn=torch.nn.CrossEntropyLoss(reduction="none"))
        >>> tracin.influence((torch.tensor([[7, 8, 2]]), torch.tensor([0]))).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        model: Module,
        train_dataset: Dataset[Any] | DataLoader[Any] | None,
        checkpoints: str | Path | Iterable[Any],
        checkpoints_load_func: Callable[[Module, Any], float] = load_checkpoint,
        layers: list[str] | None = None,
        loss_fn: Loss | None = None,
        batch_size: int | None = 1,
        test_loss_fn: Loss | None = None,
        sample_wise_grads_per_batch: bool = False,
        *,
        exclude_tokens: Sequence[int] = (),
        top_k_words: int | None = None,
        side: str | None = None,
        label_names: str | Sequence[str] = (),
        collate_fn: Callable[[list[Any]], Any] | None = None,
        order_by_length: bool = False,
        memory_limit: int = 1 << 30,
        index: str | Path | GradientIndex | None = None,
    ) -> None:
        self.index, train_dataset = opened(index, train_dataset)
        check_arguments(
            *(model, train_dataset, loss_fn, batch_size, test_loss_fn),
            *(exclude_tokens, top_k_words, label_names, collate_fn, order_by_length, memory_limit),
        )
        self.embedding = find_embedding(model, layers)
        self.label_names = (label_names,) if isinstance(label_names, str) else tuple(label_names)
        self._order: Tensor | None = None
        self._collate = collate_of(train_dataset, collate_fn, model, self.embedding, self.label_names)
        if order_by_length and self.index is None:
            assert batch_size is not None
            assert not isinstance(train_dataset, DataLoader)
            self._dataset = train_dataset
            train_dataset, self._order = lengths.order_by_length(
                train_dataset, batch_size, self._collate, self.label_names
            )
        elif not isinstance(train_dataset, DataLoader):
            train_dataset = in_order(train_dataset, batch_size, self._collate)
        TracInCPBase.__init__(
            self, model, train_dataset, checkpoints, checkpoints_load_func, loss_fn, batch_size, test_loss_fn
        )
        if self.train_dataloader_len == 0:
            raise ValueError("`train_dataset` is empty: expected at least one training batch.")
        refuse_shuffling(self.train_dataloader, "train_dataset")
        self.sample_wise_grads_per_batch = sample_wise_grads_per_batch
        self.reduction_type = str(getattr(loss_fn, "reduction", "none"))
        self.test_reduction_type = str(getattr(self.test_loss_fn, "reduction", "none"))
        self.side = side
        self._within = stack(model, side)
        self.layer_modules = [self.embedding.module]
        self.exclude_tokens = tuple(int(token) for token in exclude_tokens)
        self.top_k_words = top_k_words
        self.memory_limit = memory_limit
        self._checked_losses: set[int] = set()
        if self.index is not None:
            self._check_index(self.index)

    @property
    def checkpoints(self) -> list[Any]:
        """The checkpoints, in natural order."""
        return self._checkpoints

    @checkpoints.setter
    def checkpoints(self, checkpoints: str | Path | Iterable[Any]) -> None:
        self._checkpoints = find_checkpoints(checkpoints)

    # -------------------------------------------------------------------------------------------------------- public

    @log_usage(part_of_slo=False)  # type: ignore[untyped-decorator]
    def influence(
        self,
        inputs: Batch | DataLoader[Any],
        k: int | None = None,
        proponents: bool = True,
        show_progress: bool = False,
        aggregate: bool = False,
    ) -> Tensor | KMostInfluentialResults:
        """Scores ``(N, M)``, or with ``k`` the k training examples of highest (lowest) score for each test example.

        As :meth:`captum.influence.TracInCP.influence`. Differences: each checkpoint is loaded once per call (once per
        block where ``memory_limit`` needs blocks); equal scores are ranked by training index; ``k`` < 1 is an error.
        """
        assert inputs is not None, (
            "`inputs` argument is required. If you wish to calculate self influence scores, please use the "
            "`self_influence` method instead."
        )
        if k is not None and (not is_whole(k) or k < 1):
            raise ValueError(f"`k` should be a whole number of at least 1 (or None for all scores), got {k!r}.")
        if self.index is not None:
            return self._influence_from(self.index, inputs, k, proponents, show_progress, aggregate)
        if k is None:
            return self._influence(inputs, show_progress, aggregate)
        return self._get_k_most_influential(inputs, int(k), proponents, show_progress, aggregate)

    @log_usage(part_of_slo=False)  # type: ignore[untyped-decorator]
    def self_influence(
        self,
        inputs: Batch | DataLoader[Any] | None = None,
        show_progress: bool = False,
        outer_loop_by_checkpoints: bool = False,
    ) -> Tensor:
        """Σ_c η_c‖g_c(x)‖², shape ``(M,)``, of the training examples or of ``inputs`` (with ``loss_fn`` in both cases).

        As :meth:`captum.influence.TracInCP.self_influence`. ``outer_loop_by_checkpoints`` reads the data once per
        checkpoint and loads each checkpoint exactly once; without it, data are read once, in blocks.
        """
        if inputs is None and self.index is not None:
            return self.index.self_influence()
        loader = self.train_dataloader if inputs is None else self._batches(inputs)
        scores = (
            self._self_influence_by_checkpoints(loader, show_progress)
            if outer_loop_by_checkpoints
            else self._self_influence_by_blocks(loader, show_progress)
        )
        return scores if self._order is None or inputs is not None else scores[torch.argsort(self._order)]

    def _self_influence_by_blocks(self, loader: DataLoader[Any], show_progress: bool) -> Tensor:
        desc = f"Using {self.get_name()} to compute self influence. Processing batch"
        scores = []
        with self._untouched(), self._bar(loader, desc, show_progress) as bar:
            for block in blocks(loader, "inputs", 8, self.memory_limit):
                total: Tensor | None = None
                for checkpoint in self.checkpoints:
                    part = self._self_influence_at(checkpoint, block.batches, self._what(loader), block.start, bar)
                    total = part if total is None else self._finite(total + part, self._what(loader), block.start)
                assert total is not None
                scores.append(total)
        return torch.cat(scores)

    @log_usage(part_of_slo=False)  # type: ignore[untyped-decorator]
    def compute_intermediate_quantities(
        self, inputs: Batch | DataLoader[Any], aggregate: bool = False, *, test: bool = False
    ) -> Tensor:
        """Vectors whose dot product is the influence: dense, ``(N, C * V * D)``, or ``(1, C * V * D)`` with ``aggregate``.

        As :meth:`captum.influence.TracInCP.compute_intermediate_quantities`, but each side is scaled by √η_c, so that the
        product of a test and a training result *is* the influence (Captum scales both by η_c). ``test=True`` takes
        ``test_loss_fn``. For BERT-base this is 94 MB per example and checkpoint: :meth:`row_gradients` holds the same
        numbers without the zeros.
        """
        rows = self._row_gradients(self._batches(inputs), self.test_loss_fn if test else self.loss_fn, False)
        if aggregate:
            rows = rows.sum()
            if first_not_finite(rows.values) is not None:
                raise overflow("The sum of the gradients of `inputs`", rows.values.dtype)
        size, width = self.embedding.weight.shape
        dense = rows.values.new_zeros((len(rows), len(self.checkpoints), size, width))
        dense.transpose(1, 2)[rows.examples, rows.ids] = rows.values.view(rows.num_rows, len(self.checkpoints), width)
        return dense.flatten(1)

    @log_usage(part_of_slo=False)  # type: ignore[untyped-decorator]
    def row_gradients(self, inputs: Batch | DataLoader[Any] | None = None, show_progress: bool = False) -> RowGradients:
        """The sparse gradients from which all scores are made.

        ``tracin.row_gradients(inputs).dot(tracin.row_gradients())`` is ``tracin.influence(inputs)``.

        Args:
            inputs (batch or DataLoader, optional): test examples, with ``test_loss_fn``; None: the training set, with
                ``loss_fn``.

        Returns:
            RowGradients: values ``(R, C * D)``, those of checkpoint c scaled by √η_c. About 4 · C · D bytes per distinct
            token of a text: 0.2 MB per example for BERT-base, 64 tokens and one checkpoint.
        """
        if inputs is None:
            if self.index is not None:
                return self.index.rows()
            rows = self._row_gradients(self.train_dataloader, self.loss_fn, show_progress)
            return rows if self._order is None else rows.select(torch.argsort(self._order))
        return self._row_gradients(self._batches(inputs), self.test_loss_fn, show_progress)

    @log_usage(part_of_slo=False)  # type: ignore[untyped-decorator]
    def word_influence(
        self,
        inputs: Batch | DataLoader[Any],
        train_indices: Tensor | Sequence[Sequence[int]],
        *,
        per_checkpoint: bool = False,
    ) -> list[list[WordInfluence]]:
        """Split scores by token: which words carry the influence of chosen training examples on each test example.

        Args:
            inputs (batch or DataLoader): N test examples.
            train_indices (Tensor or list of lists): for each test example the training examples to explain, for instance
                ``influence(inputs, k=5).indices``.
            per_checkpoint (bool): keep the shares of single checkpoints too, ``(C, S)``.

        Returns:
            list[list[WordInfluence]]: ``[test][rank]``; the shares of each add up to its score exactly.

        Raises:
            ValueError: not one list of indices per test example; an index that the training set does not have.
        """
        test = self._row_gradients(self._batches(inputs), self.test_loss_fn, False)
        test = test if self.index is None else self.index.project(test)
        wanted = index_lists(train_indices, len(test))
        distinct = sorted({index for indices in wanted for index in indices})
        if not distinct:
            return [[] for _ in wanted]
        train = self._training_rows(distinct)
        place = {index: i for i, index in enumerate(distinct)}
        pairs = [(i, index) for i, indices in enumerate(wanted) for index in indices]
        rows = torch.tensor([(i, place[index]) for i, index in pairs], device=test.ptr.device)
        found = split_by_token(test, train, rows, pairs, len(self.checkpoints) if per_checkpoint else None)
        in_order = iter(found)
        return [[next(in_order) for _ in indices] for indices in wanted]

    # -------------------------------------------------------------------------------------------- Captum's inner seam

    def _influence(
        self, inputs: Batch | DataLoader[Any], show_progress: bool = False, aggregate: bool = False
    ) -> Tensor:
        desc = f"Using {self.get_name()} to compute influence for training batches"
        test = list(self._batches(inputs))
        scores = torch.cat([part for _, part in self._score_blocks(test, aggregate, desc, show_progress)], dim=1)
        return scores if self._order is None else scores[:, torch.argsort(self._order)]

    def _get_k_most_influential(
        self,
        inputs: Batch | DataLoader[Any],
        k: int = 5,
        proponents: bool = True,
        show_progress: bool = False,
        aggregate: bool = False,
    ) -> KMostInfluentialResults:
        desc = (
            f"Using {self.get_name()} to perform computation for getting {'proponents' if proponents else 'opponents'}. "
            "Processing training batches"
        )
        best: tuple[Tensor, Tensor] | None = None
        test = list(self._batches(inputs))
        for examples, scores in self._score_blocks(test, aggregate, desc, show_progress):
            by_index = torch.argsort(examples)
            indices, values = top_k(scores if self._order is None else scores[:, by_index], k, proponents)
            found = (examples[by_index][indices], values)
            best = found if best is None else merge_top_k(best, found, k, proponents)
        assert best is not None
        return KMostInfluentialResults(*best)

    def _self_influence_by_checkpoints(self, inputs: Batch | DataLoader[Any], show_progress: bool = False) -> Tensor:
        loader = self._batches(inputs)
        name = f"Using {self.get_name()} to compute self influence."
        total: Tensor | None = None
        outer = (
            progress(desc=f"{name} Processing checkpoint", total=len(self.checkpoints), mininterval=0.0)
            if show_progress
            else NullProgress()
        )
        with self._untouched(), outer:
            for checkpoint in self.checkpoints:
                with self._bar(loader, f"{name} Processing batch", show_progress, passes=1) as bar:
                    part = self._self_influence_at(checkpoint, loader, self._what(loader), 0, bar)
                if total is not None and total.shape != part.shape:
                    raise ValueError(
                        f"`inputs` gave {len(total)} examples at one checkpoint and {len(part)} at the next: expected the same "
                        f"examples in the same order each time."
                    )
                total = part if total is None else self._finite(total + part, self._what(loader), 0)
                outer.update()
        assert total is not None
        return total
