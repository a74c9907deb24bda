"""`TracInWE`: Captum's TracInCP on the word embedding, computed from sparse row gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from captum.influence._core.tracincp import TracInCP, TracInCPBase
from captum.influence._utils.common import KMostInfluentialResults
from captum.log import log_usage
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader, Dataset

from captum_tracinwe.batches.arguments import (
    as_memory_limit,
    check_arguments,
    check_flags,
    check_paths,
    index_lists,
    is_whole,
)
from captum_tracinwe.batches.batch import Batch, Loss
from captum_tracinwe.batches.collate import collate_of
from captum_tracinwe.batches.data_sets import as_dataset
from captum_tracinwe.batches.inputs import as_batches
from captum_tracinwe.batches.loaders import reading
from captum_tracinwe.batches.training_set import TrainingSet
from captum_tracinwe.batches.wrapped import unwrap
from captum_tracinwe.checkpoints.weights import assign_checkpoint, find_checkpoints, load_checkpoint
from captum_tracinwe.gradients.checkpointed import CheckpointedModel
from captum_tracinwe.gradients.embedding import find_embedding, stack
from captum_tracinwe.gradients.fitting import Fitting
from captum_tracinwe.gradients.head import find_head
from captum_tracinwe.gradients.live import Asked, LiveRows
from captum_tracinwe.gradients.live_source import LiveSource
from captum_tracinwe.gradients.probe import Probes
from captum_tracinwe.gradients.recommended import Recommended, of_model, of_tables
from captum_tracinwe.gradients.source import Question, RowSource
from captum_tracinwe.gradients.switches import undisturbed
from captum_tracinwe.gradients.tables import Tables
from captum_tracinwe.gradients.turns import alone
from captum_tracinwe.preconditioners import Length, Preconditioner, applied, chosen, leads_from_word_to_word
from captum_tracinwe.rows.overflow import first_not_finite, overflow
from captum_tracinwe.rows.row_gradients import RowGradients
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.splitting import split

if TYPE_CHECKING:
    from transformers import Trainer
    from typing_extensions import Self

    from captum_tracinwe.index import GradientIndex
    from captum_tracinwe.index.cache import Kept
    from captum_tracinwe.index.estimate import IndexEstimate

__all__ = ["TracInWE"]


class TracInWE(TracInCP):
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
        train_dataset (Dataset, DataLoader or DataFrame): M examples in a fixed order. An index is that of an example in the data
            set, also where a DataLoader's sampler has another order; of a stream it counts examples as they come. Batches are
            tuples ``(inputs..., labels)``, as in :class:`captum.influence.TracInCP`, or mappings (``model(**batch)``, labels
            under ``labels``). Examples of a data set may be mappings of lists (`datasets.Dataset`), or the rows of a
            `pandas.DataFrame`; wherever ``inputs`` are asked for, a data set, a DataFrame or a list of such mappings will do.
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
            the order of ``train_dataset`` all the same. It needs a data set of mappings with ``attention_mask`` and a model
            that uses it, or with ``input_ids`` without padding. Default: False.
        memory_limit (int): bytes for the scores and raw batches held at once. A training set that needs more is taken in
            blocks, and each checkpoint is loaded once per block. The row gradients of the test examples at all
            checkpoints come on top: about 4 · C · D bytes per distinct token of a text. Default: 1 GiB.
        preconditioner (str or Preconditioner, optional): what multiplies the rows of ``inputs`` before they meet those of the
            training examples: "auto", "idf", "cooccurrence", "fisher", "kfac", "ekfac", "exact"
            (:func:`captum_tracinwe.preconditioners.named`), or an object. "auto" is our recommendation for finding causes; it
            chooses ``table``, ``shares`` and ``normalize`` too where they are not given. One that learns from the training rows
            does so at the first question, in one pass that is then kept: with ``index`` by reading it once, else by computing
            each training example's gradient once more ("idf", "cooccurrence", "auto": only its tokens, which take no
            gradients). What takes "auto" longest is kept with ``index`` for the next process. Default: none, Captum's equal.
        normalize (str or Length, optional): by what scores are divided, so that a text does not win by being long: "words", the
            length of its tf-idf vector, or "gradient", that of its gradients, the root of its self-influence. A
            :class:`captum_tracinwe.preconditioners.Length` has the settings. It holds wherever scores and shares are made;
            ``self_influence`` and ``row_gradients`` stay as they are. With ``aggregate`` the sum of the test examples' gradients
            is one text, divided by its own length. Default: none, Captum's equal.
        index (str, Path or GradientIndex, optional): what :meth:`build_index` made, or its directory or URL. Scores come from it.
            ``train_dataset`` may be None; if it is given, a few of its examples are read, and one that is not as it was when
            the index was built is an :class:`IndexMismatch`.
        table (str or tuple of str): whose rows make the score (formulas: "What the score means" in the documentation).
            "input": the word table's, by look-ups. "bag": of a classifier, those of a layer from word counts straight to the
            logits that holds zeros, so that the model is unchanged. "output": of a language model, those of the words that a
            text has to predict, in its output layer. Of a tuple the score is the sum of its parts; "both" is ("input",
            "output"). Default: "input", Captum's equal.
        shares ("equal" or sequence of float, optional): by what the scores of each part are multiplied before they are added, in
            the order of ``table``. "equal" makes them as large as those of the first, measured at each checkpoint on a sample of
            the training examples (:class:`captum_tracinwe.preconditioners.EqualShares`). Default: 1 each.
        probe (bool): try on a few examples whether their gradients alone are those in their batch, before a run relies on it;
            where they are not, take a way on which they are, with a warning, or refuse ("What is checked for you" in the
            documentation). ``tracin.probes.found`` has what was found and what it cost. Default: True.

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

    @undisturbed
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
        preconditioner: str | Preconditioner | None = None,
        normalize: str | Length | None = None,
        index: str | Path | GradientIndex | None = None,
        table: str | Sequence[str] | None = None,
        shares: str | Sequence[float] | None = None,
        probe: bool = True,
    ) -> None:
        self.index, train_dataset = _opened(index, as_dataset(train_dataset, collate_fn is not None))
        auto = isinstance(preconditioner, str) and preconditioner == "auto"
        self.preconditioner = None if auto else preconditioner
        self.normalize = normalize
        self._probe = probe
        check_arguments(
            *(model, train_dataset, loss_fn, batch_size, test_loss_fn),
            *(exclude_tokens, top_k_words, label_names, collate_fn, order_by_length, memory_limit),
            checkpoints_load_func,
        )
        assert train_dataset is not None  # refused above
        self.embedding = find_embedding(model, layers)
        self.label_names = (label_names,) if isinstance(label_names, str) else tuple(label_names)
        self._collate = collate_of(
            train_dataset, collate_fn, model, self.embedding.module.padding_idx, self.label_names
        )
        self.training_set = TrainingSet.of(
            train_dataset, batch_size, self._collate, self.label_names, order_by_length and self.index is None
        )
        TracInCPBase.__init__(
            self, model, self.training_set.loader, checkpoints, checkpoints_load_func, loss_fn, batch_size, test_loss_fn
        )
        if checkpoints_load_func is load_checkpoint:
            check_paths(self.checkpoints)
        if self.train_dataloader_len == 0:
            raise ValueError("`train_dataset` is empty: expected at least one training batch.")
        self.sample_wise_grads_per_batch = sample_wise_grads_per_batch
        self.reduction_type = str(getattr(loss_fn, "reduction", "none"))
        self.test_reduction_type = str(getattr(self.test_loss_fn, "reduction", "none"))
        self.side = side
        self._within = stack(model, side)
        self.layer_modules = [self.embedding.module]
        self.exclude_tokens = tuple(int(token) for token in exclude_tokens)
        self.top_k_words = top_k_words
        self.memory_limit = as_memory_limit(memory_limit)
        if auto:
            best = self._recommended(table)
            self.preconditioner = best.preconditioner
            self.normalize = self.normalize or best.normalize
            shares = best.shares if shares is None else shares
            table = best.table if table is None else table
        self.tables = Tables.of("input" if table is None else table, shares)
        if "output" in self.tables:
            find_head(model)
        if self.index is not None:
            from captum_tracinwe.index.identity.source import check_match

            check_match(self.live_source, self.index)

    def _recommended(self, table: str | Sequence[str] | None) -> Recommended:
        """What "auto" stands for: of the tables that are named, of those that the index holds, or of the kind of model."""
        if table is not None:
            return of_tables(Tables.of(table))
        if self.index is not None:
            kept = Tables.parse(self.index.manifest.source.table)
            if len(kept.names) > 1 and self.index.projection is not None:
                raise ValueError(
                    f"The index {self.index.address!r} was built with project=..., which mixes the columns of its tables "
                    f"({kept}). preconditioner='auto' needs them apart: build it without project, and smaller by dtype='int4'."
                )
            best = of_tables(kept)
            equal = best.shares if len(kept.names) > 1 and set(kept.shares) == {1.0} else None
            if kept.plain and (self.loss_fn is not None or hasattr(unwrap(self.model), "config")):
                warnings.warn(
                    f"The index {self.index.address!r} holds the rows of the words read alone, of which preconditioner='auto' "
                    f"then is. As a rule it is of more: of a classifier of a bag of words too, of a language model of the words "
                    f"predicted. For that build the index with preconditioner='auto' (`captum-tracinwe index` without --plain); "
                    f"table='input' says that this is meant.",
                    stacklevel=3,
                )
            return replace(best, table=kept.names, shares=equal or kept.shares)
        batch = next(iter(reading(self.train_dataloader, "train_dataset")))
        return of_model(self.model, batch, self.label_names, (self.loss_fn, self.test_loss_fn))

    @classmethod
    def from_trainer(cls, trainer: Trainer, *, batch_size: int | None = None, **options: Any) -> Self:
        """A TracInWE of a transformers Trainer that has trained: its data, collator, checkpoints with rates, and loss.

        Args:
            trainer (Trainer): after ``train()``, with checkpoints in its ``output_dir``. Those that another run left there are
                left out, with a warning.
            batch_size (int, optional): texts to a pass; default 16.
            **options: any argument of :class:`TracInWE`, in place of what the Trainer says. The default ``loss_fn`` is the
                model's own, or for language models and token classification its sum over each example's tokens; where the model's
                own loss is another one, a warning says so.

        Raises:
            TypeError: it is no Trainer.
            ValueError: no training set, not trained, or no checkpoints.
        """
        from captum_tracinwe.checkpoints.trainer import live_run

        return cls(**{**live_run(trainer, batch_size, options), **options})

    @classmethod
    def from_pretrained_run(
        cls,
        output_dir: str | Path,
        train_dataset: Dataset[Any],
        *,
        model: Module | None = None,
        tokenizer: Any = None,
        data_collator: Any = None,
        batch_size: int | None = None,
        label_names: str | Sequence[str] | None = None,
        **options: Any,
    ) -> Self:
        """A TracInWE of a finished Trainer run: ``output_dir`` with its ``checkpoint-*``, and the data it was trained on.

        The model (by its config), tokenizer and collator are taken from the last checkpoint unless given. Where checkpoints
        hold a PEFT adapter only, ``model`` is the base model, which PEFT then wraps, or the PEFT model; its default is the
        directory that the adapter names. Arguments else and errors as in :meth:`from_trainer`.

        A run that was trained on a loss of another kind (``label_smoothing_factor``, ``compute_loss_func``) does not say so in
        a file that can be read without running code: pass that loss as ``loss_fn``. Where checkpoints of several runs lie in
        ``output_dir``, as far as their ``trainer_state.json`` tells, that is an error: pass ``checkpoints`` of one run.
        """
        from captum_tracinwe.checkpoints.trainer import finished_run

        names = [label_names] if isinstance(label_names, str) else label_names
        found = finished_run(output_dir, train_dataset, model, tokenizer, data_collator, batch_size, names, options)
        return cls(**{**found, **options})

    @property
    def checkpoints(self) -> list[Any]:
        """The checkpoints, in natural order: "step-2" before "step-10"."""
        return self._checkpoints

    @checkpoints.setter
    def checkpoints(self, checkpoints: str | Path | Iterable[Any]) -> None:
        self._checkpoints = find_checkpoints(checkpoints)
        self._fitting = Fitting()  # what was learned from the gradients at these
        self._rates: dict[int, float] = {}
        self.probes = Probes(self._probe)

    @property
    def preconditioner(self) -> Preconditioner:
        """What multiplies the rows of ``inputs``; may be set, to a name, an object or None."""
        return self._preconditioner

    @preconditioner.setter
    def preconditioner(self, preconditioner: str | Preconditioner | None) -> None:
        if isinstance(preconditioner, str) and preconditioner == "auto":
            raise ValueError(
                "tracin.preconditioner = 'auto': it chooses table, shares and normalize too, with which rows are made: expected "
                "it where a TracInWE is made, TracInWE(..., preconditioner='auto')."
            )
        self._preconditioner = chosen(preconditioner)

    @property
    def normalize(self) -> Length | None:
        """By what scores are divided; may be set, to a name, a Length or None."""
        return self._normalize

    @normalize.setter
    def normalize(self, normalize: str | Length | None) -> None:
        self._normalize = Length.of(normalize)

    def __repr__(self) -> str:
        """In one line: the model, whose rows count, checkpoints with their rates, the training set, where gradients are kept."""
        size = self.training_set.readable if self.index is None else self.index.total
        kept = [] if self.index is None else [one.learning_rate for one in self.index.manifest.source.checkpoints]
        rates = [self._rates.get(id(one)) for one in self.checkpoints]
        shown = [f"{rate:.2g}" for rate in (kept if None in rates else rates) if rate is not None]
        if len(shown) > 6:
            shown = [*shown[:3], "...", *shown[-2:]]
        at = f" at rates {', '.join(shown)}" if shown else ", rates not read yet"
        return (
            f"{type(self).__name__}({type(unwrap(self.model)).__name__}, table={str(self.tables)!r}, "
            f"{len(self.checkpoints)} checkpoint{'s' * (len(self.checkpoints) != 1)}{at}, "
            f"{'unknown' if size is None else f'{size:,}'} training examples, "
            f"index={None if self.index is None else self.index.address!r})"
        )

    # ------------------------------------------------------------------------------------------- what scores come from

    @property
    def live(self) -> LiveRows:
        """The model as a source of row gradients, of any examples."""
        assigns = self.checkpoints_load_func is load_checkpoint
        load = assign_checkpoint if assigns else self.checkpoints_load_func
        return LiveRows(
            CheckpointedModel(self.model, self.checkpoints, load, assigns, self._rates),
            self.embedding,
            self.exclude_tokens,
            self.top_k_words,
            self.side,
            self._within,
            self.label_names,
            self.memory_limit,
            self.get_name(),
            self.probes,
            self.tables,
        )

    @property
    def live_source(self) -> LiveSource:
        """The training set through the model."""
        return LiveSource(self.live, self.training_set, self.loss_fn)

    @property
    def source(self) -> RowSource:
        """Where training rows come from: the index, or the training set through the model."""
        if self.index is None:
            return self.live_source
        from captum_tracinwe.index.stored_source import StoredSource

        return StoredSource(self.index, self.live)

    def question(self, inputs: Batch | DataLoader[Any] | None, aggregate: bool = False) -> Question:
        """``inputs`` as a source of training rows is asked about them: batches, ``test_loss_fn``, preconditioner and length.

        None asks about the whole training set: its examples' gradients are divided by their lengths and added up. They are taken
        with ``loss_fn``, as in training, so that an index has them.
        """
        check_flags(aggregate=aggregate)
        loader = None if inputs is None else self.batches_of(inputs)
        batches: list[Batch] = [] if loader is None else list(reading(loader, "inputs"))
        source, given, fitting = self.source, self.preconditioner, self._fitting
        with alone(self.model):  # threads that ask at once wait for one pass
            preconditioner = fitting.preconditioner(given, source, self.live, self.index)
            length = fitting.length(self.normalize, given, source, self.live, self.index)
        if loader is None:
            return Question.of_sum(source.row_blocks(), self.loss_fn, preconditioner, length)
        read_from = TrainingSet(loader)
        return Question(batches, self.test_loss_fn, aggregate, preconditioner, length, read_from=read_from)

    def batches_of(self, inputs: Batch | DataLoader[Any]) -> DataLoader[Any]:
        """A DataLoader of ``inputs``, as every question reads them: a batch, a loader, a data set or a list of examples."""
        return as_batches(inputs, "inputs", self._collate, self.train_dataloader.batch_size or 1)

    # -------------------------------------------------------------------------------------------------------- public

    @log_usage(part_of_slo=False)
    @undisturbed
    def influence(
        self,
        inputs: Batch | DataLoader[Any],
        k: int | None = None,
        proponents: bool = True,
        show_progress: bool | None = False,
        aggregate: bool = False,
    ) -> Tensor | KMostInfluentialResults:
        """Scores ``(N, M)``, or with ``k`` the k training examples of highest (lowest) score for each test example.

        Args:
            inputs (batch, DataLoader or data set): N test examples with their labels. The label decides the question: with the
                predicted one you ask who taught the answer.
            k (int, optional): training examples for each test example; default: all scores.
            proponents (bool): with ``k``, those of the highest scores, or those of the lowest (False).
            show_progress (bool, optional): a bar; None: in a terminal or a notebook.
            aggregate (bool): the sum of the test examples' gradients counts as one example, N = 1.

        Returns:
            Tensor or KMostInfluentialResults: ``(N, M)``, or ``indices`` (int64) and ``influence_scores``, each
            ``(N, min(k, M))``, the strongest first; ties by training index. Positive = proponent. Unit: learning rate × squared
            gradient of the loss; with a preconditioner or ``normalize`` there is none.

        Raises:
            ValueError: ``k`` is below 1; labels or texts that the model cannot take; a score that is not finite; batches in which
                a text's gradients are not its own, as the probe finds.
            IndexMismatch: with ``index``, it was built of something else.

        Source: Yeh et al., arXiv 2202.11844; Pruthi et al., arXiv 2002.08484.

        As :meth:`captum.influence.TracInCP.influence`, but for this: each checkpoint is loaded once per call. If ``memory_limit``
        needs blocks, it is loaded once per block. At the first call the probe loads the last one once more.
        """
        assert inputs is not None, (
            "`inputs` argument is required. If you wish to calculate self influence scores, please use the "
            "`self_influence` method instead."
        )
        if k is not None and (not is_whole(k) or k < 1):
            raise ValueError(f"`k` should be a whole number of at least 1 (or None for all scores), got {k!r}.")
        check_flags(proponents=proponents)
        question = self.question(inputs, aggregate)
        if k is None:
            return self.source.scores(question, show_progress)
        return KMostInfluentialResults(*self.source.top_k(question, int(k), proponents, show_progress))

    @log_usage(part_of_slo=False)
    @undisturbed
    def self_influence(
        self,
        inputs: Batch | DataLoader[Any] | None = None,
        show_progress: bool | None = False,
        outer_loop_by_checkpoints: bool = False,
    ) -> Tensor:
        """The influence of each example on itself: Σ_c η_c‖g_c(x)‖². Large for what was hard to learn.

        With ``shares="equal"``, and so with "auto" for a classifier, only the rows of the first table count, the word table if it
        is one of them. What makes tables equal acts on questions alone, and the rows of a bag would outweigh all others.

        Args:
            inputs (batch, DataLoader or data set, optional): the examples; default: the training set. The loss is ``loss_fn`` in
                both cases.
            show_progress (bool, optional): a bar; None: in a terminal or a notebook.
            outer_loop_by_checkpoints (bool): read the data once per checkpoint, and load each checkpoint exactly once. Otherwise
                data are read once, in blocks.

        Returns:
            Tensor: ``(M,)``, at least 0. Unit: learning rate × squared gradient of the loss.

        Raises:
            ValueError: as :meth:`influence`.

        As :meth:`captum.influence.TracInCP.self_influence`.
        """
        check_flags(outer_loop_by_checkpoints=outer_loop_by_checkpoints)
        if inputs is None:
            return self.source.self_influence(show_progress, outer_loop_by_checkpoints)
        live = self.live.of_one_unit
        compute = live.self_influence_by_checkpoints if outer_loop_by_checkpoints else live.self_influence
        loader = self.batches_of(inputs)
        return compute(loader, Asked(self.loss_fn, examples=TrainingSet(loader)), show_progress)

    @log_usage(part_of_slo=False)
    @undisturbed
    def compute_intermediate_quantities(
        self, inputs: Batch | DataLoader[Any], aggregate: bool = False, *, test: bool = False
    ) -> Tensor:
        """Vectors whose dot product is the influence: dense, ``(N, C * V * D)``, or ``(1, C * V * D)`` with ``aggregate``.

        As :meth:`captum.influence.TracInCP.compute_intermediate_quantities`, but each side is scaled by √η_c, so that the
        product of a test and a training result *is* the influence (Captum scales both by η_c). ``test=True`` takes
        ``test_loss_fn``. For BERT-base this is 94 MB per example and checkpoint: :meth:`row_gradients` holds the same
        numbers without the zeros.
        """
        check_flags(aggregate=aggregate, test=test)
        rows = self._given_rows(inputs, self.test_loss_fn if test else self.loss_fn)
        if aggregate:
            rows = rows.sum()
            if first_not_finite(rows.values) is not None:
                raise overflow("The sum of the gradients of `inputs`", rows.values.dtype)
        width = rows.width // len(self.checkpoints)
        dense = rows.values.new_zeros((len(rows), len(self.checkpoints), self.live.vocabulary, width))
        dense.transpose(1, 2)[rows.examples, rows.ids] = rows.values.view(rows.num_rows, len(self.checkpoints), width)
        return dense.flatten(1)

    @log_usage(part_of_slo=False)
    @undisturbed
    def row_gradients(
        self, inputs: Batch | DataLoader[Any] | None = None, show_progress: bool | None = None
    ) -> RowGradients:
        """The sparse gradients from which all scores are made.

        ``tracin.row_gradients(inputs).dot(tracin.row_gradients())`` is ``tracin.influence(inputs)`` of the plain score.
        ``preconditioner``, ``normalize`` and ``shares="equal"`` are not in them: :meth:`question_rows` has them.

        Args:
            inputs (batch or DataLoader, optional): test examples, with ``test_loss_fn``; None: the training set, with
                ``loss_fn``.
            show_progress (bool, optional): a bar; None: in a terminal or a notebook.

        Returns:
            RowGradients: values ``(R, C * D)``, those of checkpoint c scaled by √η_c. About 4 · C · D bytes per distinct
            token of a text: 0.2 MB per example for BERT-base, 64 tokens and one checkpoint.
        """
        if inputs is None:
            return self.source.rows(show_progress=show_progress)
        return self._given_rows(inputs, self.test_loss_fn, show_progress)

    def question_rows(self, inputs: Batch | DataLoader[Any], aggregate: bool = False) -> RowGradients:
        """The rows of ``inputs`` with all options in them: preconditioned, times the shares of tables, divided by their lengths.

        Without ``normalize``, ``tracin.question_rows(inputs).dot(tracin.row_gradients())`` is ``tracin.influence(inputs)``. With
        it, divide by the lengths of the training examples, too. To search an index of this TracInWE's table with any option:
        ``index.search(tracin.question_rows(inputs), k, length=tracin.question(inputs).length)``.

        Returns:
            RowGradients: as of :meth:`row_gradients`. After a map from word to word, such as that of "auto", a row for each word
            of the training set: 4 · C · D bytes each.
        """
        question = self.question(inputs, aggregate)
        rows = self.source.of_question(question)
        return applied(question.preconditioner, rows) if leads_from_word_to_word(question.preconditioner) else rows

    def _given_rows(
        self, inputs: Batch | DataLoader[Any], loss_fn: Loss | None, show_progress: bool | None = False
    ) -> RowGradients:
        loader = self.batches_of(inputs)
        return self.live.rows(loader, Asked(loss_fn, examples=TrainingSet(loader)), show_progress)

    @log_usage(part_of_slo=False)
    @undisturbed
    def word_influence(
        self,
        inputs: Batch | DataLoader[Any],
        train_indices: Tensor | Sequence[Sequence[int]],
        *,
        per_checkpoint: bool = False,
        show_progress: bool | None = None,
    ) -> list[list[WordInfluence]]:
        """Split scores by token: which words carry the influence of chosen training examples on each test example.

        Args:
            inputs (batch or DataLoader): N test examples.
            train_indices (Tensor or list of lists): for each test example the training examples to explain, for instance
                ``influence(inputs, k=5).indices``.
            per_checkpoint (bool): keep the shares of single checkpoints too, ``(C, S)``.
            show_progress (bool, optional): a bar over each side's gradients; None: in a terminal or a notebook.

        Returns:
            list[list[WordInfluence]]: ``[test][rank]``; the shares of each add up to its score exactly. They are those of words
            that both texts hold; after a preconditioner that leads from word to word, such as "cooccurrence", those of all words
            of the training text, and beside them those of all words of the test text.

        Raises:
            ValueError: not one list of indices per test example; an index that the training set does not have.
        """
        check_flags(per_checkpoint=per_checkpoint)
        source, question = self.source, self.question(inputs)
        asked = source.of_question(question, show_progress)
        wanted = index_lists(train_indices, len(asked))
        distinct = sorted({index for indices in wanted for index in indices})
        if not distinct:
            return [[] for _ in wanted]
        train = question.taught(source.rows(distinct, show_progress))
        place = {index: i for i, index in enumerate(distinct)}
        pairs = [(i, index) for i, indices in enumerate(wanted) for index in indices]
        rows = torch.tensor([(i, place[index]) for i, index in pairs], device=asked.ptr.device)
        in_order = iter(split(question, asked, train, rows, pairs, len(self.checkpoints) if per_checkpoint else None))
        return [[next(in_order) for _ in indices] for indices in wanted]

    # --------------------------------------------------------------------------------------------------------- index

    @undisturbed
    def build_index(
        self,
        path: str | Path,
        resume: bool = False,
        *,
        append: bool = False,
        dtype: str = "float32",
        rank: int = 31,
        segment_examples: int = 4096,
        memory_limit: int | None = None,
        metadata: Mapping[str, Sequence[Any]] | None = None,
        project: int | None = None,
        show_progress: bool | None = None,
    ) -> GradientIndex:
        """Compute the row gradients of the training set once and keep them, with sketches, in a directory.

        Under ``torchrun`` every process takes segments until all are there, and returns the whole index. A process that dies
        loses the segment it was writing, nothing else; whoever is left, or started again, writes it.

        Args:
            path (str or Path): the directory.
            resume (bool): go on with an unfinished build or append; finished segments are kept, if the training set still has
                the examples that they were made from (all are compared up to 10,000, then a sample).
            append (bool): the training set of this TracInWE comes behind the examples that the index holds already.
            dtype (str): of the stored values. With "float16" and "bfloat16" scores and bounds are those of the rounded values.
                With "int8", "int4" and "int2" too, and ``stats.intervals`` of a search say how far each score can be off.
            rank (int): r, projections in the sketch of a row and checkpoint. With the norm of the rest, 31 make 32 columns,
                two AVX-512 vectors: bounding 20,000 texts takes 0.64 ms, with 33 columns 1.9 ms.
            segment_examples (int): training examples to a segment; fewer, if the memory ceiling asks for it.
            memory_limit (int, optional): bytes for all that the build holds beside the model's own passes over one batch; by
                default this TracInWE's. Batches are yours to choose (``batch_size``).
            metadata (mapping, optional): name → one str, int, float, bool or None per training example, for ``where`` in
                :meth:`GradientIndex.search`. Whole-number labels of the batches are kept as ``label`` anyway.
            project (int, optional): keep so many leading columns of each row and checkpoint, those in which a sample of rows is
                largest; intervals as above. Default: all. Fewer bits lose less than fewer columns (docs/scale.md), and what
                ``top_k_words`` of TracInWE leaves out is not told.
            show_progress (bool, optional): a bar, and an estimate before it on stderr; None: in a terminal or a
                notebook.

        Raises:
            FileExistsError: there is an index already, and neither ``resume`` nor ``append`` is asked for.
            NotADirectoryError: ``path`` is that of a file.
            ValueError: the loss holds something that cannot be recognised again, such as a captured object.
            IndexMismatch: the one there is of other checkpoints, rates, loss, options, settings of the model, or training
                examples; the message names what.
            OSError: not enough space (told beforehand, by the estimate), or not writable.
        """
        from captum_tracinwe.index.build import build
        from captum_tracinwe.index.estimate import Options
        from captum_tracinwe.index.files.disk import folder_of

        check_flags(resume=resume, append=append)
        options = Options(
            dtype=dtype,
            rank=rank,
            segment_examples=segment_examples,
            memory_limit=self.memory_limit if memory_limit is None else as_memory_limit(memory_limit),
            project=project,
            metadata={} if metadata is None else metadata,
            show_progress=show_progress,
        )
        return build(self.live_source, folder_of(path), resume, append, options)

    @undisturbed
    def estimate_index(
        self, *, dtype: str = "float32", rank: int = 31, project: int | None = None, segment_examples: int = 4096
    ) -> IndexEstimate:
        """What :meth:`build_index` would take: seconds, bytes on disk and in memory. Nothing is written.

        It is estimated from the gradients of a sample of the training set. Arguments as of :meth:`build_index`.

        Returns:
            IndexEstimate: ``print`` shows it in words.
        """
        from captum_tracinwe.index.estimate import Options, estimate

        return estimate(self.live_source, Options(dtype, rank, segment_examples, self.memory_limit, project))

    @undisturbed
    def cached(
        self,
        folder: str | Path | None = None,
        *,
        show_progress: bool | None = None,
        announce: Callable[[IndexEstimate], None] | None = None,
        about: Mapping[str, str] | None = None,
        found: Callable[[Kept], None] | None = None,
    ) -> Self:
        """This TracInWE with its training gradients kept: each question then costs only itself, in later processes too.

        They are computed at the first call and found again by the weights and rates of the checkpoints, the loss, the options,
        and every training example. The folder is that of ``CAPTUM_TRACINWE_CACHE``, else ``captum-tracinwe`` in the user's cache
        folder (``XDG_CACHE_HOME``, ``~/.cache``); `captum-tracinwe cache` lists and clears it.

        Args:
            folder (str or Path, optional): another one.
            show_progress (bool, optional): a bar, and what it will take on stderr; None: in a terminal or a notebook.
            announce (callable, optional): told what it will take, an :class:`IndexEstimate`, in place of stderr.
            about (mapping, optional): what `captum-tracinwe cache` is to say of the run: "data", "model".
            found (callable, optional): told what was there already, a :class:`captum_tracinwe.index.cache.Kept`, in place of
                stderr.

        Returns:
            TracInWE: of the same model, over an index in that folder; itself, if it has one.

        Raises:
            ValueError: the loss holds something that cannot be recognised again, such as a captured object.
            OSError: the folder cannot be written.
        """
        if self.index is not None:
            return self
        from captum_tracinwe.index.cache import cached_index

        kept = copy(self)
        kept.index = cached_index(
            self.live_source,
            folder,
            memory_limit=self.memory_limit,
            show_progress=show_progress,
            announce=announce,
            about=about,
            found=found,
        )
        kept._fitting = Fitting()  # of these rows, which may be kept beside them
        return kept


def _opened(
    index: str | Path | GradientIndex | None, train_dataset: Dataset[Any] | DataLoader[Any] | None
) -> tuple[GradientIndex | None, Dataset[Any] | DataLoader[Any] | None]:
    """The index, opened if it is named by its directory; the training set, or what stands for it."""
    if index is None:
        return None, train_dataset
    from captum_tracinwe.index.gradient_index import GradientIndex
    from captum_tracinwe.index.stored_source import StandIn

    found = index if isinstance(index, GradientIndex) else GradientIndex.open(index)
    return found, StandIn(found.total) if train_dataset is None else train_dataset
