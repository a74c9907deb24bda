"""Ways in: sentence-transformers, its models, losses and Trainer; scores are those of its own loss of single examples."""

import copy
import random
import warnings

import pytest
import torch
from transformers import BertConfig, BertModel

from captum_tracinwe import TracInWE, load_checkpoint
from captum_tracinwe.app.testing import scatter_checkpoints, scores_by_loop
from captum_tracinwe.app.training import words_tokenizer
from captum_tracinwe.batches import TokenizeTexts
from captum_tracinwe.checkpoints.trainer import SaveCheckpoints
from captum_tracinwe.gradients import SentenceLoss

warnings.filterwarnings("ignore", category=DeprecationWarning)
library = pytest.importorskip("sentence_transformers")
losses = pytest.importorskip("sentence_transformers.losses")
modules = pytest.importorskip("sentence_transformers.models")

SENTENCES = ["a dog runs in the park", "the cat sleeps on a red sofa", "a man plays", "two kids eat ice cream today"]
TOKENIZER = words_tokenizer(SENTENCES)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Name → model, and its table."""
    folder = str(tmp_path_factory.mktemp("bert"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel(BertConfig(vocab_size=len(TOKENIZER), **sizes)).save_pretrained(folder)
    TOKENIZER.save_pretrained(folder)

    def made(*after):
        parts = [modules.Transformer(folder), modules.Pooling(16), *after]
        model = library.SentenceTransformer(modules=parts, device="cpu").eval()
        return model, next(part for part in model.modules() if isinstance(part, torch.nn.Embedding))

    # A tokenizer of its own: one that was asked to fill up goes on doing so, and a bag counts padding.
    own = words_tokenizer(SENTENCES)
    static = library.SentenceTransformer(modules=[modules.StaticEmbedding(own, embedding_dim=8)], device="cpu")
    return {
        "BERT": made(),
        "dense": made(modules.Dense(16, 6), modules.Normalize()),
        "static": (static.eval(), next(p for p in static.modules() if isinstance(p, torch.nn.EmbeddingBag))),
    }


def rows(count, texts, kind, seed=0):
    chance = random.Random(seed)

    def text():
        words = chance.choice(SENTENCES).split()
        return " ".join(words[: chance.randint(2, len(words))])

    labels = {"number": lambda: chance.random(), "class": lambda: chance.randint(0, 1), None: lambda: None}
    found = [{**{f"text{n}": text() for n in range(texts)}, "label": labels[kind]()} for _ in range(count)]
    return [{key: value for key, value in row.items() if value is not None} for row in found]


def features(model, text):
    ask = getattr(model, "preprocess", None) or model.tokenize
    return dict(ask([text]))


def by_loop(model, table, paths, loss, test, train, texts):
    def one(row):
        label = torch.tensor([row["label"]]) if "label" in row else None
        found = loss([features(model, row[f"text{n}"]) for n in range(texts)], label)
        return sum(found.values()) if isinstance(found, dict) else found

    if isinstance(table, torch.nn.EmbeddingBag):
        return dense(model, table, paths, one, test, train)
    ways = [[lambda row=row: one(row) for row in part] for part in (test, train)]
    return scores_by_loop(model, [table], paths, *ways, table.padding_idx).float()


def dense(model, table, paths, one, test, train):
    """Of a bag the gradient of the whole table, one example after the other."""
    total = 0
    for path in paths:
        rate = load_checkpoint(model, path)
        kept = []
        for row in (*test, *train):
            table.weight.requires_grad_(True)
            [gradient] = torch.autograd.grad(one(row), [table.weight])
            kept.append((gradient.to_dense() if gradient.is_sparse else gradient).flatten())
        total = total + rate * torch.stack(kept[: len(test)]) @ torch.stack(kept[len(test) :]).T
    return total


SINGLE = {
    "cosine": ("CosineSimilarityLoss", {}, 2, "number"),
    "contrastive": ("ContrastiveLoss", {}, 2, "class"),
    "triplet": ("TripletLoss", {}, 3, None),
    "margin": ("MarginMSELoss", {}, 3, "number"),
    "softmax": ("SoftmaxLoss", {"sentence_embedding_dimension": 16, "num_labels": 2}, 2, "class"),
}
COUPLED = {
    "MultipleNegativesRankingLoss": (2, None),
    "MultipleNegativesSymmetricRankingLoss": (2, None),
    "CoSENTLoss": (2, "number"),
    "AnglELoss": (2, "number"),
    "OnlineContrastiveLoss": (2, "class"),
    "BatchAllTripletLoss": (1, "class"),
    "BatchHardTripletLoss": (1, "class"),
}


def tracin_of(model, train, paths, loss, texts, labels, batch_size):
    names = tuple(f"text{n}" for n in range(texts))
    collate = TokenizeTexts(TOKENIZER, names, "label" if labels else None, apart=True)
    return TracInWE(model, train, paths, loss_fn=SentenceLoss(loss), batch_size=batch_size, collate_fn=collate)


@pytest.mark.parametrize("name", SINGLE)
def test_a_loss_of_single_examples_has_its_own_scores(name, models, tmp_path):
    kind, options, texts, labels = SINGLE[name]
    model, table = models["BERT"]
    paths = scatter_checkpoints(model, tmp_path)
    loss = getattr(losses, kind)(model, **options)
    train, test = rows(5, texts, labels, 1), rows(2, texts, labels, 2)
    before = copy.deepcopy(loss.state_dict())
    expected = by_loop(model, table, paths, loss, test, train, texts)
    for batch_size in (1, 4):
        found = tracin_of(model, train, paths, loss, texts, labels, batch_size).influence(test)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
    assert loss.model is model
    assert all(
        torch.equal(before[key], value) for key, value in loss.state_dict().items() if key.startswith("classifier")
    )


def test_a_loss_within_a_loss_has_its_scores_too(models, tmp_path):
    model, table = models["BERT"]
    paths = scatter_checkpoints(model, tmp_path)
    loss = losses.MatryoshkaLoss(model, losses.CosineSimilarityLoss(model), [16, 8])
    train, test = rows(5, 2, "number", 1), rows(2, 2, "number", 2)
    expected = by_loop(model, table, paths, loss, test, train, 2)
    found = tracin_of(model, train, paths, loss, 2, True, 4).influence(test)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_layers_behind_the_pooling_count(models, tmp_path):
    model, table = models["dense"]
    paths = scatter_checkpoints(model, tmp_path)
    loss = losses.CosineSimilarityLoss(model)
    train, test = rows(5, 2, "number", 1), rows(2, 2, "number", 2)
    expected = by_loop(model, table, paths, loss, test, train, 2)
    found = tracin_of(model, train, paths, loss, 2, True, 4).influence(test)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


def test_features_in_a_list_are_a_batch_of_static_embeddings(models, tmp_path):
    model, table = models["static"]
    paths = scatter_checkpoints(model, tmp_path)
    loss = losses.CosineSimilarityLoss(model)
    train, test = rows(5, 2, "number", 1), rows(2, 2, "number", 2)
    expected = by_loop(model, table, paths, loss, test, train, 2).float()

    def collate(examples):
        ask = getattr(model, "preprocess", None) or model.tokenize
        columns = [dict(ask([row[name] for row in examples])) for name in ("text0", "text1")]
        return columns, torch.tensor([row["label"] for row in examples])

    tracin = TracInWE(model, train, paths, loss_fn=SentenceLoss(loss), batch_size=4, collate_fn=collate)
    found = tracin.influence(collate(test))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", COUPLED)
def test_a_loss_that_couples_examples_is_refused(name, models, tmp_path):
    texts, labels = COUPLED[name]
    model, _ = models["BERT"]
    paths = scatter_checkpoints(model, tmp_path)
    for batch_size in (1, 4):
        tracin = tracin_of(
            model, rows(6, texts, labels), paths, getattr(losses, name)(model), texts, labels, batch_size
        )
        with pytest.raises(ValueError, match=rf"The loss '{name}' couples the examples of a batch"):
            tracin.influence(rows(1, texts, labels, 3))


def test_what_is_no_loss_of_embeddings_is_refused(models):
    model, _ = models["BERT"]
    with pytest.raises(
        TypeError, match="[Ee]xpected a loss of sentence-transformers with one model.*got CrossEntropyLoss"
    ):
        SentenceLoss(torch.nn.CrossEntropyLoss())
    with pytest.raises(TypeError, match="got GISTEmbedLoss with 2"):
        SentenceLoss(losses.GISTEmbedLoss(model, copy.deepcopy(model)))
    loss = SentenceLoss(losses.TripletLoss(model))
    with pytest.raises((TypeError, ValueError), match="2"):
        loss([torch.ones(2, 4)] * 2, None)


def test_a_checkpoint_of_its_first_part_alone_is_refused(models, tmp_path):
    model, _ = models["dense"]
    model.save(str(tmp_path / "saved"))  # the layer behind the pooling stands in a folder of its own
    tracin = tracin_of(
        model, rows(3, 2, "number"), [tmp_path / "saved"], losses.CosineSimilarityLoss(model), 2, True, 1
    )
    with pytest.raises(ValueError, match="does not fit the model SentenceTransformer.*save this model's state_dict"):
        tracin.self_influence()


def test_a_trainer_of_sentence_transformers_is_understood(models, tmp_path):
    datasets = pytest.importorskip("datasets")
    model = copy.deepcopy(models["BERT"][0])
    train = [{"anchor": r["text0"], "other": r["text1"], "score": r["label"]} for r in rows(6, 2, "number", 1)]
    data = datasets.Dataset.from_list(train)
    arguments = library.SentenceTransformerTrainingArguments(
        str(tmp_path / "run"),
        max_steps=4,
        logging_steps=1,
        per_device_train_batch_size=2,
        report_to=[],
        use_cpu=True,
        lr_scheduler_type="constant",
        learning_rate=1e-3,
        save_steps=2,
    )
    loss = losses.CosineSimilarityLoss(model)
    light = SaveCheckpoints(tmp_path / "light", every=2)
    trainer = library.SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=loss, callbacks=[light])
    trainer.train()
    model.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tracin = TracInWE.from_trainer(trainer, checkpoints=tmp_path / "light")
        found = tracin.influence([data[0], data[1]])
        own = TracInWE.from_trainer(trainer).influence(
            [data[0], data[1]]
        )  # its own checkpoints, of the inner model's names
    torch.testing.assert_close(own, found)
    assert len(tracin.checkpoints) == 2
    table = next(part for part in model.modules() if isinstance(part, torch.nn.Embedding))
    plain = [{"text0": row["anchor"], "text1": row["other"], "label": row["score"]} for row in train]
    expected = by_loop(model, table, sorted((tmp_path / "light").glob("*.pt")), loss, plain[:2], plain, 2)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(expected.abs().max()))
