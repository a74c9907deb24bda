"""Ways in: one may ask about the label of one word, of token classification or a language model, and sees which one it was."""

import warnings

import pytest
import torch
import transformers
from torch.nn.functional import cross_entropy

from captum_tracinwe import TracInWE, visualization
from captum_tracinwe.app.testing import scatter_checkpoints, scores_by_loop, tiny_gpt2
from captum_tracinwe.app.training import words_tokenizer
from captum_tracinwe.gradients import TokenLoss
from captum_tracinwe.words import TokenizedText, ask_about, from_ids, tokenize

NAMES = ["O", "PER", "LOC"]
SENTENCES = [
    ("anna lives in paris", [1, 0, 0, 2]),
    ("paris met anna in paris", [1, 0, 1, 0, 2]),
    ("berlin is big", [2, 0, 0]),
    ("tom met berlin", [1, 0, 1]),
    ("anna sings", [1, 0]),
]
TOKENIZER = words_tokenizer([text for text, _ in SENTENCES])
SMALL = {
    "vocab_size": len(TOKENIZER),
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "max_position_embeddings": 24,
    "num_labels": 3,
}
MODELS = {
    "bert": ("BertForTokenClassification", "BertConfig", SMALL),
    "electra": ("ElectraForTokenClassification", "ElectraConfig", {**SMALL, "embedding_size": 8}),
    "roberta": ("RobertaForTokenClassification", "RobertaConfig", {**SMALL, "pad_token_id": 0}),
}


def made(name="bert"):
    cls, config, sizes = MODELS[name]
    torch.manual_seed(0)
    return getattr(transformers, cls)(getattr(transformers, config)(**sizes)).eval()


def examples():
    return [
        {**{k: v for k, v in TOKENIZER(text).items() if k != "token_type_ids"}, "labels": [-100, *labels, -100]}
        for text, labels in SENTENCES
    ]


def texts():
    return tokenize([text for text, _ in SENTENCES], TOKENIZER)


def token_loss(model, example, position=None):
    """The loss at one position, or of all, of a sentence alone."""
    logits = model(input_ids=torch.tensor([example["input_ids"]])).logits[0]
    losses = cross_entropy(logits, torch.tensor(example["labels"]), ignore_index=-100, reduction="none")
    return losses.sum() if position is None else losses[position]


@pytest.mark.parametrize("name", MODELS)
def test_a_question_about_one_word_is_its_loss_alone(name, tmp_path):
    model, data = made(name), examples()
    paths = scatter_checkpoints(model, tmp_path)
    tracin = TracInWE(model, data, paths, loss_fn=TokenLoss(shift=False), batch_size=3)
    asked = [ask_about(data[0], texts()[0], "paris")[0], ask_about(data[1], texts()[1], 5)[0]]
    ways = [lambda: token_loss(model, data[0], 4), lambda: token_loss(model, data[1], 5)]
    train = [lambda example=example: token_loss(model, example) for example in data]
    table = model.get_input_embeddings()
    expected = scores_by_loop(model, [table], paths, ways, train, table.padding_idx).float()
    found = tracin.influence(asked)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    # By number among the targets, as TokenLoss asks: the fourth, and of the second sentence the fifth.
    for row, number in ((0, 3), (1, 4)):
        by_number = TracInWE(
            *(model, data, paths),
            loss_fn=TokenLoss(shift=False),
            test_loss_fn=TokenLoss(shift=False, start=number, stop=number + 1),
        )
        torch.testing.assert_close(by_number.influence([data[row]])[0], expected[row], rtol=1e-3, atol=1e-6)


def test_a_padded_example_is_asked_about_as_well():
    text, data = texts()[0], examples()[0]
    for left, right in ((0, 3), (3, 0)):
        padded = {
            "input_ids": torch.tensor([0] * left + data["input_ids"] + [0] * right),
            "labels": torch.tensor([-100] * left + data["labels"] + [-100] * right),
        }
        found, shown = ask_about(padded, text, "paris", names=NAMES)
        assert [(place, label) for place, label in enumerate(found["labels"].tolist()) if label != -100] == [
            (4 + left, 2)
        ]
        assert (shown.asked, shown.label, shown.asked_words) == ((4,), "LOC", ["paris"])
    assert padded["labels"].tolist().count(-100) == 3 + 2  # the example given is as it was


def test_a_word_of_several_labels_is_asked_about_whole():
    text = TokenizedText("Unhappy Tom", (1, 2, 3), ((0, 2), (2, 7), (8, 11)), (0, 0, 1), ("un", "##happy", "tom"))
    found, shown = ask_about({"input_ids": [1, 2, 3], "labels": [1, 1, 0]}, text, 1)
    assert found["labels"].tolist() == [1, 1, -100]
    assert (shown.asked, shown.asked_words, shown.label) == ((0, 1), ["Unhappy"], "1")
    first, shown = ask_about({"input_ids": [1, 2, 3], "labels": [1, -100, 0]}, text, "Unhappy")
    assert (first["labels"].tolist(), shown.asked) == ([1, -100, -100], (0,))


