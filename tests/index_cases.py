"""Row gradients and indexes for the tests of `captum_tracinwe.index`."""

from __future__ import annotations

import hashlib
import json

import torch

from captum_tracinwe import GradientIndex, RowGradients


def random_rows(examples, tokens=12, vocabulary=40, width=8, seed=0):
    """Token 0 in every example, norms over three orders of magnitude, as gradients have them."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocabulary, (examples * tokens,), generator=generator)
    ids[::tokens] = 0
    values = torch.randn(len(ids), width, generator=generator) @ torch.diag(torch.linspace(2, 0.1, width))
    values *= torch.exp(1.5 * torch.randn(len(ids), 1, generator=generator))
    return RowGradients.from_positions(torch.arange(examples).repeat_interleave(tokens), ids, values, examples)


def brute_force(index, rows, k, proponents=True):
    """Everything scored, −∞ (not there) left out, sorted; of equal scores the smaller index first."""
    scores = index.scores(rows)
    kept = index.numbers
    order = torch.sort(scores[:, kept], dim=1, descending=proponents, stable=True)
    return kept[order.indices[:, :k]], order.values[:, :k]


def assert_exact(index, rows, k, proponents=True, **filters):
    found = index.search(rows, k, proponents, **filters)
    indices, scores = brute_force(index, rows, k, proponents)
    assert torch.equal(found.indices, indices)
    assert torch.equal(found.influence_scores, scores)
    return found


def small_index(folder, examples=60, **options):
    options = {"segment_examples": 16, "rank": 3, **options}
    rows = random_rows(examples)
    return GradientIndex.from_rows(folder, rows, **options), rows


def rewrite(folder, edit):
    """Edit the content of a manifest by ``edit(content)`` and make its checksum right, as anybody can."""
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    content.pop("checksum")
    content = edit(content) or content
    checksum = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**content, "checksum": checksum}, indent=1, sort_keys=True) + "\n")


def contents(folder):
    """All files below a directory, and the targets of links."""
    return {
        str(path.relative_to(folder)): path.readlink() if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }
