"""TracIn-WE-Syn: words of similar meaning may meet too, each with one partner, by the assignment of largest products.

On the k strongest words of both texts (TracIn-WE-Topk), a test word and a training word may match if they are the same
token or the cosine of their embeddings is above 0.7. Of all one-to-one matchings the one with the largest Σ|⟨g_w, g'_w'⟩|
is taken, and the signed products are added up (Yeh et al., arXiv 2202.11844).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from captum_tracinwe.batches.arguments import index_lists, is_whole
from captum_tracinwe.batches.batch import Batch
from captum_tracinwe.gradients.live_source import LiveSource
from captum_tracinwe.gradients.source import times
from captum_tracinwe.gradients.switches import undisturbed
from captum_tracinwe.installing import install
from captum_tracinwe.preconditioners import leads_from_word_to_word
from captum_tracinwe.rows.overflow import first_not_finite, overflow
from captum_tracinwe.rows.row_gradients import RowGradients
from captum_tracinwe.tabular import frame
from captum_tracinwe.words.drawing import html_of
from captum_tracinwe.words.explained import Explained
from captum_tracinwe.words.influence import WordInfluence
from captum_tracinwe.words.texts import TokenizedText

__all__ = ["MATCH_COLUMNS", "SynonymInfluence", "WordMatch", "synonym_influence", "synonym_scores"]

#: Of a table of matches: a row for each two words that met.
MATCH_COLUMNS = ("test_index", "train_index", "test_word", "train_word", "share", "cosine")


@dataclass(frozen=True)
class WordMatch:
    """A word of the test text and the word of the training text that it met.

    Args:
        test, train (str): the words; special tokens by their vocabulary names.
        share (float): what they add to the score; signed.
        cosine (float): of their embeddings, mean of the checkpoints at which they met.
    """

    test: str
    train: str
    share: float
    cosine: float


@dataclass(frozen=True, eq=False)
class SynonymInfluence:
    """The TracIn-WE-Syn influence of one training text on one test text, match by match; S matches over all checkpoints.

    Args:
        test_index, train_index (int): numbers of the two texts in their data sets.
        score (float): the sum of ``shares``. Positive = proponent. Unit: learning rate × squared gradient of the loss.
        test_ids, train_ids (Tensor): int64, ``(S,)``, the tokens that met.
        shares, cosines (Tensor): float64, ``(S,)``.
        test_text, train_text (TokenizedText, optional): the texts, to show words instead of tokens.
    """

    test_index: int
    train_index: int
    score: float
    test_ids: Tensor
    train_ids: Tensor
    shares: Tensor
    cosines: Tensor
    test_text: TokenizedText | None = None
    train_text: TokenizedText | None = None

    def with_texts(self, test_text: TokenizedText | None, train_text: TokenizedText | None) -> SynonymInfluence:
        """A copy that knows its texts; ValueError if they do not hold the tokens that met."""
        found = dataclasses.replace(self, test_text=test_text, train_text=train_text)
        found.on_test(), found.on_train()
        return found

    def on_test(self) -> WordInfluence:
        """The shares laid on the test text's tokens."""
        return dataclasses.replace(self._on(self.test_ids), test_text=self.test_text)

    def on_train(self) -> WordInfluence:
        """The shares laid on the training text's tokens."""
        return dataclasses.replace(self._on(self.train_ids), train_text=self.train_text)

    def _on(self, ids: Tensor) -> WordInfluence:
        tokens, place = torch.unique(ids, return_inverse=True)
        shares = torch.zeros(len(tokens), dtype=torch.float64).index_add_(0, place, self.shares)
        return WordInfluence(self.test_index, self.train_index, float(shares.sum()), tokens, shares)

    def words(self) -> list[WordMatch]:
        """Which word met which, largest magnitude first; the shares add up to the score."""
        found: dict[tuple[str, str], list[tuple[float, float]]] = {}
        for test, train, share, cosine in zip(
            self.test_ids.tolist(), self.train_ids.tolist(), self.shares.tolist(), self.cosines.tolist(), strict=True
        ):
            pair = _word_of(self.test_text, test), _word_of(self.train_text, train)
            found.setdefault(pair, []).append((share, cosine))
        matches = [
            WordMatch(
                test, train, math.fsum(share for share, _ in parts), sum(cosine for _, cosine in parts) / len(parts)
            )
            for (test, train), parts in found.items()
        ]
        return sorted(matches, key=lambda match: (-abs(match.share), match.test, match.train))

    def rows(self) -> list[dict[str, Any]]:
        """:meth:`words` as a list of dicts, one per match."""
        pair = {"test_index": self.test_index, "train_index": self.train_index}
        return [
            {**pair, "test_word": one.test, "train_word": one.train, "share": one.share, "cosine": one.cosine}
            for one in self.words()
        ]

    def to_table(self) -> Any:
        """A ``pandas.DataFrame``, a row per match; where pandas is not installed a list of dicts."""
        return frame(self.rows(), MATCH_COLUMNS)

    def _repr_html_(self) -> str | None:
        return html_of(self)


