"""What Captum's own tests demand of TracInCP, demanded of TracInWE on embedding models, with Captum's test helpers.

Families, parameters and tolerances follow Captum's suite: k-most, aggregate, data loaders, self-influence, intermediate
quantities, progress, validation, regression.
"""

import io
import os
import tempfile
import unittest.mock

import torch
from captum.influence import TracInCP
from captum.testing.helpers import BaseTest
from captum.testing.helpers.basic import assertTensorAlmostEqual
from captum.testing.helpers.influence.common import (
    DataInfluenceConstructor,
    ExplicitDataset,
    UnpackDataset,
    _format_batch_into_tuple,
    build_test_name_func,
)
from parameterized import parameterized
from torch import nn
from torch.utils.data import DataLoader

from captum_tracinwe import TracInWE, save_checkpoint

VOCABULARY, POSITIONS, TRAIN, TEST = 12, 5, 32, 18


class WordNet(nn.Module):
    """Captum's BasicLinearNet and MultLinearNet with words for features: texts of five tokens, three outputs."""

    def __init__(self, num_inputs):
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 4)
        self.linear1 = nn.Linear(4 * num_inputs, 4)
        self.linear2 = nn.Linear(4, 3)

    def forward(self, *inputs):
        pooled = torch.cat([self.words(ids.long()).mean(1) for ids in inputs], 1)
        return torch.tanh(self.linear2(torch.tanh(self.linear1(pooled))))


def get_model_and_data(tmpdir, unpack_inputs, return_test_data=True):
    """As captum.testing's get_random_model_and_data: a double model, five checkpoints in tmpdir, train and test data."""
    num_inputs = 2 if unpack_inputs else 1
    net = WordNet(num_inputs).double()
    samples = [torch.randint(0, VOCABULARY, (TRAIN + TEST, POSITIONS)) for _ in range(num_inputs)]
    labels = torch.normal(1, 2, (TRAIN + TEST, 3)).double()
    for i in range(5):
        for parameter in net.parameters():
            nn.init.normal_(parameter, 0.5, 1.0)
        save_checkpoint(os.path.join(tmpdir, f"checkpoint-reg-{i + 1}.pt"), net, 0.1 * (i + 1))
    if unpack_inputs:
        train = UnpackDataset([s[:TRAIN] for s in samples], labels[:TRAIN])
        test_samples = [s[TRAIN:] for s in samples]
    else:
        train = ExplicitDataset(samples[0][:TRAIN], labels[:TRAIN])
        test_samples = samples[0][TRAIN:]
    return (net, train, test_samples, labels[TRAIN:]) if return_test_data else (net, train)


WE = DataInfluenceConstructor(TracInWE)
NAMED = DataInfluenceConstructor(TracInWE, name="TracInWE_words", layers=["words"])
SAMPLE_WISE = DataInfluenceConstructor(TracInWE, name="TracInWE_sample_wise", sample_wise_grads_per_batch=True)
DUPLICATE = DataInfluenceConstructor(TracInWE, name="TracInWE_duplicate_loss", duplicate_loss_fn=True)
CONSTRUCTORS = [
    ("none", WE),
    ("none", NAMED),
    ("none", DUPLICATE),
    ("sum", SAMPLE_WISE),
    ("mean", SAMPLE_WISE),
]
BOTH = [
    (reduction, constructor, unpack_inputs)
    for unpack_inputs in (True, False)
    for reduction, constructor in CONSTRUCTORS
]


class SuiteTest(BaseTest):
    """A temporary folder, and the pieces of one test in one line."""

    def setUp(self):
        super().setUp()
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def prepare(self, reduction, constructor, unpack_inputs, batch_size=5):
        net, train, samples, labels = get_model_and_data(self.folder.name, unpack_inputs)
        tracin = constructor(net, train, self.folder.name, batch_size, nn.MSELoss(reduction=reduction))
        return tracin, train, _format_batch_into_tuple(samples, labels, unpack_inputs)

    def assert_close(self, actual, expected, delta=0.01):
        assertTensorAlmostEqual(self, actual, expected, delta=delta, mode="max")


class TestKMostInfluential(SuiteTest):
    @parameterized.expand(
        [
            (reduction, constructor, unpack_inputs, proponents, batch_size, k, aggregate)
            for batch_size, k in [(4, 7), (7, 4), (40, 5), (5, 40), (40, 45)]
            for reduction, constructor, unpack_inputs in BOTH
            for proponents in (True, False)
            for aggregate in (True, False)
        ],
        name_func=build_test_name_func(),
    )
    def test_k_most_influential_is_the_head_of_the_sorted_scores(
        self, reduction, constructor, unpack_inputs, proponents, batch_size, k, aggregate
    ):
        tracin, _, test = self.prepare(reduction, constructor, unpack_inputs, batch_size)
        scores = tracin.influence(test, k=None, aggregate=aggregate)
        order = torch.argsort(scores, dim=1, descending=proponents)[:, :k]
        indices, values = tracin.influence(test, k=k, proponents=proponents, aggregate=aggregate)
        self.assertEqual(indices.dtype, torch.int64)
        for i in range(len(indices)):
            self.assert_close(scores[i, indices[i]], scores[i, order[i]], delta=0.0)
            self.assert_close(values[i], scores[i, order[i]], delta=0.001)


