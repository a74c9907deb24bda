"""Kind K: what is no batch and no data set is read where it can be, and else told in the user's words, never in torch's."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from captum_tracinwe import TracInWE, word_report
from captum_tracinwe.app.testing import (
    TinyCNN,
    language_model_loss,
    scatter_checkpoints,
    scores_by_loop,
    tiny_bert,
    tiny_gpt2,
    toy_texts,
    toy_tracin,
)
from captum_tracinwe.app.training import words_tokenizer
from captum_tracinwe.batches.collate import TokenizeTexts
from captum_tracinwe.gradients.token_losses import TokenLoss

LOSS = nn.CrossEntropyLoss(reduction="none")
TEXTS = ["a dog runs", "the cat sleeps well", "a b c d", "the dog sleeps"]
TOKENIZER = words_tokenizer(TEXTS)
TOKENIZER.model_input_names = ["input_ids", "attention_mask"]  # GPT-2 would look token types up among its words
RAW = [{"text": text, "label": i % 2} for i, text in enumerate(TEXTS)]
ROWS = [{"input_ids": TOKENIZER(text)["input_ids"], "labels": i % 2} for i, text in enumerate(TEXTS)]
IDS, _, LABELS = toy_texts(6)


class Bare:
    """A tokenizer that adds no special tokens, as GPT-2's."""

    def __init__(self, names=("input_ids", "attention_mask")):
        self.pad_token_id, self.model_input_names = 0, list(names)

    def __call__(self, texts, **options):
        rows = [[5 + len(word) for word in text.split()] for text in texts]
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return {"input_ids": ids, "attention_mask": mask}


class Classifier:
    """A model with its checkpoints, asked with whatever data; scores by a loop over single examples."""

    def __init__(self, model, folder):
        self.model, self.paths = model, scatter_checkpoints(model, folder)

    def __call__(self, data=None, inputs=None, **options):
        given = {"loss_fn": LOSS, "batch_size": 2, **options}
        tracin = TracInWE(self.model, self.default if data is None else data, self.paths, **given)
        return tracin.self_influence() if inputs is None else tracin.influence(inputs)

    def by_loop(self, test, train):
        def losses(batches):
            return [lambda b=b: LOSS(self.run(b), torch.tensor([b[1]])).sum() for b in batches]

        self.model.eval()
        embeddings = [m for m in self.model.modules() if isinstance(m, nn.Embedding) and m.weight.shape[0] > 12][:1]
        padding = embeddings[0].padding_idx
        return scores_by_loop(self.model, embeddings, self.paths, losses(test), losses(train), padding).float()

    def run(self, example):
        output = self.model(torch.as_tensor(example[0])[None])
        return getattr(output, "logits", output)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    found = Classifier(
        tiny_bert(vocab_size=len(TOKENIZER), max_position_embeddings=12), tmp_path_factory.mktemp("bert")
    )
    found.default = ROWS
    return found


@pytest.fixture(scope="module")
def cnn(tmp_path_factory):
    found = Classifier(TinyCNN(), tmp_path_factory.mktemp("cnn"))
    found.default = list(zip(IDS, LABELS, strict=True))
    return found


def pairs(rows=ROWS):
    return [(row["input_ids"], row["labels"]) for row in rows]


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


# ------------------------------------------------------------------------------------------------- what can be read


def frames(pandas):
    frame = pandas.DataFrame(ROWS)
    mixed = frame.assign(share=0.5, note=None)  # a row as a Series would make the label a float
    return {
        "plain": frame,
        "an index of its own": frame.set_index(pandas.Index([7, 3, 9, 1])),
        "one that a filter left": pandas.concat([frame.iloc[:2], frame, frame.iloc[2:]]).iloc[2:6],
        "columns of several types": mixed,
        "int32 labels": frame.astype({"labels": "int32"}).astype({"labels": "Int64"}),
    }


