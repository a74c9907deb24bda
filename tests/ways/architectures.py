"""Architectures of transformers from their configs, tiny, each trained by Trainer and explained from what it saved."""

import sys
import tempfile
from pathlib import Path

import torch
import transformers
import with_trainer
from common import QUESTIONS, TEXTS, TOKENIZER, encoded, write_page

WORDS = {"vocab_size": len(TOKENIZER), "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
ENCODER = WORDS | {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
ENCODER |= {"max_position_embeddings": 40}
DECODER = ENCODER | {"num_key_value_heads": 2}
EXPERTS = DECODER | {"num_experts_per_tok": 2, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
STATES = WORDS | {"hidden_size": 16, "num_hidden_layers": 2}
HALF = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
HALF |= {"encoder_layers": 1, "decoder_layers": 1, "decoder_start_token_id": 0, "forced_eos_token_id": None}

# What a family calls its size → class, config. A family's own names stand in its line.
FAMILIES = {
    "bert": ("BertForSequenceClassification", "BertConfig", ENCODER),
    "roberta": ("RobertaForSequenceClassification", "RobertaConfig", ENCODER),
    "distilbert": (
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        WORDS | {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 40},
    ),
    "albert": ("AlbertForSequenceClassification", "AlbertConfig", ENCODER | {"embedding_size": 8}),
    "deberta": ("DebertaV2ForSequenceClassification", "DebertaV2Config", ENCODER),
    "modernbert": (
        "ModernBertForSequenceClassification",
        "ModernBertConfig",
        ENCODER | {"cls_token_id": 2, "sep_token_id": 3, "reference_compile": False},
    ),
    "xlnet": (
        "XLNetForSequenceClassification",
        "XLNetConfig",
        WORDS | {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 32},
    ),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", WORDS | {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", DECODER),
    "pythia": ("GPTNeoXForCausalLM", "GPTNeoXConfig", ENCODER),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", DECODER | {"num_local_experts": 4}),
    "qwen2 with experts": ("Qwen2MoeForCausalLM", "Qwen2MoeConfig", EXPERTS | {"num_experts": 4}),
    "t5": (
        "T5ForConditionalGeneration",
        "T5Config",
        WORDS | {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0},
    ),
    "bart": (
        "BartForConditionalGeneration",
        "BartConfig",
        WORDS | HALF | {"d_model": 16, "max_position_embeddings": 40, "scale_embedding": True},
    ),
    "mamba": ("MambaForCausalLM", "MambaConfig", STATES | {"state_size": 4}),
    "rwkv": (
        "RwkvForCausalLM",
        "RwkvConfig",
        STATES | {"attention_hidden_size": 16, "context_length": 40, "use_cache": False},  # in place in transformers 4
    ),
}
explain = with_trainer.explain


def made(family):
    """A model of random weights, without dropout: then a step is the same in training as in the explanation."""
    name, config, sizes = FAMILIES[family]
    torch.manual_seed(0)
    return getattr(transformers, name)(getattr(transformers, config)(**sizes, num_labels=2))


def is_classifier(family):
    return FAMILIES[family][0].endswith("Classification")


def examples(family, texts=TEXTS):
    """With the class for a label; of language models the words themselves."""
    found = encoded(texts)
    return found if is_classifier(family) else [{**one, "labels": one["input_ids"]} for one in found]


def collate(rows):
    """A padded batch, −100 for the labels of padding."""
    lengths = [len(row["input_ids"]) for row in rows]
    batch = {}
    for name in rows[0]:
        fill = {"labels": -100, "input_ids": TOKENIZER.pad_token_id}.get(name, 0)
        values = [torch.tensor(row[name]) for row in rows]
        batch[name] = (
            torch.nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=fill)
            if values[0].dim() and len(values[0]) in lengths
            else torch.stack(values)
        )
    return batch


def train(folder, family):
    return with_trainer.train(folder, made(family), examples(family), collate)


if __name__ == "__main__":
    place = Path(tempfile.mkdtemp())
    for family in sys.argv[1:] or FAMILIES:
        model, _ = train(place / family, family)
        print(write_page(explain(model, place / family), place / family, asked=examples(family, QUESTIONS)))
