"""Checkpoints and their learning rates: saved, found, loaded without running code, and what a Trainer left."""

from captum_tracinwe.checkpoints.weights import (
    assign_checkpoint,
    check_whole,
    find_checkpoints,
    load_checkpoint,
    save_checkpoint,
)

__all__ = ["assign_checkpoint", "check_whole", "find_checkpoints", "load_checkpoint", "save_checkpoint"]