def test_a_language_model_is_asked_about_a_word_it_predicts(tmp_path):
    model = tiny_gpt2()
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(1, 30, (6,), generator=generator).tolist() for _ in range(4)]
    data = [{"input_ids": row, "labels": row} for row in ids]
    paths = scatter_checkpoints(model, tmp_path)
    asked, shown = ask_about(data[0], from_ids(ids[0]), 3)
    assert (shown.asked, shown.label) == ((3,), None)

    def loss(row, place=None):
        logits = model(input_ids=torch.tensor([row])).logits[0, :-1]
        losses = cross_entropy(logits, torch.tensor(row[1:]), reduction="none")
        return losses.sum() if place is None else losses[place - 1]

    train = [lambda row=row: loss(row) for row in ids]
    table = model.get_input_embeddings()
    expected = scores_by_loop(model, [table], paths, [lambda: loss(ids[0], 3)], train).float()
    found = TracInWE(model, data, paths, loss_fn=TokenLoss(), batch_size=2).influence([asked])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_a_trainer_of_tokens_is_asked_about_one_word(tmp_path):
    model, data = made(), examples()
    collator = transformers.DataCollatorForTokenClassification(TOKENIZER)
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        max_steps=2,
        save_steps=1,
        logging_steps=1,
        lr_scheduler_type="constant",
        report_to=[],
        use_cpu=True,
    )
    trainer = transformers.Trainer(model, arguments, train_dataset=data, data_collator=collator)
    trainer.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tracin = TracInWE.from_trainer(trainer, batch_size=3)
        asked, _ = ask_about(data[0], texts()[0], "paris")
        found = tracin.influence([asked])
        plain = TracInWE(model, data, tracin.checkpoints, loss_fn=TokenLoss(shift=False)).influence([asked])
    assert isinstance(tracin.loss_fn, TokenLoss)
    assert not tracin.loss_fn.shift
    torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-5 * float(plain.abs().max()))


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("paris", r"has 'paris' at the positions 1, 5: expected one of these positions"),
        (
            "rome",
            r"has no word 'rome': expected one of its words \('paris', 'met', 'anna', 'in', 'paris'\), or a position",
        ),
        (7, r"has 7 tokens: expected a position from 0 to 6, got 7"),
        (-1, r"expected a position from 0 to 6, got -1"),
        (0, r"the word 0 has no label but −100"),
    ],
)
def test_a_word_that_cannot_be_asked_about_is_refused(word, message):
    with pytest.raises(ValueError, match=message):
        ask_about(examples()[1], texts()[1], word)


def test_an_example_that_is_not_the_text_is_refused():
    data, text = examples(), texts()
    with pytest.raises(ValueError, match="has other tokens than the example"):
        ask_about(data[0], text[1], "anna")
    with pytest.raises(ValueError, match=r"[Ee]xpected an example with 'input_ids' and 'labels', got input_ids"):
        ask_about({"input_ids": [1]}, text[0], "anna")
    with pytest.raises(ValueError, match=r"got input_ids \(1, 6\).*of a batch take one example"):
        ask_about({key: [value] for key, value in data[0].items()}, text[0], "anna")
    with pytest.raises(ValueError, match="`names` has no name for the label 2"):
        ask_about(data[0], text[0], "paris", names=["O", "PER"])
    with pytest.raises(ValueError, match=r"positions below 2 in `asked`, got 2"):
        TokenizedText("a b", (1, 2), ((0, 1), (2, 3)), (0, 1), asked=(2,))


def test_pictures_show_which_word_was_asked_about(tmp_path):
    model, data = made(), examples()
    paths = scatter_checkpoints(model, tmp_path)
    tracin = TracInWE(model, data, paths, loss_fn=TokenLoss(shift=False), batch_size=3)
    asked, shown = ask_about(data[1], texts()[1], 5, names=NAMES)
    [[pair]] = tracin.word_influence([asked], [[0]])
    pair = pair.with_texts(shown, texts()[0])
    page = visualization.word_influence_html(pair)
    assert "asked about <b><bdi>paris</bdi></b>" in page
    assert "label <b><bdi>LOC</bdi></b>" in page
    said, marked = page.split('<div class="cols', 1)
    assert 'paris met anna in <span class="asked">paris</span>' in said  # the second, not the first
    assert marked.count('class="asked"') == 1
    text = visualization.word_influence_text(pair, color=False)
    assert text.splitlines()[0] == "Test example 0  [asked about: paris at 5]  [label: LOC]"
    _, ax = visualization.plot_word_influence(pair)
    assert ", asked about paris: score" in ax.get_title(loc="left")
    plain = pair.with_texts(texts()[1], texts()[0])
    assert "asked" not in visualization.word_influence_html(plain).split("</style>")[1]