@pytest.mark.parametrize(
    "kind", ["plain", "an index of its own", "one that a filter left", "columns of several types", "int32 labels"]
)
def test_a_data_frame_is_read_by_rows_as_training_set_and_as_inputs(bert, kind):
    frame = frames(pytest.importorskip("pandas"))[kind]
    expected = bert.by_loop(pairs(), pairs())
    close(bert(frame, frame), expected)
    close(bert(frame, frame.iloc[2:]), expected[2:])
    close(bert(frame, frame.iloc[::-1]), expected.flip(0))  # by place, not by label


def test_a_data_frame_of_raw_texts_goes_with_a_tokenizer(bert):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"body": TEXTS, "topic": [0, 1, 0, 1], "unused": [1.5] * 4}, index=list("dcba"))
    collate = TokenizeTexts(TOKENIZER, text="body", label="topic")
    close(bert(frame, frame[frame.topic == 1], collate_fn=collate), bert.by_loop(pairs()[1::2], pairs()))
    with pytest.raises(ValueError, match="columns 'body', 'topic', 'unused', and the model takes.*TokenizeTexts"):
        bert(frame)
    missing = pandas.DataFrame({"body": ["a dog", None], "topic": [0, 1]})
    with pytest.raises(TypeError, match=r"an example has \[None\] for its text.*Leave out"):
        bert(missing, collate_fn=collate)
    with pytest.raises(TypeError, match="'topic' of an example holds None for a label"):
        bert(pandas.DataFrame({"body": ["a dog", "b"], "topic": [0, None]}), collate_fn=collate)


def test_a_data_frame_has_the_columns_that_datasets_has():
    pandas, datasets = pytest.importorskip("pandas"), pytest.importorskip("datasets")
    from captum_tracinwe.batches.data_sets import as_dataset

    frame = pandas.DataFrame({"text": ["a", None], "label": [1, 2], "score": [0.5, math.nan], 7: [[1, 2], [3]]})
    rows = as_dataset(frame)
    theirs = datasets.Dataset.from_pandas(frame.rename(columns=str))
    assert [rows[i] for i in range(len(rows))] == theirs.to_list()
    with pytest.raises(ValueError, match="DataFrame with two columns 'a'.*Rename one"):
        as_dataset(pandas.DataFrame([[1, 2]], columns=["a", "a"]))


@pytest.mark.filterwarnings("ignore:The checkpoint.*has no scheduler")
def test_a_finished_run_takes_a_data_frame(bert, tmp_path):
    pandas = pytest.importorskip("pandas")
    for name in ("checkpoint-1", "checkpoint-2"):
        bert.model.save_pretrained(tmp_path / name)
        TOKENIZER.save_pretrained(tmp_path / name)
        state = '{"log_history": [{"step": 2, "learning_rate": 0.1}], "global_step": 2}'
        (tmp_path / name / "trainer_state.json").write_text(state)
    options = {"model": bert.model, "batch_size": 2, "loss_fn": LOSS}
    found = TracInWE.from_pretrained_run(tmp_path, pandas.DataFrame(ROWS), **options).self_influence()
    close(found, TracInWE.from_pretrained_run(tmp_path, ROWS, **options).self_influence())


class Stream(IterableDataset):
    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


def test_columns_lists_of_tuples_and_streams_are_data_sets(bert, cnn):
    expected = bert.by_loop(pairs(), pairs())
    columns = {key: [row[key] for row in ROWS] for key in ROWS[0]}
    close(bert(columns, columns), expected)
    close(bert(Stream(ROWS), Stream(ROWS)), expected)
    lists = [(ids.tolist(), int(label)) for ids, label in zip(IDS, LABELS, strict=True)]
    expected = cnn.by_loop(lists, lists)
    for data in (lists, list(zip(IDS, LABELS, strict=True)), [(np.array(ids), label) for ids, label in lists]):
        close(cnn(data, data), expected)
    close(cnn({"input_ids": IDS, "labels": LABELS}, (IDS.numpy(), LABELS.numpy())), expected)


