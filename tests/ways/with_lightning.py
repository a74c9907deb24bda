"""Lightning: a LightningModule around the model, and the `.ckpt` files of its ModelCheckpoint."""

import lightning
import torch
from common import LOSS, batches, collate, encoded, main, small_bert
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from single_examples import moment

from captum_tracinwe import TracInWE


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = small_bert()

    def training_step(self, batch, batch_idx):
        return self.model(**batch).loss

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


class Moments(Callback):
    def __init__(self):
        self.found = []

    def on_save_checkpoint(self, trainer, module, checkpoint):
        self.found.append(moment(module.model, trainer.optimizers[0].param_groups[0]["lr"]))


def train(folder):
    lightning.seed_everything(0, verbose=False)
    moments = Moments()
    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        callbacks=[ModelCheckpoint(folder, save_top_k=-1), moments],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Classifier()
    trainer.fit(module, batches())
    return module.model, moments.found


def explain(model, folder):
    return TracInWE(model, encoded(), folder, loss_fn=LOSS, batch_size=4, collate_fn=collate)


if __name__ == "__main__":
    main(train, explain)
