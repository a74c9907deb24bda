"""The rival that never sees the model: exact influence functions of a logistic regression on tf-idf words."""

from __future__ import annotations

import torch
from torch import Tensor

from captum_tracinwe.evidence.methods.examples import Examples, Explained, Method, checked
from captum_tracinwe.evidence.methods.fitted_bag import BagRegression, check_options
from captum_tracinwe.evidence.methods.last_layer import last_pass

__all__ = ["bag_regression"]


def bag_regression(
    *, penalty: float = 1e-3, pairs: bool = False, min_count: int = 1, errors_of: Explained | None = None
) -> Method:
    """Influence functions (Koh and Liang, arXiv 1703.04730) of a logistic regression on tf-idf words, exactly.

    ``scores[i, j]`` = g(x_i)ᵀ H⁻¹ g(x_j), with H the Hessian of :class:`BagRegression`'s objective and g the gradient of one
    text's loss: how far the regression's loss on i rises, to first order, when it is fitted without j. So positive = proponent;
    the source has the other sign, of a loss that rises with the weight of j. The model that is asked about plays no part: this is
    what words and labels alone tell, which a score that looks into the model has to beat.

    Of 4,000 texts of up to 32 words in four classes and 20 questions, fitting takes some 40 passes over the words, and the
    questions together 30: about a second of one core, and three with pairs.

    Args:
        penalty (float): λ of :class:`BagRegression`, from 1e-8 to 1e8.
        pairs (bool): pairs of neighbouring words count as words too.
        min_count (int): training texts that a word has to stand in.
        errors_of (Explained, optional): the questions' errors at the logits are those of this model at its last checkpoint, whose
            classes are 0, 1, ...; None takes the regression's own.

    Raises:
        TypeError, ValueError: of the options; from the method: examples without words, labels that are no classes, one class
            only, a test label that no training text has, a penalty too small to solve for.
        ImportError: from the method: scikit-learn is not installed.

    Example:
        >>> import torch
        >>> from captum_tracinwe import methods
        >>> texts = ["a good film", "good", "a bad film", "bad"]
        >>> train = methods.Examples((torch.zeros(4, 1), torch.tensor([1, 1, 0, 0])), [text.split() for text in texts])
        >>> test = methods.Examples((torch.zeros(1, 1), torch.tensor([1])), [["good"]])
        >>> (methods.bag_regression(penalty=0.1)(test, train) > 0).tolist()
        [[True, True, False, False]]
    """
    check_options(penalty, min_count)
    if not isinstance(errors_of, (Explained, type(None))):
        raise TypeError(
            f"bag_regression: expected `errors_of` as methods.Explained(model, ...), got {errors_of!r:.60}."
        )

    def scores(test: Examples, train: Examples) -> Tensor:
        fitted = BagRegression.fit(train, penalty=penalty, pairs=pairs, min_count=min_count)
        features = fitted.features(test.need_words("bag_regression"))
        errors = fitted.errors(features, test.labels)
        if errors_of is not None:
            errors = _errors_at_logits(errors_of, test, fitted.classes).numpy()
        return checked(torch.from_numpy(fitted.influence(features, errors)), test, train, "bag_regression")

    return scores


def _errors_at_logits(explained: Explained, test: Examples, classes: Tensor) -> Tensor:
    """∂ℓ/∂logits of the model at its last checkpoint, of these classes alone."""
    errors = last_pass(explained, explained.checkpoints[-1], test)[1][1].double()
    if errors.dim() != 2 or int(classes.max()) >= errors.shape[1]:
        raise ValueError(
            f"bag_regression: expected of `errors_of` a model with logits (N, classes) for the labels {classes.tolist()}, got "
            f"logits {tuple(errors.shape)}."
        )
    if not bool(errors.isfinite().all()):
        raise ValueError(
            "bag_regression: the model of `errors_of` answers with NaN or infinity: look at its last checkpoint."
        )
    return errors[:, classes]
