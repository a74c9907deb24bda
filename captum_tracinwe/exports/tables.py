"""Tables of pairs, of their words, of rankings and of rows; and CSV of any of them, written and read back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from captum_tracinwe.batches.arguments import is_plain, kind_of
from captum_tracinwe.explanation import Explanation
from captum_tracinwe.exports.given import as_ranking
from captum_tracinwe.rows.ranking import RANKING_COLUMNS, ranking_rows
from captum_tracinwe.rows.row_gradients import RowGradients
from captum_tracinwe.tabular import csv_text, frame, rows_of_csv
from captum_tracinwe.whole_files import as_path
from captum_tracinwe.words.influence import Vocabulary, names_by_id
from captum_tracinwe.words.tables import PAIR_COLUMNS, RANKED_SHARES, Pairs, pair_rows, share_rows

__all__ = ["pairs_of", "pairs_table", "ranking_table", "read_csv", "rows_in", "shares_table", "terms_table", "to_csv"]

_WHOLE = ("index", "test_index", "train_index", "rank", "line", "test_line", "train_line", "token_id", "count", "group")
_WHOLE += ("tests", "right", "majority_right", "train", "test", "named", "texts")  # type: ignore[assignment]
_REAL = ("score", "share", "low", "high", "cosine", "suspicion", "probability", "total", "proponent", "opponent")
_REAL += ("label_share", "base_share", "p_value", "adjusted_p", "steadiness", "certainty", "accuracy")  # type: ignore[assignment]
_LISTS = ("token_ids", "train_spans", "test_spans", "examples", "alike")
_FLAGS = ("special", "sticks", "wrong", "learned", "at_odds", "is_label_issue")


def pairs_of(found: Pairs | Explanation) -> Pairs:
    """The pairs of an explanation, by the indices of its answers; of others, these."""
    if not isinstance(found, Explanation):
        return found
    return [[replace(pair, test_index=answer.index) for pair in answer.pairs] for answer in found.answers]


def pairs_table(pairs: Pairs | Explanation, vocabulary: Vocabulary | None = None) -> Any:
    """A row for each pair of a test and a training text; a ``pandas.DataFrame``, where pandas is not installed a list of dict.

    Args:
        pairs (list or Explanation): :class:`WordInfluence`, or lists of them, as :meth:`TracInWE.word_influence` returns them;
            or those of an explanation.
        vocabulary (sequence or mapping of str, optional): names of tokens, where the pairs know no texts.

    Returns:
        DataFrame or list: columns test_index, train_index, rank (of the training text among those of its test text, as they were
        given, from 1), score, words (those that carry most of it), test_text, test_label, prediction, train_text, train_label.

    Raises:
        TypeError: something else is among the pairs.

    Example:
        >>> from captum_tracinwe.testing import toy_tracin
        >>> tracin, inputs = toy_tracin()
        >>> table = pairs_table(tracin.word_influence(inputs, tracin.influence(inputs, k=3).indices))
        >>> len(table)
        6
    """
    return frame(pair_rows(pairs_of(pairs), vocabulary), PAIR_COLUMNS)


def shares_table(pairs: Pairs | Explanation, vocabulary: Vocabulary | None = None) -> Any:
    """A row for each word of each pair; the shares of a pair add up to its score. Arguments and errors as in :func:`pairs_table`.

    Returns:
        DataFrame or list: columns test_index, train_index, rank, word, share, special (a token that no person wrote), token_ids,
        and train_spans, test_spans: where the word stands, ``[start, end]`` in characters.
    """
    return frame(share_rows(pairs_of(pairs), vocabulary), RANKED_SHARES)


def ranking_table(found: Any) -> Any:
    """A row for each training example of what :meth:`TracInWE.influence` with ``k``, or an index's ``search``, has found.

    Args:
        found (KMostInfluentialResults, SearchResult or (Tensor, Tensor)): training indices and scores, each ``(N, k)``.

    Returns:
        DataFrame or list: columns test_index, train_index, rank (from 1), score; of an approximate search low and high, too.
    """
    if hasattr(found, "to_table"):
        return found.to_table()
    ranking = as_ranking(found, "ranking_table", ordered=False)
    return frame(ranking_rows(*ranking), RANKING_COLUMNS)


def terms_table(test: RowGradients, train: RowGradients, pairs: Tensor, vocabulary: Vocabulary | None = None) -> Any:
    """A row for each token that both examples of a pair have, with its part of the score (:meth:`RowGradients.terms`).

    Args:
        test, train (RowGradients): of test and training examples.
        pairs (Tensor): int64 ``(P, 2)``, examples of ``test`` and of ``train``.
        vocabulary (sequence or mapping of str, optional): names of tokens; the column token is None without.

    Returns:
        DataFrame or list: columns test_index, train_index, token_id, token, share.

    Raises:
        TypeError: an argument of another kind.
        ValueError: a pair of examples that there are not.
    """
    sides: tuple[Any, Any] = test, train
    if not all(isinstance(side, RowGradients) for side in sides):
        got = " and ".join(type(side).__name__ for side in sides)
        raise TypeError(f"terms_table: expected RowGradients of test and training examples, got {got}.")
    if not is_plain(pairs) or pairs.dtype != torch.int64 or pairs.dim() != 2 or pairs.shape[1] != 2:
        got = f"{kind_of(pairs)} {tuple(pairs.shape)}" if isinstance(pairs, Tensor) else kind_of(pairs)
        raise TypeError(f"terms_table: expected `pairs` as an int64 tensor (P, 2), got {got}.")
    sizes = torch.tensor([len(test), len(train)])
    outside = ((pairs.cpu() < 0) | (pairs.cpu() >= sizes)).any(1).nonzero()
    if len(outside):
        raise ValueError(
            f"terms_table: expected pairs of a test example below {len(test)} and a training example below {len(train)}, got "
            f"{pairs[outside[0, 0]].tolist()}."
        )
    names, known = names_by_id(vocabulary), pairs.tolist()
    which, token, share = (part.tolist() for part in test.terms(train, pairs))
    rows = [
        {
            "test_index": known[pair][0],
            "train_index": known[pair][1],
            "token_id": token_id,
            "token": None if names is None else names[token_id],
            "share": part,
        }
        for pair, token_id, part in zip(which, token, share, strict=True)
    ]
    return frame(rows, ("test_index", "train_index", "token_id", "token", "share"))


# --------------------------------------------------------------------------------------------------------------- CSV


def to_csv(table: Any) -> str:
    """A table as the text of a CSV file, to be written as it is (``newline=""``), in which no text is a formula.

    Args:
        table (DataFrame or list of dict): one of this module, or any other of text, numbers and lists.

    Example:
        >>> print(to_csv([{"word": "=1+1", "share": -0.5}]), end="")
        word,share
        '=1+1,-0.5
    """
    rows = rows_in(table)
    columns = list(getattr(table, "columns", rows[0] if rows else ()))
    return csv_text([str(name) for name in columns], rows)


def read_csv(path: str | os.PathLike[str]) -> Any:
    """A table that this package wrote as CSV, as it was: texts without the apostrophe that made them harmless, and numbers.

    Returns:
        DataFrame or list: as :func:`pairs_table`. An empty cell of a column of texts is the empty text.

    Raises:
        ValueError: the file is no CSV of this package; the message says what is wrong.
        OSError: it cannot be read.
    """
    file = as_path(path, "read_csv", "path")
    try:
        rows = rows_of_csv(file.read_bytes().decode("utf-8"))
        found = [{name: _typed(name, cell) for name, cell in row.items()} for row in rows]
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError, too
        raise ValueError(f"{path}: {error}. Expected a CSV file as this package writes it.") from error
    return frame(found)


def _typed(name: str, cell: str) -> Any:
    kinds: tuple[tuple[tuple[str, ...], Callable[[str], Any]], ...] = (
        (_WHOLE, int),
        (_REAL, float),
        (_LISTS, lambda held: json.loads(held) if held else []),
        (_FLAGS, {"True": True, "False": False}.__getitem__),
    )
    of_name = next((kind for names, kind in kinds if name in names), None)
    if of_name is None:
        return cell
    try:
        return of_name(cell) if cell or name in _LISTS else None
    except (KeyError, ValueError):
        raise ValueError(f"column {name!r} holds {cell!r:.40}") from None


def rows_in(table: Any) -> list[dict[str, Any]]:
    """The rows of a ``pandas.DataFrame``, or of a list of dict.

    Raises:
        TypeError: it is neither.
    """
    if hasattr(table, "to_dict") and hasattr(table, "columns"):
        return [{str(name): _plain(value) for name, value in row.items()} for row in table.to_dict("records")]
    if isinstance(table, Sequence) and all(isinstance(row, Mapping) for row in table):
        return [dict(row) for row in table]
    raise TypeError(
        f"expected a pandas.DataFrame or a list of dict, as pairs_table(...) returns it; got {type(table).__name__}."
    )


def _plain(value: Any) -> Any:
    """None for what pandas has where there is nothing."""
    return None if isinstance(value, float) and value != value else value
