"""From training to a page of words: six ways of training and sixteen architectures, each by a script with the real library."""

from pathlib import Path

import pytest
import torch
from single_examples import own_loss, relative_error, scores_alone

FOLDER = Path(__file__).parent / "ways"
WAYS = {
    "plain_loop": (),
    "with_trainer": ("accelerate",),
    "with_accelerate": ("accelerate",),
    "with_lightning": ("lightning",),
    "with_peft": ("accelerate", "peft"),
    "with_fsdp": (),
}

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


def families():
    """The keys of the script's table, without importing transformers to collect tests."""
    source = (FOLDER / "architectures.py").read_text()
    return [line.split('"')[1] for line in source.splitlines() if line.startswith('    "') and '": (' in line]


def whole(loss):
    """Of a mean over an example's targets their sum, which `from_trainer` takes of a language model."""

    def total(output, labels):
        shifted = 0 if output["logits"].shape[1] == labels.shape[1] and loss == "target" else 1
        logits = output["logits"][:, : output["logits"].shape[1] - shifted]
        return torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels[:, shifted:], reduction="sum")

    return total


@pytest.mark.parametrize("way", WAYS)
def test_a_way_of_training_leads_to_a_page_of_words(script, tmp_path, way):
    for library in WAYS[way]:
        pytest.importorskip(library)
    module, common = script(way), script("common")
    model, moments = module.train(tmp_path / "run")
    assert len({moment.rate for moment in moments}) == len(moments) > 1
    tracin = module.explain(model, tmp_path / "run")
    questions, texts = (common.encoded(some) for some in (common.QUESTIONS, common.TEXTS))
    expected = scores_alone(model, moments, common.alone(questions), common.alone(texts))
    assert relative_error(tracin.influence(questions), expected) < 1e-4
    assert "bread" in common.write_page(tracin, tmp_path).read_text()


@pytest.mark.parametrize("family", families())
def test_an_architecture_leads_to_a_page_of_words(script, tmp_path, family):
    pytest.importorskip("accelerate")
    module, common = script("architectures"), script("common")
    model, moments = module.train(tmp_path / "run", family)
    tracin = module.explain(model, tmp_path / "run")
    questions, texts = (module.examples(family, some) for some in (common.QUESTIONS, common.TEXTS))
    kind = module.FAMILIES[family][0]
    loss = own_loss if module.is_classifier(family) else whole("target" if "Generation" in kind else "next")
    expected = scores_alone(model, moments, common.alone(questions), common.alone(texts), loss)
    assert relative_error(tracin.influence(questions), expected) < 1e-4
    assert "bread" in common.write_page(tracin, tmp_path, questions).read_text()
