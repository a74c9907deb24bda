"""Examples of any form give the scores of plain tensors: lists, `datasets.Dataset`, labels of any name, raw texts."""

import pytest
import torch
import transformers
from cases import Examples
from test_models import SMALL, made
from tokenizers.processors import TemplateProcessing
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from captum_tracinwe import TracInWE
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, scores_by_loop, tiny_bert, tiny_gpt2, toy_texts
from captum_tracinwe.app.training import words_tokenizer
from captum_tracinwe.batches.collate import Collate, TokenizeTexts
from captum_tracinwe.gradients.token_losses import TokenLoss, span_loss

LOSS = nn.CrossEntropyLoss(reduction="none")


def tensors(count, seed):
    ids, mask, labels = toy_texts(count, seed=seed)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def lists(batch, label="labels", mask=True):
    """Each text as lists of its own length, with columns that no model takes."""
    found = []
    for i, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        row = {"idx": i, "text": f"text {i}", "input_ids": batch["input_ids"][i, :length].tolist()}
        if mask:
            row["attention_mask"] = [1] * length
        y = batch["labels"][i]
        row[label] = y[:length].tolist() if y.dim() else y.item()
        found.append(row)
    return found


@pytest.fixture
def case(tmp_path):
    model = tiny_bert()
    checkpoints = scatter_checkpoints(model, tmp_path)
    train, test = tensors(7, 1), tensors(3, 2)
    expected = TracInWE(model, Examples(train), checkpoints, loss_fn=LOSS, batch_size=3).influence(test)
    return model, checkpoints, train, test, expected


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("as_set", [False, True])
def test_lists_of_any_length_and_columns_of_no_use(case, mask, as_set):
    model, checkpoints, train, test, expected = case
    data = lists(train, mask=mask)
    for size in (1, 3):
        tracin = TracInWE(model, Examples(train) if as_set else data, checkpoints, loss_fn=LOSS, batch_size=size)
        found = tracin.influence(lists(test, mask=mask))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
        best = tracin.influence(lists(test, mask=mask), k=2).indices
        torch.testing.assert_close(best, tracin.influence(test, k=2).indices)
        assert tracin.word_influence(lists(test), best)[0][0].train_index == int(best[0, 0])


