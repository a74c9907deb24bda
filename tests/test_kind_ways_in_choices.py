"""Ways in: a multiple choice is one example, whose rows are those of all its choices; alike however they are padded."""

import re
import warnings

import pytest
import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader

from captum_tracinwe import TracInWE, visualization, word_report
from captum_tracinwe.app.testing import scatter_checkpoints, scores_by_loop
from captum_tracinwe.app.training import words_tokenizer
from captum_tracinwe.batches import Collate
from captum_tracinwe.batches.lengths import trim_padding
from captum_tracinwe.words import joined, tokenize

WORDS = 30
SMALL = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 40,
}
MODELS = {
    "bert": ("BertForMultipleChoice", "BertConfig", SMALL),
    "roberta": ("RobertaForMultipleChoice", "RobertaConfig", {**SMALL, "pad_token_id": 0}),
    "electra": ("ElectraForMultipleChoice", "ElectraConfig", {**SMALL, "embedding_size": 8}),
    "albert": ("AlbertForMultipleChoice", "AlbertConfig", {**SMALL, "embedding_size": 8}),
    "distilbert": (
        "DistilBertForMultipleChoice",
        "DistilBertConfig",
        {"vocab_size": WORDS, "dim": 16, "n_layers": 1, "n_heads": 2, "hidden_dim": 16, "max_position_embeddings": 40},
    ),
}
LOSS = nn.CrossEntropyLoss(reduction="none")


class Own(nn.Module):
    """One's own: it folds, or looks up all words of a batch in a row, and has no mask."""

    def __init__(self, flat=False):
        super().__init__()
        self.words, self.out, self.flat = nn.Embedding(WORDS, 6, padding_idx=0), nn.Linear(6, 1), flat

    def forward(self, input_ids):
        ids = input_ids.reshape(-1) if self.flat else input_ids.flatten(0, 1)
        found = self.words(ids).reshape(*input_ids.shape, -1)
        return self.out(torch.tanh(found).sum(2)).squeeze(-1)


def made(name):
    torch.manual_seed(0)
    if name.startswith("own"):
        return Own(name == "own, flat").eval()
    cls, config, sizes = MODELS[name]
    return getattr(transformers, cls)(getattr(transformers, config)(**sizes)).eval()


def questions(count, choices=3, seed=0, masks=True):
    """Ragged lists, as a tokenizer without padding gives them."""
    generator = torch.Generator().manual_seed(seed)

    def whole(low, high):
        return int(torch.randint(low, high, (1,), generator=generator))

    found = []
    for _ in range(count):
        ids = [[whole(1, WORDS) for _ in range(whole(3, 9))] for _ in range(choices)]
        found.append({"input_ids": ids, "labels": whole(0, choices)})
        if masks:
            found[-1]["attention_mask"] = [[1] * len(row) for row in ids]
    return found


def padded(example):
    """One question alone, filled up to its own longest choice."""
    width = max(map(len, example["input_ids"]))
    ids = torch.tensor([[row + [0] * (width - len(row)) for row in example["input_ids"]]])
    return ids, (ids != 0).long(), torch.tensor([example["labels"]])


def by_loop(model, table, paths, test, train):
    def loss(example):
        ids, mask, label = padded(example)
        if isinstance(model, Own):
            return LOSS(model(ids), label).sum()
        return LOSS(model(input_ids=ids, attention_mask=mask).logits, label).sum()

    ways = [[lambda e=e: loss(e) for e in examples] for examples in (test, train)]
    return scores_by_loop(model, [table], paths, *ways, getattr(table, "padding_idx", None)).float()


def table_of(model):
    return model.words if isinstance(model, Own) else model.get_input_embeddings()


