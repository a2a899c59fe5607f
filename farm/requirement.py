"""What a job asks of its worker beyond its queue, and what an environment lacks of it (pure)."""

from __future__ import annotations

import functools
from collections.abc import Iterator

from farm import catalogue
from farm.environment import PACKAGES
from farm.measurement import Environment, GpuFacts
from farm.precision import PRECISIONS
from farm.recipe import Recipe
from farm.spec import Cell, Value

#: Without these nothing is measured, so every worker has them.
_EVERYWHERE = ("farm", "torch", "torchvision", "numpy")
_MIB = 1 << 20


class Requirement(Value):
    """What a job asks of its worker. Whatever an environment does not tell, nobody can say that it lacks."""

    queue: str
    #: As in `Cell`.
    threads: int | None = None
    #: Packages that the recipe needs, by the names that environments have for them.
    packages: tuple[str, ...] = ()
    #: The least that the recipe's precision needs of a GPU.
    compute_capability: float | None = None
    #: The least that the user asks for, in MiB.
    vram_mb: int | None = None

    def lacking(self, where: Environment) -> str:
        """What an environment has not, for people; empty where it has all."""
        packages = [name for name in self.packages if name not in where.packages]
        return ", ".join([*packages, *self._of_device(where)])

    def lacking_of_device(self, where: Environment) -> str:
        """The same of its device alone: what is installed is found out by importing it."""
        return ", ".join(self._of_device(where))

    def _of_device(self, where: Environment) -> Iterator[str]:
        gpu, least, memory_mb = where.gpu or GpuFacts(), self.compute_capability, self.vram_mb
        if least is not None and gpu.compute_capability is not None and gpu.compute_capability < least:
            yield f"compute capability {least} ({where.device_model} has {gpu.compute_capability})"
        if memory_mb is not None and gpu.memory_bytes is not None and gpu.memory_bytes < memory_mb * _MIB:
            yield f"{memory_mb:,} MiB of GPU memory ({where.device_model} has {gpu.memory_bytes // _MIB:,})"

    def __str__(self) -> str:
        """All of it, for people."""
        words = list(self.packages)
        if self.compute_capability is not None:
            words.append(f"compute capability {self.compute_capability}")
        if self.vram_mb is not None:
            words.append(f"{self.vram_mb:,} MiB of GPU memory")
        return ", ".join(words)


def of(cell: Cell) -> Requirement | None:
    """What a cell asks for; None where every worker of its queue will do."""
    return _of(cell.recipe, cell.device_kind, cell.queue, cell.threads, cell.min_vram_mb)


@functools.lru_cache(maxsize=1024)  # a matrix repeats each of few recipes many times
def _of(
    recipe: Recipe, device_kind: str, queue: str, threads: int | None, vram_mb: int | None
) -> Requirement | None:
    if not catalogue.runs_on(recipe, device_kind):
        return None  # on any of them it is unsupported
    needed = {module.replace("_", "-") for modules in catalogue.modules(recipe).values() for module in modules}
    packages = tuple(name for name in PACKAGES if name in needed and name not in _EVERYWHERE)
    capability = PRECISIONS[recipe.precision].capability if device_kind == "cuda" else None
    if not packages and capability is None and vram_mb is None:
        return None
    return Requirement(
        queue=queue, threads=threads, packages=packages, compute_capability=capability, vram_mb=vram_mb
    )
