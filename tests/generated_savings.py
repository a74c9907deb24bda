"""What recipes are made of: the ways in which training scripts and their libraries save a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from single_examples import quietly
from torch import nn

from captum_tracinwe import save_checkpoint


@dataclass
class Run:
    """What training has in its hands when it saves its checkpoint of number ``step``."""

    model: nn.Module
    rate: float
    step: int
    optimizer: Any = field(init=False)
    scheduler: Any = field(init=False)

    def __post_init__(self):
        self.optimizer = torch.optim.SGD([p for p in self.model.parameters() if p.requires_grad], lr=self.rate)
        self.scheduler = torch.optim.lr_scheduler.ConstantLR(self.optimizer, factor=1.0)

    def state(self, prefix=""):
        return {prefix + name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def pretrained(self, folder, **options):
        quietly(lambda: self.model.save_pretrained(folder, **options))


def _file(content, ending="pt"):
    return lambda run, folder: torch.save(content(run), folder / f"step-{run.step}.{ending}")


def _trainer(run, folder):
    place = folder / f"checkpoint-{run.step}"
    run.pretrained(place)
    torch.save(run.optimizer.state_dict(), place / "optimizer.pt")
    torch.save(run.scheduler.state_dict(), place / "scheduler.pt")
    log = [{"step": step, "epoch": 0.1 * step, "loss": 1.0} for step in range(1, run.step + 1)]
    state = {"global_step": run.step, "max_steps": 9, "epoch": 0.1 * run.step, "log_history": log}
    (place / "trainer_state.json").write_text(json.dumps(state))


def _accelerate(run, folder):
    from safetensors.torch import save_model

    place = folder / f"state_{run.step}"
    place.mkdir()
    save_model(run.model, str(place / "model.safetensors"))
    torch.save(run.optimizer.state_dict(), place / "optimizer.bin")
    torch.save(run.scheduler.state_dict(), place / "scheduler.bin")


def _lightning(run):
    return {
        "epoch": 0,
        "global_step": run.step,
        "pytorch-lightning_version": "2.6.0",
        "state_dict": run.state("model."),
        "loops": {},
        "callbacks": {},
        "optimizer_states": [run.optimizer.state_dict()],
        "lr_schedulers": [run.scheduler.state_dict()],
    }


def _distributed(run, folder):
    from torch.distributed import checkpoint

    place = folder / f"checkpoint-{run.step}"
    quietly(lambda: checkpoint.save({"model": run.state()}, checkpoint_id=place, no_dist=True))


def _deepspeed(run, folder):
    place = folder / f"global_step{run.step}"
    place.mkdir()
    content = {"module": run.state(), "global_steps": run.step, "lr_scheduler": run.scheduler.state_dict()}
    torch.save(content | {"ds_version": "0.19.8"}, place / "mp_rank_00_model_states.pt")


@dataclass(frozen=True)
class Saving:
    """A way of saving; ``rated``: the learning rate is in it; ``of``: "transformers" where it is that library's."""

    save: Callable[[Run, Path], None]
    kinds: str = ""
    rated: bool = True
    of: str = ""


SAVINGS = {
    "save_checkpoint": Saving(lambda run, folder: save_checkpoint(folder / f"step-{run.step}.pt", run.model, run.rate)),
    "save_checkpoint, safetensors": Saving(
        lambda run, folder: save_checkpoint(folder / f"step-{run.step}.safetensors", run.model, run.rate)
    ),
    "state dict": Saving(_file(lambda run: run.state()), rated=False),
    "DataParallel": Saving(_file(lambda run: run.state("module.")), "I", rated=False),
    "compiled": Saving(_file(lambda run: run.state("_orig_mod.")), "I", rated=False),
    "DataParallel of compiled": Saving(_file(lambda run: run.state("module._orig_mod.")), "I", rated=False),
    "PyTorch's tutorial": Saving(
        _file(
            lambda run: {
                "epoch": run.step,
                "model_state_dict": run.state(),
                "optimizer_state_dict": run.optimizer.state_dict(),
            }
        ),
        "L",
    ),
    "nanoGPT": Saving(
        _file(
            lambda run: {
                "model": run.state("_orig_mod."),
                "optimizer": run.optimizer.state_dict(),
                "model_args": {"n_layer": 2},
                "iter_num": run.step,
            }
        ),
        "IL",
    ),
    "Lightning": Saving(_file(_lightning, "ckpt"), "IL"),
    "accelerate": Saving(_accelerate, "L"),
    "DeepSpeed": Saving(_deepspeed, "JL"),
    "torch.distributed": Saving(_distributed, "J", rated=False),
    "save_pretrained": Saving(
        lambda run, folder: run.pretrained(folder / f"step-{run.step}"), rated=False, of="transformers"
    ),
    "save_pretrained, in shards": Saving(
        lambda run, folder: run.pretrained(folder / f"step-{run.step}", max_shard_size="3KB"),
        rated=False,
        of="transformers",
    ),
    "Trainer": Saving(_trainer, of="transformers"),
}
