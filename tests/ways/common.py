"""What the scripts share: a few texts, a tokenizer, a small BERT, and the page of words at the end."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))  # the oracle, of whose pieces the scripts keep what training had

from captum_tracinwe import visualization
from captum_tracinwe.app.training import words_tokenizer
from captum_tracinwe.words import tokenize

TEXTS = [
    ("the sauce was warm and the bread was fresh", 0),
    ("a warm soup", 0),
    ("fresh bread with a little salt and oil", 0),
    ("the soup was cold", 0),
    ("the crew set the sail before the wind", 1),
    ("a cold wind from the north", 1),
    ("the boat was fresh from the yard", 1),
    ("sail and oar", 1),
]
QUESTIONS = [("warm bread and oil", 0), ("the cold boat", 1), ("a fresh wind with salt", 1)]

TOKENIZER = words_tokenizer([text for text, _ in TEXTS])
LOSS = nn.CrossEntropyLoss(reduction="none")


def encoded(texts=TEXTS):
    """Examples as a data set has them, each of its own length."""
    return [{**TOKENIZER(text, return_token_type_ids=False), "labels": label} for text, label in texts]


def collate(examples):
    """A padded batch."""
    return TOKENIZER.pad(examples, return_tensors="pt")


def batches(texts=TEXTS, batch_size=3):
    return torch.utils.data.DataLoader(encoded(texts), batch_size, shuffle=True, collate_fn=collate)


def alone(examples):
    """Each example as a batch of one, without padding."""
    return [{name: torch.tensor([value]) for name, value in example.items()} for example in examples]


def small_bert(**changes):
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    sizes |= {"vocab_size": len(TOKENIZER), "max_position_embeddings": 32, "num_labels": 2, "initializer_range": 0.2}
    return BertForSequenceClassification(BertConfig(**(sizes | changes)))


def write_page(tracin, folder, asked=None):
    """The words by which the texts that count most moved the answers to the questions."""
    asked = encoded(QUESTIONS) if asked is None else asked
    best = tracin.influence(asked, k=2)
    pairs = tracin.word_influence(asked, best.indices)
    read = {
        f"{side}_texts": tokenize([text for text, _ in some], TOKENIZER, labels=[label for _, label in some])
        for side, some in (("test", QUESTIONS), ("train", TEXTS))
    }
    page = visualization.word_influence_html([pair for row in pairs for pair in row], **read)
    return visualization.write_html(Path(folder) / "words.html", page)


def main(train, explain):
    """``python tests/ways/with_trainer.py [folder]``"""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
    model, _ = train(folder / "run")
    print(write_page(explain(model, folder / "run"), folder))
