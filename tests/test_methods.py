"""Every method behind one call equals an independent computation; the model is left as it was found."""

import math
import re
from collections import Counter

import pytest
import torch

from captum_tracinwe import load_checkpoint, methods
from captum_tracinwe.app.testing import TinyCNN, scatter_checkpoints, toy_texts
from captum_tracinwe.checkpoints.weights import load_checkpoint as load
from captum_tracinwe.installing import install

LOSS = torch.nn.CrossEntropyLoss(reduction="none")
N, M = 3, 8


def examples(count, seed):
    ids, _, labels = toy_texts(count, seed=seed)
    return methods.Examples((ids, labels), [[f"w{i}" for i in row if i] for row in ids.tolist()])


@pytest.fixture
def asked(tmp_path):
    model = TinyCNN(padding_idx=0).double()
    explained = methods.Explained(model, scatter_checkpoints(model, tmp_path), LOSS, batch_size=3)
    return explained, examples(N, 2), examples(M, 1)


def gradients(explained, checkpoint, data, parameters):
    """Rate and for each example the flat gradient of its loss, one backward each."""
    model = explained.model
    rate = load(model, checkpoint)
    model.eval()
    wanted = [model.get_parameter(name) for name in parameters]
    rows = []
    for i in range(len(data)):
        loss = LOSS(model(data.batch[0][i : i + 1]), data.labels[i : i + 1]).sum()
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, wanted)]))
    return rate, torch.stack(rows)


def by_loop(explained, test, train, parameters):
    total = 0
    for checkpoint in explained.checkpoints:
        rate, a = gradients(explained, checkpoint, test, parameters)
        total = total + rate * a @ gradients(explained, checkpoint, train, parameters)[1].T
    return total


def assert_same(found, expected):
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-6, atol=1e-10)


ALL = [name for name, _ in TinyCNN().named_parameters()]


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        (methods.tracin_we, ["embedding.weight"]),
        (methods.tracin_last, ["out.weight"]),
        (methods.tracin_last_projected, ["out.weight"]),
        (lambda e: methods.tracin_layers(e, ["conv"]), ["conv.weight", "conv.bias"]),
        (lambda e: methods.tracin_layers(e, ["conv", "out"]), ["conv.weight", "conv.bias", "out.weight", "out.bias"]),
        (lambda e: methods.tracin_layers(e, None), ALL),
    ],
    ids=["WE", "Last", "Last, not projected", "Second", "a group", "All"],
)
def test_tracin_is_the_product_of_gradients(asked, method, parameters):
    explained, test, train = asked
    found = method(explained)(test, train)
    assert_same(found, by_loop(explained, test, train, parameters))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:WARNING. Using this implementation stores")
def test_projections_are_true_on_average(asked):
    """Of each single pair: the mean over 300 seeds within 4 of its standard errors."""
    explained, test, train = asked
    exact = methods.tracin_last(explained)(test, train)
    found = torch.stack([methods.tracin_last_projected(explained, 4, seed=s)(test, train) for s in range(300)])
    assert_same(found[0], methods.tracin_last_projected(explained, 4)(test, train))
    assert not torch.allclose(found[0], exact)
    assert ((found.mean(0) - exact).abs() <= 4 * found.std(0) / 300**0.5).all()


def test_options_of_word_embeddings_reach_it(asked):
    explained, test, train = asked
    plain = methods.tracin_we(explained)(test, train)
    full = methods.tracin_we(explained, top_k_words=9)(test, train)
    assert_same(full, plain)
    assert not torch.allclose(methods.tracin_we(explained, top_k_words=2)(test, train), plain)
    frequent = int(train.batch[0][0, 0])
    rest = methods.tracin_we(explained, exclude_tokens=[frequent])(test, train)
    part = 0
    for checkpoint in explained.checkpoints:
        rate, a = gradients(explained, checkpoint, test, ["embedding.weight"])
        b = gradients(explained, checkpoint, train, ["embedding.weight"])[1]
        a, b = (side.view(len(side), -1, 6)[:, frequent] for side in (a, b))
        part = part + rate * a @ b.T
    assert_same(rest + part, plain)
    # Synonyms against brute force: test_synonyms.py. Here: nothing is alike, so it is top-k.
    assert_same(
        methods.tracin_we_syn(explained, k=2, min_cosine=2.0)(test, train),
        methods.tracin_we(explained, top_k_words=2)(test, train),
    )


