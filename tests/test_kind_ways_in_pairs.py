"""Ways in: a loss over several texts of an example, which one table reads: pairs, triplets; what couples examples is refused."""

import re

import pytest
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy, triplet_margin_loss
from transformers import BertConfig, BertModel

from captum_tracinwe import TracInWE, visualization, word_report
from captum_tracinwe.app.testing import scatter_checkpoints, scores_by_loop
from captum_tracinwe.app.training import words_tokenizer
from captum_tracinwe.batches import Collate, TokenizeTexts
from captum_tracinwe.words import joined, tokenize

SENTENCES = ["a dog runs in the park", "the cat sleeps on a red sofa", "a man plays", "two kids eat ice cream today"]
TOKENIZER = words_tokenizer(SENTENCES)
TOKENIZER.model_input_names = [
    "input_ids",
    "attention_mask",
]  # those of transformers 4 give token types, which Encoder has not
SIZES = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 20,
}


class Encoder(nn.Module):
    """A text by itself: the mean of its words."""

    def __init__(self):
        super().__init__()
        self.words, self.out = nn.Embedding(len(TOKENIZER), 8), nn.Linear(8, 4)

    def forward(self, input_ids, attention_mask):
        mask = attention_mask[..., None]
        return self.out(torch.tanh(self.words(input_ids) * mask).sum(1) / mask.sum(1))


class Columns(Encoder):
    """A pair by the names of its columns."""

    def forward(self, input_ids_1, attention_mask_1, input_ids_2, attention_mask_2):
        return super().forward(input_ids_1, attention_mask_1), super().forward(input_ids_2, attention_mask_2)


class Stacked(Encoder):
    """Both texts in one pass, one batch under the other."""

    def forward(self, input_ids_1, attention_mask_1, input_ids_2, attention_mask_2):
        width = max(input_ids_1.shape[1], input_ids_2.shape[1])
        ids, masks = (
            torch.cat([nn.functional.pad(one, (0, width - one.shape[1])) for one in pair])
            for pair in ((input_ids_1, input_ids_2), (attention_mask_1, attention_mask_2))
        )
        return super().forward(ids, masks).chunk(2)


class Features(Encoder):
    """A list of mappings, as losses of sentence-transformers are called with."""

    def forward(self, sentence_features):
        return [Encoder.forward(self, text["input_ids"], text["attention_mask"]) for text in sentence_features]


class Pooled(nn.Module):
    """A BERT within one's own model, whose embedding is found."""

    def __init__(self):
        super().__init__()
        self.bert = BertModel(BertConfig(**SIZES), add_pooling_layer=False)

    def forward(self, input_ids, attention_mask, token_type_ids=None):
        mask = attention_mask[..., None]
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return (hidden * mask).sum(1) / mask.sum(1)


