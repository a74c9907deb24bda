"""`Length`: by what the scores of a text are divided, so that a long text, or one of large gradients, does not win by that."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from captum_tracinwe.preconditioners.idf import Idf
from captum_tracinwe.preconditioners.learned import check_power
from captum_tracinwe.preconditioners.moments import Moments
from captum_tracinwe.rows.row_gradients import RowGradients

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Length"]

KINDS = ("words", "gradient")
SIDES = ("both", "train", "test")
# A shorter text has no length: what is divided by less than this leaves float32.
SHORTEST = torch.finfo(torch.float32).tiny


@dataclass(frozen=True, eq=False)
class Length:
    r"""What a score is divided by: score(i, j) / (L_i ^ power · L_j ^ power).

    - "words": L_x = √(Σ idf_w ^ idf_power), over the distinct tokens w that have a row in x, with idf_w = log(N / n_w) as in
      :class:`Idf`. A word of no training text, or of all, adds nothing.
    - "gradient": L_x = √(Σ_c η_c‖g_c(x)‖²), the root of the self-influence, of plain rows. With power 1, both sides and no
      preconditioner the score is the cosine of the two gradients.

    Scores of a text of length 0 are 0: it has no rows, or none that counts.

    Source: Barshan et al., *RelatIF*, AISTATS 2020 (arXiv 2003.11630), for "gradient" on the side of the training text; the
    length of a tf-idf vector (Salton and Buckley 1988) for "words", with idf_power = 2.

    Cost: one factor for each text. "words" counts the tokens of the training rows once, without gradients; what "gradient" needs
    is at hand wherever scores are made. Of either, a live source computes the question's gradients before it asks the training
    set, which loads each checkpoint once more.

    Args:
        by (str): "words" or "gradient".
        power (float): above 0, at most 1.
        sides (str): whose length counts: "both", or that of the "train" or the "test" text alone.
        idf_power (float): above 0, at most 64; of "words" alone. 2 is that of a tf-idf vector.
        statistics (Moments, optional): what "words" needs of the training texts; None before :meth:`fit`.

    Example:
        >>> import math, torch
        >>> from captum_tracinwe import RowGradients
        >>> rows = RowGradients(torch.tensor([0, 2, 3]), torch.tensor([3, 7, 3]), torch.tensor([[3.0], [4.0], [2.0]]))
        >>> Length(by="gradient").factors(rows).tolist()  # 1 / 5 and 1 / 2
        [0.2, 0.5]
        >>> words = Length(idf_power=1, power=0.5).fit([rows])  # token 3 stands in both texts, token 7 in one
        >>> [round(factor, 4) for factor in words.factors(rows).tolist()] == [round(math.log(2) ** -0.25, 4), 0]
        True
    """

    by: str = "words"
    power: float = 1.0
    sides: str = "both"
    idf_power: float = 2.0
    statistics: Moments | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        for name, known in (("by", KINDS), ("sides", SIDES)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"`{name}` of a Length should be one of {', '.join(map(repr, known))}, got {getattr(self, name)!r:.80}."
                )
        power: Any = self.power
        if isinstance(power, bool) or not isinstance(power, Real) or not 0 < float(power) <= 1:
            raise ValueError(
                f"`power` of a Length should be a number above 0 and at most 1, got {power!r:.80}. A score that is not to be "
                f"divided has normalize=None."
            )
        check_power("idf_power", self.idf_power)

    @classmethod
    def of(cls, normalize: Any) -> Length | None:
        """As ``TracInWE(normalize=)`` names it.

        Raises:
            ValueError, TypeError: there is none of this name, or it is something else.
        """
        if normalize is None or isinstance(normalize, Length):
            return normalize
        expected = "'words', 'gradient', a captum_tracinwe.preconditioners.Length, or None for scores as they are"
        if not isinstance(normalize, str):
            raise TypeError(f"`normalize` should be {expected}; got {normalize!r:.80}.")
        if normalize not in KINDS:
            raise ValueError(f"`normalize` names {normalize!r:.80}: expected {expected}.")
        return cls(by=normalize)

    # ------------------------------------------------------------------------------------------------------- learning

    @property
    def fitted(self) -> bool:
        """Whether it knows all that it needs."""
        return self.by == "gradient" or self.statistics is not None

    def fit(self, blocks: Iterable[RowGradients], checkpoints: int = 1) -> Self:
        """This length for some training rows, of which it reads the tokens alone."""
        return replace(self, statistics=Idf().fit(blocks, checkpoints).statistics)

    @property
    def of_train(self) -> bool:
        """Whether the training text's length counts."""
        return self.sides != "test"

    @property
    def of_test(self) -> bool:
        """Whether the test text's length counts."""
        return self.sides != "train"

    # ------------------------------------------------------------------------------------------------------- applying

    def factors(self, rows: RowGradients) -> Tensor:
        """L ^ −power of each example, float64 ``(N,)``; 0 where L is 0.

        Args:
            rows (RowGradients): at all checkpoints, those of checkpoint c scaled by √η_c; of "words" their values do not count.
        """
        return self.from_squares(self.squares(rows))

    def squares(self, rows: RowGradients) -> Tensor:
        """L² of each example, float64 ``(N,)``. Of "gradient" those of checkpoints add up."""
        if self.by == "gradient":
            # In float64: squares of what is left of a saturated model's gradients would be 0 in float32.
            own = torch.linalg.vector_norm(rows.values, dim=1, dtype=torch.float64).square()
        else:
            own = self._known.of_words(self._weights, rows.ids.cpu()).to(rows.ids.device)
        squares: Tensor = own.new_zeros(len(rows)).index_add_(0, rows.examples, own)
        return squares

    def from_squares(self, squares: Tensor) -> Tensor:
        """L ^ −power, float64, of L²; 0 where L is 0."""
        there = squares.double() >= SHORTEST**2
        return torch.where(there, squares.double(), 1.0).pow(-self.power / 2).masked_fill_(~there, 0.0)

    @property
    def _known(self) -> Moments:
        if self.statistics is None:
            raise ValueError(
                "This Length has not seen the training texts yet: expected a fitted one. Call fit(blocks) and go on with what it "
                "returns, or pass it to TracInWE(..., normalize=...), which fits it at the first question."
            )
        return self.statistics

    @cached_property
    def _weights(self) -> Tensor:
        """idf_w ^ idf_power of the words seen."""
        weights: Tensor = self._known.idf**self.idf_power
        return weights
