"""Print the tables of the README: numbanorm against a copy of the same bytes and against PyTorch.

Contenders live in a process each, for two OpenMP runtimes in one process slow each other down, and are called in turn, for
the machine's speed drifts. A figure is the median over the rounds; a ratio is one of medians of the same run.

    python benchmarks/table.py [--backward] [--rounds 15] [--only layer] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

Run = Callable[[], object]
Array = np.ndarray[Any, Any]
PAUSE = 0.02  # seconds: the threads of the contender before spin on a core for some milliseconds when their work is done


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    norm: str  # layer, rms, batch (training), eval (batch), group, instance
    shape: tuple[int, ...]  # channels first
    last: bool = False  # the same, channels last
    backward: bool = False  # all gradients, from the statistics of the forward pass

    @property
    def name(self) -> str:
        return f"{self.norm} {self.shape}{' last' if self.last else ''}"

    @property
    def stored(self) -> tuple[int, ...]:
        return (self.shape[0], *self.shape[2:], self.shape[1]) if self.last else self.shape


ROWS = ((64, 64), (512, 768), (4096, 768), (8192, 1024), (65536, 128))
PICTURES = ((32, 64, 56, 56), (64, 256, 14, 14), (8, 3, 224, 224), (256, 512, 7, 7), (256, 6, 24, 24))
GROUPS = ((8, 64, 56, 56), (8, 256, 64, 64), (2, 512, 16, 16))
NUM_GROUPS = 32


def cases(backward: bool) -> list[Case]:
    listed = [Case(norm, shape) for norm in ("layer", "rms") for shape in ROWS]
    for last in (False, True):
        listed += [Case(norm, shape, last) for norm in ("batch", "eval") for shape in PICTURES]
        listed += [Case("group", shape, last) for shape in GROUPS]
        listed += [Case("instance", shape, last) for shape in PICTURES[:2]]
    listed += [Case(norm, shape) for norm in ("batch", "eval") for shape in ((4096, 1024), (256, 84))]
    return [replace(case, backward=backward) for case in listed]


def data(case: Case) -> tuple[Array, ...]:
    """x as it is stored, weight, bias, running mean and variance: float32."""
    rng = np.random.default_rng(0)
    c = case.shape[1]
    x = rng.standard_normal(case.stored, dtype=np.float32)
    weight, bias, mean = (rng.standard_normal(c, dtype=np.float32) for _ in range(3))
    return x, weight, bias, mean, np.ones(c, np.float32)


def numbanorm_run(case: Case) -> Run:
    import numbanorm as nn

    x, weight, bias, mean, var = data(case)
    out, axis, c = np.zeros_like(x), -1 if case.last else 1, x.shape[-1]
    forward: dict[str, Callable[..., Any]] = {
        "layer": lambda **o: nn.layer_norm(x, c, weight, bias, **o),
        "rms": lambda **o: nn.rms_norm(x, c, weight, **o),
        "batch": lambda **o: nn.batch_norm(x, mean, var, weight, bias, training=True, channel_axis=axis, **o),
        "eval": lambda **o: nn.batch_norm(x, mean, var, weight, bias, channel_axis=axis, **o),
        "group": lambda **o: nn.group_norm(x, NUM_GROUPS, weight, bias, channel_axis=axis, **o),
        "instance": lambda **o: nn.instance_norm(x, None, None, weight, bias, channel_axis=axis, **o),
    }
    if not case.backward:
        return lambda: forward[case.norm](out=out)
    stats = forward[case.norm](return_stats=True)[1]
    dy = upstream(x)
    train = case.norm == "batch"
    return {
        "layer": lambda: nn.layer_norm_backward(dy, x, c, stats, weight, out=out),
        "rms": lambda: nn.rms_norm_backward(dy, x, c, stats, weight, out=out),
        "batch": lambda: nn.batch_norm_backward(dy, x, stats, weight, channel_axis=axis, training=train, out=out),
        "eval": lambda: nn.batch_norm_backward(dy, x, stats, weight, channel_axis=axis, training=train, out=out),
        "group": lambda: nn.group_norm_backward(dy, x, NUM_GROUPS, stats, weight, channel_axis=axis, out=out),
        "instance": lambda: nn.instance_norm_backward(dy, x, stats, weight, channel_axis=axis, out=out),
    }[case.norm]


def upstream(x: Array) -> Array:
    """A gradient of the result: other numbers than x."""
    return np.ascontiguousarray(x[::-1])


def torch_run(case: Case) -> Run:
    import torch
    import torch.nn.functional as functional

    x, weight, bias, mean, var = (torch.from_numpy(a) for a in data(case))
    if case.last:  # a tensor of shape (N, C, ...) in the memory format channels_last, which torch has kernels for
        x = x.permute(0, x.ndim - 1, *range(1, x.ndim - 1))
    if case.backward:
        return torch_backward(case, x, weight, bias, mean, var)
    torch.set_grad_enabled(False)
    c = x.shape[-1:]
    return {
        "layer": lambda: functional.layer_norm(x, c, weight, bias),
        "rms": lambda: functional.rms_norm(x, c, weight),
        "batch": lambda: functional.batch_norm(x, mean, var, weight, bias, True),
        "eval": lambda: functional.batch_norm(x, mean, var, weight, bias),
        "group": lambda: functional.group_norm(x, NUM_GROUPS, weight, bias),
        "instance": lambda: functional.instance_norm(x, None, None, weight, bias),
    }[case.norm]


def torch_backward(case: Case, x: Any, weight: Any, bias: Any, mean: Any, var: Any) -> Run:
    """torch's native operations, called as its autograd calls them. Where it has none autograd runs what it does instead: for
    rms norm, and for instance norm with channels last, which is copied to channels first and back."""
    import torch

    aten = torch.ops.aten
    dy = torch.from_numpy(upstream(data(case)[0])).as_strided(x.shape, x.stride())
    every = [True, True, True]
    if case.norm == "rms" or (case.norm == "instance" and case.last):
        wanted = (x, weight) if case.norm == "rms" else (x, weight, bias)
        for t in wanted:
            t.requires_grad_()
        f = torch.nn.functional
        y = f.rms_norm(x, x.shape[-1:], weight) if case.norm == "rms" else f.instance_norm(x, None, None, weight, bias)
        return lambda: torch.autograd.grad(y, wanted, dy, retain_graph=True)
    if case.norm == "layer":
        c = x.shape[-1:]
        _, m, r = aten.native_layer_norm(x, c, weight, bias, 1e-5)
        return lambda: aten.native_layer_norm_backward(dy, x, c, m, r, weight, bias, every)
    if case.norm == "group":
        n, c, inner = x.shape[0], x.shape[1], x[0, 0].numel()
        _, m, r = aten.native_group_norm(x, weight, bias, n, c, inner, NUM_GROUPS, 1e-5)
        return lambda: aten.native_group_norm_backward(dy, x, m, r, weight, n, c, inner, NUM_GROUPS, every)
    train = case.norm != "eval"
    if case.norm == "instance":  # in torch, batch norm over samples and channels together
        n = x.shape[0]
        x, dy = (t.reshape(1, -1, *x.shape[2:]) for t in (x, dy))
        weight, mean, var = weight.repeat(n), None, None
    _, m, r = aten.native_batch_norm(x, weight, None, mean, var, train, 0.1, 1e-5)
    return lambda: aten.native_batch_norm_backward(dy, x, weight, mean, var, m, r, train, 1e-5, every)


def copy_run(case: Case) -> Run:
    import numba

    x = data(case)[0].reshape(-1)
    y = np.zeros_like(x)

    @numba.njit(parallel=True)  # type: ignore[untyped-decorator]
    def copy(x: Any, y: Any) -> None:
        for i in numba.prange(x.size):
            y[i] = x[i]

    return lambda: copy(x, y)


CONTENDERS = {"copy": copy_run, "numbanorm": numbanorm_run, "torch": torch_run}


def serve(make: Callable[[Case], Run], pipe: Any) -> None:
    """In its own process: prepare a case when a Case comes, time it that many times when a number comes."""
    run: Run = lambda: None  # noqa: E731
    while (message := pipe.recv()) is not None:
        if isinstance(message, Case):
            run = make(message)
            run()
            start = time.perf_counter()
            run()
            pipe.send(time.perf_counter() - start)
        else:
            times = []
            run()  # wakes the threads, and brings back what the others drove out of the caches
            for _ in range(message):
                start = time.perf_counter()
                run()
                times.append(time.perf_counter() - start)
            pipe.send(statistics.median(times))


def measure(case: Case, pipes: dict[str, Any], rounds: int) -> dict[str, float]:
    """Median seconds of each contender."""
    once = []
    for pipe in pipes.values():
        pipe.send(case)
        once.append(pipe.recv())
    calls = max(5, min(200, int(0.02 / max(once))))
    times: dict[str, list[float]] = {name: [] for name in pipes}
    for _ in range(rounds):
        for name, pipe in pipes.items():
            time.sleep(PAUSE)
            pipe.send(calls)
            times[name].append(pipe.recv())
    return {name: statistics.median(t) for name, t in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--backward", action="store_true", help="gradients in place of results")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--json", help="also write the figures to this file")
    args = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    pipes, workers = {}, []
    for name, make in CONTENDERS.items():
        pipes[name], far = context.Pipe()
        workers.append(context.Process(target=serve, args=(make, far), daemon=True))
        workers[-1].start()
    print("| norm, shape | MB | copy, us | numbanorm, us | torch, us | of copy | of torch |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for case in cases(args.backward):
        if args.only not in case.name:
            continue
        t = measure(case, pipes, args.rounds)
        megabytes = 4e-6 * float(np.prod(case.shape))
        c, n, p = (1e6 * t[k] for k in ("copy", "numbanorm", "torch"))
        print(f"| {case.name} | {megabytes:.1f} | {c:.1f} | {n:.1f} | {p:.1f} | {n / c:.2f} | {n / p:.2f} |", flush=True)
        rows.append({**asdict(case), **t})
    for pipe in pipes.values():
        pipe.send(None)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({"python": sys.version, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()
