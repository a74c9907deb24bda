"""Promises of `texts.py`: every position has its characters and its word, whatever the tokenizer does."""

import itertools
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from captum_tracinwe.words.texts import SEPARATOR, TokenizedText, from_ids, tokenize

SHARED = Path(__file__).parents[1].parent / "shared" / "data" / "tokenizers"
SENTENCES = [
    "the unbelievable storm shut the refineries, traders said",
    "believe the storm: unbelievably late goals don't refine a dog",
    "naïve wörld 日本 🙂 3.5",
]
FAMILY = "👩\u200d👩\u200d👧"


def wordpiece(**options):
    tokens = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", *"abcdefghijklmnopqrstuvwxyz.,!?'0123456789"]
    tokens += ["##" + letter for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokens += ["un", "##believ", "##able", "##ably", "the", "storm", "dog", "don", "late"]
    inner = Tokenizer(models.WordPiece({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    special = {"unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    return PreTrainedTokenizerFast(tokenizer_object=inner, **special, **options)


def byte_level(trim_offsets=False):
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.ByteLevel(trim_offsets=trim_offsets)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        SENTENCES[:2], trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, show_progress=False)
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def unigram(blanks="metaspace"):
    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=90, unk_token="<unk>", special_tokens=["<unk>", "</s>"], show_progress=False
    )
    inner.train_from_iterator(SENTENCES * 3, trainer)
    if blanks == "none":  # as in tokenizers that cut the text nowhere before the model sees it
        inner.pre_tokenizer = None
        inner.normalizer = normalizers.Replace(" ", "▁")
    inner.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", eos_token="</s>")


KINDS = {
    "wordpiece": wordpiece,
    "byte-level": byte_level,
    "byte-level trimmed": lambda: byte_level(trim_offsets=True),
    "unigram": unigram,
    "unigram, uncut": lambda: unigram(blanks="none"),
}
_made = {}


@pytest.fixture(params=KINDS)
def tokenizer(request):
    if request.param not in _made:
        _made[request.param] = KINDS[request.param]()
    return _made[request.param]


def words_of(text: TokenizedText) -> list[str]:
    return [text.text[start:end] for start, end in text.word_spans().values()]


class CharacterTokenizer:
    """A slow tokenizer: no offsets; lower case, pieces of two letters, an unknown token, two special ones."""

    is_fast = False
    unk_token_id = 2
    pad_token_id, pad_token = 3, "[PAD]"
    specials = ("[CLS]", "[SEP]", "[UNK]", "[PAD]")

    def __init__(self):
        self.names = list(self.specials)

    def _pieces(self, text):
        for word in text.lower().split():
            if not word.isascii():
                yield 2
                continue
            for start in range(0, len(word), 2):
                name = ("##" if start else "") + word[start : start + 2]
                if name not in self.names:
                    self.names.append(name)
                yield self.names.index(name)

    def __call__(self, *texts, max_length=None, truncation=False, **_):
        ids = [0]
        for text in texts:
            ids += [*self._pieces(text), 1]
        if truncation:
            ids = [*ids[: max_length - 1], 1]
        return {"input_ids": ids, "special_tokens_mask": [int(i < 2) for i in ids]}

    def convert_ids_to_tokens(self, ids):
        return [self.names[i] for i in ids]

    def convert_tokens_to_string(self, tokens):
        return " ".join(tokens)


class ByteTokenizer(CharacterTokenizer):
    """A slow tokenizer of bytes: most tokens are no character at all."""

    unk_token_id = None

    def __init__(self):
        self.names = [chr(i) for i in range(256)]

    def __call__(self, *texts, **_):
        return {"input_ids": [byte for text in texts for byte in text.encode()]}

    def convert_tokens_to_string(self, tokens):
        return bytes(map(ord, tokens)).decode(errors="ignore")


# ---------------------------------------------------------------------------------------- what always holds


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=40) | st.text(alphabet="ab'. \n3é日🙂\u0301\u200d\ufe0f🇩", max_size=20))
def test_any_text_gets_spans_and_words_in_reading_order(tokenizer, text):
    result = tokenize([text], tokenizer)[0]
    assert result.text == text.encode("utf-8", "replace").decode()
    previous_start, previous_word = 0, -1
    for span, word in zip(result.spans, result.words, strict=True):
        assert (span is None) == (word is None)
        if span is None:
            continue
        assert previous_start <= span[0] <= span[1] <= len(result.text)
        assert word in (previous_word, previous_word + 1)
        piece = result.text[slice(*span)]
        assert piece.isspace() or piece == piece.strip()
        previous_start, previous_word = span[0], word
    spans = list(result.word_spans().values())
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=40))
@pytest.mark.parametrize("make", [CharacterTokenizer, ByteTokenizer])
def test_any_text_survives_a_slow_tokenizer(make, text):
    result = tokenize([text], make())[0]
    assert all(span is None or span[1] <= len(result.text) for span in result.spans)