def test_a_series_of_texts_is_read_by_place(tmp_path):
    pandas = pytest.importorskip("pandas")
    model = tiny_gpt2(vocab_size=len(TOKENIZER))
    paths = scatter_checkpoints(model, tmp_path)
    options = {"loss_fn": TokenLoss(), "batch_size": 2, "collate_fn": TokenizeTexts(TOKENIZER, label=None)}
    found = TracInWE(model, pandas.Series(TEXTS, index=[3, 2, 1, 0]), paths, **options).influence(
        pandas.Series(TEXTS[1:2])
    )
    ids = [torch.tensor([TOKENIZER(text)["input_ids"]]) for text in TEXTS]
    losses = [lambda x=x: language_model_loss(model(x).logits, x).sum() for x in ids]
    model.eval()
    close(found, scores_by_loop(model, [model.get_input_embeddings()], paths, losses[1:2], losses).float())


# ------------------------------------------------------------------------------------------------------ empty texts


def test_a_text_without_tokens_scores_nothing_as_a_language_models_and_changes_no_other(tmp_path):
    model = tiny_gpt2()
    paths = scatter_checkpoints(model, tmp_path)
    texts = ["a bb ccc bb", "", "bb a dddd"]
    losses = []
    for text in texts:
        ids = torch.tensor([[5 + len(word) for word in text.split()]])
        losses.append(
            lambda x=ids: language_model_loss(model(x).logits, x).sum() if x.numel() else model.lm_head.weight[0, 0] * 0
        )
    model.eval()
    some = [losses[0], losses[2]]
    expected = torch.zeros(3, 3)
    rows = torch.tensor([0, 2])
    expected[rows[:, None], rows] = scores_by_loop(model, [model.get_input_embeddings()], paths, some, some).float()
    tokens = [{"input_ids": ids, "labels": ids} for ids in ([5 + len(word) for word in text.split()] for text in texts)]
    for size in (1, 2, 3):
        for data, collate in (
            (texts, TokenizeTexts(Bare(), label=None)),
            (texts, TokenizeTexts(Bare(["input_ids"]), label=None)),
            (tokens, None),
        ):
            tracin = TracInWE(model, data, paths, loss_fn=TokenLoss(), batch_size=size, collate_fn=collate)
            with pytest.warns(UserWarning, match=r"Training examples \[1\] have no target"):
                close(tracin.influence(data), expected)


def test_a_text_without_tokens_and_with_a_label_is_named(bert):
    with pytest.raises(ValueError, match="the text '' has no token: expected at least one.*Leave out"):
        bert([{"text": "a b", "label": 1}, {"text": "", "label": 0}], collate_fn=TokenizeTexts(Bare()))
    for rows in (
        [{"input_ids": [], "labels": 0}],
        [{"input_ids": [2, 3], "labels": 1}, {"input_ids": [], "labels": 0}],
    ):
        with pytest.raises(ValueError, match=r"has no token in 'input_ids' \(labels=0\)"):
            bert(rows)
    with pytest.raises(ValueError, match=r"ids have shape \(2, 0\): expected texts of at least one token"):
        bert(inputs={"input_ids": torch.zeros(2, 0).long(), "labels": torch.tensor([0, 1])})


# -------------------------------------------------------------------------------------------- what is no data set


class NoLength:
    def __getitem__(self, index):
        return ROWS[index]


