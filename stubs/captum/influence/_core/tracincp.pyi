from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader

class TracInCPBase:
    model: Module
    loss_fn: Callable[..., Tensor] | None
    test_loss_fn: Callable[..., Tensor] | None
    batch_size: int | None
    checkpoints_load_func: Callable[[Module, Any], float]
    train_dataloader: DataLoader[Any]
    train_dataloader_len: int | None
    reduction_type: str
    def __init__(
        self,
        model: Module,
        train_dataset: Any,
        checkpoints: Any,
        checkpoints_load_func: Callable[[Module, Any], float] = ...,
        loss_fn: Callable[..., Tensor] | None = None,
        batch_size: int | None = 1,
        test_loss_fn: Callable[..., Tensor] | None = None,
    ) -> None: ...
    @classmethod
    def get_name(cls) -> str: ...

class TracInCP(TracInCPBase): ...