def test_common_tokens_are_those_of_all_texts():
    ids = torch.tensor([[1, 5, 2, 0], [1, 6, 6, 2], [1, 2, 5, 0]])
    data = methods.Examples((ids, torch.zeros(3)))
    assert methods.common_tokens(data) == [1, 2]
    assert methods.common_tokens(data, share=0.6) == [0, 1, 2, 5]
    with pytest.raises(ValueError, match="share"):
        methods.common_tokens(data, share=0)


def hessian(explained, train):
    """Σ over training examples of the second derivative in (weight, bias) of the last layer."""
    model = explained.model
    load(model, explained.checkpoints[-1])
    model.eval()
    kept = []
    hook = model.out.register_forward_pre_hook(lambda _, args: kept.append(args[0].detach()))
    model(train.batch[0])
    hook.remove()

    def loss(flat):
        weight, bias = flat[: model.out.weight.numel()].view_as(model.out.weight), flat[model.out.weight.numel() :]
        return LOSS(kept[0] @ weight.T + bias, train.labels).sum()

    flat = torch.cat([model.out.weight.flatten(), model.out.bias]).detach()
    return torch.autograd.functional.hessian(loss, flat)


@pytest.mark.parametrize("exact", [True, False])
def test_influence_functions_invert_the_damped_hessian(asked, exact):
    explained, test, train = asked
    # At full rank the exact one is the inverse itself; Arnoldi's Krylov space comes to within 1.3 % of it here.
    options = {"projection_dim": 18, "hessian_inverse_tol": 0.0} | (
        {} if exact else {"arnoldi_dim": 18, "arnoldi_tol": 1e-9}
    )
    found = methods.influence_last(explained, exact=exact, damping=0.5, **options)(test, train)
    names = ["out.weight", "out.bias"]
    _, a = gradients(explained, explained.checkpoints[-1], test, names)
    _, b = gradients(explained, explained.checkpoints[-1], train, names)
    expected = a @ torch.linalg.solve(hessian(explained, train) + 0.5 * torch.eye(18, dtype=torch.float64), b.T)
    assert float((found - expected).abs().max() / expected.abs().max()) < (1e-6 if exact else 0.02)


def test_representer_is_its_closed_form(asked):
    explained, test, train = asked
    found = methods.representer_last(explained, weight_decay=0.1)(test, train)
    model = explained.model
    load(model, explained.checkpoints[-1])
    model.eval()
    kept = []
    hook = model.out.register_forward_pre_hook(lambda _, args: kept.append(args[0].detach()))
    model(test.batch[0])
    p = model(train.batch[0]).softmax(1).detach()
    hook.remove()
    for i in range(N):
        for j in range(M):
            y = int(test.labels[i])
            error = float(p[j, y]) - float(train.labels[j] == y)
            expected = -error / (2 * 0.1 * M) * float(kept[0][i] @ kept[1][j])
            assert float(found[i, j]) == pytest.approx(expected, rel=1e-9)
    # A training text of the same class whose features agree is a proponent.
    same_class = (train.labels[None] == test.labels[:, None]) & ((kept[0] @ kept[1].T) > 0)
    assert bool(same_class.any())
    assert bool((found[same_class] > 0).all())


def test_tfidf_is_its_formula(asked):
    _, test, train = asked
    holders = Counter(word for words in train.words for word in set(words))

    def vector(words):
        raw = {w: c * math.log(M / holders[w]) for w, c in Counter(words).items() if w in holders}
        norm = math.sqrt(sum(v * v for v in raw.values()))
        return {w: v / norm for w, v in raw.items()}

    expected = [[sum(v * vector(b).get(w, 0) for w, v in vector(a).items()) for b in train.words] for a in test.words]
    torch.testing.assert_close(methods.tfidf(test, train), torch.tensor(expected))


