"""Promises of `words.py`: shares add up to the score, however tokens become words."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from captum_tracinwe.words.influence import WordInfluence, WordShare, position_shares
from captum_tracinwe.words.texts import TokenizedText, from_ids

NAMES = ("[CLS]", "[SEP]", "un", "##happy", "##believable", "dog", "the", "[PAD]")


def pieces(*tokens: str, padding=None) -> TokenizedText:
    """A text from WordPiece names: "##" joins, brackets are special."""
    text, spans, words, number = "", [], [], -1
    for token in tokens:
        if token.startswith("["):
            spans.append(None)
            words.append(None)
            continue
        if token.startswith("##"):
            start = len(text)
        else:
            text += " " if text else ""
            start, number = len(text), number + 1
        text += token.removeprefix("##")
        spans.append((start, len(text)))
        words.append(number)
    ids = tuple(NAMES.index(token) for token in tokens)
    return TokenizedText(text, ids, tuple(spans), tuple(words), tokens, padding=padding)


def influence(shares: dict[str, float], test=None, train=None, **options) -> WordInfluence:
    values = torch.tensor(list(shares.values()), dtype=torch.float64)
    ids = torch.tensor([NAMES.index(name) for name in shares], dtype=torch.int64)
    return WordInfluence(0, 1, values.sum().item(), ids, values, test_text=test, train_text=train, **options)


def by_text(pair: WordInfluence) -> dict[str, float]:
    return {word.text: word.share for word in pair.words()}


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_word_shares_add_up_to_the_score(data):
    tokens = st.lists(st.sampled_from(["[CLS]", "un", "##happy", "##believable", "dog", "the"]), max_size=12)
    train = pieces("un", *data.draw(tokens))
    test = pieces("un", *data.draw(tokens))
    shared = sorted(set(train.token_ids) & set(test.token_ids))
    numbers = st.floats(-1e6, 1e6, allow_nan=False, allow_subnormal=False)
    shares = {NAMES[i]: data.draw(numbers) for i in shared}
    pair = influence(shares, test, train)
    size = sum(abs(share) for share in shares.values())
    for shown in (
        pair,
        pair.with_texts(None, train),
        pair.with_texts(test, None),
        pair.with_texts(None, None),
    ):
        words = shown.words()
        assert math.fsum(word.share for word in words) == pytest.approx(pair.score, rel=1e-12, abs=1e-12 * size)
        assert [abs(word.share) for word in words] == sorted((abs(word.share) for word in words), reverse=True)
        assert {i for word in words for i in word.token_ids} == set(shared)
    for text in (train, test):
        assert math.fsum(position_shares(pair, text).values()) == pytest.approx(pair.score, rel=1e-12, abs=1e-12 * size)


def test_word_pieces_are_joined_to_words():
    pair = influence(
        {"un": 1.0, "##happy": 0.5, "dog": -0.25},
        pieces("un", "##happy", "dog"),
        pieces("dog", "un", "##happy"),
    )
    assert pair.words() == [
        WordShare("unhappy", 1.5, (2, 3), ((4, 11),), ((0, 7),)),
        WordShare("dog", -0.25, (5,), ((0, 3),), ((8, 11),)),
    ]


def test_a_token_of_several_words_is_divided_over_its_occurrences():
    pair = influence({"un": 0.9}, pieces("un"), pieces("un", "##happy", "un", "##believable", "un"))
    assert by_text(pair) == pytest.approx({"unhappy": 0.3, "unbelievable": 0.3, "un": 0.3})


def test_a_repeated_word_is_one_entry_with_several_places():
    (word,) = influence({"dog": 0.5}, pieces("dog"), pieces("dog", "the", "dog")).words()
    assert (word.share, word.train_spans, word.test_spans) == (0.5, ((0, 3), (8, 11)), ((0, 3),))


def test_words_that_differ_in_case_are_two():
    train = TokenizedText("The the", (6, 6), ((0, 3), (4, 7)), (0, 1), ("the", "the"))
    assert by_text(influence({"the": 1.0}, train=train)) == {"The": 0.5, "the": 0.5}


def test_special_tokens_appear_as_themselves():
    text = pieces("[CLS]", "dog", "[SEP]")
    words = influence({"[CLS]": 2.0, "[SEP]": -1.0, "dog": 0.5}, text, text).words()
    assert [(word.text, word.special, word.train_spans) for word in words] == [
        ("[CLS]", True, ()),
        ("[SEP]", True, ()),
        ("dog", False, ((4 - 4, 3),)),
    ]


def test_padding_that_took_part_is_shown_as_such():
    text = pieces("dog", padding=(7, "[PAD]"))
    pair = influence({"dog": 0.5, "[PAD]": 2.0}, text, text)
    assert [(word.text, word.share, word.special) for word in pair.words()] == [
        ("[PAD]", 2.0, True),
        ("dog", 0.5, False),
    ]
    assert by_text(pair.with_texts(text, None)) == by_text(pair)


def test_without_texts_there_is_one_entry_per_token():
    pair = influence({"un": 1.0, "dog": -2.0})
    assert by_text(pair) == {"#5": -2.0, "#2": 1.0}
    assert [word.text for word in pair.words(NAMES)] == ["dog", "un"]
    assert [word.text for word in pair.words({5: "hund", 2: ""})] == ["hund", "#2"]
    with pytest.raises(ValueError, match=r"vocabulary .1 entries. has no name for token id"):
        pair.words(["a"])


def test_two_ids_of_one_name_stay_apart_without_texts():
    assert len(influence({"un": 1.0, "dog": 2.0}).words({2: "x", 5: "x"})) == 2


def test_nothing_in_common_is_no_word():
    empty = WordInfluence(0, 0, 0.0, torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.float64))
    assert empty.words() == []
    assert empty.with_texts(from_ids([1]), from_ids([2])).words() == []


def test_with_texts_is_a_copy():
    pair = influence({"dog": 1.0})
    copy = pair.with_texts(pieces("dog"), pieces("the", "dog"))
    assert pair.train_text is None
    assert copy.train_text.text == "the dog"
    assert copy.token_shares is pair.token_shares
    with pytest.raises(dataclasses.FrozenInstanceError):
        copy.score = 3.0


def test_what_does_not_fit_is_refused():
    ids, shares = torch.tensor([1, 2]), torch.tensor([0.5, 0.25], dtype=torch.float64)
    WordInfluence(0, 0, 0.75, ids, shares, torch.stack([shares / 2, shares / 2]))
    with pytest.raises(ValueError, match=r"add up to the score 0\.7501.*they add up to 0\.75"):
        WordInfluence(0, 0, 0.7501, ids, shares)
    with pytest.raises(ValueError, match=r"[Ee]xpected token_ids of torch.int64"):
        WordInfluence(0, 0, 0.75, ids.int(), shares)
    with pytest.raises(ValueError, match=r"token_shares of torch.float64 with shape \(2\)"):
        WordInfluence(0, 0, 0.75, ids, shares[:1])
    with pytest.raises(ValueError, match=r"token_shares of torch.float64 .* got torch.float32"):
        WordInfluence(0, 0, 0.75, ids, shares.float())
    with pytest.raises(ValueError, match=r"token_shares to be a tensor"):
        WordInfluence(0, 0, 0.75, ids, [0.5, 0.25])
    with pytest.raises(ValueError, match=r"checkpoint_shares of torch.float64 with shape \(any, 2\)"):
        WordInfluence(0, 0, 0.75, ids, shares, shares)
    with pytest.raises(ValueError, match=r"checkpoint_shares to add up"):
        WordInfluence(0, 0, 0.75, ids, shares, torch.stack([shares, shares]))
    with pytest.raises(ValueError, match=r"finite shares, got nan.*diverged"):
        WordInfluence(0, 0, math.nan, ids, shares * math.nan)


def test_a_text_without_the_shared_tokens_is_refused():
    pair = influence({"dog": 1.0})
    for texts in ((pieces("the"), pieces("dog")), (pieces("dog"), pieces("the"))):
        with pytest.raises(ValueError, match=r"does not hold the shared token id\(s\) \[5\].*tokenized the same way"):
            pair.with_texts(*texts)
    with pytest.raises(ValueError, match=r"training example 1 on test example 0"):
        position_shares(pair, pieces("the"))


def test_a_pair_shows_itself_in_a_notebook():
    html = influence({"dog": 1.0}, pieces("dog"), pieces("dog"))._repr_html_()
    assert "Training example 1" in html
    assert "<html" not in html


def test_a_tokenizers_vocabulary_names_tokens():
    shares = torch.tensor([0.5, -0.25], dtype=torch.float64)
    pair = WordInfluence(0, 7, 0.25, torch.tensor([1, 2]), shares)
    for vocabulary in (["a", "b", "c"], {1: "b", 2: "c"}, {"a": 0, "b": 1, "c": 2}):
        assert [word.text for word in pair.words(vocabulary)] == ["b", "c"]
    for wrong in ("abc", 3, {1, 2}):
        with pytest.raises(TypeError, match="`vocabulary` as a list of names or a mapping"):
            pair.words(wrong)