def test_word_pieces_belong_to_one_word(tokenizer):
    text = tokenize(["The unbelievable storm didn't refine 3.5 dogs, traders said!"], tokenizer)[0]
    assert words_of(text) == [
        *["The", "unbelievable", "storm", "didn't", "refine", "3.5", "dogs", ",", "traders", "said", "!"]
    ]


def test_a_words_span_leaves_out_the_blank_before_it(tokenizer):
    text = tokenize(["the  storm\n\tdog "], tokenizer)[0]
    assert [word for word in words_of(text) if not word.isspace()] == ["the", "storm", "dog"]
    assert all(
        text.text[slice(*span)].isspace() or not text.text[slice(*span)][:1].isspace() for span in text.spans if span
    )


@pytest.mark.parametrize("character", ["🙂", "é", "e\u0301", "日", FAMILY, "🇩🇪", "👍🏽", "1\ufe0f\u20e3"])
def test_tokens_that_share_a_character_share_its_whole_span(character):
    for make in (byte_level, unigram):
        text = tokenize([f"the {character} dog"], make())[0]
        spans = {span for span in text.spans if span and span[0] < 4 + len(character) and span[1] > 4}
        assert spans == {(4, 4 + len(character))}
        assert words_of(text) == ["the", character, "dog"]


def test_the_same_text_has_the_same_words_under_every_tokenizer():
    text = "Don't: the naïve dog's 2,000 goals ... in 日本語, unbelievably late"
    found = {tuple(words_of(tokenize([text], make())[0])) for make in KINDS.values()}
    assert found == {
        (
            *["Don't", ":", "the", "naïve", "dog's", "2,000", "goals", "...", "in"],
            *["日", "本", "語", ",", "unbelievably", "late"],
        )
    }


# --------------------------------------------------------------------------------- special tokens and pairs


def test_special_tokens_have_neither_span_nor_word():
    text = tokenize(["the dog"], wordpiece())[0]
    assert text.token_names == ("[CLS]", "the", "dog", "[SEP]")
    assert text.spans == (None, (0, 3), (4, 7), None)
    assert text.words == (None, 0, 1, None)


def test_an_unknown_word_keeps_its_place():
    text = tokenize(["the 🙂 dog"], wordpiece())[0]
    assert text.token_names[2] == "[UNK]"
    assert (text.spans[2], text.words[2]) == ((4, 5), 1)


def test_padding_is_no_position_even_if_the_tokenizer_pads():
    tokenizer = wordpiece()
    tokenizer("a", padding="max_length", max_length=12)
    assert [len(text.token_ids) for text in tokenize(["the dog", "a"], tokenizer)] == [4, 3]
    assert tokenize(["a"], tokenizer)[0].padding == (3, "[PAD]")


@pytest.mark.parametrize("make", [wordpiece, CharacterTokenizer])
def test_pairs_are_one_text_with_shifted_spans(make):
    text = tokenize([("the dog", "a storm")], make())[0]
    assert text.text == f"the dog{SEPARATOR}a storm"
    assert words_of(text) == ["the", "dog", "a", "storm"]
    assert max(word for word in text.words if word is not None) == 3


def test_pairs_and_single_texts_mix_in_order():
    texts = tokenize(["the dog", ("a", "dog"), ["late"]], wordpiece(), labels=[0, 1, None], predictions="xyz")
    assert [text.text for text in texts] == ["the dog", f"a{SEPARATOR}dog", "late"]
    assert [(text.label, text.prediction) for text in texts] == [("0", "x"), ("1", "y"), (None, "z")]


def test_the_cut_tail_is_text_without_tokens():
    for make in (wordpiece, CharacterTokenizer):
        text = tokenize(["the dog a storm"], make(), max_length=4)[0]
        assert text.text == "the dog a storm"
        assert len(text.token_ids) == 4
        assert max(span[1] for span in text.spans if span) <= 7


# ------------------------------------------------------------------------------------------ slow tokenizers