SPLITS = {"train": ROWS, "test": ROWS[:2]}
NO_DATA = {
    "splits": (SPLITS, ValueError, r"of type dict holds data sets by name \('train', 'test'\).*\w+=data\['train'\]"),
    "a generator": ((row for row in ROWS), TypeError, "of type generator can be read only once.*list"),
    "a map": (map(dict, ROWS), TypeError, "of type map can be read only once.*list"),
    "a set": ({1, 2}, TypeError, "of type set has no order.*list"),
    "a number without dimension": (torch.tensor(3), TypeError, r"a single number \(tensor\(3\)\)"),
    "NumPy's": (np.array(3), TypeError, r"a single number \(array\(3\)\)"),
}
NO_TRAINING = {
    "a name": ("train.csv", TypeError, "is the name 'train.csv': expected the examples themselves.*Read them"),
    "a path": (Path("train"), TypeError, "is the name 'train'"),
    "an int": (5, TypeError, "of type int has no examples by number"),
    "a class": (list, TypeError, "is the class list has no examples by number"),
    "a function": (len, TypeError, "of type builtin_function_or_method has no examples"),
    "a model": (nn.Linear(2, 2), TypeError, "of type Linear has no examples by number"),
    "no length": (
        NoLength(),
        TypeError,
        "of type NoLength has no examples by number: expected a Dataset with a length",
    ),
    "a tensor": (IDS, TypeError, "of type Tensor holds bare tensors.*TensorDataset"),
    "an array": (IDS.numpy(), TypeError, "of type ndarray holds bare tensors.*TensorDataset"),
    "a batch": ((IDS, LABELS), TypeError, "of type tuple holds bare tensors.*TensorDataset"),
    "a batch of arrays": ((IDS.numpy(), LABELS.numpy()), TypeError, "of type tuple holds bare tensors"),
    "a loader of splits": (DataLoader(SPLITS), ValueError, "holds data sets by name"),
    "a loader of columns": (
        DataLoader({"a": [1], "b": [2]}),
        TypeError,
        "a DataLoader of a dict, which torch does not read",
    ),
    "ids without labels": (
        [row["input_ids"] for row in ROWS],
        TypeError,
        r"is a list of numbers \(\[2, .*\(ids, label\)",
    ),
    "None among examples": ([ROWS[0], None], TypeError, "is a NoneType where the first of its batch is a dict"),
    "a tuple among mappings": ([ROWS[0], (1, 2)], TypeError, "is a tuple where the first of its batch is a dict"),
    "Nones": (
        [None, None],
        ValueError,
        "torch cannot make one batch of the examples of `train_dataset`: .*leave out None",
    ),
    "no labels": ([(IDS[0], None)] * 2, ValueError, "torch cannot make one batch.*leave out None"),
    "ragged tuples": (
        [([1, 2, 3], 0), ([3, 4], 1)],
        ValueError,
        r"torch cannot make one batch.*\[3\] at entry 0 and \[2\]",
    ),
    "a loader of ragged rows": (DataLoader(ROWS, 4), ValueError, "torch cannot make one batch.*filled up"),
    "a loader of unlike rows": (DataLoader([{"a": 1}, {"b": 2}], 2), ValueError, "torch cannot make one batch"),
    "dimensions": (
        [{"input_ids": [2, 3], "labels": [1]}, {"input_ids": [2, 3], "labels": 1}],
        ValueError,
        r"shapes \(1,\) and \(\)",
    ),
}


@pytest.mark.parametrize("kind", {**NO_DATA, **NO_TRAINING})
def test_what_is_no_training_set_is_told(bert, kind):
    data, error, match = {**NO_DATA, **NO_TRAINING}[kind]
    with pytest.raises(error, match=match):
        bert(data)


def test_the_splits_of_datasets_are_told(bert):
    datasets = pytest.importorskip("datasets")
    splits = datasets.DatasetDict({name: datasets.Dataset.from_list(rows) for name, rows in SPLITS.items()})
    streams = datasets.IterableDatasetDict({name: data.to_iterable_dataset() for name, data in splits.items()})
    for given in (splits, streams):
        for asked in ({"data": given}, {"inputs": given}):
            with pytest.raises(
                ValueError, match=r"by name \('train', 'test'\): expected one. Choose a split.*data\['train'\]"
            ):
                bert(**asked)
    with pytest.raises(ValueError, match="is a tuple of data sets: expected one"):
        bert((splits["train"], splits["test"]))
    nested = datasets.Dataset.from_list([{"input_ids": [2, 3], "labels": 0, "meta": [{"a": 1}]}] * 2)
    assert bert(inputs=nested[:2]).shape == (2, 4)  # a column of mappings is a column


