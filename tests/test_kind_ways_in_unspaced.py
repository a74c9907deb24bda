"""Ways in: a word of Thai, Japanese or Chinese is what a segmenter, else the tokenizer, knows of it; never the sentence."""

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from captum_tracinwe import TracInWE, word_report
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, scores_by_loop
from captum_tracinwe.app.training import wordpiece_tokenizer
from captum_tracinwe.words import SEPARATOR, tokenize

THAI = "ฉันรักภาษาไทยมาก และน้ำ"
JAPANESE = "私は東京タワーへ行きました。"
CHINESE = "我们在北京大学学习。"
THAI_WORDS = ["ฉัน", "รัก", "ภาษาไทย", "มาก", "และ", "น้ำ"]
JAPANESE_WORDS = ["私", "は", "東京タワー", "へ", "行き", "ました", "。"]
CHINESE_WORDS = ["我们", "在", "北京大学", "学习", "。"]
LANGUAGES = [(THAI, THAI_WORDS), (JAPANESE, JAPANESE_WORDS), (CHINESE, CHINESE_WORDS)]


def sentencepiece(*pieces):
    """As XLM-RoBERTa has it: pieces of any length, and nothing said of words but blanks."""
    characters = {character for text, _ in LANGUAGES for character in text}
    vocabulary = [("<unk>", 0.0), ("▁", -8.0), *((c, -9.0) for c in sorted(characters)), *((p, -1.0) for p in pieces)]
    inner = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


