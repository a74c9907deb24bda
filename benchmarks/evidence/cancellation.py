"""Cancellation of each layer over training, for the CNN and for BERT 2 x 128.

python benchmarks/evidence/cancellation.py                results/evidence/cancellation-ag_news-cnn-cpu.json and .png
python benchmarks/evidence/cancellation.py --model bert
"""

from __future__ import annotations

import torch
from captum_tracinwe.evaluation import cancellation, example_gradients
from captum_tracinwe.evaluation.plots import plot_cancellation
from captum_tracinwe.retraining import OneByOne
from common import arguments, begin, facts, store
from torch import nn

EXAMPLES = {"smoke": 8, "cpu": 256, "gpu": 1024}
WEIGHTS = {
    "cnn": {"word embedding": "embedding.weight", "conv 1 (second)": "conv1.weight", "conv 2": "conv2.weight",
            "conv 3": "conv3.weight", "last, weight": "out.weight", "last, bias": "out.bias"},
    "bert": {"word embedding": "model.bert.embeddings.word_embeddings.weight",
             "layer 1, query": "model.bert.encoder.layer.0.attention.self.query.weight",
             "layer 1, output": "model.bert.encoder.layer.0.output.dense.weight",
             "layer 2, query": "model.bert.encoder.layer.1.attention.self.query.weight",
             "layer 2, output": "model.bert.encoder.layer.1.output.dense.weight",
             "pooler": "model.bert.pooler.dense.weight", "last, weight": "model.classifier.weight",
             "last, bias": "model.classifier.bias"},
}  # fmt: skip


def main(argv: list[str] | None = None) -> None:
    args, task = begin(arguments(__doc__.splitlines()[0]), argv)
    ids, labels = task.train.batch
    chosen = torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))[: EXAMPLES[args.preset]].to(
        ids.device
    )
    names = WEIGHTS[args.model]
    values: dict[str, list[float]] = {name: [] for name in names}
    losses: list[float] = []

    def measure(model: nn.Module, epoch: int) -> None:
        batches = [(ids[i : i + 1], labels[i : i + 1]) for i in chosen.tolist()]
        found = cancellation(example_gradients(model, batches, nn.CrossEntropyLoss(), list(names.values())))
        for name, parameter in names.items():
            values[name].append(found[parameter])
        model.eval()
        with torch.no_grad():
            losses.append(float(nn.functional.cross_entropy(model(ids[chosen]), labels[chosen])))
        model.train()
        print(epoch, f"loss {losses[-1]:.3f}", {name: round(line[-1], 2) for name, line in values.items()}, flush=True)

    retrain = OneByOne(task.make_model, task.train.batch, task.test.batch, task.recipe)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        measure(task.make_model().to(ids.device), 0)
    retrain.fit(torch.ones(len(ids), dtype=torch.bool), 0, after_epoch=measure)
    epochs = list(range(task.recipe.epochs + 1))
    content = {"epochs": epochs, "examples": len(chosen), "losses": losses, "cancellation": values}
    path = store(
        args.out, f"cancellation-{args.dataset}-{args.model}-{args.preset}", facts(task, args.preset) | content
    )
    fig, ax = plot_cancellation(values, epochs)
    ax.set_title(f"{args.dataset}, {args.model}: {len(chosen)} training examples", fontsize=10, loc="left")
    fig.savefig(path.with_suffix(".png"), dpi=110)
    print(path)


if __name__ == "__main__":
    main()