def test_a_slow_tokenizer_is_aligned_by_decoding():
    text = tokenize(["The Storm,  été dogs 🙂 end"], CharacterTokenizer())[0]
    assert words_of(text) == ["The", "Storm,", "été", "dogs", "🙂", "end"]
    assert text.words[0] is None
    assert text.words[-1] is None


def test_bytes_of_a_character_share_it_with_a_slow_tokenizer():
    text = tokenize(["a é🙂 b"], ByteTokenizer())[0]
    assert words_of(text) == ["a", " ", "é", "🙂", " ", "b"]
    assert [span for span, byte in zip(text.spans, text.token_ids, strict=True) if byte > 127] == (
        [(2, 3)] * 2 + [(3, 4)] * 4
    )


# ------------------------------------------------------------------------------------------- ids and errors


def test_ids_alone_make_a_text_of_names():
    text = from_ids([2, 0, 2], ["dog", "", "the"])
    assert text.text == "the dog the"
    assert words_of(text) == ["the", "dog", "the"]
    assert from_ids([7, 1]).text == "#7 #1"
    assert from_ids([1], ["a", ""]).text == "#1"
    assert from_ids([]).text == ""


def test_errors_name_the_fact_and_the_way_out():
    with pytest.raises(ValueError, match=r"id 9 has no name.*0 to 1.*or None"):
        from_ids([9], ["a", "b"])
    with pytest.raises(ValueError, match=r"text 1 has the token 'dog'.*vocabulary has 20.*resize"):
        tokenize(["a", "dog"], wordpiece(), vocab_size=20)
    with pytest.raises(ValueError, match=r"one entry of labels per text .2., got 1"):
        tokenize(["a", "b"], wordpiece(), labels=["x"])
    with pytest.raises(TypeError, match=r"[Ee]xpected a list of texts, got the str .dog.\. Put it in a list: \[text\]"):
        tokenize("dog", wordpiece())
    with pytest.raises(TypeError, match=r"text 0 to be a str or a pair"):
        tokenize([3], wordpiece())
    with pytest.raises(ValueError, match=r"one entry per position"):
        TokenizedText("a", (1, 2), ((0, 1),), (0,))
    with pytest.raises(ValueError, match=r"inside the text's 1 characters"):
        TokenizedText("a", (1,), ((0, 2),), (0,))
    with pytest.raises(ValueError, match=r"span .0, 1. and word None"):
        TokenizedText("a", (1,), ((0, 1),), (None,))


def test_no_texts_give_no_texts():
    assert tokenize([], wordpiece()) == []


# ------------------------------------------------------------------------------------------ real tokenizers


def real(name):
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"no vocabulary in {folder.name}")
    from transformers import BertTokenizerFast, GPT2TokenizerFast

    return (BertTokenizerFast if name.startswith("bert") else GPT2TokenizerFast).from_pretrained(str(folder))


@pytest.mark.parametrize("name", ["bert-base-uncased", "gpt2"])
def test_real_tokenizers_show_words(name):
    sentence = f"Hello wörld {FAMILY} naïve unbelievably don't 日本 3.5! 🇩🇪🇫🇷 مرحبا"
    found = words_of(tokenize([sentence], real(name))[0])
    assert found[:7] == ["Hello", "wörld", FAMILY, "naïve", "unbelievably", *found[5:7]]
    assert "".join(found) == sentence.replace(" ", "")
    assert found[-1] == "مرحبا"


def test_the_real_byte_level_tokenizer_keeps_a_cut_contraction_apart_or_whole():
    text = tokenize(["I don't know"], real("gpt2"))[0]
    assert text.token_names == ("I", "Ġdon", "'t", "Ġknow")
    assert words_of(text) == ["I", "don't", "know"]


def test_what_was_cut_off_is_known_for_both_texts_of_a_pair():
    text = TokenizedText("a bcd │ ef gh", (1, 2), ((0, 1), (8, 10)), (0, 1))
    assert [text.text[slice(*span)] for span in text.unread] == [" bcd", " gh"]
    assert from_ids([1, 2], ["", "dog", "cat"]).unread == []


def test_a_blank_that_is_a_byte_of_its_own_is_no_part_of_the_next_word():
    transformers = pytest.importorskip("transformers")
    text = tokenize(["hi <x> foo"], transformers.ByT5Tokenizer())[0]
    at = text.token_names.index("<")
    assert text.word_spans()[text.words[at]] == (3, 4)
    assert text.token_names[at - 1] == " "
    assert text.words[at - 1] != text.words[at]
