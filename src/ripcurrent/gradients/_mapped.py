"""Directions kept in a file that is mapped into memory, and read from there layer by layer."""

import mmap
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients._directions import Directions

Key = TypeVar("Key")


class MappedStore:
    """Makes tensors that lie in files without a name in a folder: they vanish with this process, however it ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._maps: dict[int, mmap.mmap] = {}

    def empty(self, *shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """An uninitialised tensor in a file, whatever ``device`` is; a `RipcurrentError` where the disk has no room."""
        size = torch.Size(shape).numel() * dtype.itemsize
        if size == 0:
            return torch.empty(*shape, dtype=dtype)
        try:
            with tempfile.TemporaryFile(dir=self._folder) as file:
                if hasattr(os, "posix_fallocate"):
                    # blocks are taken now: a full disk is an error here and not a crash at the first write
                    os.posix_fallocate(file.fileno(), 0, size)
                else:
                    os.ftruncate(file.fileno(), size)
                mapped = mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise RipcurrentError(
                f"{self._folder} has no room for {size / 1e9:.1f} GB of directions: {error.strerror or error}.",
                "Free some space there, write to another disk, or set memory (--memory) higher.",
            ) from error
        tensor = torch.frombuffer(mapped, dtype=dtype).view(*shape)
        self._maps[tensor.data_ptr()] = mapped
        return tensor

    def let_go(self) -> None:
        """Drop every tensor's pages from this process's memory; what was written stays in the files."""
        for mapped in self._maps.values():
            _drop_pages(mapped)

    def directions(self, directions: Directions, device: torch.device) -> Directions:
        """The same directions, each tensor in memory (on ``device``) only while it is in use."""
        return Directions(
            directions.count,
            OneAtATime(directions.linear, self._maps, device),
            OneAtATime(directions.other, self._maps, device),
            directions.term_weights,
            directions.entry_of,
        )


def _drop_pages(mapped: mmap.mmap) -> None:
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


class OneAtATime(Mapping[Key, Tensor], Generic[Key]):
    """Hands out one mapped tensor at a time: asking for the next lets go of the memory that the last one took."""

    def __init__(self, tensors: Mapping[Key, Tensor], maps: Mapping[int, mmap.mmap], device: torch.device) -> None:
        self._tensors = tensors
        self._maps = maps
        self._device = device
        self._last: mmap.mmap | None = None

    def __getitem__(self, key: Key) -> Tensor:
        tensor = self._tensors[key]
        mapped = self._maps.get(tensor.data_ptr())
        if self._last is not None and mapped is not self._last:
            # the tensor stays valid and is read again from its file when touched
            _drop_pages(self._last)
        self._last = mapped
        return tensor.to(self._device)

    def __iter__(self) -> Iterator[Key]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)