NO_INPUTS = {
    "tuples of tuples": (
        ((IDS, LABELS), (IDS, LABELS)),
        "(?s)first element of the batch is a list.*list of mappings or",
    ),
    "batches in a list": (
        [{"input_ids": IDS[:1], "labels": LABELS[:1]}] * 2,
        r"shape \(2, 1, 9\): expected \(N, T\).*DataLoader",
    ),
    "three dimensions": ((IDS[:, :, None], LABELS), r"shape \(6, 9, 1\): expected \(N, T\)"),
    "lists": (([[1, 2], [3, 4]], [0, 1]), r"at least one tensor.*got none \(list, list\).*torch.tensor"),
    "a list of ids": (
        ([[1, 2], [3, 4]], LABELS[:2]),
        "element of the batch is a list.*[Ee]xpected a tensor of token ids",
    ),
    "keys that are no names": ({0: IDS, 1: LABELS}, "The batch has a key 0: expected names"),
    "one too many": (
        (IDS, LABELS, LABELS),
        "The batch has 3 entries: the last is taken for the labels.*gets the 2 before. It takes input_ids",
    ),
    "another name": (
        {"ids": IDS, "labels": LABELS},
        "has 'ids', which TinyCNN.forward does not take: expected input_ids",
    ),
    "nothing to read": ({"labels": LABELS}, "The batch has 'labels': expected input_ids"),
    "complex numbers": ((IDS.to(torch.complex64), LABELS), "ids are of type torch.complex64: expected whole numbers"),
    "a sparse tensor": ((IDS.to_sparse(), LABELS), "ids are a sparse tensor.*to_dense"),
    "a loader of raw rows": (DataLoader(RAW, 2), "has 'text', which TinyCNN.forward does not take.*TokenizeTexts"),
    "a loader of ragged rows": (DataLoader(ROWS, 4), "torch cannot make one batch of the examples of `inputs`"),
}


@pytest.mark.parametrize("kind", {**{key: value[::2] for key, value in NO_DATA.items()}, **NO_INPUTS})
def test_what_cannot_be_asked_about_is_told(cnn, kind):
    inputs, match = {**{key: value[::2] for key, value in NO_DATA.items()}, **NO_INPUTS}[kind]
    if kind in ("a generator", "a map"):  # each is read once
        inputs = iter(ROWS)
        match = "of type list_iterator can be read only once"
    with pytest.raises((TypeError, ValueError), match=match):
        cnn(inputs=inputs)


def test_a_mapping_without_a_word_for_transformers_is_told(bert):
    # transformers 4 names the key itself
    match = "The batch has ('text', 'label', and the model reads none of it: expected 'input_ids'|'text', which Bert)"
    with pytest.raises((TypeError, ValueError), match=match):
        bert(inputs=DataLoader(RAW, 2))


# ---------------------------------------------------------------------------------------------------- TokenizeTexts


TOLD = {
    "three": ([("a", "b", 1)], TypeError, r"an example is \('a', 'b', 1\).*\(\(first, second\), label\)"),
    "one": ([("a",)], TypeError, r"an example is \('a',\)"),
    "numbers": ([1, 2], TypeError, "an example is 1: expected a mapping, or"),
    "None": ([None, None], TypeError, "an example is None"),
    "mixed": ([("a", 1), (("a", "b"), 1)], ValueError, "single texts and pairs of texts in one batch"),
    "ragged labels": ([("a", [1]), ("b", [1, 2])], TypeError, r"holds \[\[1\], \[1, 2\]\] for a label"),
    "mappings for labels": ([("a", {"x": 1})], TypeError, "for a label: expected a number"),
    "a huge label": ([("a", 10**30)], TypeError, "for a label: expected a number"),
}


