"""TracIn-WE as an explainer of quanda, whose metrics and benchmarks judge it as any other; quanda is imported when asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["quanda_explainer", "to_quanda"]

TASKS = ["text_classification", "causal_lm"]


def quanda_explainer(make: Callable[..., Any], **options: Any) -> type:
    """A class of quanda's explainers that asks what ``make`` makes: ``quanda_explainer(TracInWE, loss_fn=loss)``.

    A metric or a benchmark of quanda makes explainers itself, of models of its own: it is given the class, as ``explainer_cls``,
    and what is to be passed on, as ``expl_kwargs``. For a TracInWE that is there already take :func:`to_quanda`.

    Args:
        make (callable): :class:`captum_tracinwe.TracInWE`, or what is called alike: ``make(model, train_dataset, checkpoints,
            **options)``, with ``checkpoints_load_func`` among the options where quanda names one.
        **options: passed to every call of ``make``; those that quanda passes come before them.

    Returns:
        type: a subclass of ``quanda.explainers.base.Explainer``. Its ``explain(test_data, targets)`` gives scores ``(N, M)``,
        positive for proponents; its ``self_influence()`` gives ``(M,)``, computed once. ``test_data`` may be ids, a mapping of
        fields, or a list of examples; ``targets`` become its labels. The attribute ``tracin`` is what ``make`` made.

    Raises:
        ImportError: quanda is not installed.

    Example:
        ``metric = ModelRandomizationMetric(..., explainer_cls=quanda_explainer(TracInWE, loss_fn=loss))``
    """
    base = _base()
    if not callable(make):
        raise TypeError(f"quanda_explainer: expected TracInWE, or what is called alike, got {make!r:.60}.")

    def __init__(
        self: Any,
        model: Any,
        train_dataset: Any,
        checkpoints: Any = None,
        task: str = TASKS[0],
        checkpoints_load_func: Callable[..., Any] | None = None,
        **more: Any,
    ) -> None:
        base.__init__(
            self,
            model=model,
            train_dataset=train_dataset,
            task=task,
            checkpoints=checkpoints,
            checkpoints_load_func=checkpoints_load_func,
        )
        given = {} if checkpoints_load_func is None else {"checkpoints_load_func": checkpoints_load_func}
        # quanda wraps the data, to have them on its device; batches are moved to the model's here, so the data stay as they are.
        self.tracin = make(model, train_dataset, checkpoints, **{**options, **given, **more})
        self._own = None

    def explain(self: Any, test_data: Any, targets: Any = None) -> Tensor:
        scores: Tensor = self.tracin.influence(_inputs(test_data, targets))
        return scores

    def self_influence(self: Any, batch_size: int = 32) -> Tensor:
        if self._own is None:
            self._own = self.tracin.self_influence()
        own: Tensor = self._own
        return own.clone()  # whoever writes into it writes into their own

    explain.__doc__ = "Scores ``(N, M)`` of test data under ``targets``, positive for proponents."
    self_influence.__doc__ = "Self-influence ``(M,)`` of the training data; ``batch_size`` changes nothing."
    names = {"accepted_tasks": TASKS, "__init__": __init__, "explain": explain, "self_influence": self_influence}
    return type("TracInWEExplainer", (base,), {**names, "__module__": __name__, "__doc__": "TracIn-WE for quanda."})


def to_quanda(tracin: Any, task: str = TASKS[0]) -> Any:
    """A :class:`captum_tracinwe.TracInWE` as an explainer of quanda, for metrics that take one.

    Args:
        tracin (TracInWE): with its model, data, checkpoints and options; from an index, too.
        task (str): "text_classification" or "causal_lm".

    Returns:
        quanda.explainers.base.Explainer: see :func:`quanda_explainer`.

    Raises:
        ImportError: quanda is not installed.
        TypeError: it is no TracInWE.

    Example:
        ``MislabelingDetectionMetric(..., global_method="self-influence", explainer=to_quanda(tracin))``
    """
    missing = [name for name in ("model", "train_dataloader", "checkpoints", "influence") if not hasattr(tracin, name)]
    if missing:
        raise TypeError(
            f"to_quanda: expected a TracInWE, got {type(tracin).__name__}. A class that quanda is to call itself is made by "
            f"quanda_explainer(TracInWE, ...)."
        )
    kept = quanda_explainer(lambda *given, **more: tracin)
    return kept(tracin.model, tracin.train_dataloader.dataset, list(tracin.checkpoints), task)


def _base() -> Any:
    try:
        from quanda.explainers.base import Explainer
    except ImportError as error:
        raise ImportError("to_quanda: `quanda` is not installed: pip install quanda.") from error
    return Explainer


def _inputs(test_data: Any, targets: Any) -> Any:
    """What quanda has of test examples, and the labels it asks under, as one batch or a list of examples."""
    try:
        labels = torch.as_tensor(targets) if isinstance(targets, (list, tuple)) else targets
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"explain: expected targets as numbers, one for each text, got {targets!r:.60}.") from error
    if isinstance(test_data, Mapping):
        return dict(test_data) if labels is None else {**test_data, "labels": labels}
    if isinstance(test_data, (list, tuple)) and all(isinstance(one, Mapping) for one in test_data):
        own = [None] * len(test_data) if labels is None else list(labels)
        if len(own) != len(test_data):
            raise ValueError(
                f"explain: {len(test_data)} texts and {len(own)} targets: expected one target for each text."
            )
        return [
            dict(one) if label is None else {**one, "labels": label} for one, label in zip(test_data, own, strict=True)
        ]
    if labels is None:
        raise ValueError("explain: expected targets with ids; only mappings can bring their labels with them.")
    return test_data, labels