@pytest.mark.parametrize("style", [None, "torch", "numpy"])
def test_a_dataset_of_datasets_with_and_without_a_format(case, style):
    datasets = pytest.importorskip("datasets")
    model, checkpoints, train, test, expected = case
    data = [datasets.Dataset.from_list(lists(batch, "label")) for batch in (train, test)]
    if style:
        data = [part.with_format(style) for part in data]
    tracin = TracInWE(model, data[0], checkpoints, loss_fn=LOSS, batch_size=3)
    torch.testing.assert_close(tracin.influence(data[1]), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    by_length = TracInWE(model, data[0], checkpoints, loss_fn=LOSS, batch_size=3, order_by_length=True)
    torch.testing.assert_close(
        by_length.influence(data[1]), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
    )


@pytest.mark.parametrize("loss", [LOSS, None], ids=["loss_fn", "the model's own"])
def test_labels_under_any_name(case, loss):
    model, checkpoints, train, test, expected = case
    data = lists(train, "topic")
    tracin = TracInWE(model, data, checkpoints, loss_fn=loss, batch_size=3, label_names="topic")
    found = tracin.influence(lists(test, "topic"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    renamed = {("topic" if key == "labels" else key): value for key, value in test.items()}
    torch.testing.assert_close(tracin.influence(renamed), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    with pytest.raises(ValueError, match="no 'topic', which `label_names` names: it has"):
        tracin.influence(test)


def test_labels_of_several_names_reach_the_loss_together(tmp_path):
    torch.manual_seed(0)
    sizes = {**SMALL, "num_labels": 2}
    model = transformers.BertForQuestionAnswering(transformers.BertConfig(**sizes)).eval()
    checkpoints = scatter_checkpoints(model, tmp_path)
    train, test = tensors(5, 1), tensors(3, 2)
    for batch in (train, test):
        batch["start_positions"] = batch.pop("labels")
        batch["end_positions"] = torch.full_like(batch["start_positions"], 3)
    train["end_positions"][0] = 99  # beyond the text: no target

    def run(batch, i):
        return model(**{key: value[i : i + 1] for key, value in batch.items()}).loss

    runs = [[lambda b=batch, i=i: run(b, i) for i in range(len(batch["input_ids"]))] for batch in (test, train)]
    # transformers' own mean over no target is 0 / 0.
    runs[1][0] = lambda: span_loss(
        model(**{k: v[:1] for k, v in train.items()}), {k: v[:1] for k, v in train.items() if "positions" in k}
    ).sum()
    table = model.bert.embeddings.word_embeddings
    expected = scores_by_loop(model, [table], checkpoints, *runs, padding_idx=0)
    names = ["start_positions", "end_positions"]
    tracin = TracInWE(model, Examples(train), checkpoints, loss_fn=span_loss, batch_size=3, label_names=names)
    found = tracin.influence(test).double()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_labels_of_tokens_are_filled_up_with_no_target(tmp_path):
    model, _ = made("bert, tokens")
    checkpoints = scatter_checkpoints(model, tmp_path)
    train, test = tensors(5, 1), tensors(3, 2)
    for batch in (train, test):
        batch["labels"] = (batch["input_ids"] % 3).masked_fill(batch["attention_mask"] == 0, -100)
    loss = TokenLoss(shift=False)
    expected = TracInWE(model, Examples(train), checkpoints, loss_fn=loss).influence(test)
    found = TracInWE(model, lists(train), checkpoints, loss_fn=loss, batch_size=3).influence(lists(test))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.filterwarnings("ignore:The model looks up:UserWarning")  # this tokenizer's token_type_ids, in GPT-2
def test_raw_texts_pairs_and_language_models(tmp_path):
    texts = ["the dog runs home", "a cat", "the cat sleeps at home", "a dog sleeps", "the dog"]
    tokenizer = words_tokenizer(texts)
    ends = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    model = tiny_bert(vocab_size=len(tokenizer))
    checkpoints = scatter_checkpoints(model, tmp_path)
    labels = [0, 1, 2, 1, 0]

    def encoded(*columns, labels=labels):
        batch = dict(tokenizer(*[list(c) for c in columns], padding=True, return_tensors="pt"))
        return {**batch, "labels": torch.tensor(labels)}

    single = TracInWE(model, Examples(encoded(texts)), checkpoints, loss_fn=LOSS, batch_size=2)
    expected = single.influence(encoded(texts[:2], labels=labels[:2]))
    rows = [{"body": text, "topic": y, "more": None} for text, y in zip(texts, labels, strict=True)]
    collate = TokenizeTexts(tokenizer, text="body", label="topic")
    raw = TracInWE(model, rows, checkpoints, loss_fn=LOSS, batch_size=2, collate_fn=collate)
    torch.testing.assert_close(raw.influence(rows[:2]), expected)
    pairs = list(zip(zip(texts, texts[::-1], strict=True), labels, strict=True))
    both = TracInWE(model, pairs, checkpoints, loss_fn=LOSS, batch_size=2, collate_fn=TokenizeTexts(tokenizer))
    expected = TracInWE(model, Examples(encoded(texts, texts[::-1])), checkpoints, loss_fn=LOSS).row_gradients()
    torch.testing.assert_close(both.row_gradients().squared_norms(), expected.squared_norms(), rtol=1e-4, atol=1e-6)
    assert encoded(texts, texts)["token_type_ids"].max() == 1

    language = tiny_gpt2(vocab_size=len(tokenizer))
    checkpoints = scatter_checkpoints(language, tmp_path / "lm")
    collate = TokenizeTexts(tokenizer, label=None, max_length=5)
    tracin = TracInWE(language, texts, checkpoints, loss_fn=TokenLoss(), batch_size=3, collate_fn=collate)
    batch = collate(texts[:2])
    assert batch["labels"][1].tolist()[-1] == -100
    assert batch["input_ids"].shape == (2, 5)
    torch.testing.assert_close(tracin.influence(batch), tracin.influence([{"text": t} for t in texts[:2]]))


def test_a_model_of_ones_own_gets_what_it_names_and_its_padding(tmp_path):
    model = TinyCNN(padding_idx=0)
    rows = [{"input_ids": [1, 2, 3], "label": 0}, {"input_ids": [4, 5], "label": 1}]
    batch = Collate(model, 0)(rows)
    assert batch["input_ids"].tolist() == [[1, 2, 3], [4, 5, 0]]
    assert batch["label"].tolist() == [0, 1]
    rows.append({"input_ids": [6, 7, 8, 9], "label": 1})
    tracin = TracInWE(model, rows[::2], scatter_checkpoints(model, tmp_path), loss_fn=LOSS, batch_size=2)
    with pytest.warns(UserWarning, match="differ from those of each text alone"):  # a CNN sees where its texts end
        assert tracin.influence(rows[::2]).shape == (2, 2)

    class Any(nn.Module):
        def forward(self, **columns):
            return columns

    kept = Collate(Any())([{"a": 1, "b": [0.5], "name": "x", "none": None}])
    assert {key: value.tolist() for key, value in kept.items()} == {"a": [1], "b": [[0.5]]}


def test_a_dataset_of_pairs_is_as_in_captum(tmp_path):
    ids, _, labels = toy_texts(5, seed=1)
    model = TinyCNN(padding_idx=0)
    tracin = TracInWE(
        model, TensorDataset(ids, labels), scatter_checkpoints(model, tmp_path), loss_fn=LOSS, batch_size=2
    )
    torch.testing.assert_close(tracin.influence(TensorDataset(ids, labels)), tracin.influence((ids, labels)))


def test_what_cannot_be_made_a_batch_is_refused_in_words(tmp_path):
    bert, cnn = tiny_bert(), TinyCNN()
    with pytest.raises(ValueError, match="columns 'text', 'label', and the model takes .*input_ids.*TokenizeTexts"):
        Collate(bert)([{"text": "a", "label": 1}])
    with pytest.raises(
        ValueError, match=r"different lengths \(1 to 2\).*neither the model takes an attention_mask nor"
    ):
        Collate(cnn)([{"input_ids": [1, 2]}, {"input_ids": [1]}])
    with pytest.raises(TypeError, match="column 'input_ids' holds 'a b', which is no number.*TokenizeTexts"):
        Collate(bert)([{"input_ids": "a b"}])
    with pytest.raises(ValueError, match="lacks the column 'label'"):
        Collate(bert)([{"input_ids": [1], "label": 1}, {"input_ids": [1]}])
    tokenizer = words_tokenizer(["a b"])
    with pytest.raises(ValueError, match="has the columns 'text', 'topic': expected 'label'"):
        TokenizeTexts(tokenizer)([{"text": "a", "topic": 1}])
    tokenizer.pad_token = None
    with pytest.raises(ValueError, match="no padding token.*tokenizer.pad_token = tokenizer.eos_token"):
        TokenizeTexts(tokenizer)
    rows = [{"input_ids": [1], "label": 1}]
    for options, error, message in (
        ({"collate_fn": 3}, TypeError, "`collate_fn` should be a function"),
        ({"label_names": [3]}, TypeError, "`label_names` should be a name or a list of names"),
    ):
        with pytest.raises(error, match=message):
            TracInWE(bert, rows, [tmp_path / "x"], **options)
    with pytest.raises(ValueError, match="`collate_fn` needs a Dataset"):
        TracInWE(bert, DataLoader(rows), [tmp_path / "x"], collate_fn=Collate(bert))