@undisturbed
def synonym_scores(
    tracin: Explained,
    inputs: Batch | DataLoader[Any],
    *,
    k: int = 10,
    min_cosine: float = 0.7,
    show_progress: bool | None = None,
) -> Tensor:
    """TracIn-WE-Syn scores of all pairs, in which different words of similar meaning may meet (Yeh et al., arXiv 2202.11844).

    Args:
        tracin (TracInWE): model, training set, checkpoints; its ``exclude_tokens`` count.
        inputs (batch or DataLoader): N test examples.
        k (int): words taken of each text, by position (TracIn-WE-Topk).
        min_cosine (float): two tokens may match if their embeddings' cosine at the checkpoint is above it.

    Returns:
        Tensor: ``(N, M)``, float32 or float64; positive = proponent. Unit: learning rate × squared gradient of the loss. It takes
        about 20 µs a pair, because an assignment is solved only if words compete.

    Raises:
        ValueError: ``k`` or ``min_cosine`` is out of range.
        ImportError: SciPy is not installed.

    Example:
        >>> from captum_tracinwe.testing import toy_tracin
        >>> tracin, inputs = toy_tracin()
        >>> synonym_scores(tracin, inputs, k=3).shape
        torch.Size([2, 12])
    """
    source, assign = _strongest(tracin, k, min_cosine), _assignment()
    table = source.live.table

    def product(test: RowGradients, train: RowGradients) -> Tensor:
        scores = test.values.new_zeros((len(test), len(train)))
        names, vectors = _unit_vectors(table.weight, test.ids, train.ids)
        train_at = torch.searchsorted(names, train.ids)
        ptr = train.ptr.tolist()
        for i in range(len(test)):
            ids, values = test[i]
            cosines = (vectors[torch.searchsorted(names, ids)] @ vectors[train_at].T).cpu()
            may = (ids[:, None] == train.ids[None]).cpu() | (cosines > min_cosine)
            found = (values @ train.values.T).double().cpu().masked_fill_(~may, 0)
            beyond = ~found.isfinite().all(0)
            finite = not bool(beyond.any())
            products, allowed = found.numpy(), may.numpy()
            meets: Any = allowed.any(0)
            for j in range(len(train)):
                columns = slice(ptr[j], ptr[j + 1])
                if not finite and bool(beyond[columns].any()):
                    scores[i, j] = torch.inf  # refused where the scores of a block are looked at
                elif meets[columns].any():
                    rows, others = assign(products[:, columns], allowed[:, columns])
                    score = float(products[:, columns][rows, others].sum())
                    scores[i, j] = score if abs(score) <= torch.finfo(scores.dtype).max else torch.inf
        return scores

    desc = f"Using {source.live.name} to compute influence by synonyms for training batches"
    parts = list(source.score_blocks(tracin.question(inputs), product, desc, show_progress))
    order = torch.argsort(torch.cat([indices for indices, _, _ in parts]))
    scores = torch.cat([times(found, factors) for _, found, factors in parts], dim=1)[:, order]
    place = first_not_finite(scores)
    if place is not None:
        raise overflow(f"The score of training example {place[1]} for test example {place[0]}", scores.dtype)
    return scores


@undisturbed
def synonym_influence(
    tracin: Explained,
    inputs: Batch | DataLoader[Any],
    train_indices: Tensor | Sequence[Sequence[int]],
    *,
    k: int = 10,
    min_cosine: float = 0.7,
) -> list[list[SynonymInfluence]]:
    """Which word met which, for chosen training examples of each test example.

    Args:
        tracin, inputs, k, min_cosine: as in :func:`synonym_scores`.
        train_indices (Tensor or list of lists): for each test example the training examples to explain, for instance
            ``synonym_scores(tracin, inputs).topk(5).indices``.

    Returns:
        list[list[SynonymInfluence]]: ``[test][rank]``; the shares of each add up to its score.

    Raises:
        ValueError: as :func:`synonym_scores`, and :meth:`TracInWE.word_influence` for the indices.
        ImportError: SciPy is not installed.

    Example:
        >>> import math
        >>> from captum_tracinwe.testing import toy_tracin
        >>> tracin, inputs = toy_tracin()
        >>> best = synonym_scores(tracin, inputs).topk(2)
        >>> pair = synonym_influence(tracin, inputs, best.indices)[0][0]
        >>> math.isclose(pair.score, float(best.values[0, 0]), rel_tol=1e-5)
        True
        >>> math.isclose(sum(match.share for match in pair.words()), pair.score)
        True
    """
    source, assign = _strongest(tracin, k, min_cosine), _assignment()
    question, weights, table = tracin.question(inputs), source.live.weights, source.live.table
    test = source.of_question(question)
    wanted = index_lists(train_indices, len(test))
    distinct = sorted({index for indices in wanted for index in indices})
    if not distinct:
        return [[] for _ in wanted]
    train = question.taught(source.rows(distinct))
    place = {index: at for at, index in enumerate(distinct)}
    width = test.width // len(weights)
    found: dict[tuple[int, int], dict[tuple[int, int], list[tuple[float, float]]]] = {}
    with weights.untouched():
        for c, checkpoint in enumerate(weights.checkpoints):
            weights.at(checkpoint)
            names, vectors = _unit_vectors(table.weight, test.ids, train.ids)
            own = test.columns(c * width, (c + 1) * width), train.columns(c * width, (c + 1) * width)
            for i, indices in enumerate(wanted):
                for index in indices:
                    matches = found.setdefault((i, index), {})
                    (ids, values), (others, other_values) = (
                        _nonzero(*own[0][i]),
                        _nonzero(*own[1][place[index]]),
                    )
                    products = (values @ other_values.T).double().cpu()
                    at = torch.searchsorted(names, ids), torch.searchsorted(names, others)
                    cosines = (vectors[at[0]] @ vectors[at[1]].T).double().cpu()
                    allowed = (ids[:, None] == others[None]).cpu() | (cosines > min_cosine)
                    products.masked_fill_(~allowed, 0)
                    if first_not_finite(products) is not None:
                        raise overflow(f"The score of training example {index} for test example {i}", values.dtype)
                    for row, column in zip(*assign(products.numpy(), allowed.numpy()), strict=True):
                        pair = int(ids[row]), int(others[column])
                        cosine = 1.0 if pair[0] == pair[1] else float(cosines[row, column])
                        matches.setdefault(pair, []).append((float(products[row, column]), cosine))
    return [[_collected(i, index, found[i, index]) for index in indices] for i, indices in enumerate(wanted)]


