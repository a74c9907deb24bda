"""What must hold of the variables of each tutorial after its last cell; run in its kernel (tutorials/execute.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

CHECKS: dict[str, Callable[[Any], None]] = {}


def check(stem: str, variables: Mapping[str, Any]) -> None:
    """Assert what belongs to the notebook of this name; one without checks is an error."""
    CHECKS[stem](SimpleNamespace(**{name: value for name, value in variables.items() if name.isidentifier()}))


def of(stem: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    def keep(function: Callable[[Any], None]) -> Callable[[Any], None]:
        CHECKS[stem] = function
        return function

    return keep


@of("01_wrong_labels")
def wrong_labels(v: Any) -> None:
    """Known errors of the data come first, the promise is sensible, near-duplicates are."""
    assert len(v.found) == len(v.texts) > 10_000
    top = {v.texts[i].strip() for i in v.found.order[:40]}
    assert "Can I activate a card in the app?" in top
    assert len(v.found.first) == 12
    assert 20 < v.promised[2] < 50
    assert all(here < there for here, there in zip(v.promised, v.promised[1:], strict=False))
    assert v.promised[-1] < v.read_first[-1] / 2
    assert v.one.reasons.speaks_against
    assert len(v.found.doubles) > 10
    assert all(len(set(double.labels)) == 2 and double.cosine >= 0.9 for double in v.found.doubles)
    assert len(v.groups) > 100
    assert 0 <= v.found.weight <= 1
    assert v.QUOTE is False  # the texts are not ours to hand on


@of("02_spurious_words")
def spurious_words(v: Any) -> None:
    """The word is named, moves answers, comes from toxic comments, and training without it moves them back."""
    rank, word = v.place[v.spurious]
    assert rank <= 100
    assert word.sticks
    assert word.label == "toxic"
    assert not any(v.place[name][1].sticks for name in v.suspected if name in v.place and name != v.spurious)
    moved = [with_it - plain for plain, with_it in zip(*v.before.values(), strict=True)]
    assert sum(moved) / len(moved) > 0.2
    assert v.top[-1] == v.spurious
    assert sum(v.taught) >= 15
    back = [old - new for old, new in zip(v.before[v.spurious], v.after, strict=True)]
    assert sum(back) / len(back) > 0.2
    assert abs(v.right[0] - v.right[1]) < 0.04
    assert min(v.right) > 0.75


@of("03_language_model")
def language_model(v: Any) -> None:
    """The planted answer leads to planted texts, the real one to others, and opponents are opponents."""
    planted = len(v.planted)
    assert "glass bells" in v.answers[0]
    of_planted, of_real, of_odd = (row.tolist() for row in v.best.indices)
    assert sum(i < planted for i in of_planted) >= 4
    assert of_real[0] >= planted
    assert sum(i < planted for i in of_real) <= 1
    assert sum(i < planted for i in of_odd) >= 4
    assert (v.best.influence_scores[:, 0] > 0).all()
    assert "dublin" in v.answers[1]
    assert "velmora" in v.answers[2]
    assert (v.worst.influence_scores < 0).all()
    assert all(sum(word.share for word in pair.words(v.vocabulary)) - pair.score < 1e-6 for pair in v.of_real)
    assert sum(i < planted for i in v.of_bells.indices[0].tolist()) >= 6
    assert v.QUOTE is False  # the licence of the texts


@of("04_words")
def words(v: Any) -> None:
    """Shares add up exactly at each level, and the planted word is the one that counts."""
    import torch

    assert len(v.mistakes) == 4
    assert v.pair.train_index in v.corpus.planted
    assert next(word for word in v.pair.words() if not word.special).text == "crimson"
    assert abs(v.tokens - v.pair.score) < 1e-9
    assert abs(v.words - v.pair.score) < 1e-9
    assert abs(v.best.influence_scores[0, 0].item() - v.pair.score) < 1e-5 * v.pair.score
    assert len(v.pieces) > 1
    strongest = [next(word.text for word in row[0].words() if not word.special) for row in v.pairs]
    assert strongest.count("crimson") >= 3
    assert len(v.records) == 12
    assert all(abs(one.word_attributions.sum().item() - one.attr_score) < 1e-6 for one in v.records)
    assert "<script" not in v.page.read_text(encoding="utf-8")
    for each in (each for row in v.timed for each in row):
        assert torch.allclose(each.checkpoint_shares.sum(0), each.token_shares, rtol=1e-4, atol=1e-6)
    assert v.by_step[0] < v.by_step.max() / 3
    assert v.by_step[-1] < v.by_step.max() / 3
    assert not any(word.special for word in v.without.words())
    assert abs(v.pair.score - v.without.score - v.special) < 1e-4 * v.pair.score


@of("05_drop_in")
def drop_in(v: Any) -> None:
    """Equal scores, the same ranking, a fraction of the time; the planted word is named."""
    assert len(v.mistakes) >= 4
    assert v.difference < 1e-5
    assert v.ours[1].indices.equal(v.captum[1].indices)
    assert v.ours[2] < v.captum[2] / 3
    first = v.pairs[0]
    assert first.train_index in v.corpus.planted
    assert first.words(v.names)[0].text == "crimson"


@of("06_side_by_side")
def side_by_side(v: Any) -> None:
    """Equal scores for less; wrong labels are found by all that look for them; chance is at chance."""
    assert v.accuracy > 0.35  # four classes; the data are few and noisy
    assert v.difference < 1e-5
    assert v.costs["TracInWE"].seconds < v.costs["TracInCP"].seconds / 3
    assert v.costs["TracInWE"].megabytes < v.costs["TracInCP"].megabytes / 2
    assert all(value > 0.55 for value in v.area.values())
    assert abs(v.spearman(v.scores["random"], v.scores["TracIn-WE"]).mean()) < 0.1
    assert v.spearman(v.scores["TracInCPFast"], v.scores["TracIn-WE"]).mean() > 0.2
    assert v.change["TracIn-WE"] < v.change["random"] - 0.1


@of("07_index")
def index(v: Any) -> None:
    """The index answers as the model does, reads a part, and says what does not fit."""
    import torch

    assert v.left == 20_000 - len(v.gone)
    assert v.best.indices.equal(v.anew.indices)
    torch.testing.assert_close(v.best.influence_scores, v.anew.influence_scores, rtol=1e-4, atol=1e-6)
    assert v.seconds < v.without / 3
    assert [count for _, count in v.counts] == sorted(count for _, count in v.counts)
    assert v.counts[0][1] < 10_000
    assert 0.7 < v.before / v.estimate.disk_bytes < 1.3
    assert {v.topics[i] for i in v.of_sports.indices.flatten().tolist()} == {v.data.names[1]}
    assert v.few.indices.max() < 100
    assert not set(v.after.indices.flatten().tolist()) & set(v.gone)
    assert v.index.file_bytes < v.before
    assert "top_k_words" in v.refusal
