"""One training on several devices: data parallelism with accelerate, one process per device.

Under `accelerate launch` or `torchrun`, `fit` joins the processes that they start. Otherwise, if this machine has
several GPUs and CUDA has not been started yet, it starts one process per GPU itself. They are forked from this process,
which keeps its model on the CPU so that its next training can do the same.

Batches are the same as with one process; each process computes its part of every batch. So losses, gradients and
weights are the same up to rounding. Dropout draws different numbers, and a recorded term that is not a mean over rows
is the mean over the parts.
"""

from __future__ import annotations

import io
import os
import pickle
import socket
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout, suppress
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from brainvis.training.device import choose_device, computed_in


class Team:
    """The processes that train one model together: `count` of them, this one being number `index`."""

    def __init__(self, device: torch.device, accelerator: Any = None) -> None:
        self.device, self._accelerator = device, accelerator
        self.count = accelerator.num_processes if accelerator else 1
        self.index = accelerator.process_index if accelerator else 0

    @classmethod
    @contextmanager
    def of(cls, device: torch.device | str | None) -> Iterator[Self]:
        """All processes launched together with this one, each with its own device; by default only this one."""
        device = choose_device(device)
        if int(os.environ.get("WORLD_SIZE", 1)) == 1:
            yield cls(device)
            return
        from accelerate import Accelerator, DistributedDataParallelKwargs

        # static_graph: weights without a gradient are found once, in the first step.
        how = DistributedDataParallelKwargs(static_graph=True)
        accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no", kwargs_handlers=[how])
        try:
            yield cls(accelerator.device, accelerator)
        finally:
            accelerator.free_memory()

    def share(self, rows: Tensor) -> tuple[Tensor, int]:
        """This process's part of the rows (b,) of a batch, and how many of these rows count.

        If a batch has fewer rows than there are processes, a process without a part computes a row that does not count.
        """
        own = rows.tensor_split(self.count)[self.index]
        return (own, len(own)) if len(own) else (rows[:1], 0)

    def sharing(self, objective: Callable[..., dict[str, Tensor]], model: nn.Module) -> Callable[..., dict]:
        """The objective for parts of batches: the gradients it leaves are averaged over the processes.

        All processes take the weights of the first one.
        """
        if self.count == 1:
            return objective
        prepared = self._accelerator.prepare(_Objective(objective, model))
        return lambda _, *batch: prepared(*batch)

    def sums(self, totals: dict[str, Tensor]) -> dict[str, Tensor]:
        """Sums of the totals over all processes."""
        if self.count == 1:
            return totals
        stacked = torch.stack([total.to(self.device) for total in totals.values()])
        return dict(zip(totals, self._accelerator.reduce(stacked, "sum"), strict=True))

    def share_buffers(self, model: nn.Module) -> None:
        """Replaces running statistics, which each process computes from its own rows, by those of the first process."""
        if self.count > 1:
            from accelerate.utils import broadcast

            for buffer in model.buffers():
                buffer.copy_(broadcast(buffer))

    def first_ahead(self) -> AbstractContextManager:
        """A context that the first process runs first; the others follow when it is done."""
        return nullcontext() if self.count == 1 else self._accelerator.main_process_first()


class _Objective(nn.Module):
    """An objective as a module, because accelerate wraps modules: it averages gradients while others are computed."""

    def __init__(self, objective: Callable[..., dict[str, Tensor]], model: nn.Module) -> None:
        super().__init__()
        self.objective, self.model = objective, model

    def forward(self, *batch: Tensor) -> dict[str, Tensor]:
        return self.objective(self.model, *batch)


def processes_to_start(device: torch.device | str | None) -> int:
    """How many processes a training has to start: one per GPU, if there are several and no device is requested."""
    gpus = torch.cuda.device_count()
    if device is not None or gpus < 2 or "WORLD_SIZE" in os.environ or not hasattr(os, "fork"):
        return 1
    if torch.cuda.is_initialized():
        warnings.warn(
            f"only one of {gpus} GPUs is used: CUDA was started before this training, so no process can be forked any "
            "more. Train in a notebook or script that has put nothing on a GPU yet, or under accelerate launch",
            stacklevel=3,
        )
        return 1
    return gpus


def apart(function: Callable[[], Any]) -> Any:
    """Returns the result of `function`, which may use a GPU. If the next training will fork one process for each of
    several GPUs, `function` runs in its own process, so that CUDA is not started in this one."""
    if processes_to_start(None) == 1:
        return function()
    result, said = launch(lambda: (function(), computed_in), 1)
    computed_in.update(said)
    return result


def launch(function: Callable[[], Any], processes: int) -> Any:
    """Runs `function` in the given number of processes, forked from this one; returns the first one's result.

    The result is pickled, and so is an exception in any of the processes, which is raised here.
    """
    from accelerate import notebook_launcher

    with tempfile.TemporaryDirectory() as folder:

        def run(*_: int) -> None:
            torch.set_num_threads(1)  # OpenMP's other threads do not survive a fork, and waiting for them would hang
            rank = os.environ.get("RANK", "0")
            try:
                result = function()
                if rank == "0":
                    with open(Path(folder) / "result", "wb") as file:
                        pickle.dump(result, file)
            except Exception as error:
                with suppress(Exception):  # if it cannot be pickled, the launcher's own error says which process failed
                    (Path(folder) / f"{rank}.error").write_bytes(pickle.dumps(error))
                raise
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()

        try:
            if processes == 1:  # which notebook_launcher would not fork
                torch.multiprocessing.start_processes(run, nprocs=1, start_method="fork")
            else:
                with redirect_stdout(io.StringIO()):  # it prints what it does
                    notebook_launcher(run, num_processes=processes, use_port=str(_free_port()))
        except Exception as failure:
            if errors := sorted(Path(folder).glob("*.error"), key=lambda file: file.stat().st_mtime_ns):
                raise pickle.loads(errors[0].read_bytes()) from failure
            raise
        with open(Path(folder) / "result", "rb") as file:
            return pickle.load(file)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
