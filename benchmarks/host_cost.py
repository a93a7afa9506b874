"""What a call on device arrays costs on the host, but for the driver's own launch: `python benchmarks/host_cost.py`.

Needs torch and numba-cuda, and no GPU: tensors in host memory are taken for a device's, and the launch is left out. So this
is Python: checks, descriptions of arrays, allocation of results, the schedule's lookup, and the arguments of the launches.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable, Iterator
from typing import Any

import numbanorm

ROUNDS, CALLS = 15, 1000


def pretend() -> Any:
    """Let tensors in host memory count as those of a device, and launch nowhere. asv imports this file too, without torch.

    What is left is what this package and cuda.core do before the driver.
    """
    import torch

    from numbanorm.backends import dispatch
    from numbanorm.cuda import backend as cuda
    from numbanorm.cuda import driver
    from numbanorm.cuda.arrays import libraries
    from numbanorm.spec import checks

    class Nowhere(driver.Hardware):
        def enter(self, device: int) -> None:
            """No context to ask for."""

        def ready(self, kernel: Any, kinds: tuple[str, ...], device: int) -> Any:
            return kernel

        def launch(self, ready: Any, grid: int, block: int, stream: int, arguments: list[Any]) -> None:
            """The driver's part."""

    driver.DRIVER = Nowhere()
    checks.device_library = lambda x: "torch" if isinstance(x, torch.Tensor) else None
    dispatch.cuda_backend = lambda compute: cuda  # type: ignore[assignment]
    libraries.TORCH.stream = lambda a: 0  # type: ignore[method-assign]
    return driver.DRIVER


def calls() -> Iterator[tuple[str, Callable[[], Any]]]:
    import torch

    x, w, b = torch.randn(16, 768), torch.ones(768), torch.zeros(768)
    out = torch.empty_like(x)
    _, stats = numbanorm.layer_norm(x, 768, w, b, return_stats=True)
    yield "layer norm", lambda: numbanorm.layer_norm(x, 768, w, b)
    yield "layer norm, out=", lambda: numbanorm.layer_norm(x, 768, w, b, out=out)
    yield "layer norm, with statistics", lambda: numbanorm.layer_norm(x, 768, w, b, return_stats=True)
    yield "layer norm, backward", lambda: numbanorm.layer_norm_backward(x, x, 768, stats, w)
    _, rms = numbanorm.rms_norm(x, 768, w, return_stats=True)
    yield "rms norm", lambda: numbanorm.rms_norm(x, 768, w)
    yield "rms norm, backward", lambda: numbanorm.rms_norm_backward(x, x, 768, rms, w)
    p, c = torch.randn(8, 6, 14, 14), torch.ones(6)
    mean, var = torch.zeros(6), torch.ones(6)
    _, groups = numbanorm.group_norm(p, 3, c, c, return_stats=True)
    yield "group norm", lambda: numbanorm.group_norm(p, 3, c, c)
    yield "group norm, backward", lambda: numbanorm.group_norm_backward(p, p, 3, groups, c)
    _, batch = numbanorm.batch_norm(p, mean, var, c, c, training=True, return_stats=True)
    yield "batch norm, training", lambda: numbanorm.batch_norm(p, mean, var, c, c, training=True)
    yield "batch norm, inference", lambda: numbanorm.batch_norm(p, mean, var, c, c)
    yield "batch norm, backward", lambda: numbanorm.batch_norm_backward(p, p, batch, c)


def main() -> None:
    nowhere = pretend()
    print("| call | host, us | launches |\n|---|---|---|")
    for name, call in calls():
        launched: list[int] = []
        nowhere.launch = lambda *_, seen=launched: seen.append(1)
        call()
        del nowhere.launch
        best = min(timeit.repeat(call, number=CALLS, repeat=ROUNDS)) / CALLS * 1e6
        print(f"| {name} | {best:.1f} | {len(launched)} |", flush=True)


if __name__ == "__main__":
    main()