def byte_level():
    """As GPT-2 has it: bytes, and a pattern that has no name for Thai vowel signs."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator([""], trainers.BpeTrainer(initial_alphabet=alphabet, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def knowing_words():
    """As Japanese BERTs have it: words first, then pieces of them."""
    pieces = {"[UNK]": 0, "私": 1, "は": 2, "東京": 3, "##タワー": 4, "へ": 5, "行": 6, "##き": 7, "ました": 8, "。": 9}
    inner = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("|".join(JAPANESE_WORDS)), "isolated")
    inner.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]")


class Slow:
    """The same without spans: words by the names of their pieces alone."""

    is_fast, pad_token_id, unk_token_id = False, None, None

    def __init__(self):
        self.names = ["私", "は", "東京", "##タワー", "へ", "行", "##き", "ました", "。"]

    def __call__(self, text, **options):
        return {"input_ids": list(range(len(self.names))), "special_tokens_mask": [0] * len(self.names)}

    def convert_ids_to_tokens(self, ids):
        return [self.names[i] for i in ids]

    def convert_tokens_to_string(self, names):
        return "".join(names).replace("##", "")


def words(text, tokenizer, segmenter=None):
    [found] = tokenize([text], tokenizer, segmenter=segmenter)
    return [found.text[start:end] for start, end in found.word_spans().values()]


def test_a_token_is_a_word_where_the_tokenizer_knows_no_more():
    pieces = (
        "▁ฉัน",
        "รัก",
        "ภาษาไทย",
        "มาก",
        "▁และ",
        "น้ำ",
        "▁私は",
        "東京タワー",
        "へ",
        "行きました",
        "▁我们",
        "在",
        "北京大学",
    )
    tokenizer = sentencepiece(*pieces)
    assert words(THAI, tokenizer) == THAI_WORDS
    assert words(JAPANESE, tokenizer) == ["私は", "東京タワー", "へ", "行きました", "。"]
    assert words(CHINESE, tokenizer) == ["我们", "在", "北京大学", "学", "习", "。"]


@pytest.mark.parametrize("make", [knowing_words, Slow])
def test_a_tokenizer_that_knows_words_is_asked(make):
    assert words(JAPANESE, make()) == JAPANESE_WORDS


@pytest.mark.parametrize("text", [THAI, "ສະບາຍດີ", "ខ្ញុំស្រលាញ់", "မင်္ဂလာပါ", "むずかしい", "カタカナ"])
def test_pieces_of_bytes_are_whole_characters_and_no_sentence(text):
    found = words(text, byte_level())
    assert "".join(found) == text.replace(" ", "")
    assert len(found) > len(text) / 4


def test_a_piece_of_mbert_is_a_word_of_its_own_there():
    tokenizer = wordpiece_tokenizer([THAI.replace(" ", "")] * 2 + ["iPhone มา มาก"] * 2, 80)
    assert len(words(THAI, tokenizer)) > 4
    assert words("iPhone", tokenizer) == ["iPhone"]


@pytest.mark.parametrize(("text", "expected"), LANGUAGES)
@pytest.mark.parametrize("make", [sentencepiece, byte_level])
@pytest.mark.parametrize("form", ["words", "spans"])
def test_a_segmenter_says_what_a_word_is(text, expected, make, form):
    def spans(text):
        starts = [text.index(word) for word in expected]
        return [(start, start + len(word)) for start, word in zip(starts, expected, strict=True)]

    assert words(text, make(), (lambda text: expected) if form == "words" else spans) == expected


def test_a_segmenter_is_asked_about_each_text_of_a_pair():
    asked = []

    def segmenter(text):
        asked.append(text)
        return dict(LANGUAGES)[text]

    [found] = tokenize([(THAI, CHINESE)], byte_level(), segmenter=segmenter)
    assert asked == [THAI, CHINESE]
    shown = [found.text[start:end] for start, end in found.word_spans().values()]
    assert shown == [*THAI_WORDS, *CHINESE_WORDS]
    assert found.text == THAI + SEPARATOR + CHINESE


def test_a_token_over_two_words_of_a_segmenter_makes_them_one():
    assert words(THAI, sentencepiece("รักภาษาไทย"), lambda text: THAI_WORDS)[1] == "รักภาษาไทย"


def test_what_a_segmenter_leaves_out_keeps_its_words_and_no_character_is_divided():
    tokenizer = byte_level()
    assert words("3.5 เครื่อง iPhone!", tokenizer, lambda text: ["เครื่อง"]) == ["3.5", "เครื่อง", "iPhone", "!"]
    assert words("น้ำ", tokenizer, lambda text: [(0, 1), (1, 3)]) == ["น้", "ำ"]


def test_languages_with_blanks_are_as_they_were():
    tokenizer = byte_level()
    for text in ("나는 학교에 갔다", "مرحبا بكم", "Don't go 3.5"):
        assert words(text, tokenizer) == text.split()


@pytest.mark.parametrize(
    ("segmenter", "error", "message"),
    [
        (lambda text: "รัก", TypeError, "`segmenter` to give a list of words, got 'รัก'"),
        (lambda text: [3], TypeError, "`segmenter` to give words, or their first character"),
        (lambda text: ["รัก", "ฉัน"], ValueError, "gives 'ฉัน', which does not stand in the text"),
        (lambda text: [(0, 99)], ValueError, r"gives \(0, 99\), which does not stand in the text"),
    ],
)
def test_what_is_no_segmentation_is_refused(segmenter, error, message):
    with pytest.raises(error, match=message):
        words(THAI, byte_level(), segmenter)


def test_a_report_of_thai_texts_is_of_its_words(tmp_path):
    tokenizer = sentencepiece("ฉัน", "รัก", "ภาษาไทย", "มาก", "แมว")
    raw = ["ฉันรักแมว", "ฉันรักภาษาไทย", "แมวรักฉันมาก", "ภาษาไทยมาก"]
    texts = tokenize(raw, tokenizer)
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(text.token_ids) for text in texts], batch_first=True)
    labels = torch.tensor([0, 1, 0, 1])
    model = TinyCNN(len(tokenizer), padding_idx=0).eval()
    paths = scatter_checkpoints(model, tmp_path)
    loss = torch.nn.CrossEntropyLoss(reduction="none")
    tracin = TracInWE(model, torch.utils.data.TensorDataset(ids, labels), paths, loss_fn=loss, batch_size=2)
    report = word_report(tracin, (ids[:2], labels[:2]), labels, train_texts=texts, draws=10)
    ways = [lambda i=i: loss(model(ids[i : i + 1]), labels[i : i + 1]) for i in range(4)]
    by_loop = scores_by_loop(model, [model.embedding], paths, ways[:2], ways, 0)
    assert {word.word for word in report.words} <= {"ฉัน", "รัก", "ภาษาไทย", "มาก", "แมว"}
    assert report.score == pytest.approx(float(by_loop.sum()), rel=1e-5)
    pair = tracin.word_influence((ids[:1], labels[:1]), [[2]])[0][0].with_texts(texts[0], texts[2])
    assert {word.text for word in pair.words()} == {"แมว", "รัก", "ฉัน"}
    assert pair.score == pytest.approx(float(by_loop[0, 2]), rel=1e-5)
