"""The right values for tests of other people's models: a loop over single examples, each as its collator makes it, unpadded."""

import torch

from captum_tracinwe.app.testing import scores_by_loop


def alone(example):
    """A mapping of lists or numbers as a batch of one."""
    return {key: torch.as_tensor(value)[None] for key, value in example.items()}


def looped(model, table, checkpoints, loss, test, train, padding_idx=None):
    """Scores ``(N, M)`` of examples that are batches of one; ``loss`` is of the model and such a batch."""
    runs = [[lambda one=one: loss(model, one) for one in side] for side in (test, train)]
    return scores_by_loop(model, [table], checkpoints, *runs, padding_idx=padding_idx)


def assert_close(found, expected, part=1e-4):
    """Equal to a part of the largest score."""
    torch.testing.assert_close(found.double(), expected.double(), rtol=part, atol=part * float(expected.abs().max()))


def ragged(count, vocabulary=30, shortest=3, longest=9, classes=3, seed=0):
    """Examples of lists of different lengths: ``input_ids`` and ``labels``."""
    generator = torch.Generator().manual_seed(seed)

    def below(most, size=()):
        return torch.randint(1, most, size, generator=generator)

    lengths = torch.randint(shortest, longest + 1, (count,), generator=generator).tolist()
    return [
        {"input_ids": below(vocabulary, (length,)).tolist(), "labels": int(below(classes + 1)) - 1}
        for length in lengths
    ]