def rows(count, texts=2, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def whole(high):
        return int(torch.randint(high, (1,), generator=generator))

    def text():
        words = SENTENCES[whole(len(SENTENCES))].split()
        return " ".join(words[: 2 + whole(len(words) - 1)])

    return [{**{f"text{n}": text() for n in range(1, texts + 1)}, "label": whole(2)} for _ in range(count)]


def encoded(row):
    return [TOKENIZER([row[f"text{n}"]], return_tensors="pt") for n in range(1, len(row))]


def read(model, text):
    """A text alone through a model."""
    if isinstance(model, BertModel):
        return model(input_ids=text["input_ids"], attention_mask=text["attention_mask"]).pooler_output
    if isinstance(model, Pooled):
        return model(text["input_ids"], text["attention_mask"])
    return Encoder.forward(model, text["input_ids"], text["attention_mask"])


def table_of(model):
    inner = getattr(model, "bert", model)
    return inner.embeddings.word_embeddings if isinstance(inner, BertModel) else model.words


def by_loop(model, paths, test, train, loss):
    def one(row):
        return loss([read(model, text) for text in encoded(row)], torch.tensor([row["label"]])).sum()

    ways = [[lambda row=row: one(row) for row in part] for part in (test, train)]
    table = table_of(model)
    return scores_by_loop(model, [table], paths, *ways, table.padding_idx).float()


def cosine(texts, labels):
    return (cosine_similarity(*texts) - labels) ** 2


def contrastive(texts, labels):
    far = 1 - cosine_similarity(*texts)
    return (labels * far**2 + (1 - labels) * torch.relu(0.9 - far) ** 2).mean()  # one number, as losses often are


def classified(texts, labels):
    first, second = texts
    return cross_entropy(torch.cat([first, second, (first - second).abs()], 1)[:, :3], labels)


def triplet(texts, labels):
    return triplet_margin_loss(*texts, margin=2.0)


def numbered(examples):
    """Columns ``input_ids_1`` and so on, and mappings in a list of them."""
    texts = [[row[f"text{n}"] for row in examples] for n in range(1, len(examples[0]))]
    columns = [TOKENIZER(column, padding=True, return_tensors="pt") for column in texts]
    return columns, torch.tensor([row["label"] for row in examples])


def in_columns(examples):
    columns, labels = numbered(examples)
    found = {f"{key}_{n}": value[key] for n, value in enumerate(columns, 1) for key in ("input_ids", "attention_mask")}
    return {**found, "labels": labels}


def in_a_list(examples):
    columns, labels = numbered(examples)
    return [dict(input_ids=one["input_ids"], attention_mask=one["attention_mask"]) for one in columns], labels


def one_after_the_other(examples):
    columns, labels = in_a_list(examples)
    return (*columns, labels)


APART = TokenizeTexts(TOKENIZER, ("text1", "text2"), apart=True)
WAYS = {
    "own columns": (Columns, in_columns, ()),
    "one pass": (Stacked, in_columns, ()),
    "a list": (Features, in_a_list, ()),
    "read one by one": (Encoder, in_columns, ()),
    "read one by one, named": (Encoder, APART, ()),
    "two mappings": (Encoder, one_after_the_other, ()),
    "a BERT within": (Pooled, APART, ()),
    "a BERT": (lambda: BertModel(BertConfig(**SIZES)), in_columns, ("pooled",)),
}


def pooled(loss):
    return lambda outputs, labels: loss([output.pooler_output for output in outputs], labels)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("loss", [cosine, contrastive, classified])
def test_scores_are_those_of_single_pairs(way, loss, tmp_path):
    make, collate, of_output = WAYS[way]
    model = make().eval()
    paths = scatter_checkpoints(model, tmp_path, (0.3, 1.7))
    train, test = rows(4, seed=1), rows(2, seed=2)
    expected = by_loop(model, paths, test, train, loss)
    given = pooled(loss) if of_output else loss
    for batch_size in (1, 3):
        tracin = TracInWE(model, train, paths, loss_fn=given, batch_size=batch_size, collate_fn=collate)
        found = tracin.influence(collate(test))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_triplets_need_no_labels(labels, batch_size, tmp_path):
    model = Encoder().eval()
    paths = scatter_checkpoints(model, tmp_path)
    train, test = rows(6, 3, seed=1), rows(2, 3, seed=2)
    expected = by_loop(model, paths, test, train, triplet)
    collate = TokenizeTexts(TOKENIZER, ("text1", "text2", "text3"), "label" if labels else None, apart=True)
    assert ("labels" in collate(train)) == labels
    tracin = TracInWE(model, train, paths, loss_fn=triplet, batch_size=batch_size, collate_fn=collate)
    torch.testing.assert_close(tracin.influence(test), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    triples = (in_a_list(test)[0], None)  # with a tuple labels may be None
    torch.testing.assert_close(tracin.influence(triples), expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_lists_of_ids_are_filled_up_each_with_a_mask_of_its_own(tmp_path):
    model = Encoder().eval()
    data = [
        {
            "anchor_input_ids": TOKENIZER(row["text1"])["input_ids"],
            "other_input_ids": TOKENIZER(row["text2"])["input_ids"],
            "labels": row["label"],
            "note": "dropped",
        }
        for row in rows(6, seed=1)
    ]
    batch = Collate(model)(data)
    assert set(batch) == {f"{n}_{key}" for n in ("anchor", "other") for key in ("input_ids", "attention_mask")} | {
        "labels"
    }
    assert batch["anchor_attention_mask"].sum(1).tolist() == [len(row["anchor_input_ids"]) for row in data]
    paths = scatter_checkpoints(model, tmp_path)
    expected = by_loop(model, paths, rows(6, seed=1)[:2], rows(6, seed=1), cosine)
    found = TracInWE(model, data, paths, loss_fn=cosine, batch_size=4).influence(data[:2])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


class WithoutMask(Columns):
    def forward(self, input_ids_1, input_ids_2):
        return [self.words(ids).mean(1) for ids in (input_ids_1, input_ids_2)]


def test_texts_of_different_lengths_without_a_mask_are_refused():
    data = [
        {"input_ids_1": [5, 6], "input_ids_2": [7], "labels": 1},
        {"input_ids_1": [5], "input_ids_2": [7], "labels": 1},
    ]
    with pytest.raises(ValueError, match="neither the model takes an attention_mask_1 nor"):
        Collate(WithoutMask())(data)


def ranking(texts, labels):
    """In-batch negatives: MultipleNegativesRankingLoss, InfoNCE, CLIP."""
    scores = 20 * cosine_similarity(texts[0][:, None], texts[1][None], dim=-1)
    return cross_entropy(scores, torch.arange(len(scores)))


def ranking_with_hard_negatives(texts, labels):
    scores = 5 * cosine_similarity(texts[0][:, None], torch.cat(list(texts[1:]))[None], dim=-1)
    return cross_entropy(scores, torch.arange(len(scores)))


def ordered(texts, labels):
    """CoSENT: pairs of higher labels are to be closer."""
    scores = 5 * cosine_similarity(*texts)
    apart = (scores[:, None] - scores[None])[labels[:, None] < labels[None]]
    return torch.logsumexp(torch.cat([torch.zeros(1), apart]), 0)


def hardest(texts, labels):
    """Batch-hard triplets of single texts with classes."""
    (own,) = texts
    far = torch.cdist(own, own)
    same = labels[:, None] == labels[None]
    return torch.relu((far * same).amax(1) - (far + 9 * same).amin(1) + 1).mean()


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize(("loss", "texts"), [(ranking, 2), (ranking_with_hard_negatives, 3), (ordered, 2)])
def test_a_loss_that_couples_pairs_is_refused_with_the_way_out(loss, texts, batch_size, tmp_path):
    model = Encoder().eval()
    collate = TokenizeTexts(TOKENIZER, tuple(f"text{n}" for n in range(1, texts + 1)), apart=True)
    tracin = TracInWE(
        *(model, rows(8, texts), scatter_checkpoints(model, tmp_path)),
        loss_fn=loss,
        batch_size=batch_size,
        collate_fn=collate,
    )
    way_out = r"couples the examples of a batch.*Expected a loss of single examples.*triplet_margin_loss\(\*texts"
    with pytest.raises(ValueError, match=rf"The loss '{loss.__name__}' {way_out}"):
        tracin.influence(rows(1, texts, seed=5))


def test_a_loss_that_finds_triplets_in_its_batch_is_refused(tmp_path):
    class Single(Encoder):
        def forward(self, input_ids, attention_mask):
            return (super().forward(input_ids, attention_mask),)

    model = Single().eval()
    data = [{"text": text, "label": n % 2} for n, text in enumerate(SENTENCES)]
    tracin = TracInWE(
        *(model, data, scatter_checkpoints(model, tmp_path)),
        loss_fn=hardest,
        collate_fn=TokenizeTexts(TOKENIZER),
        batch_size=2,
    )
    with pytest.raises(ValueError, match="couples the examples of a batch"):
        tracin.influence(data[:1])


def test_the_way_out_works(tmp_path):
    """A ranking against a negative of its own."""

    def one_negative(texts, labels):
        anchor, positive, negative = texts
        scores = torch.stack([cosine_similarity(anchor, positive), cosine_similarity(anchor, negative)], 1)
        return cross_entropy(20 * scores, torch.zeros(len(scores), dtype=torch.int64), reduction="none")

    model = Encoder().eval()
    paths = scatter_checkpoints(model, tmp_path)
    collate = TokenizeTexts(TOKENIZER, ("text1", "text2", "text3"), None, apart=True)
    train = rows(6, 3, seed=1)
    found = TracInWE(model, train, paths, loss_fn=one_negative, batch_size=3, collate_fn=collate).influence(train[:2])
    expected = by_loop(model, paths, train[:2], train, one_negative)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_words_of_both_texts_share_the_score(tmp_path):
    model = Encoder().eval()
    paths = scatter_checkpoints(model, tmp_path)
    train, test = rows(6, seed=1), rows(2, seed=2)
    tracin = TracInWE(model, train, paths, loss_fn=cosine, batch_size=3, collate_fn=APART)
    scores = tracin.influence(test)
    best = scores.abs().argmax(1, keepdim=True)

    def texts_of(examples):
        columns = [tokenize([row[name] for row in examples], TOKENIZER) for name in ("text1", "text2")]
        return [joined(pair, label=row["label"]) for row, *pair in zip(examples, *columns, strict=True)]

    train_texts, test_texts = texts_of(train), texts_of(test)
    assert train_texts[0].text == f"{train[0]['text1']} │ {train[0]['text2']}"
    assert train_texts[0].token_names.count("[CLS]") == 2
    for [pair] in tracin.word_influence(test, best):
        pair = pair.with_texts(test_texts[pair.test_index], train_texts[pair.train_index])
        both = [
            set(f"{row['text1']} {row['text2']}".split()) for row in (test[pair.test_index], train[pair.train_index])
        ]
        assert {word.text for word in pair.words() if not word.special} == both[0] & both[1]
        assert pair.score == pytest.approx(float(scores[pair.test_index, pair.train_index]), rel=1e-4)
        page = visualization.word_influence_html(pair)
        assert "[SEP] │ [CLS]" in re.sub("<[^>]*>", "", page)  # where one text ends and the next begins
    report = word_report(tracin, test, [row["label"] for row in train], train_texts=train_texts, draws=10)
    assert report.score == pytest.approx(float(scores.sum()), rel=1e-4)
    assert {word.word for word in report.words if not word.special} <= set(" ".join(SENTENCES).split())


def test_an_index_of_pairs_gives_the_same(tmp_path):
    model = Encoder().eval()
    paths = scatter_checkpoints(model, tmp_path / "model")
    options = {"loss_fn": cosine, "batch_size": 3, "collate_fn": APART}
    tracin = TracInWE(model, rows(6, seed=1), paths, **options)
    index = tracin.build_index(tmp_path / "index")
    test = rows(2, seed=2)
    found = TracInWE(model, rows(6, seed=1), paths, **options, index=index).influence(test)
    torch.testing.assert_close(found, tracin.influence(test), rtol=1e-4, atol=1e-5)


def test_what_is_recommended_of_pairs_leaves_bags_of_words_alone(tmp_path):
    model = Encoder().eval()
    paths = scatter_checkpoints(model, tmp_path)
    tracin = TracInWE(model, rows(6), paths, loss_fn=cosine, batch_size=3, collate_fn=APART, preconditioner="auto")
    assert tracin.tables.names == ("input",)
    assert tracin.influence(rows(2, seed=2)).isfinite().all()


def test_what_is_no_text_to_be_joined_is_refused():
    with pytest.raises(TypeError, match="texts of one example as TokenizedText, got str"):
        joined(["a", "b"])
    with pytest.raises(ValueError, match="at least one text"):
        joined([])
