"""transformers' Trainer, explained from the Trainer itself."""

from common import TOKENIZER, encoded, main, small_bert
from single_examples import moment
from transformers import DataCollatorWithPadding, Trainer, TrainerCallback, TrainingArguments

from captum_tracinwe import TracInWE

RUNS = {}


class Moments(TrainerCallback):
    def __init__(self):
        self.found = []

    def on_save(self, args, state, control, **given):
        self.found.append(moment(given["model"], given["lr_scheduler"].get_last_lr()[0]))


def train(folder, model=None, examples=None, collator=None):
    moments = Moments()
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=3,
        max_steps=6,
        save_steps=2,
        learning_rate=1e-2,
        lr_scheduler_type="cosine",
        report_to=[],
        disable_tqdm=True,
        logging_steps=2,
        use_cpu=True,
    )
    trainer = Trainer(
        model or small_bert(),
        arguments,
        train_dataset=examples or encoded(),
        data_collator=collator or DataCollatorWithPadding(TOKENIZER),
        callbacks=[moments],
    )
    trainer.train()
    RUNS[str(folder)] = trainer
    return trainer.model, moments.found


def explain(model, folder):
    return TracInWE.from_trainer(RUNS[str(folder)], batch_size=4)


if __name__ == "__main__":
    main(train, explain)