# ----------------------------------------------------------------------------------------------------------- matching


def _strongest(tracin: Explained, k: int, min_cosine: float) -> LiveSource:
    """The rows of the k strongest positions of each text."""
    if not is_whole(k) or k < 1:
        raise ValueError(f"TracIn-WE-Syn: expected `k` as a whole number of at least 1, got {k!r}.")
    if not isinstance(min_cosine, (int, float)) or not min_cosine > -1:
        raise ValueError(
            f"TracIn-WE-Syn: expected `min_cosine` as a number above -1 (0.7 in the paper), got {min_cosine!r}."
        )
    source = tracin.live_source
    if not source.live.tables.plain:
        raise ValueError(
            f"TracIn-WE-Syn is of the words that are looked up: expected a TracInWE with table='input', got one of the rows "
            f"{str(source.live.tables)!r}."
        )
    if leads_from_word_to_word(tracin.preconditioner):
        raise ValueError(
            f"TracIn-WE-Syn lets words of the two texts meet. Expected a preconditioner that keeps words apart, such as 'idf', "
            f"got {type(tracin.preconditioner).__name__}, after which a test text has rows of all training words."
        )
    return dataclasses.replace(source, live=dataclasses.replace(source.live, top_k_words=int(k)))


def _assignment() -> Callable[[Any, Any], tuple[Any, Any]]:
    """(products, allowed) → rows and columns of the one-to-one matching with the largest Σ|product|."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError(
            f"TracIn-WE-Syn assigns words with SciPy, which is not installed. {install('scipy', 'synonyms')}"
        ) from error

    def assign(products: Any, allowed: Any) -> tuple[Any, Any]:
        if allowed.sum(0).max(initial=0) <= 1 and allowed.sum(1).max(initial=0) <= 1:
            rows, columns = allowed.nonzero()  # nobody competes
            return rows, columns
        rows, columns = linear_sum_assignment(abs(products) * allowed, maximize=True)
        chosen = allowed[rows, columns]
        return rows[chosen], columns[chosen]

    return assign


def _unit_vectors(table: Tensor, *ids: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct tokens, ascending, and their embeddings at length 1; NaN for a zero vector, which is like no other."""
    names = torch.unique(torch.cat(ids))
    vectors = table.detach()[names].to(torch.float64)
    return names, vectors / vectors.norm(dim=1, keepdim=True)


def _nonzero(ids: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Without the rows that are zero: those of other checkpoints."""
    kept = values.abs().sum(1) > 0
    return ids[kept], values[kept]


def _collected(i: int, index: int, matches: dict[tuple[int, int], list[tuple[float, float]]]) -> SynonymInfluence:
    shares = torch.tensor([math.fsum(s for s, _ in parts) for parts in matches.values()], dtype=torch.float64)
    cosines = [sum(cosine for _, cosine in parts) / len(parts) for parts in matches.values()]
    pairs = torch.tensor(list(matches), dtype=torch.int64).view(-1, 2)
    return SynonymInfluence(
        i, index, float(shares.sum()), pairs[:, 0], pairs[:, 1], shares, torch.tensor(cosines, dtype=torch.float64)
    )


def _word_of(text: TokenizedText | None, token: int) -> str:
    """The person's word that a token stands in (the first, if there are several), or the token's name."""
    if text is None:
        return f"#{token}"
    if token not in text.token_ids:
        return text.padding[1] if text.padding is not None else f"#{token}"
    _, name, word = text.token_at(text.token_ids.index(token))
    return name if word is None else text.text[slice(*text.word_spans()[word])] or name
