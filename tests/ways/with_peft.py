"""PEFT: LoRA on a frozen model, trained by Trainer, whose checkpoints hold the adapter alone."""

import peft
import with_trainer
from common import main, small_bert

explain = with_trainer.explain


def train(folder):
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    return with_trainer.train(folder, peft.get_peft_model(small_bert(), config))


if __name__ == "__main__":
    main(train, explain)