def test_tr_tfidf_weighs_it_by_the_gradients_at_the_logits(asked):
    explained, test, train = asked
    errors = 0
    for checkpoint in explained.checkpoints:
        rate = load(explained.model, checkpoint)
        explained.model.eval()
        a, b = (explained.model(d.batch[0]).softmax(1) - torch.eye(3)[d.labels] for d in (test, train))
        errors = errors + rate * a @ b.T
    assert_same(methods.tr_tfidf(explained)(test, train), methods.tfidf(test, train) * errors.detach())


def test_bm25_is_the_librarys_and_its_formula(asked):
    bm25s = pytest.importorskip("bm25s")
    _, test, train = asked
    found = methods.bm25(test, train)
    library = bm25s.BM25()
    library.index([list(words) for words in train.words], show_progress=False)
    for i, words in enumerate(test.words):
        assert found[i].tolist() == library.get_scores(list(words)).tolist()
    k1, b, mean = 1.5, 0.75, sum(map(len, train.words)) / M
    for i, j in [(0, 0), (1, 3), (2, 7)]:
        counts, expected = Counter(train.words[j]), 0.0
        for word in test.words[i]:
            n = sum(word in words for words in train.words)
            idf = math.log(1 + (M - n + 0.5) / (n + 0.5))
            tf = counts[word]
            expected += idf * tf / (tf + k1 * (1 - b + b * len(train.words[j]) / mean))
        assert float(found[i, j]) == pytest.approx(expected, rel=1e-5)


def test_a_text_without_words_is_like_none(asked):
    _, test, train = asked
    empty = methods.Examples(test.batch, [[] for _ in range(len(test))])
    for method in (methods.bm25, methods.tfidf):
        assert method(empty, train).abs().max() == 0
    assert methods.bm25(test, methods.Examples(train.batch, [[] for _ in range(M)])).abs().max() == 0


