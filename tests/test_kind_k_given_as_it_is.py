"""Kind K: what a tokenizer, a tutorial or a class of one's own gives is taken, or refused with the advice that helps."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from one_by_one import LOSS, assert_near, checkpoints, scores_one_by_one
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader
from transformers import (
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import scatter_checkpoints, tiny_bert
from captum_tracinwe.batches import TokenizeTexts
from captum_tracinwe.gradients.token_losses import TokenLoss

TEXTS = ["the storm hit the coast", "the team won", "a cup of the team", "coast", "a storm hit a cup"]
WORDS = sorted({word for text in TEXTS for word in text.split()})
ROWS = [{"text": text, "label": number % 2} for number, text in enumerate(TEXTS)]


class Mean(nn.Module):
    """Knows padding by its id, and takes no mask."""

    def __init__(self, masks=True):
        super().__init__()
        self.embedding, self.out, self.masks = nn.Embedding(30, 6, padding_idx=0), nn.Linear(6, 3), masks

    def forward(self, input_ids):
        mask = (input_ids != 0).float()[..., None] if self.masks else torch.ones(*input_ids.shape, 1)
        return self.out((torch.tanh(self.embedding(input_ids) + 0.3) * mask).sum(1) / mask.sum(1))


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.EmbeddingBag(30, 6), nn.Linear(6, 3)

    def forward(self, text, offsets):
        return self.out(self.embedding(text, offsets))


def maker(kind=Mean, **options):
    def make():
        torch.manual_seed(0)
        return kind(**options)

    return make


def tokenizer(**options):
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[UNK]": 1, **{w: i for i, w in enumerate(WORDS, 2)}}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", **options)


def ids_of(text):
    return [WORDS.index(word) + 2 for word in text.split()]


IDS = [{"input_ids": ids_of(row["text"]), "labels": row["label"]} for row in ROWS]


def scores(make, paths, train=IDS, test=IDS):
    """(N, M), text by text: without any padding."""

    def alone(rows):
        return [(torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])) for row in rows]

    pairs = [[scores_one_by_one(make, paths, lambda m: m.embedding, b, a) for b in alone(train)] for a in alone(test)]
    return torch.stack([torch.cat(row, 1)[0] for row in pairs])


# ------------------------------------------------------------------------------------------ a model without a mask


TOKENIZED = {
    "examples": lambda collate: {"train_dataset": ROWS, "collate_fn": collate},
    "a loader": lambda collate: {"train_dataset": DataLoader(ROWS, 4, collate_fn=collate)},
}


@pytest.mark.parametrize("way", TOKENIZED)
@pytest.mark.parametrize("kinds", [False, True], ids=["mask", "mask and kinds"])
def test_a_model_that_takes_no_mask_goes_with_a_tokenizer(way, kinds, tmp_path):
    names = ["input_ids", "token_type_ids", "attention_mask"] if kinds else ["input_ids", "attention_mask"]
    paths, collate = checkpoints(maker(), tmp_path), TokenizeTexts(tokenizer(model_input_names=names))
    tracin = TracInWE(maker()(), **TOKENIZED[way](collate), checkpoints=paths, loss_fn=LOSS, batch_size=4)
    assert_near(tracin.influence(ROWS), scores(maker(), paths))


def test_padding_that_such_a_model_sees_is_found(tmp_path):
    make = maker(masks=False)
    paths = checkpoints(make, tmp_path)
    tracin = TracInWE(make(), ROWS, paths, loss_fn=LOSS, batch_size=4, collate_fn=TokenizeTexts(tokenizer()))
    with pytest.warns(UserWarning, match="texts of equal length are taken together"):
        found = tracin.influence(ROWS)
    assert_near(found, scores(make, paths))


class OwnMask(Mean):
    def forward(self, input_ids, padding_mask=None):
        return super().forward(input_ids)


def test_a_mask_that_the_model_takes_by_another_name_is_told_without_advice_that_was_heeded(tmp_path):
    paths = checkpoints(maker(OwnMask), tmp_path)
    tracin = TracInWE(maker(OwnMask)(), ROWS, paths, loss_fn=LOSS, batch_size=4, collate_fn=TokenizeTexts(tokenizer()))
    with pytest.raises(TypeError, match="'attention_mask', which .* does not take: expected .*padding_mask") as told:
        tracin.influence(ROWS)
    assert "TokenizeTexts" not in str(told.value)


# ------------------------------------------------------------------------------------------------ examples as objects


@dataclass
class Text:
    ids: list
    label: int


class Plain:
    def __init__(self, ids, label):
        self.ids, self.label = ids, label


def of_objects(examples):
    ids = pad_sequence([torch.tensor(one.ids) for one in examples], batch_first=True)
    return {"input_ids": ids, "labels": torch.tensor([one.label for one in examples])}


@pytest.mark.parametrize("kind", [Text, Plain, lambda ids, label: SimpleNamespace(ids=ids, label=label)])
def test_a_list_of_objects_is_asked_about_with_the_collator_of_the_training_set(kind, tmp_path):
    paths = checkpoints(maker(), tmp_path)
    objects = [kind(row["input_ids"], row["labels"]) for row in IDS]
    tracin = TracInWE(maker()(), objects, paths, loss_fn=LOSS, batch_size=4, collate_fn=of_objects)
    expected = scores(maker(), paths)
    assert_near(tracin.influence(objects), expected)
    assert_near(tracin.influence(objects[1:2]), expected[1:2])


# -------------------------------------------------------------------------------------------------- order by length


@pytest.mark.parametrize("kind", [list, torch.tensor])
def test_bare_ids_are_ordered_by_their_number(kind, tmp_path):
    paths = checkpoints(maker(), tmp_path)
    rows = [{**row, "input_ids": kind(row["input_ids"])} for row in IDS]
    tracin = TracInWE(maker()(), rows, paths, loss_fn=LOSS, batch_size=2, order_by_length=True)
    assert tracin.training_set.order.tolist() == [3, 1, 0, 2, 4]
    assert_near(tracin.influence(rows), scores(maker(), paths))


def test_ids_of_several_texts_cannot_be_ordered_without_a_mask(tmp_path):
    rows = [{"input_ids": [[1, 2], [3]], "labels": 0}]
    with pytest.raises(
        ValueError, match="`attention_mask`.*or with `input_ids` of single texts; example 0 is input_ids"
    ):
        TracInWE(maker()(), rows, checkpoints(maker(), tmp_path), loss_fn=LOSS, batch_size=2, order_by_length=True)


# ---------------------------------------------------------------------------------------------------- labels first


def labels_first(examples):
    batch = of_objects([Text(row["input_ids"], row["labels"]) for row in examples])
    return batch["labels"], batch["input_ids"]


def bag_of_the_tutorial(examples):
    lengths = torch.tensor([0, *(len(row["input_ids"]) for row in examples[:-1])])
    words = torch.tensor([word for row in examples for word in row["input_ids"]])
    return torch.tensor([row["labels"] for row in examples]), words, lengths.cumsum(0)


FIRST = {
    "a collator": (Mean, IDS, labels_first, r"first element .* shape \(4,\), and a later one \(4, 5\): are the labels"),
    "tuples": (
        Mean,
        [(row["labels"], torch.tensor(row["input_ids"][:1])) for row in IDS],
        None,
        r"shape \(4,\), and a later one \(4, 1\): are the labels first\?.*[Ee]xpected \(ids, ..., labels\)",
    ),
    "a bag's offsets": (Bag, IDS, bag_of_the_tutorial, r"called with 4 ids and the offsets .*the labels come last"),
}


@pytest.mark.parametrize("name", FIRST)
def test_labels_that_come_first_are_told(name, tmp_path):
    kind, rows, collate, said = FIRST[name]
    make = maker(kind)
    tracin = TracInWE(
        make(), rows, checkpoints(make, tmp_path), loss_fn=LOSS, batch_size=4, collate_fn=collate, layers=["embedding"]
    )
    with pytest.raises(ValueError, match=said):
        tracin.influence(rows[:4])


# ------------------------------------------------------------------------------------------- no token ids, no shape


@pytest.mark.parametrize("collator", [DataCollatorWithPadding, DataCollatorForTokenClassification])
def test_raw_texts_with_a_collator_that_fills_up_token_ids_are_told(collator, tmp_path):
    tracin = TracInWE(
        maker()(), ROWS, checkpoints(maker(), tmp_path), loss_fn=LOSS, batch_size=4, collate_fn=collator(tokenizer())
    )
    for way, name in ((tracin.self_influence, "train_dataset"), (lambda: tracin.influence(ROWS), "inputs")):
        with pytest.raises(ValueError, match=f"examples of `{name}` have no token ids.*TokenizeTexts"):
            way()


@pytest.mark.parametrize("of_loader", [False, True])
def test_a_tokenizer_is_no_collator(of_loader, tmp_path):
    paths = checkpoints(maker(), tmp_path)
    given = (
        {"train_dataset": DataLoader(ROWS, 4, collate_fn=tokenizer())}
        if of_loader
        else {"train_dataset": ROWS, "collate_fn": tokenizer()}
    )
    with pytest.raises(TypeError, match=r"`collate_fn` is a tokenizer .*TokenizeTexts\(tokenizer, text=..., label"):
        TracInWE(maker()(), **given, checkpoints=paths, loss_fn=LOSS)


@pytest.mark.parametrize("label", ["label", "target"])
def test_an_encoder_decoder_without_a_target_is_told(label, tmp_path):
    sizes = {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2}

    def make():
        torch.manual_seed(0)
        return T5ForConditionalGeneration(T5Config(vocab_size=30, decoder_start_token_id=0, **sizes))

    rows = [{"input_ids": row["input_ids"], label: row["labels"]} for row in IDS]
    paths = checkpoints(make, tmp_path)
    tracin = TracInWE(make(), rows, paths, loss_fn=TokenLoss(shift=False), batch_size=4, label_names=label)
    with pytest.raises(
        ValueError, match="decoder of the T5ForConditionalGeneration reads none of it. Expected 'labels'"
    ):
        tracin.influence(rows)


def test_a_model_whose_layers_have_no_shape_yet_is_told(tmp_path):
    class Lazy(Mean):
        def __init__(self):
            super().__init__()
            self.out = nn.LazyLinear(3)

    paths = checkpoints(maker(), tmp_path)
    with pytest.raises(ValueError, match=r"'out.weight', 'out.bias' have no shape yet.*Call model\(...\) once"):
        TracInWE(Lazy(), IDS, paths, loss_fn=LOSS)


def test_lists_of_many_lengths_that_a_collator_only_stacks_are_told(tmp_path):
    from transformers import default_data_collator

    model = tiny_bert()
    paths = scatter_checkpoints(model, tmp_path)
    rows = [{"input_ids": list(range(1, 4 + i)), "labels": i % 2} for i in range(4)]
    tracin = TracInWE(model, rows, paths, loss_fn=LOSS, batch_size=2, collate_fn=default_data_collator)
    with pytest.raises(ValueError, match="cannot make one batch of the examples of `train_dataset`.*collate_fn="):
        tracin.influence([rows[0]])