@pytest.mark.parametrize("kind", TOLD)
def test_examples_that_are_no_texts_with_labels_are_told(bert, kind):
    data, error, match = TOLD[kind]
    with pytest.raises(error, match=f"TokenizeTexts: .*{match}"):
        bert(data, collate_fn=TokenizeTexts(TOKENIZER))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"tokenizer": None}, "a tokenizer of transformers, got None"),
        ({"tokenizer": "bert-base-uncased"}, "got 'bert-base-uncased'.*AutoTokenizer"),
        ({"tokenizer": type(TOKENIZER)}, "got <class"),
        ({"tokenizer": str.split}, "a tokenizer of transformers"),
        ({"text": None}, "`text` as the name of a column, or of two of them, got None"),
        ({"text": ()}, r"or of two of them, got \(\)"),
        ({"text": ("a", "b", "c")}, r"or of two of them, got \('a', 'b', 'c'\)"),  # the third would be a target's text
        ({"label": 3}, "`label` as the name of a column, or None, got 3"),
        ({"max_length": "64"}, "`max_length` as a whole number of at least 1, or None, got '64'"),
        ({"max_length": 0}, "got 0"),
        ({"max_length": -1}, "got -1"),
        ({"max_length": 6.0}, "got 6.0"),
    ],
)
def test_arguments_of_tokenize_texts_are_told(options, match):
    with pytest.raises((TypeError, ValueError), match=f"TokenizeTexts: expected.*{match}"):
        TokenizeTexts(**{"tokenizer": TOKENIZER, **options})


def test_half_a_character_is_read_as_it_is_shown(bert):
    collate = TokenizeTexts(TOKENIZER)
    close(bert([("a \ud800 dog", 1)], collate_fn=collate), bert([("a ? dog", 1)], collate_fn=collate))


# --------------------------------------------------------------------------------------- positions and other tables


