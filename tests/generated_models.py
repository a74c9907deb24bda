"""What recipes are made of: models of many families, and losses."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from single_examples import own_loss, quietly
from torch import nn
from torch.nn.utils import parametrizations

from captum_tracinwe.app.testing import VOCABULARY, TinyCNN, language_model_loss
from captum_tracinwe.gradients.token_losses import TokenLoss

CLASSES = 3
WORDS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
ENCODER = WORDS | {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
ENCODER |= {"max_position_embeddings": 32, "num_labels": CLASSES}
DECODER = ENCODER | {"num_key_value_heads": 2}
GPT2 = WORDS | {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 32, "num_labels": CLASSES}
HALF = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
HALF |= {"encoder_layers": 1, "decoder_layers": 1, "decoder_start_token_id": 0, "forced_eos_token_id": None}

# ------------------------------------------------------------------------------------------------ models of people's own


class InPlace(TinyCNN):
    """Scales the embedding's output in place, as many who follow the first transformer paper do."""

    def forward(self, input_ids):
        vectors = self.embedding(input_ids)
        vectors *= 2.5
        return self.out(torch.tanh(self.conv(vectors.transpose(1, 2))).sum(2))


class WordsFirst(nn.Module):
    """A recurrent model as PyTorch's tutorials write it: words along the first dimension; padding does not count."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 6, padding_idx=0)
        self.lstm = nn.LSTM(6, 5)
        self.out = nn.Linear(5, CLASSES)

    def forward(self, input_ids):
        words = input_ids.t()
        hidden, _ = self.lstm(self.embedding(words))
        there = (words != 0)[..., None]
        return self.out((hidden * there).sum(0) / there.sum(0).clamp_min(1))


class Mean(nn.Module):
    """A sum over words of a layer's answers, that of padding left out."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 6, padding_idx=0)
        self.linear, self.out = nn.Linear(6, 6), nn.Linear(6, CLASSES)

    def layer(self, vectors):
        return self.linear(vectors)

    def forward(self, input_ids):
        hidden = torch.tanh(self.layer(self.embedding(input_ids)))
        return self.out((hidden * (input_ids != 0)[..., None]).sum(1))