@pytest.mark.parametrize("name", [*MODELS, "own", "own, flat"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_scores_are_those_of_single_questions(name, batch_size, tmp_path):
    model = made(name)
    paths = scatter_checkpoints(model, tmp_path)
    masks = not name.startswith("own")
    train, test = questions(5, seed=1, masks=masks), questions(2, seed=2, masks=masks)
    expected = by_loop(model, table_of(model), paths, test, train)
    for loss in (LOSS, None) if masks else (LOSS,):  # the model's own is a mean over questions
        tracin = TracInWE(model, train, paths, loss_fn=loss, batch_size=batch_size)
        torch.testing.assert_close(tracin.influence(test), expected, rtol=2e-4, atol=1e-6 * float(expected.abs().max()))
    index = tracin.build_index(tmp_path / "index")
    found = TracInWE(model, train, paths, loss_fn=loss, batch_size=batch_size, index=index).influence(test)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-5 * float(expected.abs().max()))


def test_a_collator_of_transformers_and_a_trainer_give_the_same(tmp_path):
    model = made("bert")
    train = questions(6, seed=1)
    tokenizer = words_tokenizer([" ".join(f"w{i}" for i in range(24))])
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    collator = transformers.DataCollatorForMultipleChoice(tokenizer)
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        max_steps=2,
        save_steps=1,
        lr_scheduler_type="constant",
        logging_steps=1,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=train, data_collator=collator)
    trainer.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tracin = TracInWE.from_trainer(trainer, batch_size=4)
        scores = tracin.influence(train[:2])
    paths = [(path, None) for path in tracin.checkpoints]
    assert len(paths) == 2
    plain = TracInWE(model, train, tracin.checkpoints, batch_size=1, loss_fn=LOSS)
    torch.testing.assert_close(scores, plain.influence(train[:2]), rtol=1e-3, atol=1e-6 * float(scores.abs().max()))


def test_lists_of_any_length_are_filled_up_to_one_tensor():
    collate = Collate(made("bert"))
    ids = [[[5, 6], [7]], [[8], [9, 1, 2]]]
    batch = collate([{"input_ids": row, "labels": 0} for row in ids])
    assert batch["input_ids"].tolist() == [[[5, 6, 0], [7, 0, 0]], [[8, 0, 0], [9, 1, 2]]]
    assert batch["attention_mask"].tolist() == [[[1, 1, 0], [1, 0, 0]], [[1, 0, 0], [1, 1, 1]]]
    tensors = [
        {"input_ids": torch.tensor([[5, 6], [7, 8]]), "labels": 1},
        {"input_ids": torch.tensor([[3], [4]]), "labels": 1},
    ]
    assert collate(tensors)["input_ids"].tolist() == [[[5, 6], [7, 8]], [[3, 0], [4, 0]]]


def test_padding_is_cut_along_the_words_and_never_along_the_choices(tmp_path):
    ids = torch.tensor([[[5, 6, 0, 0], [7, 0, 0, 0], [8, 1, 0, 0], [9, 0, 0, 0], [1, 1, 0, 0]]])
    batch = {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": torch.tensor([4])}
    cut = trim_padding(batch)
    assert cut["input_ids"].shape == cut["attention_mask"].shape == (1, 5, 2)
    model, train = made("bert"), questions(5, seed=1)
    paths = scatter_checkpoints(model, tmp_path)
    data = [
        {key: value[0] if key != "labels" else value for key, value in Collate(model)([example]).items()}
        for example in train
    ]
    sizes = max(example["input_ids"].shape[-1] for example in data)
    for example in data:  # as padding="max_length" leaves them
        for key in ("input_ids", "attention_mask"):
            example[key] = nn.functional.pad(example[key], (0, sizes - example[key].shape[-1]))
        example["labels"] = int(example["labels"])
    sorted_by_length = TracInWE(model, data, paths, loss_fn=LOSS, batch_size=2, order_by_length=True)
    expected = by_loop(model, table_of(model), paths, train[:2], train)
    found = sorted_by_length.influence(train[:2])
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-6 * float(expected.abs().max()))


def test_other_numbers_of_choices_in_a_batch_are_refused_and_one_by_one_are_right(tmp_path):
    model = made("bert")
    paths = scatter_checkpoints(model, tmp_path)
    train = [*questions(2, 2, 1), *questions(2, 4, 2)]
    with pytest.raises(ValueError, match=r"examples of 2 and of 4 choices in one batch.*batch_size=1"):
        TracInWE(model, train, paths, loss_fn=LOSS, batch_size=4).self_influence()
    found = TracInWE(model, train, paths, loss_fn=LOSS).influence(train[:1])
    expected = by_loop(model, table_of(model), paths, train[:1], train)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-6 * float(expected.abs().max()))