class Positions(nn.Module):
    """An own model with positions that are learned, without a config."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.words, self.out = kind, nn.Embedding(30, 6), nn.Linear(6, 3)
        self.types = nn.Embedding(2, 6)
        if kind == "parameter":
            self.pos_emb = nn.Parameter(torch.randn(1, 8, 6))
        elif kind == "buffer":
            self.register_buffer("pos_table", torch.randn(8, 6))
        else:
            self.places = nn.Embedding(10 if kind == "offset" else 8, 6)

    def forward(self, input_ids, types=None):
        x, t = self.words(input_ids), input_ids.shape[1]
        if types is not None:
            x = x + self.types(types)
        if self.kind in ("parameter", "buffer"):
            table = self.pos_emb if self.kind == "parameter" else self.pos_table
            return self.out(torch.tanh(x + table).mean(1)) if t > 8 else self.out(torch.tanh(x).mean(1))
        at = torch.arange(t)[None] + 2 * (self.kind == "offset")
        at = nn.functional.embedding(at, self.places.weight) if self.kind == "function" else self.places(at)
        return self.out(torch.tanh(x + at).mean(1))


@pytest.mark.parametrize("kind", ["table", "offset", "function", "parameter", "buffer"])
def test_a_text_longer_than_the_positions_of_ones_own_model_is_told(kind, tmp_path):
    model = Positions(kind)
    paths = scatter_checkpoints(model, tmp_path)
    data = list(zip(IDS[:, :8], LABELS, strict=True))
    tracin = TracInWE(model, data, paths, layers=["words"], loss_fn=LOSS, batch_size=3)
    assert tracin.self_influence().shape == (6,)
    with pytest.raises(
        ValueError, match="A text of 9 tokens, and the model's '(places.weight|pos_emb|pos_table)'.*max_length=8"
    ):
        tracin.influence((IDS, LABELS))


def test_a_row_that_another_table_does_not_have_is_named(tmp_path):
    model = Positions("table")
    paths = scatter_checkpoints(model, tmp_path)
    batch = {"input_ids": IDS[:, :8], "types": torch.tensor([[0, 1, 0, 1, 0, 1, 0, 3]]).repeat(6, 1), "labels": LABELS}
    tracin = TracInWE(model, [{"input_ids": [3, 4], "labels": 0}], paths, layers=["words"], loss_fn=LOSS)
    with pytest.raises(
        ValueError, match="'types.weight', a table of 2 rows, is asked for row 3 by the batch's 'types'.*0 to 1"
    ):
        tracin.influence(batch)
    bert = tiny_bert()
    paths = scatter_checkpoints(bert, tmp_path / "bert")
    with pytest.raises(ValueError, match="token_type_embeddings.weight', a table of 2 rows.*row 5.*'token_type_ids'"):
        TracInWE(
            bert, [{"input_ids": [3, 4], "token_type_ids": [0, 5], "labels": 1}], paths, loss_fn=LOSS
        ).self_influence()


def recurrent(name):
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2}
    more = {
        "Rwkv": {"context_length": 32, "attention_hidden_size": 16, "intermediate_size": 32},
        "Mamba": {"state_size": 4},
        "FalconMamba": {"state_size": 4},
    }
    config = getattr(transformers, f"{name}Config")(**sizes, **more[name])
    return getattr(transformers, f"{name}ForCausalLM")(config)


def test_recurrent_models_without_attention_are_explained(tmp_path):
    for name in ("Mamba", "FalconMamba", "Rwkv"):
        torch.manual_seed(0)
        model = recurrent(name).eval()
        paths = scatter_checkpoints(model, tmp_path, rates=(0.3, 0.1), scale=0.02)
        texts = [
            torch.randint(1, 30, (1, length), generator=torch.Generator().manual_seed(length))
            for length in (5, 7, 9, 6)
        ]
        losses = [lambda x=x, m=model: language_model_loss(m(x, use_cache=False).logits, x).sum() for x in texts]
        expected = scores_by_loop(model, [model.get_input_embeddings()], paths, losses[:2], losses).float()
        rows = [{"input_ids": x[0].tolist(), "labels": x[0].tolist()} for x in texts]
        for size in (1, 4):
            close(TracInWE(model, rows, paths, loss_fn=TokenLoss(), batch_size=size).influence(rows[:2]), expected)


# -------------------------------------------------------------------------------------- arguments of another type


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"checkpoints_load_func": None}, "`checkpoints_load_func` should be a function.*got None.*Leave it out"),
        ({"checkpoints_load_func": "load"}, "`checkpoints_load_func` should be a function"),
        ({"checkpoints_load_func": TinyCNN}, "`checkpoints_load_func` should be a function"),
        ({"collate_fn": TinyCNN}, "`collate_fn` should be a function"),
        ({"checkpoints": [{"weight": 1}]}, r"`checkpoints` holds a dict \({'weight': 1}\): expected paths"),
        ({"checkpoints": (1, 2)}, "`checkpoints` holds a int"),
        ({"checkpoints": b"ab"}, "`checkpoints` holds a int"),
        ({"batch_size": 10**30}, "`batch_size` should be a whole number"),
        ({"top_k_words": 10**30}, "`top_k_words` should be a whole number"),
        ({"exclude_tokens": torch.tensor(1)}, "`exclude_tokens` should be a list of token ids"),
        ({"exclude_tokens": b"ab"}, "`exclude_tokens` should be a list of token ids"),
        ({"label_names": np.array(3)}, "`label_names` should be a name or a list"),
        ({"order_by_length": "yes"}, "`order_by_length` should be True or False, got 'yes'"),
        ({"memory_limit": math.nan}, "`memory_limit` should be a number of bytes"),
        ({"side": np.arange(2)}, "`side` should be 'encoder', 'decoder' or None"),
        ({"table": np.arange(2)}, "`table` should be"),
        ({"shares": torch.tensor(1)}, "`shares` should be one number"),
        ({"index": 3}, "An index is named by its directory: expected a path, got 3"),
        ({"index": [1]}, r"An index is named by its directory: expected a path, got \[1\]"),
    ],
)
def test_arguments_of_another_type_are_told_by_name(cnn, options, match):
    given = {"checkpoints_load_func": lambda model, path: 1.0} if "checkpoints" not in options else {}
    with pytest.raises((TypeError, ValueError), match=match):
        TracInWE(
            cnn.model, **{"train_dataset": cnn.default, "checkpoints": cnn.paths, "loss_fn": LOSS, **given, **options}
        )


def test_arguments_of_questions_are_told_by_name(tmp_path):
    tracin, inputs = toy_tracin()
    labels = torch.zeros(12)
    for ask, match in (
        (
            lambda: tracin.influence(inputs, k=2, proponents="opponents"),
            "`proponents` should be True or False, got 'opponents'",
        ),
        (lambda: tracin.influence(inputs, aggregate="no"), "`aggregate` should be True or False"),
        (lambda: tracin.influence(inputs, aggregate=np.arange(3)), "`aggregate` should be True or False"),
        (lambda: tracin.self_influence(outer_loop_by_checkpoints="no"), "`outer_loop_by_checkpoints` should be"),
        (lambda: tracin.compute_intermediate_quantities(inputs, test="no"), "`test` should be True or False"),
        (lambda: tracin.word_influence(inputs, np.array(3)), "`train_indices` should hold one list"),
        (
            lambda: tracin.word_influence(inputs, [torch.tensor(1), torch.tensor(2)]),
            "`train_indices` should hold one list",
        ),
        (lambda: tracin.word_influence(inputs, [[1], [2]], per_checkpoint="no"), "`per_checkpoint` should be"),
        (
            lambda: word_report(tracin, inputs, labels, train_texts=5),
            "`train_texts` as a list of TokenizedText, got int",
        ),
        (lambda: word_report(tracin, torch.tensor(3), labels), "`inputs` is a single number"),
        (lambda: tracin.build_index(None), "named by its directory: expected a path, got None"),
        (lambda: tracin.build_index(3), "named by its directory: expected a path, got 3"),
        (lambda: tracin.build_index(tmp_path / "i", resume="no"), "`resume` should be True or False"),
        (lambda: tracin.build_index(tmp_path / "i", append=np.arange(2)), "`append` should be True or False"),
        (lambda: tracin.build_index(tmp_path / "i", dtype=["float16"]), "`dtype` should be one of"),
        (lambda: tracin.build_index(tmp_path / "i", memory_limit="1GB"), "`memory_limit` should be a number of bytes"),
        (lambda: tracin.build_index(tmp_path / "i", metadata=[1]), "`metadata` should be a mapping.*got a list"),
        (lambda: tracin.build_index(tmp_path / "i", metadata={1: [0] * 12}), "`metadata` should name lists"),
        (lambda: tracin.build_index(tmp_path / "i", metadata={"a": 1}), "`metadata` should name lists"),
    ):
        with pytest.raises((TypeError, ValueError), match=match):
            ask()
    assert not (tmp_path / "i").exists()


def test_no_limit_of_memory_is_one_too(tmp_path):
    tracin, inputs = toy_tracin(memory_limit=math.inf)
    expected = toy_tracin()[0].influence(inputs)
    close(tracin.influence(inputs), expected)
    index = tracin.build_index(tmp_path / "i")
    close(toy_tracin(index=index, memory_limit=math.inf)[0].influence(inputs), expected)
