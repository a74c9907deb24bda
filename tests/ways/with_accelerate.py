"""accelerate: what is prepared is trained, and `save_state` keeps weights, optimiser and scheduler in a folder."""

import torch
from accelerate import Accelerator
from common import LOSS, batches, collate, encoded, main, small_bert
from single_examples import moment

from captum_tracinwe import TracInWE


def train(folder):
    accelerator = Accelerator(cpu=True)
    model, moments = small_bert(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.8)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, batches(), scheduler)
    for epoch in range(3):
        for batch in loader:
            optimizer.zero_grad()
            accelerator.backward(model(**batch).loss)
            optimizer.step()
            scheduler.step()
        accelerator.save_state(str(folder / f"state_{epoch}"))
        moments.append(moment(accelerator.unwrap_model(model), scheduler.get_last_lr()[0]))
    return accelerator.unwrap_model(model), moments


def explain(model, folder):
    return TracInWE(model, encoded(), folder, loss_fn=LOSS, batch_size=4, collate_fn=collate)


if __name__ == "__main__":
    main(train, explain)
