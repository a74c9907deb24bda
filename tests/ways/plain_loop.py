"""A plain loop of PyTorch, which saves as PyTorch's own tutorial does: weights, optimiser and epoch in one dict."""

import torch
from common import LOSS, TEXTS, batches, collate, encoded, main, small_bert
from single_examples import moment

from captum_tracinwe import TracInWE


def train(folder):
    folder.mkdir()
    model, moments = small_bert(), []
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for epoch in range(3):
        for batch in batches():
            optimizer.zero_grad()
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
        scheduler.step()
        torch.save(
            {
                "epoch": epoch,
                "model_state_dict": model.state_dict(),
                "optimizer_state_dict": optimizer.state_dict(),
                "loss": float(loss),
            },
            folder / f"epoch-{epoch}.tar",
        )
        moments.append(moment(model, scheduler.get_last_lr()[0]))
    return model, moments


def explain(model, folder):
    return TracInWE(model, encoded(TEXTS), folder, loss_fn=LOSS, batch_size=4, collate_fn=collate)


if __name__ == "__main__":
    main(train, explain)
