"""`s_test`: the damped Gauss-Newton solve of a question from sampled products, as FastIF does it, beside the exact one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from captum_tracinwe.batches.arguments import is_whole
from captum_tracinwe.neighbours.asked import check_seed
from captum_tracinwe.preconditioners.learned import check_positive, check_rows
from captum_tracinwe.rows.postings import PostingLists
from captum_tracinwe.rows.row_gradients import RowGradients

__all__ = ["SampledInverse", "s_test"]

# Bytes of the estimates of the questions that are solved for at a time.
MEMORY = 1 << 28
# Below this the shared factor of an estimate is multiplied in, long before it underflows.
SMALLEST = 1e-60
# Training rows that are multiplied with all questions at a time: few enough for a cache.
CHUNK = 512


@dataclass(frozen=True, eq=False)
class SampledInverse:
    """An estimate of (F + λ I)⁻¹ q for each question.

    Args:
        rows (RowGradients): the estimates, values ``(R, C * D)``, with a row for every training word, as
            :class:`~captum_tracinwe.preconditioners.GaussNewton` gives them; ``rows.dot(train)`` are the scores.
        residual (Tensor): ‖(F + λ I) h − q‖ / ‖q‖ of each question and checkpoint, float64 ``(N, C)``: 0 for the exact solution,
            1 for the answer 0.
        scales (tuple of float): σ at each checkpoint.
        dampings (tuple of float): λ at each checkpoint.
    """

    rows: RowGradients
    residual: Tensor
    scales: tuple[float, ...]
    dampings: tuple[float, ...]


def s_test(
    train: RowGradients,
    questions: RowGradients,
    *,
    damping: float = 10.0,
    depth: int = 1000,
    batch_size: int = 1,
    repeats: int = 1,
    scale: float | None = None,
    checkpoints: int = 1,
    seed: int = 0,
) -> SampledInverse:
    """(F + λ I)⁻¹ q by LiSSA: a recursion in which each step multiplies with a few random training texts.

    F = Σ_j g_j g_jᵀ / M over the training texts and λ are those of :class:`~captum_tracinwe.preconditioners.GaussNewton`,
    which gives the exact answer: take that one where you can. Each step is h ← q + h − (F_B h + λ h) / σ, with F_B of a
    random batch B, and the estimate is h / σ, the mean over ``repeats`` independent runs, which could run side by side.
    Averages take away the chance in it, but not what too few steps leave: after t steps the part of q along an eigenvalue μ
    of F is solved to 1 − (1 − (μ + λ) / σ)ᵗ.

    Args:
        train (RowGradients): rows of the M training texts, values ``(R, C * D)``.
        questions (RowGradients): rows of the N questions.
        damping (float): above 0, in units of the mean of F's diagonal.
        depth (int): steps of a run.
        batch_size (int): training texts of a step, at most M; with M there is no chance in it.
        repeats (int): runs that are averaged.
        scale (float, optional): σ, above λ. None: the largest ‖g_j‖² plus λ, with which no batch can diverge. FastIF sets it
            by hand.
        checkpoints (int): C.
        seed (int): of the batches.

    Raises:
        TypeError, ValueError: no rows, NaN or infinity, other widths, numbers out of range, a recursion that diverged.

    Source: Guo et al., arXiv 2012.15781 (few steps, small batches, averages of parallel runs); the recursion: Agarwal, Bullins
    and Hazan, *Second-Order Stochastic Optimization for Machine Learning in Linear Time*, arXiv 1602.03943; Koh and Liang, arXiv
    1703.04730.

    Example:
        >>> import torch
        >>> from captum_tracinwe import RowGradients
        >>> rows = RowGradients(torch.tensor([0, 2, 3]), torch.tensor([3, 7, 3]), torch.tensor([[1.0], [2.0], [3.0]]))
        >>> found = s_test(rows, rows, damping=1, depth=200, batch_size=2)  # all texts in each step
        >>> [round(value, 4) for value in found.rows.values.flatten().tolist()]  # GaussNewton(damping=1)'s
        [0.0765, 0.3497, 0.3607, -0.0656]
    """
    check_rows("s_test, `train`", train)
    check_rows("s_test, `questions`", questions)
    check_positive("damping", damping, "s_test: ")
    check_seed(seed, "s_test")
    texts = len(train)
    if not train.num_rows:
        raise ValueError("s_test: there are no training rows: expected those of at least one text.")
    for name, value, most in (
        ("depth", depth, None),
        ("batch_size", batch_size, texts),
        ("repeats", repeats, None),
        ("checkpoints", checkpoints, None),
    ):
        if not is_whole(value) or value < 1 or (most is not None and value > most):
            bound = "" if most is None else f" and at most the {most} training texts"
            raise ValueError(f"s_test: expected `{name}` as a whole number of at least 1{bound}, got {value!r}.")
    if train.width % checkpoints or questions.width != train.width:
        raise ValueError(
            f"s_test: got training rows of {train.width} columns and questions of {questions.width}, for {checkpoints} "
            f"checkpoint(s): expected one width, which the checkpoints divide."
        )
    width = train.width // checkpoints
    parts, residuals, scales, dampings = [], [], [], []
    for c in range(checkpoints):
        columns = c * width, (c + 1) * width
        solver = _Solver(train.columns(*columns).to("cpu", torch.float64), damping, scale)
        rows, residual = solver.solve(
            questions.columns(*columns).to("cpu", torch.float64), depth, batch_size, repeats, seed
        )
        parts.append(rows)
        residuals.append(residual)
        scales.append(solver.scale)
        dampings.append(solver.damping)
    found = RowGradients.beside(parts).to(questions.values.device, questions.values.dtype)
    return SampledInverse(found, torch.stack(residuals, 1), tuple(scales), tuple(dampings))


class _Solver:
    """Of one checkpoint, in float64. An estimate is c q + s u: what each step does to all of it is done to c and s, and only the
    rows of the batch are touched in u."""

    def __init__(self, train: RowGradients, damping: float, scale: float | None) -> None:
        self.train = train
        self.lists: PostingLists = train.by_token()
        self.words = self.lists.ids
        self.place = torch.searchsorted(self.words, train.ids)
        squares = train.squared_norms()
        mean = float(squares.sum()) / (len(train) * len(self.words) * train.width)
        self.damping = float(damping) * mean
        if mean and not 0 < self.damping < math.inf:
            raise ValueError(
                f"s_test: `damping` of {damping!r:.40} times the mean of F's diagonal, {mean:.3g}, is {self.damping:g}: "
                f"expected a finite number above 0. Choose one nearer to 1."
            )
        if scale is not None:
            check_positive("scale", scale, "s_test: ")
            if scale <= self.damping:
                raise ValueError(
                    f"s_test: expected a `scale` above the damping, which is {self.damping:.3g} here, got {scale!r}: None takes "
                    f"one with which no batch diverges."
                )
        self.scale = float(squares.max()) + self.damping if scale is None else float(scale)

    def solve(
        self, questions: RowGradients, depth: int, batch_size: int, repeats: int, seed: int
    ) -> tuple[RowGradients, Tensor]:
        """The estimates, and the residual of each."""
        if not self.damping:  # all training rows are 0: nothing to solve, and nothing that they could score
            nothing = torch.zeros(len(self.words), len(questions), self.train.width, dtype=torch.float64)
            return self._joined(questions, 0.0, nothing), torch.ones(len(questions), dtype=torch.float64)
        products = self.lists.scores_of(questions).T.contiguous()  # (M, N): g_jᵀ q
        at_once = max(1, MEMORY // (8 * len(self.words) * self.train.width))
        found, factor = [], 0.0
        for columns in torch.split(torch.arange(len(questions)), at_once):
            total = torch.zeros(len(self.words), len(columns), self.train.width, dtype=torch.float64)
            for repeat in range(repeats):
                factor, moved = self._run(
                    products[:, columns], depth, batch_size, _batches(len(self.train), batch_size, seed + repeat)
                )
                total += moved / repeats
            found.append(total)
        moved = torch.cat(found, 1)
        if not bool(moved.isfinite().all()):
            raise ValueError(
                f"s_test: the recursion diverged with a scale of {self.scale:.3g}: expected one above the largest eigenvalue of "
                f"a batch's matrix. None takes the largest squared gradient, "
                f"{float(self.train.squared_norms().max()):.3g}, plus the damping."
            )
        return self._joined(questions, factor, moved), self._residual(questions, products, factor, moved)

    def _run(self, products: Tensor, depth: int, batch_size: int, batches: Iterator[Tensor]) -> tuple[float, Tensor]:
        """(c / σ, s u / σ ``(W, N, D)``) after ``depth`` steps from h = q."""
        shrink = 1 - self.damping / self.scale
        c, s = 1.0, 1.0
        u = torch.zeros(len(self.words), products.shape[1], self.train.width, dtype=torch.float64)
        for _, batch in zip(range(depth), batches, strict=False):
            rows, example = self._rows_of(batch)
            places, values = self.place[rows], self.train.values[rows]
            along = c * products[batch]
            along.index_add_(0, example, torch.einsum("rnd,rd->rn", u[places], values), alpha=s)
            c, s = 1 + shrink * c, shrink * s
            if s < SMALLEST:  # or 0, beside a damping that is all of the scale
                u *= s
                s = 1.0
            u.index_add_(
                0, places, along[example][:, :, None] * values[:, None], alpha=-1 / (s * self.scale * batch_size)
            )
        return c / self.scale, u * (s / self.scale)

    def _rows_of(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The rows of some texts, and the place in the batch of each row's text."""
        starts, counts = self.train.ptr[batch], self.train.ptr[batch + 1] - self.train.ptr[batch]
        example = torch.arange(len(batch)).repeat_interleave(counts)
        before = counts.cumsum(0) - counts
        return torch.arange(len(example)) - before[example] + starts[example], example

    def _joined(self, questions: RowGradients, factor: float, moved: Tensor) -> RowGradients:
        """c q + u as rows, one for each word of the question and of the training set."""
        n = len(questions)
        return RowGradients.from_positions(
            torch.cat([questions.examples, torch.arange(n).repeat_interleave(len(self.words))]),
            torch.cat([questions.ids, self.words.repeat(n)]),
            torch.cat([questions.values * factor, moved.transpose(0, 1).reshape(-1, questions.width)]),
            n,
        )

    def _residual(self, questions: RowGradients, products: Tensor, factor: float, moved: Tensor) -> Tensor:
        known = questions.of_tokens(self.words)
        asked = torch.zeros_like(moved)
        asked[torch.searchsorted(self.words, known.ids), known.examples] = known.values
        along = factor * products
        image = (self.damping * factor - 1) * asked + self.damping * moved
        example, parts = self.train.examples, torch.split(torch.arange(self.train.num_rows), CHUNK)
        for part in parts:
            found = torch.einsum("rnd,rd->rn", moved[self.place[part]], self.train.values[part])
            along.index_add_(0, example[part], found)
        along /= len(self.train)
        for part in parts:
            image.index_add_(0, self.place[part], along[example[part]][:, :, None] * self.train.values[part][:, None])
        # Words that no training text holds have no part in F: of them λ c q − q is left.
        size, inside = questions.squared_norms(), known.squared_norms()
        rest = image.square().sum((0, 2)) + (self.damping * factor - 1) ** 2 * (size - inside)
        return (rest / size.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()


def _batches(texts: int, size: int, seed: int) -> Iterator[Tensor]:
    """Batches of one size without end, each drawn anew: of batches that depend on each other the mean would be another one."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.arange(texts) if size == texts else torch.randint(texts, (size,), generator=generator)
