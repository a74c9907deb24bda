"""FSDP on the CPU: two processes over gloo hold half of each weight; the first saves what both have gathered."""

import torch
import torch.distributed as dist
from common import LOSS, batches, collate, encoded, main, small_bert
from processes import together
from single_examples import Moment
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import fully_shard

from captum_tracinwe import TracInWE

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(rank)
    model = small_bert()
    mesh = dist.device_mesh.init_device_mesh("cpu", (2,))
    for layer in model.bert.encoder.layer:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    for epoch in range(2):
        for batch in batches():
            optimizer.zero_grad()
            model(**batch).loss.backward()
            optimizer.step()
        scheduler.step()
        state = get_model_state_dict(model, options=WHOLE)
        if rank == 0:
            torch.save({"model": state, "lr": scheduler.get_last_lr()[0]}, folder / f"epoch-{epoch}.pt")


def train(folder):
    folder.mkdir()
    together(worker, folder)
    (folder / "meeting").unlink(missing_ok=True)
    saved = [torch.load(path) for path in sorted(folder.glob("epoch-*.pt"))]
    return small_bert(), [Moment(one["model"], one["lr"]) for one in saved]


def explain(model, folder):
    return TracInWE(model, encoded(), folder, loss_fn=LOSS, batch_size=4, collate_fn=collate)


if __name__ == "__main__":
    main(train, explain)
