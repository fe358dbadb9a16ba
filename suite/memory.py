"""Whether a model fits into the memory, told before the work begins."""

from math import prod
from pathlib import Path

import psutil
from safetensors import SafetensorError, safe_open

from suite.errors import ModelError

GIB = 2**30
COPIES_WHILE_LOADING = 4  # of the weights, while they are processed


def require_memory(needed: int, work: str) -> None:
    """Raises ModelError where fewer bytes of memory are free than are needed.

    work: what needs them, as the beginning of a sentence.
    """
    available = psutil.virtual_memory().available
    if needed > available:
        raise ModelError(
            f"{work} needs about {needed / GIB:.1f} GiB of memory and {available / GIB:.1f} GiB "
            "are free: end other programs, or use a smaller model."
        )


def require_memory_to_load(name: str, weights: list[Path], *, bytes_each: int) -> None:
    """Raises ModelError where a model does not fit into the memory; files that cannot be read are
    left for the reader.

    weights: its safetensors. bytes_each: size of a parameter in memory, 4 for float32.
    """
    try:
        n_parameters = sum(map(_count_parameters, weights))
    except (OSError, SafetensorError):
        return
    needed = COPIES_WHILE_LOADING * n_parameters * bytes_each
    require_memory(needed, f"Loading {name}")


def _count_parameters(weights: Path) -> int:
    """The number of parameters in a file, from its header."""
    with safe_open(weights, "np") as file:
        return sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