def test_similarity_is_the_cosine_of_activations(asked):
    explained, test, train = asked
    explained.model.float()
    found = methods.similarity(explained, ["out", "conv"])(test, train)
    load(explained.model, explained.checkpoints[-1])
    explained.model.eval()
    a, b = explained.model(test.batch[0]), explained.model(train.batch[0])
    torch.testing.assert_close(
        found, torch.cosine_similarity(a[:, None], b[None], dim=2).detach(), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(ValueError, match="two or more layers"):
        methods.similarity(explained, ["out"])


def test_global_scores_are_their_definitions(asked):
    explained, _, train = asked
    assert_same(
        methods.we_self_influence(explained, train), by_loop(explained, train, train, ["embedding.weight"]).diag()
    )
    assert_same(methods.last_self_influence(explained, train), by_loop(explained, train, train, ["out.weight"]).diag())
    losses = []
    for checkpoint in explained.checkpoints:
        load_checkpoint(explained.model, checkpoint)
        explained.model.eval()
        losses.append(LOSS(explained.model(train.batch[0]), train.labels))
    assert_same(methods.training_loss(explained, train), torch.stack(losses).mean(0))


def test_chance_is_repeatable(asked):
    _, test, train = asked
    first, again, other = (methods.random_scores(seed)(test, train) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_peer_joins_whatever_its_axes_and_sign(asked):
    _, test, train = asked
    given = torch.randn(M, N)
    assert_same(methods.peer(lambda a, b: given.tolist(), axes="train, test")(test, train), given.T)
    assert_same(
        methods.peer(lambda a, b: -given.T.numpy(), axes="test, train", positive_is_proponent=False)(test, train),
        given.T,
    )
    with pytest.raises(ValueError, match=r"[Ee]xpected \(test, train\) = \(3, 8\)"):
        methods.peer(lambda a, b: given, axes="test, train")(test, train)
    with pytest.raises(ValueError, match="NaN or infinite"):
        methods.peer(lambda a, b: given.T / 0, axes="test, train")(test, train)
    with pytest.raises(TypeError, match="a matrix of scores, got dict of 'all_modules'"):
        methods.peer(lambda a, b: {"all_modules": given}, axes="train, test")(test, train)
    with pytest.raises(TypeError, match=r"a function \(test, train\) -> scores, got None"):
        methods.peer(None, axes="train, test")
    with pytest.raises(ValueError, match="axes"):
        methods.peer(lambda a, b: given, axes="columns")


def test_the_model_is_left_as_it_was_found(asked):
    explained, test, train = asked
    explained.model.train()
    explained.model.conv.weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in explained.model.state_dict().items()}
    for method in (
        methods.tracin_we(explained), methods.tracin_last(explained), methods.tracin_last_projected(explained, 2),
        methods.tracin_layers(explained, ["out"]),
        methods.influence_last(explained, exact=True), methods.representer_last(explained), methods.tr_tfidf(explained),
    ):  # fmt: skip
        method(test, train)
    assert explained.model.training
    assert [p.requires_grad for p in explained.model.parameters()].count(False) == 1
    assert all(torch.equal(before[name], tensor) for name, tensor in explained.model.state_dict().items())
    state = torch.get_rng_state()
    methods.influence_last(explained)(test, train)  # Captum's sets the seed
    methods.tracin_last_projected(explained, 2)(test, train)  # so does this
    assert torch.equal(state, torch.get_rng_state())


def test_examples_that_do_not_fit_are_refused(asked):
    explained, test, train = asked
    with pytest.raises(ValueError, match="one length"):
        methods.Examples((torch.ones(3, 2), torch.ones(2)))
    with pytest.raises(ValueError, match="words of 3 texts, got 1"):
        methods.Examples(test.batch, [["a"]])
    with pytest.raises(TypeError, match="list of words, got the text 'a b'"):
        methods.Examples(test.batch, ["a b"] * len(test))
    with pytest.raises(ValueError, match="at least one example, got none"):
        methods.Examples(tuple(field[:0] for field in test.batch))
    for reduction in ("mean", "sum"):
        with pytest.raises(ValueError, match=f"reduction='none', got reduction='{reduction}'"):
            methods.Explained(explained.model, explained.checkpoints, torch.nn.CrossEntropyLoss(reduction=reduction))
    with pytest.raises(ValueError, match="at least one checkpoint"):
        methods.Explained(explained.model, [], explained.loss_fn)
    for make in (
        lambda: methods.representer_last(explained, weight_decay=-1),
        lambda: methods.influence_last(explained, damping=-1.0),
    ):
        with pytest.raises(ValueError, match="got -1"):
            make()
    with pytest.raises(TypeError, match="tuple of tensors .* got dict"):
        methods.Examples({"input_ids": test.batch[0]})
    with pytest.raises(TypeError, match="got tuple of Tensor, list"):
        methods.Examples((test.batch[0], [0] * len(test)))
    with pytest.raises(TypeError, match=r"a list of checkpoints, got 'runs': of one file \['runs'\]"):
        methods.Explained(explained.model, "runs", LOSS)
    with pytest.raises(ValueError, match="batch_size of at least 1, got 0"):
        methods.Explained(explained.model, explained.checkpoints, LOSS, batch_size=0)
    bare = methods.Examples(test.batch)
    for method in (methods.bm25, methods.tfidf):
        with pytest.raises(ValueError, match="[Ee]xpected Examples"):
            method(bare, bare)


def test_a_transformers_model_needs_no_wrapper(tmp_path):
    """Two inputs, and logits within its output: every method equals itself on the model's plain logits."""
    transformers = pytest.importorskip("transformers")

    class Plain(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model

        def forward(self, ids, mask):
            return self.model(ids, mask).logits

    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=12, num_labels=3, attn_implementation="eager",
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    sides = []
    for count, seed in ((N, 2), (M, 1)):
        ids, _, labels = toy_texts(count, seed=seed)
        words = [[f"w{i}" for i in row if i] for row in ids.tolist()]
        sides.append(methods.Examples((ids % 30, (ids != 0).long(), labels), words))
    answers = []
    for kind, prefix in ((model, ""), (Plain(model), "model.")):
        table = f"{prefix}bert.embeddings.word_embeddings"
        explained = methods.Explained(kind, [0.1], LOSS, f"{prefix}classifier", table, load=lambda model, rate: rate)
        layers = [f"{prefix}bert.pooler.dense", f"{prefix}classifier"]
        answers.append(
            [
                methods.tracin_we(explained)(*sides), methods.tracin_last(explained)(*sides),
                methods.tracin_layers(explained, layers)(*sides), methods.similarity(explained, layers)(*sides),
                methods.influence_last(explained, exact=True)(*sides), methods.representer_last(explained)(*sides),
                methods.tr_tfidf(explained)(*sides), methods.training_loss(explained, sides[1]),
                methods.last_self_influence(explained, sides[1]),
            ]
        )  # fmt: skip
    for raw, plain in zip(*answers, strict=True):
        assert float(raw.abs().max()) > 0
        torch.testing.assert_close(raw, plain)
    assert not model._forward_hooks
    assert not model.classifier._forward_hooks


CLOSED_FORMS = [methods.tracin_last, methods.tracin_last_projected, methods.representer_last]


@pytest.mark.parametrize("method", CLOSED_FORMS)
def test_a_last_layer_that_is_not_the_last_is_refused(asked, method):
    explained, test, train = asked

    class Otherwise(TinyCNN):
        def forward(self, ids):
            found = super().forward(ids)
            if self.how == "scaled":
                return found * 5
            return found + 0 * self.out(self.out.weight[:1].expand(len(ids), -1))

    for how, gave in (("scaled", r"gave \(\d, 3\), the model"), ("twice", r"gave \(\d, 3\), \(\d, 3\), the model")):
        model = Otherwise(padding_idx=0).double()
        model.how = how
        with pytest.raises(
            ValueError, match=rf"[Ee]xpected `last` to name the layer that gives the logits .* 'out' {gave}"
        ):
            method(methods.Explained(model, explained.checkpoints, LOSS))(test, train)
    for last, match in (
        ("embedding", "'embedding' gave"),
        ("nope", "got 'nope', which it does not have. With weights it has"),
    ):
        with pytest.raises(ValueError, match=match):
            method(methods.Explained(explained.model, explained.checkpoints, LOSS, last))(test, train)


def test_a_mean_that_passes_for_a_loss_per_example_is_refused(asked):
    explained, test, train = asked
    mean = methods.Explained(explained.model, explained.checkpoints, lambda p, y: LOSS(p, y).mean())
    for method in (
        *CLOSED_FORMS,
        methods.tr_tfidf,
        lambda e: methods.tracin_layers(e, ["out"]),
        methods.influence_last,
    ):
        with pytest.raises(ValueError, match=r"one loss per example, shape \(\d,\), got \(\) of a prediction"):
            method(mean)(test, train)
    with pytest.raises(ValueError, match="one loss per example"):
        methods.training_loss(mean, train)


def test_labels_and_layers_that_there_are_not_are_named(asked):
    explained, test, train = asked
    wrong = methods.Examples((test.batch[0], torch.full_like(test.labels, 3)), test.words)
    for method in (
        *CLOSED_FORMS,
        methods.tr_tfidf,
        lambda e: methods.tracin_layers(e, ["out"]),
        methods.influence_last,
    ):
        with pytest.raises(ValueError, match="The label 3 of an example, and the model has 3 classes"):
            method(explained)(wrong, train)
    nothing = methods.Examples((test.batch[0], torch.full_like(test.labels, -100)), test.words)
    with pytest.raises(ValueError, match="a class from 0 to 2 as label of each test example, got -100"):
        methods.representer_last(explained)(nothing, train)
    for layers, error, match in (
        ("out", TypeError, r"list of layer names, got 'out': \['out'\]"),
        ([], ValueError, "got none. With weights it has embedding, conv"),
        (["nope"], ValueError, "got 'nope', which it does not have"),
    ):
        for method in (methods.tracin_layers, methods.similarity):
            with pytest.raises(error, match=match):
                method(explained, layers)


def test_a_missing_library_is_named(asked, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(ImportError, match=re.escape(install("bm25s", "evidence"))):
        methods.bm25(*asked[1:])