class Mixed(Own):
    """Its look-ups are of the batch's words, but choices first: whose they are, the shape does not tell."""

    def forward(self, input_ids):
        found = self.words(input_ids.transpose(0, 1).flatten(0, 1))
        found = found.view(input_ids.shape[1], input_ids.shape[0], *found.shape[1:]).transpose(0, 1)
        return self.out(torch.tanh(found).sum(2)).squeeze(-1)


def test_with_look_ups_in_another_order_each_question_is_taken_alone(tmp_path):
    model = Mixed().eval()
    data, paths = questions(4, masks=False), scatter_checkpoints(model, tmp_path)
    tracin = TracInWE(model, data, paths, loss_fn=LOSS, batch_size=4)
    with pytest.warns(UserWarning, match="Whose words are whose cannot be told.*each text is taken alone"):
        found = tracin.influence(data)
    expected = by_loop(model, table_of(model), paths, data, data)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=1e-6 * float(expected.abs().max()))
    with pytest.raises(
        ValueError, match=r"ids of shape \(12, \d\) for a batch of 4: expected the examples along the first"
    ):
        TracInWE(model, data, paths, loss_fn=LOSS, batch_size=4, probe=False).self_influence()


class Meeting(Own):
    """Questions that see each other."""

    def forward(self, input_ids):
        logits = super().forward(input_ids)
        return logits + 0.1 * logits.flip(0)


def test_questions_that_meet_are_refused(tmp_path):
    model = Meeting().eval()
    data = questions(4, masks=False)
    with pytest.raises(ValueError, match="depends on the words of others"):
        TracInWE(model, data, scatter_checkpoints(model, tmp_path), loss_fn=LOSS, batch_size=4).self_influence()


def test_bags_of_words_are_refused_and_not_recommended(tmp_path):
    model = made("bert")
    paths = scatter_checkpoints(model, tmp_path)
    data = questions(4)
    with pytest.raises(ValueError, match=r"table='bag' needs one text to an example.*Take table='input'"):
        TracInWE(model, data, paths, loss_fn=LOSS, batch_size=2, table=("input", "bag")).self_influence()
    auto = TracInWE(model, data, paths, loss_fn=LOSS, batch_size=2, preconditioner="auto")
    assert auto.tables.names == ("input",)
    assert auto.influence(data[:1]).isfinite().all()


def test_words_of_all_choices_are_shown(tmp_path):
    rows = [
        ("the cat sat on", ["the mat", "a red star"], 0),
        (
            "a ship came into",
            [
                "the harbour",
                "a teapot",
            ][:2],
            0,
        ),
        ("she ate", ["the red apple", "the mat"], 0),
    ]
    tokenizer = words_tokenizer([f"{start} {end}" for start, ends, _ in rows for end in ends])
    model = transformers.BertForMultipleChoice(
        transformers.BertConfig(**{**SMALL, "vocab_size": len(tokenizer)})
    ).eval()
    paths = scatter_checkpoints(model, tmp_path)
    texts = [joined(tokenize([(start, end) for end in ends], tokenizer), label=label) for start, ends, label in rows]
    data = [{**tokenizer([start] * len(ends), ends), "labels": label} for start, ends, label in rows]
    tracin = TracInWE(model, data, paths, batch_size=3, loss_fn=LOSS)
    scores = tracin.influence(data)
    [[pair]] = tracin.word_influence(data[:1], [[2]])
    pair = pair.with_texts(texts[0], texts[2])
    assert pair.score == pytest.approx(float(scores[0, 2]), rel=1e-4)
    assert {word.text for word in pair.words() if not word.special} == {"the", "red", "mat"}
    assert texts[2].text == "she ate │ the red apple │ she ate │ the mat"
    report = word_report(tracin, data, [0, 0, 1], train_texts=texts, draws=10)
    assert report.score == pytest.approx(float(scores.sum()), rel=1e-4)
    page = visualization.word_influence_html(pair)
    assert re.search(r"she ate<mark[^>]*><bdi[^>]*>\[SEP\]</bdi></mark> │ ", page)
    assert ">red<" in page
    loader = DataLoader(data, 2, collate_fn=Collate(model))
    torch.testing.assert_close(tracin.influence(loader), scores)
