"""Some rows of a tensor, gathered on demand: a mapped array is then held only once, as its own pages."""

import ctypes
import mmap
import os
from collections.abc import Iterator

import torch
from torch import Tensor

_advise = ctypes.CDLL(None).madvise if os.name == "posix" else None
if _advise is not None:
    _advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Rows:
    """The rows `rows` (n,) of a tensor, in that order, with the part of the tensor interface that `fit` and `predict`
    use.

    `whole[rows]` would copy all of them at once. Here every batch is copied separately, at the cost of reading its
    bytes, whether from memory or from disk; `docs/scale.md` has the figures.
    """

    def __init__(self, whole: Tensor, rows: Tensor) -> None:
        self.whole, self.rows = whole, rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: Tensor) -> Tensor:
        return self._gathered(self.rows[places])

    @property
    def shape(self) -> torch.Size:
        """Shape of a tensor with only these rows."""
        return torch.Size([len(self.rows), *self.whole.shape[1:]])

    @property
    def nbytes(self) -> int:
        """Size of these rows in bytes."""
        return self.shape.numel() * self.whole.element_size()

    @property
    def dtype(self) -> torch.dtype:
        """Type of the values."""
        return self.whole.dtype

    @property
    def device(self) -> torch.device:
        """Device of the values."""
        return self.whole.device

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.whole.ndim

    def to(self, device: torch.device | str | None) -> "Tensor | Rows":
        """A tensor of these rows on another device; the object itself if it is already there, or for None."""
        there = self.whole.device if device is None else torch.device(device)
        return self if there.type == self.whole.device.type else self._gathered(self.rows).to(there)

    def split(self, size: int) -> Iterator[Tensor]:
        """The rows in pieces of `size`, gathered one after another."""
        return map(self._gathered, self.rows.split(size))

    def _gathered(self, rows: Tensor) -> Tensor:
        """A copy of these rows of the whole. For a mapped array that is not in memory, the system is first told which
        bytes are needed: on finding them one by one it would read megabytes around each and take eight times as
        long."""
        size = self.whole.stride(0) * self.whole.element_size()  # bytes
        whole_pages = size >= mmap.PAGESIZE and self.whole[:1].is_contiguous()
        if _advise is not None and self.device.type == "cpu" and whole_pages:
            for row in rows.tolist():
                start = self.whole.data_ptr() + row * size
                before = start % mmap.PAGESIZE
                _advise(start - before, size + before, mmap.MADV_WILLNEED)  # the hint does not change any value
        return self.whole[rows]