class MergedByEval(Mean):
    """A low-rank change that `eval()` adds to the weight and `train()` takes away again, as loralib does."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.randn(6, 2))
        self.merged = False

    def train(self, mode=True):
        super().train(mode)
        if self.merged == mode:
            self.linear.weight.data += (-1 if mode else 1) * self.b.data @ self.a.data
            self.merged = not mode
        return self

    def layer(self, vectors):
        return self.linear(vectors) if self.merged else self.linear(vectors) + vectors @ (self.b @ self.a).t()


class PreparedAtLoading(Mean):
    """Keeps the transposed weight for its forward, which a hook of `load_state_dict` makes anew."""

    def __init__(self):
        super().__init__()
        self.prepare()
        self.register_load_state_dict_post_hook(lambda module, _: module.prepare())

    def prepare(self):
        self.kept = self.linear.weight.detach().t().clone()

    def layer(self, vectors):
        return vectors @ self.kept


def with_weight_norm():
    model = Mean()
    parametrizations.weight_norm(model.linear)
    return model


def of_transformers(name, sizes, **changes):
    config = getattr(transformers, name.split("For")[0].removesuffix("LMHeadModel") + "Config")
    return lambda: getattr(transformers, name)(config(**(sizes | changes)))


def with_lora():
    import peft

    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"], init_lora_weights=False)
    return peft.get_peft_model(FAMILIES["bert"].make(), config)


@dataclass(frozen=True)
class Family:
    """A kind of model.

    Args:
        make: a new one.
        kind: what its labels are, "class", "next" word, or "target" text.
        kinds: letters of the kinds of trouble that it has by itself.
        left, right: what padding on that side adds to them; encoders read their answer at the first place.
        own: a module of the user's, which takes ids alone.
        masked: whether it heeds an ``attention_mask``.
        takes_places: whether ``position_ids`` count from 0 in it.
    """

    make: Callable[[], nn.Module]
    kind: str = "class"
    kinds: str = ""
    left: str = ""
    right: str = ""
    own: bool = False
    masked: bool = True
    takes_places: bool = False


FAMILIES = {
    "bert": Family(of_transformers("BertForSequenceClassification", ENCODER), left="E", takes_places=True),
    "roberta": Family(
        of_transformers("RobertaForSequenceClassification", ENCODER, max_position_embeddings=34), left="E"
    ),
    "distilbert": Family(
        of_transformers(
            "DistilBertForSequenceClassification",
            WORDS
            | {
                "dim": 8,
                "n_layers": 2,
                "n_heads": 2,
                "hidden_dim": 16,
                "max_position_embeddings": 32,
                "num_labels": CLASSES,
            },
        ),
        left="E",
    ),
    "llama": Family(of_transformers("LlamaForCausalLM", DECODER), "next", left="Q", takes_places=True),
    "gpt2": Family(of_transformers("GPT2LMHeadModel", GPT2), "next", left="EQ", takes_places=True),
    "pythia": Family(of_transformers("GPTNeoXForCausalLM", ENCODER), "next", "I", left="Q", takes_places=True),
    "mixtral": Family(
        of_transformers("MixtralForCausalLM", DECODER | {"num_local_experts": 4}),
        "next",
        "I",
        left="Q",
        takes_places=True,
    ),
    "mamba": Family(
        of_transformers("MambaForCausalLM", WORDS | {"hidden_size": 8, "num_hidden_layers": 2, "state_size": 4}),
        "next",
        left="EQ",
    ),
    "t5": Family(
        of_transformers(
            "T5ForConditionalGeneration",
            WORDS | {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2, "decoder_start_token_id": 0},
        ),
        "target",
        left="EQ",
    ),
    "bart": Family(
        of_transformers(
            "BartForConditionalGeneration",
            WORDS | HALF | {"d_model": 8, "max_position_embeddings": 32, "scale_embedding": True},
        ),
        "target",
        left="EQ",
    ),
    "xlnet": Family(
        of_transformers(
            "XLNetForSequenceClassification",
            WORDS | {"d_model": 8, "n_layer": 2, "n_head": 2, "d_inner": 16, "num_labels": CLASSES},
        ),
        kinds="N",
        right="E",  # it reads its answer at the last place
    ),
    "fnet": Family(
        of_transformers("FNetForSequenceClassification", ENCODER | {"tpu_short_seq_length": 32}),
        left="E",
        right="E",
        masked=False,
    ),
    "gpt2 that classifies": Family(of_transformers("GPT2ForSequenceClassification", GPT2), left="E", takes_places=True),
    "gpt2 that classifies, without a pad token": Family(
        of_transformers("GPT2ForSequenceClassification", GPT2, pad_token_id=None), kinds="U", left="EU", right="EU"
    ),
    "gpt2, texts of two kinds": Family(of_transformers("GPT2LMHeadModel", GPT2), "next", "F", left="EQ"),
    "bert with lora": Family(with_lora, left="E"),
    "a cnn": Family(lambda: TinyCNN(VOCABULARY, 6, CLASSES, padding_idx=0), left="E", right="E", own=True),
    "in place": Family(
        lambda: InPlace(VOCABULARY, 6, CLASSES, padding_idx=0), kinds="H", left="E", right="E", own=True
    ),
    "words first": Family(WordsFirst, kinds="N", left="E", own=True),
    "merged by eval": Family(MergedByEval, kinds="B", own=True),
    "prepared at loading": Family(PreparedAtLoading, kinds="S", own=True),
    "weight norm": Family(with_weight_norm, kinds="B", own=True),
}


@functools.cache
def _first(family: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = quietly(FAMILIES[family].make)
        with torch.no_grad():  # of the size at which gradients are neither all alike nor huge
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn(parameter.shape))
    return model.eval()


def fresh(family: str) -> nn.Module:
    """A model of the family, always with the same weights."""
    return copy.deepcopy(_first(family))


# ------------------------------------------------------------------------------------------------------------- losses

WEIGHTS = torch.tensor([0.2, 1.0, 3.0])


def _with_own_loss(model: nn.Module, total: Callable[[Any, Any], Any]) -> nn.Module:
    """The model with another loss within, as a subclass of its own would have."""
    kind = type(model)

    def forward(self, *args, labels=None, **given):
        output = kind.forward(self, *args, **given)
        output["loss"] = total(output["logits"], labels)
        return output

    forward = functools.wraps(kind.forward)(forward)
    model.__class__ = type(f"Own{kind.__name__}", (kind,), {"forward": forward, "__module__": __name__})
    return model


def _spread(logits, labels):
    """A term that belongs to the batch: how far its answers lie apart."""
    return nn.functional.cross_entropy(logits, labels) - (logits - logits.mean(0)).square().mean()


def _tokens(shift, reduction="sum"):
    def loss(output, labels):
        logits = output["logits"][:, : -1 if shift else None].transpose(1, 2)
        return nn.functional.cross_entropy(logits, labels[:, 1 if shift else 0 :], reduction=reduction)

    return loss


def _of_logits(loss_fn):
    return lambda output, labels: loss_fn(output["logits"] if isinstance(output, dict) else output, labels)


@dataclass(frozen=True)
class Loss:
    """``given`` to `TracInWE`; ``alone``: of the output and labels of a batch of one; ``within`` changes the model's own."""

    given: Any
    alone: Callable[[Any, Any], torch.Tensor]
    kinds: str = ""
    within: Callable[[Any, Any], Any] | None = None


def _of_classes(kinds="", **options):
    return Loss(nn.CrossEntropyLoss(**options), _of_logits(nn.CrossEntropyLoss(**options)), kinds)


LOSSES = {
    "class": {
        "for each": _of_classes(reduction="none"),
        "mean": _of_classes(),
        "sum": _of_classes(reduction="sum"),
        "weighted": _of_classes(weight=WEIGHTS, reduction="none"),
        "mean by weight": _of_classes("A", weight=WEIGHTS),
        "smoothed": _of_classes(label_smoothing=0.1),
        "the model's own": Loss(None, own_loss),
        "the model's own, by weight": Loss(
            None, own_loss, "A", lambda logits, labels: nn.functional.cross_entropy(logits, labels, WEIGHTS)
        ),
        "the model's own, a sum": Loss(
            None, own_loss, "A", lambda logits, labels: nn.functional.cross_entropy(logits, labels, reduction="sum")
        ),
        "the model's own, of a batch": Loss(None, own_loss, "A", _spread),
    },
    "next": {
        "tokens": Loss(TokenLoss(), _tokens(True)),
        "mean of tokens": Loss(TokenLoss(reduction="mean"), _tokens(True, "mean")),
        "a function": Loss(language_model_loss, _tokens(True)),
        "the model's own": Loss(None, own_loss, "A"),
    },
    "target": {
        "tokens": Loss(TokenLoss(shift=False), _tokens(False)),
        "mean of tokens": Loss(TokenLoss(shift=False, reduction="mean"), _tokens(False, "mean")),
        "the model's own": Loss(None, own_loss, "A"),
    },
}


def with_loss(model: nn.Module, loss: Loss) -> nn.Module:
    return model if loss.within is None else _with_own_loss(model, loss.within)