class TestAggregate(SuiteTest):
    @parameterized.expand(BOTH, name_func=build_test_name_func())
    def test_aggregate_is_the_sum_over_test_examples(self, reduction, constructor, unpack_inputs):
        tracin, train, test = self.prepare(reduction, constructor, unpack_inputs)
        self.assert_close(
            tracin.influence(test, aggregate=True), tracin.influence(test).sum(0, keepdim=True), delta=1e-3
        )
        loader = DataLoader(train, batch_size=4)
        whole = next(iter(DataLoader(train, batch_size=len(train))))
        self.assert_close(tracin.influence(loader, aggregate=True), tracin.influence(whole, aggregate=True), delta=1e-3)


class TestDataLoader(SuiteTest):
    @parameterized.expand(BOTH, name_func=build_test_name_func())
    def test_a_dataloader_and_a_dataset_give_the_same_scores(self, reduction, constructor, unpack_inputs):
        tracin, train, test = self.prepare(reduction, constructor, unpack_inputs)
        criterion = nn.MSELoss(reduction=reduction)
        loader = DataLoader(train, batch_size=4, shuffle=False)
        by_loader = constructor(tracin.model, loader, self.folder.name, None, criterion)
        # Batches of other sizes: on some processors products of matrices of other shapes round the last bit otherwise.
        self.assert_close(tracin.influence(test), by_loader.influence(test), delta=1e-12)


class TestSelfInfluence(SuiteTest):
    @parameterized.expand(BOTH, name_func=build_test_name_func())
    def test_self_influence_is_the_diagonal(self, reduction, constructor, unpack_inputs):
        tracin, train, _ = self.prepare(reduction, constructor, unpack_inputs)
        batch = _format_batch_into_tuple(train.samples, train.labels, unpack_inputs)
        own = tracin.self_influence()
        self.assert_close(torch.diagonal(tracin.influence(batch)), own)
        loader = DataLoader(train, batch_size=5)
        self.assert_close(tracin.self_influence(loader, outer_loop_by_checkpoints=True), own)

    @parameterized.expand(BOTH, name_func=build_test_name_func())
    def test_a_dataloader_and_one_batch_give_the_same(self, reduction, constructor, unpack_inputs):
        tracin, train, _ = self.prepare(reduction, constructor, unpack_inputs)
        whole = next(iter(DataLoader(train, batch_size=len(train))))
        self.assert_close(tracin.self_influence(whole), tracin.self_influence(DataLoader(train, batch_size=5)))


class TestIntermediateQuantities(SuiteTest):
    @parameterized.expand(BOTH, name_func=build_test_name_func())
    def test_aggregate_is_the_sum(self, reduction, constructor, unpack_inputs):
        tracin, train, _ = self.prepare(reduction, constructor, unpack_inputs)
        loader = DataLoader(train, batch_size=5)
        each = tracin.compute_intermediate_quantities(loader, aggregate=False)
        self.assert_close(
            each.sum(0, keepdim=True),
            tracin.compute_intermediate_quantities(loader, aggregate=True),
            delta=1e-4,
        )

    @parameterized.expand(BOTH, name_func=build_test_name_func())
    def test_a_dataloader_and_one_batch_give_the_same(self, reduction, constructor, unpack_inputs):
        tracin, train, _ = self.prepare(reduction, constructor, unpack_inputs)
        whole = next(iter(DataLoader(train, batch_size=len(train))))
        loader = DataLoader(train, batch_size=5)
        self.assert_close(tracin.compute_intermediate_quantities(whole), tracin.compute_intermediate_quantities(loader))

    @parameterized.expand(BOTH, name_func=build_test_name_func())
    def test_influence_is_their_product(self, reduction, constructor, unpack_inputs):
        tracin, train, test = self.prepare(reduction, constructor, unpack_inputs)
        of_test = tracin.compute_intermediate_quantities(test)
        of_train = tracin.compute_intermediate_quantities(DataLoader(train, batch_size=5))
        self.assert_close(tracin.influence(test), torch.matmul(of_test, of_train.T))


class TestShowProgress(SuiteTest):
    @parameterized.expand(CONSTRUCTORS, name_func=build_test_name_func(args_to_skip=["reduction"]))
    def test_each_bar_says_what_captums_says_and_reaches_the_end(self, reduction, constructor):
        tracin, train, test = self.prepare(reduction, constructor, False)
        own = f"Using {tracin.get_name()} to compute self influence. "
        most = f"Using {tracin.get_name()} to perform computation for getting "
        loader = DataLoader(train, batch_size=5)
        expected = [
            (
                lambda: tracin.self_influence(loader, show_progress=True, outer_loop_by_checkpoints=True),
                {f"{own}Processing checkpoint: 100%": 1, f"{own}Processing batch: 100%": 5},
            ),
            (lambda: tracin.self_influence(loader, show_progress=True), {f"{own}Processing batch: 100%": 1}),
            (
                lambda: tracin.influence(test, show_progress=True),
                {f"Using {tracin.get_name()} to compute influence for training batches: 100%": 1},
            ),
            (
                lambda: tracin.influence(test, k=2, proponents=True, show_progress=True),
                {f"{most}proponents. Processing training batches: 100%": 1},
            ),
            (
                lambda: tracin.influence(test, k=2, proponents=False, show_progress=True),
                {f"{most}opponents. Processing training batches: 100%": 1},
            ),
        ]
        self.assertEqual(tracin.get_name(), "TracInWE")
        for call, messages in expected:
            with unittest.mock.patch("sys.stderr", new_callable=io.StringIO) as stderr:
                call()
            for message, times in messages.items():
                self.assertGreaterEqual(stderr.getvalue().count(message), times, (message, stderr.getvalue()))
        with unittest.mock.patch("sys.stderr", new_callable=io.StringIO) as stderr:
            tracin.influence(test)
        self.assertEqual(stderr.getvalue(), "")


class TestValidation(SuiteTest):
    def test_inputs_are_required(self):
        tracin, _, _ = self.prepare("none", WE, False, batch_size=1)
        with self.assertRaisesRegex(AssertionError, "required."):
            tracin.influence(None, k=None)

    def test_checkpoints_are_required(self):
        net, train, _, _ = get_model_and_data(self.folder.name, False)
        with (
            tempfile.TemporaryDirectory() as empty,
            self.assertRaisesRegex(ValueError, "Invalid checkpoints provided for TracIn class: "),
        ):
            WE(net, train, empty, loss_fn=nn.MSELoss(), batch_size=1)


class Scalars(nn.Module):
    """y = θ[word]: an embedding of width one."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 1)

    def forward(self, ids):
        return self.words(ids).squeeze(1)


class TestRegression(SuiteTest):
    """Captum's regression tests have closed forms; so has this: score(i, j) = Σ_c η_c [w_i = w_j] 4 (θ_w − y_i)(θ_w − y_j)."""

    @parameterized.expand([("none", False), ("sum", True), ("mean", True)])
    def test_scores_have_the_closed_form(self, reduction, sample_wise):
        torch.manual_seed(0)
        ids = torch.arange(20).unsqueeze(1) % VOCABULARY
        y = torch.randn(20, 1).double()
        net, expected = Scalars().double(), torch.zeros(6, 20).double()
        for i in range(4):
            nn.init.normal_(net.words.weight)
            save_checkpoint(os.path.join(self.folder.name, f"{i}.pt"), net, 0.3 + i)
            error = net.words.weight[ids[:, 0]] - y
            expected += (ids[:6] == ids.T).double() * (0.3 + i) * 4 * (error[:6] @ error.T).detach()
        criterion = nn.MSELoss(reduction=reduction)
        for batch_size in (1, 4, 20):
            tracin = TracInWE(
                net,
                ExplicitDataset(ids, y),
                self.folder.name,
                loss_fn=criterion,
                batch_size=batch_size,
                sample_wise_grads_per_batch=sample_wise,
            )
            self.assert_close(tracin.influence((ids[:6], y[:6])), expected, delta=1e-12)
            indices, _ = tracin.influence((ids[:6], y[:6]), k=1)
            self.assert_close(expected.gather(1, indices), expected.max(1, keepdim=True).values, delta=1e-12)


class TestSeam(BaseTest):
    def test_every_member_of_captum_that_we_rely_on_is_there(self):
        """One place that fails, and says why, when a Captum release moves the seam."""
        from captum._utils.progress import NullProgress, progress
        from captum.influence._core.tracincp import TracInCPBase
        from captum.influence._utils.common import KMostInfluentialResults
        from captum.log import log_usage

        self.assertTrue(issubclass(TracInWE, TracInCP) and issubclass(TracInCP, TracInCPBase))
        self.assertEqual(KMostInfluentialResults._fields, ("indices", "influence_scores"))
        self.assertIsInstance(TracInCPBase.checkpoints, property)
        for name in ("influence", "self_influence", "compute_intermediate_quantities"):
            self.assertIn(name, vars(TracInCP))
            self.assertIn(name, vars(TracInWE))
        self.assertTrue(callable(TracInCPBase.get_name))
        with NullProgress() as bar:
            bar.update()
        with (
            unittest.mock.patch("sys.stderr", new_callable=io.StringIO),
            progress(desc="x", total=1, mininterval=0.0) as bar,
        ):
            bar.update()
        self.assertEqual(log_usage(part_of_slo=False)(lambda: 3)(), 3)
