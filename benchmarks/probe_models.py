"""Twenty plain models for `probe.py`, a family each, with random weights: nothing of any of them is the probe's to tell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from captum_tracinwe.app.testing import TinyCNN, tiny_gpt2, tiny_t5

VOCABULARY, WIDTH, LONGEST, CLASSES = 8_000, 128, 64, 2
#: Words below it are those that models have for padding, beginnings and ends.
FIRST_WORD = 4


class Plain(NamedTuple):
    """A model and the data that it takes.

    Args:
        make (callable): a new one.
        labels (str): what is to be predicted: "class" of a text, "classes" of its words, its own "words", or an "answer".
        padded (bool): whether texts are of different lengths: it is told where padding is, by an ``attention_mask``.
    """

    make: Callable[[], nn.Module]
    labels: str = "class"
    padded: bool = True


class Bag(nn.Module):
    """The mean of a text's words: the least that a model can do."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.out(self.words(input_ids).mean(1))


class HiddenBag(nn.Module):
    """As fastText, with `nn.EmbeddingBag`, and a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(VOCABULARY, WIDTH, mode="mean")
        self.out = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, CLASSES))

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.out(self.words(input_ids))


class Convolutions(nn.Module):
    """The text CNN of Kim (2014): 300 numbers a word, 100 filters of each of the widths 3, 4 and 5."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, 300)
        self.filters = nn.ModuleList(nn.Conv1d(300, 100, width) for width in (3, 4, 5))
        self.out = nn.Linear(300, CLASSES)

    def forward(self, input_ids: Tensor) -> Tensor:
        words = self.words(input_ids).transpose(1, 2)
        return self.out(torch.cat([one(words).relu().amax(2) for one in self.filters], dim=1))


class AttendedConvolution(nn.Module):
    """A convolution, and a weighted mean over places in which padding has no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(VOCABULARY, WIDTH, padding_idx=0)
        self.filters = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.weight, self.out = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found = self.filters(self.words(input_ids).transpose(1, 2)).relu().transpose(1, 2)
        weights = self.weight(found).squeeze(2).masked_fill(attention_mask == 0, float("-inf")).softmax(1)
        return self.out((weights[:, :, None] * found).sum(1))


class Recurrent(nn.Module):
    """A bidirectional LSTM on texts of one length."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(2 * WIDTH, CLASSES)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True, bidirectional=True)

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.out(self.lstm(self.words(input_ids))[0].amax(1))


class Packed(nn.Module):
    """A GRU whose texts are packed, so that it ends where each of them ends."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.gru = nn.GRU(WIDTH, WIDTH, batch_first=True)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        lengths = attention_mask.sum(1).cpu()
        packed = pack_padded_sequence(self.words(input_ids), lengths, batch_first=True, enforce_sorted=False)
        return self.out(self.gru(packed)[1][-1])


class Attention(nn.Module):
    """torch's own encoder, with learned positions, and the mean of what it makes of the words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(VOCABULARY, WIDTH), nn.Parameter(torch.randn(LONGEST, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 4 * WIDTH, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        words = self.words(input_ids) + self.places[: input_ids.shape[1]]
        found = self.layers(words, src_key_padding_mask=attention_mask == 0)
        kept = attention_mask[:, :, None].to(found.dtype)
        return self.out((found * kept).sum(1) / kept.sum(1))


def of_transformers(family: str, task: str = "SequenceClassification", **changes: Any) -> Callable[[], nn.Module]:
    """A maker of a model of transformers, of 2 layers x 128; ``changes`` are settings of its family."""

    def make() -> nn.Module:
        import transformers

        sizes = {"hidden_size": WIDTH, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 4 * WIDTH}
        sizes |= {"vocab_size": VOCABULARY, "num_labels": CLASSES, "pad_token_id": 0, **changes}
        model = getattr(transformers, f"{family}For{task}")
        return model(model.config_class(**sizes)).eval()  # type: ignore[no-any-return]

    return make


PLAIN: dict[str, Plain] = {
    "mean of words, 128": Plain(Bag, padded=False),
    "fastText with a hidden layer, 128": Plain(HiddenBag, padded=False),
    "CNN of one width, 128": Plain(lambda: TinyCNN(VOCABULARY, WIDTH, CLASSES), padded=False),
    "CNN of Kim (2014)": Plain(Convolutions, padded=False),
    "CNN with attention, 128": Plain(AttendedConvolution),
    "LSTM, two ways, 128": Plain(Recurrent, padded=False),
    "GRU, packed, 128": Plain(Packed),
    "torch's TransformerEncoder 2 x 128": Plain(Attention),
    "BERT 2 x 128": Plain(of_transformers("Bert")),
    "DistilBERT 2 x 128": Plain(of_transformers("DistilBert", dim=WIDTH, n_layers=2, n_heads=2, hidden_dim=4 * WIDTH)),
    "RoBERTa 2 x 128": Plain(of_transformers("Roberta")),
    "ALBERT 2 x 128": Plain(of_transformers("Albert", embedding_size=WIDTH)),
    "ELECTRA 2 x 128, classes of words": Plain(
        of_transformers("Electra", "TokenClassification", embedding_size=WIDTH), "classes"
    ),
    "DeBERTa-v2 2 x 128": Plain(
        of_transformers("DebertaV2", relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False)
    ),
    "MPNet 2 x 128": Plain(of_transformers("MPNet")),
    "GPT-2 2 x 128, language model": Plain(
        lambda: tiny_gpt2(vocab_size=VOCABULARY, n_positions=LONGEST, n_embd=WIDTH), "words"
    ),
    "GPT-NeoX 2 x 128": Plain(of_transformers("GPTNeoX")),
    "Llama 2 x 128": Plain(of_transformers("Llama")),
    "OPT 2 x 128": Plain(of_transformers("OPT", ffn_dim=4 * WIDTH, word_embed_proj_dim=WIDTH)),
    "T5 2 x 128, answers": Plain(
        lambda: tiny_t5(
            vocab_size=VOCABULARY, d_model=WIDTH, d_kv=WIDTH // 2, d_ff=4 * WIDTH, num_heads=2, num_layers=2
        ),
        "answer",
    ),
}


def texts(count: int, labels: str, padded: bool) -> list[dict[str, Any]]:
    """Texts of 8 to 64 random words, or of 64, and what is to be predicted of each."""
    generator = torch.Generator().manual_seed(0)

    def numbers(least: int, most: int, how_many: int) -> list[int]:
        return torch.randint(least, most, (how_many,), generator=generator).tolist()  # type: ignore[no-any-return]

    lengths = numbers(8, LONGEST + 1, count) if padded else [LONGEST] * count
    words = [numbers(FIRST_WORD, VOCABULARY, length) for length in lengths]
    if labels == "words":
        answers: list[Any] = words
    elif labels == "class":
        answers = [number % CLASSES for number in range(count)]
    elif labels == "classes":
        answers = [numbers(0, CLASSES, length) for length in lengths]
    else:
        answers = [numbers(FIRST_WORD, VOCABULARY, 8) for _ in lengths]
    return [{"input_ids": ids, "labels": answer} for ids, answer in zip(words, answers, strict=True)]
