"""Two processes that train one model over gloo, as tests start them."""

import os

import torch


def together(worker, *arguments):
    """Runs ``worker(rank, *arguments)`` in two processes, and raises what one of them raised."""
    torch.multiprocessing.spawn(_one, (worker, arguments), nprocs=2)


def _one(rank, worker, arguments):
    worker(rank, *arguments)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
    # All is written. Python's own way out ends while gloo's and autograd's threads may still run, and a process then aborts now
    # and then ("terminate called without an active exception").
    os._exit(0)
