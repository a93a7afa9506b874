"""Every CUDA kernel, compiled and linked to machine code where there is no GPU: what ptxas made of it has bounds.

Registers, loads and divisions are today's numbers as ceilings, so that a change that costs some is seen; a ceiling may be
raised on purpose. No local memory, no calls, no contraction and IEEE arithmetic are rules.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import cuda_gates
import pytest
import sass
from cuda_gates import KEYS, SELECTED, TOOL, Capability, Compiled, FakeDevice, Key, flags, name_of  # skips without a compiler
from sass import matching, total

from numbanorm.cuda import compiler
from numbanorm.cuda.arith.elementwise import ALL, EACH, FOURS, SOME
from numbanorm.cuda.combine import PLANES as JOIN_PLANES
from numbanorm.cuda.compiler import Kernel
from numbanorm.cuda.partial_sums import BOTH as BOTH_MOMENTS
from numbanorm.cuda.partial_sums import PRODUCTS, SQUARES, SUM, WEIGHTS
from numbanorm.spec import plan

every_kernel = pytest.mark.parametrize("key", KEYS, ids=name_of)
needs_disassembler = pytest.mark.skipif(TOOL is None, reason="there is no nvdisasm: pip install nvidia-cuda-nvdisasm or triton")


@pytest.fixture(scope="module", autouse=True)
def device() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("numba.cuda.dispatcher.get_current_device", FakeDevice)
        yield


@pytest.fixture(scope="module")
def results(request: pytest.FixtureRequest, device: None) -> Iterator[dict[Key, Future[Compiled]]]:
    """The kernels that this run asks for. In processes: Numba compiles in Python, which threads would share."""
    params = (getattr(item, "callspec", None) for item in request.session.items if item.module is request.module)
    asked = dict.fromkeys(p.params["key"] for p in params if p is not None and "key" in p.params)
    with ProcessPoolExecutor(min(8, os.cpu_count() or 1), get_context("spawn"), cuda_gates.worker) as pool:
        yield {key: pool.submit(Compiled, *key) for key in asked}
        pool.shutdown(cancel_futures=True)


@pytest.fixture
def compiled(key: Key, results: dict[Key, Future[Compiled]]) -> Compiled:
    return results[key].result()


# --- rules -----------------------------------------------------------------------------------------------------------

#: subroutines of ptxas: slow paths of IEEE operations on float64, and integer divisions of more than 32 bits
SUBROUTINES = r"__cuda_sm20_(div_rn_f64_full|dblrcp_rn_slowpath_v3|dsqrt_rn_f64_mediumpath_v1|(div|rem)_[us]64)"
#: before sm_90, of an exchange or a vote behind a branch, of which ptxas does not know that the warp takes it together
SUBROUTINES += "|__cuda_sm70_(shflsync_(bfly|idx)_p|votesync_any)"


def no_local_memory(c: Compiled) -> None:
    """A local access is one of global memory that nobody wrote: every array of a thread must be in registers."""
    assert c.code.local == 0, (
        f"{c.kernel.name} uses {c.code.local} bytes of stack and spills: hold less, or launch fewer threads"
    )
    assert not matching(c.code.written, r"(ld|st)\.local.*"), "arrays whose indices the compiler does not know"
    if c.code.sass:
        # a plain LD or ST looks for its address space when it runs: a pointer's origin was lost
        assert total(c.code.main, "LDL", "STL", "LD", "ST") == 0


def no_calls(c: Compiled) -> None:
    """All device functions are inlined: a call takes registers by the ABI, and hides the loads behind it from ptxas."""
    assert total(c.code.written, "call") == 0, f"{c.kernel.name} calls a function"
    if c.code.sass:
        # to a label, sm_80 leaves loops so; it is a jump, for nothing returns
        others = [called for called in c.code.calls if not re.fullmatch(rf"{SUBROUTINES}|`\(\.L_x_\d+\)", called)]
        assert not others, f"{c.kernel.name} calls {others}"
        assert total(c.code.main, "RET") == 0


def ieee(c: Compiled) -> None:
    """float64 or float32 with IEEE rounding and subnormals, float32 where that is the arithmetic, and no other type."""
    bad = [op for op in c.code.written if re.search(r"\.(ftz|approx|sat|full)\b", op)]
    bad += [op for op in c.code.written if re.fullmatch(r"(mul|fma|mad|div|sqrt|rcp)(?!\.rn\.).*\.f64", op)]
    types = "f16|bf16" if c.single else "f16|bf16|f32"
    bad += [op for op in c.code.written if re.fullmatch(rf"(add|sub|mul|fma|mad|div|sqrt|rcp|min|max)\..*({types})(x2)?", op)]
    bad += [op for op in c.code.written if re.fullmatch(r"((mul|fma)(?!\.rn\.)|mad|div|sqrt|rcp|min|max).*\.f32", op)]
    if c.code.sass:
        # 64-bit seeds of div, rcp and sqrt; the 32-bit one, and FTZ, are of integer divisions
        bad += [op for op in c.code.main if op.startswith("MUFU") and op not in ("MUFU.RCP64H", "MUFU.RSQ64H", "MUFU.RCP")]
        bad += [op for op in c.code.main if "FTZ" in op.split(".") and not op.startswith(("F2I", "I2F"))]
    assert not bad, f"{c.kernel.name} computes with {bad}"


def not_contracted(c: Compiled) -> None:
    """To the linker, forbidding contraction changes no byte: neither NVVM nor ptxas found a product and a sum to join."""
    assert c.cubin == c.unfused, f"{c.kernel.name} has a product that is not mul or fma, which a sum may take in"


OPERATIONS = ("DADD", "DMUL", "DFMA")


def operations(c: Compiled) -> tuple[int, ...]:
    """Sums, products and fused ones in the PTX."""
    w = c.code.written
    return total(w, "add.f64", "add.rn.f64", "sub.f64", "sub.rn.f64"), total(w, "mul.rn.f64"), total(w, "fma.rn.f64")


def as_written(c: Compiled, expansions: Mapping[str, tuple[int, ...]], unrolled: bool) -> None:
    """SASS has the PTX's products and fused products, and those that div, rcp and sqrt are made of: the other proof."""
    expected = list(operations(c))
    for op, cost in expansions.items():
        expected = [e + total(c.code.written, op) * n for e, n in zip(expected, cost, strict=True)]
    _, products, fused = expected
    _, dmul, dfma = (total(c.code.main, op) for op in OPERATIONS)
    if unrolled:  # ptxas repeats a loop's body: more of both, where contraction would take from the products
        assert dfma >= fused
        assert (dfma > fused) <= (dmul >= products)
    else:
        assert dfma == fused, f"{c.kernel.name}: {dfma} DFMA, where the PTX has {fused}"
        assert dmul <= products, f"{c.kernel.name}: {dmul} DMUL, where the PTX has {products}"  # a product by 1 is left out


#: vectors that a wide kernel loads, of float64 (two for four elements), and stores, at least: for each array, of each step
VECTORS: dict[str, tuple[int, int, int]] = {
    "rows_forward": (8, 16, 8), "rows_backward": (16, 32, 4), "tile_moments": (8, 16, 0), "tiles": (8, 8, 0),
    "columns": (4, 8, 0), "apply_runs": (8, 16, 8), "apply_gradient_runs": (8, 16, 4), "apply_columns": (4, 8, 4),
    "apply_columns_fast": (4, 8, 4), "run_moments": (8, 16, 0), "column_moments": (4, 8, 0),
    "near_runs": (8, 0, 0), "near_columns": (8, 0, 0), "near_gradient_runs": (8, 0, 4), "near_gradient_columns": (8, 0, 4),
}  # fmt: skip
#: loads of single parameters, for each of weight and bias, where each of four neighbours may have one of its own
#: (and once more for a step of what is left over)
SINGLE = {
    "rows_forward": 36, "rows_backward": 32, "apply_runs": 36, "apply_gradient_runs": 16, "apply_columns": 4,
    "apply_columns_fast": 4, "near_gradient_columns": 4, "near_gradient_runs": 4,
}  # fmt: skip
SCALAR = {"float32": "f32", "float16": "[ub]16", "bfloat16": "[ub]16"}


def steps_of(kernel: Kernel) -> int:
    """Steps of a thread; eight where the kernel has no others."""
    return getattr(flags(kernel).get("row"), "steps", 8)


def vectors(c: Compiled) -> None:
    """Wide kernels read and write 16 bytes at a time (8 of 16-bit types), narrow ones never: their addresses allow none.

    x and dy are read by plain loads, statistics and parameters by `.nc` ones, so that they can be told apart.
    """
    w, name, x = c.code.written, c.kernel.build.__name__, c.kinds[0]
    loads, stores = matching(w, r"ld\.global\.v\d.*"), matching(w, r"st\.global\.v\d.*")
    if not c.wide:
        assert not matching(w, r"(ld|st)\.global\.(nc\.)?v\d.*"), f"{c.kernel.name} must have no vector accesses"
        return
    if name == "rows_gradients":  # which copies x and dy to shared memory, or reads them eight or sixteen at a time
        copied = matching(w, r"cp\.async\..*")
        assert copied >= 16 or loads >= 16, f"{c.kernel.name} has {copied} copies and {loads} vector loads: expected 16"
        return
    single, double, stored = (n * steps_of(c.kernel) // 8 for n in VECTORS[name])
    least = (double, 2 * stored) if x == "float64" else (single, stored)
    assert loads >= least[0], f"{c.kernel.name} has {loads} vector loads: expected {least[0]}; is a loop rolled?"
    assert stores >= least[1], f"{c.kernel.name} has {stores} vector stores: expected {least[1]}"
    assert matching(w, r"ld\.global\.[a-z]+\d+") == 0, f"{c.kernel.name} reads single elements of x"
    if x in SCALAR:
        assert matching(w, rf"st\.global\.{SCALAR[x]}") == 0, f"{c.kernel.name} writes single elements of y"
        f = flags(c.kernel)
        given = f.get("weighted", False) + f.get("biased", False)
        # where neighbours share one, a thread's four elements take it with one load
        allowed = {EACH: 0, ALL: 2, FOURS: SINGLE.get(name, 0) // 4, SOME: SINGLE.get(name, 0)}[f.get("sharing", SOME)] * given
        scalars = matching(w, rf"ld\.global\.nc\.{SCALAR[x]}")
        assert scalars <= allowed, f"{c.kernel.name} reads {scalars} single parameters: expected {allowed}"
    if c.code.sass:
        width = "128" if x in ("float32", "float64") else "64"
        narrow = [op for op in c.code.main if op.startswith("LDG") and "CONSTANT" not in op and width not in op.split(".")]
        assert not narrow, f"{c.kernel.name} reads x by {narrow}"
        assert matching(c.code.main, rf"LDG\.E\.{width}") >= loads
        assert matching(c.code.main, rf"STG\.E\.{width}") >= stores


RULES = (no_local_memory, no_calls, ieee, not_contracted, vectors)


@every_kernel
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rules(compiled: Compiled, rule: Callable[[Compiled], None]) -> None:
    rule(compiled)


# --- today's numbers, as bounds --------------------------------------------------------------------------------------

#: registers of a thread: wide (or the only) and narrow kernels, and the same with pairs of float64. Eight are given out at once
REGISTERS: dict[str, tuple[int, int, int, int]] = {
    "rows_forward": (128, 128, 128, 128), "rows_backward": (128, 152, 136, 176), "rows_gradients": (255, 255, 0, 0),
    "join_rows": (104, 0, 0, 0),
    "tile_moments": (96, 144, 112, 0), "tiles": (96, 88, 104, 0), "columns": (152, 96, 136, 128),
    "apply_runs": (80, 168, 120, 0), "apply_gradient_runs": (112, 168, 128, 0), "apply_columns": (112, 128, 160, 0),
    "apply_columns_fast": (128, 176, 0, 0), "run_moments": (80, 96, 0, 0), "column_moments": (72, 72, 0, 0),
    "measure_again": (72, 0, 0, 0),
    "join": (64, 0, 64, 0), "settle": (56, 0, 64, 0), "reduce": (48, 0, 56, 0), "pairs": (48, 0, 72, 0),
    "merge": (40, 0, 40, 0), "prepare": (0, 0, 32, 0), "update": (0, 0, 40, 0), "count": (8, 0, 0, 0),
    "copy": (0, 0, 16, 0), "normalize_again": (0, 0, 120, 0), "gradients_again": (0, 0, 152, 0),
    "parameters_again": (0, 0, 160, 0),
    "near_runs": (64, 64, 0, 0), "near_columns": (96, 72, 0, 0), "settle_near": (0, 0, 56, 0),
    "near_gradient_runs": (56, 112, 0, 0), "near_gradient_columns": (72, 112, 0, 0), "mend_channels": (160, 0, 0, 0),
}  # fmt: skip
#: 64-bit divisions in the code of wide (or the only) and narrow kernels: each is a call, unless both numbers have 32 bits
DIVISIONS: dict[str, tuple[int, int]] = {
    "rows_forward": (0, 0), "rows_backward": (7, 13), "rows_gradients": (4, 4), "join_rows": (16, 0),
    "tile_moments": (1, 4), "tiles": (10, 24),
    "columns": (14, 14), "apply_runs": (8, 26), "apply_gradient_runs": (8, 0), "apply_columns": (8, 17),
    "apply_columns_fast": (9, 18), "run_moments": (4, 10), "column_moments": (6, 6), "measure_again": (3, 0),
    "join": (14, 0), "settle": (10, 0), "reduce": (8, 0), "pairs": (2, 0), "merge": (4, 0), "prepare": (1, 0), "update": (4, 0),
    "count": (0, 0), "copy": (0, 0), "normalize_again": (13, 0), "gradients_again": (31, 0), "parameters_again": (9, 0),
    "near_runs": (7, 22), "near_columns": (14, 14), "settle_near": (10, 0), "near_gradient_runs": (7, 25),
    "near_gradient_columns": (8, 17), "mend_channels": (27, 0),
}  # fmt: skip
#: the same where elements share parameters: fours of them, any number in wide kernels, and in narrow ones
SHARED_DIVISIONS: dict[str, tuple[int, int, int]] = {
    "rows_forward": (11, 10, 0), "rows_backward": (0, 39, 0), "apply_runs": (16, 40, 42), "apply_gradient_runs": (12, 0, 42),
}  # fmt: skip
#: loads of x and dy that a wide kernel has on their way at once, at least, and of float64: they hide the latency of memory.
#: By the kind of sum, and whether it is the gradient. ptxas, to save registers, moves loads towards their uses
IN_FLIGHT: dict[str, dict[int | None, tuple[int, int]]] = {
    "rows_forward": {None: (7, 8)}, "rows_backward": {None: (6, 12)}, "rows_gradients": {None: (16, 0)},
    "tile_moments": {None: (8, 8)}, "tiles": {SUM: (7, 8), SQUARES: (8, 8), PRODUCTS: (8, 4)},
    "columns": {SUM: (4, 4), SQUARES: (3, 3), BOTH_MOMENTS: (4, 6), PRODUCTS: (6, 4), WEIGHTS: (5, 4)},
    "apply_runs": {None: (8, 8)}, "run_moments": {None: (7, 0)}, "column_moments": {None: (4, 0)},
    "apply_columns_fast": {None: (3, 0)},
    "near_runs": {None: (8, 0)}, "near_columns": {None: (8, 0)}, "near_gradient_runs": {None: (6, 0)},
    "near_gradient_columns": {None: (6, 0)},
    "apply_gradient_runs": {None: (7, 16)}, "apply_columns": {False: (3, 8), True: (8, 16)},
}  # fmt: skip


#: barriers of `join_rows` in the code, in float32 or not, and whether it joins
JOINED = {False: {True: 2}, True: {True: 6, False: 0}}


def barriers(kernel: Kernel) -> int:
    """One for each sum that warps join in a room of its own; a tree over a block has some for each step of it."""
    name, f = kernel.build.__name__, flags(kernel)
    if name == "rows_gradients":
        return int(f["cut"].per > f["cut"].lanes)
    if name == "join_rows":
        return JOINED[f["arithmetic"].single][f["flags"][3]]
    kind, tree = f.get("kind"), 8 if f.get("by_rows", True) else 14
    columns = {SUM: 2, SQUARES: 2, BOTH_MOMENTS: 0, PRODUCTS: 6, WEIGHTS: 4}
    return {
        "rows_forward": (1 + bool(f.get("center"))) * (getattr(f.get("row"), "per", 0) > 4), "rows_backward": 3,
        "run_moments": 1, "column_moments": 4,
        "tiles": 3 if kind == PRODUCTS else 1, "columns": columns.get(kind, 0),
        "join": tree * JOIN_PLANES.get(kind, 1), "settle": 3 * tree, "reduce": 2 * tree,
        "near_runs": 1, "near_columns": 4, "settle_near": 2 * tree + 2 * bool(f.get("is_weighted")),
    }.get(name, 0)  # fmt: skip


@every_kernel
def test_registers(compiled: Compiled) -> None:
    used, limits = compiled.code.registers, REGISTERS[compiled.kernel.build.__name__]
    limit = limits[2 * compiled.double + (compiled.wide is False)]
    assert 0 < used <= limit, f"{compiled.kernel.name} uses {used} registers: expected {limit}"
    # a block must fit in the registers of a multiprocessor, or it cannot be launched
    assert -(-used // 8) * 8 * compiled.kernel.threads <= 65536


@every_kernel
def test_divisions(compiled: Compiled) -> None:
    """A 64-bit division takes some twenty instructions, or a call of seventy."""
    name, f = compiled.kernel.build.__name__, flags(compiled.kernel)
    shared = f.get("sharing", EACH) != EACH and (f.get("weighted", False) or f.get("biased", False))
    found, narrow = matching(compiled.code.written, r"(div|rem)\.[us]64"), compiled.wide is False
    limit = SHARED_DIVISIONS[name][0 if f["sharing"] == FOURS else 1 + narrow] if shared else DIVISIONS[name][narrow]
    assert found <= limit, f"{compiled.kernel.name} has {found} 64-bit divisions: expected {limit}"


@every_kernel
def test_barriers(compiled: Compiled) -> None:
    expected = barriers(compiled.kernel)
    assert matching(compiled.code.written, r"bar(rier)?\..*sync.*|bar\.sync") == expected
    if compiled.code.sass:
        assert total(compiled.code.main, "BAR") == expected


#: narrow kernels have four times as many loads, and the small ones that join are not of x
READERS = [key for key in KEYS if key[0].build.__name__ in IN_FLIGHT and flags(key[0]).get("wide", True)]


#: instructions of the loop over rows in `rows_gradients` for an element, at most: whole rows in float32, and others
INSTRUCTIONS = {"float32": (24, 30), "float16": (26, 32), "bfloat16": (26, 32)}
WALKED = [
    key for key in KEYS if key[0].build.__name__ == "rows_gradients" and key[0].constants[1].single and key[0].constants[0]
]


@needs_disassembler
@pytest.mark.parametrize("key", WALKED, ids=name_of)
def test_instructions(compiled: Compiled) -> None:
    """Issue bounds what memory does not: at copy speed there is time for some 40 instructions for an element of 16 bits."""
    cut = flags(compiled.kernel)["cut"]
    found, limit = sass.longest_loop(compiled.code.parts[""]) / (4 * cut.steps), INSTRUCTIONS[compiled.kinds[0]][not cut.even]
    assert found <= limit, f"{compiled.kernel.name} takes {found} instructions for an element: expected {limit}"


@pytest.mark.parametrize("name", ["rows of 4096", "rows of 768", "rows of 8192"])
def test_rows_take_two_launches(name: str) -> None:
    for exact in (False, True)[: 1 + (name == "rows of 4096")]:
        assert len(cuda_gates.backward(cuda_gates.PLANS[name], "bfloat16", exact=exact).steps) == 2


@needs_disassembler
@pytest.mark.parametrize("key", READERS, ids=name_of)
def test_loads_in_flight(compiled: Compiled) -> None:
    name, f = compiled.kernel.build.__name__, flags(compiled.kernel)
    least = IN_FLIGHT[name][f.get("kind", f.get("gradient"))][compiled.double] * steps_of(compiled.kernel) // 8
    found = sass.in_flight(compiled.code.parts[""])
    assert found >= least, f"{compiled.kernel.name} waits with {found} loads on their way: expected {least}"


#: instructions an element that a thread issues for layer norm of 8192 x 8192, at most
STRAIGHT = {"float32": 16.0, "bfloat16": 21.0}


@needs_disassembler
@pytest.mark.parametrize("x", STRAIGHT)
def test_instructions_of_layer_norm(x: str) -> None:
    """One launch, bound by memory: at copy speed a multiprocessor of an H200 has 27 a float32, and 55 a bfloat16 pair."""
    (step,) = cuda_gates.forward(plan.trailing((8192, 8192), (8192,)), x, fast=True).steps
    code = Compiled(step.kernel, step.kinds, (9, 0)).code
    assert code.local == 0
    assert sass.in_flight(code.parts[""]) >= 8
    found = sass.straight(code.parts[""]) / (4 * steps_of(step.kernel))
    assert found <= STRAIGHT[x], f"{step.kernel.name} takes {found} instructions an element: expected {STRAIGHT[x]}"


LAUNCHES = {"rows": 1, "runs": 4, "columns": 4, "groups": 4, "groups, channels last": 4}
PICTURES = {"groups, channels last": plan.group((64, 56, 56, 256), 32, -1)}


@pytest.mark.parametrize("name", LAUNCHES)
def test_launches(name: str) -> None:
    """Forward, and one of them is for groups that one read was not enough for."""
    assert len(cuda_gates.forward((cuda_gates.PLANS | PICTURES)[name], "float32", fast=True).steps) <= LAUNCHES[name]


def test_every_builder_has_bounds() -> None:
    builders = {kernel.build.__name__ for kernel, _, _ in KEYS}
    assert builders == set(REGISTERS) == set(DIVISIONS)


# --- arithmetic, counted ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def expansions(device: None) -> dict[Capability, dict[str, tuple[int, ...]]]:
    """What ptxas makes of each IEEE operation on its main path: DADD, DMUL, DFMA."""

    def cost(name: str, capability: Capability) -> tuple[int, ...]:
        code = Compiled(Kernel(cuda_gates.one_operation(name), (), 128), ("float64",), capability).code
        assert total(code.written, name) == 1
        return tuple(total(code.main, op) for op in OPERATIONS)

    return {c: {name: cost(name, c) for name in ("div.rn.f64", "sqrt.rn.f64", "rcp.rn.f64")} for c in SELECTED}


#: builders whose loops ptxas unrolls further
UNROLLED = (
    "tiles", "rows_backward", "apply_columns", "rows_forward", "apply_runs", "apply_columns_fast", "column_moments",
    "measure_again",
)  # fmt: skip


@needs_disassembler
@every_kernel
def test_operations(compiled: Compiled, key: Key, expansions: dict[Capability, dict[str, tuple[int, ...]]]) -> None:
    as_written(compiled, expansions[key[2]], key[0].build.__name__ in UNROLLED)


@needs_disassembler
def test_expansions_are_known(expansions: dict[Capability, dict[str, tuple[int, ...]]]) -> None:
    """As ptxas 13 makes them: a fast path each, and nothing that rounds otherwise."""
    for costs in expansions.values():
        assert costs == {"div.rn.f64": (0, 1, 7), "sqrt.rn.f64": (0, 3, 5), "rcp.rn.f64": (0, 0, 5)}


# --- each rule finds what it is for ----------------------------------------------------------------------------------


F64 = ("float64",)
FAULTS: list[tuple[Callable[[Compiled], None], Kernel, tuple[str, ...]]] = [
    (no_local_memory, Kernel(cuda_gates.spilling, (), 1024), ("float64", "int")),
    (no_local_memory, Kernel(cuda_gates.indexing, (), 128), ("float64", "int")),
    (no_calls, Kernel(cuda_gates.calling, (), 128), F64),
    (ieee, Kernel(cuda_gates.approximating, (), 128), F64),
    (ieee, Kernel(cuda_gates.in_single_precision, (), 128), F64),
    (ieee, Kernel(cuda_gates.multiplying, (), 128), F64),
    (not_contracted, Kernel(cuda_gates.contracting, (), 128), F64),
    (vectors, Kernel(cuda_gates.tile_moments, (True,), 128), ("float32", "float64")),
    (vectors, Kernel(cuda_gates.tile_moments, (True,), 128), ("bfloat16", "float64")),
]


@pytest.mark.parametrize(("rule", "kernel", "kinds"), FAULTS, ids=lambda v: getattr(v, "__name__", None))
def test_faults_are_found(rule: Callable[[Compiled], None], kernel: Kernel, kinds: tuple[str, ...]) -> None:
    found = Compiled(kernel, kinds, (9, 0))
    with pytest.raises(AssertionError):
        rule(found)


@needs_disassembler
def test_contraction_by_ptxas_is_counted() -> None:
    """NVVM contracts whatever ptxas would, so its doing is forged: a fused product in the place of a product."""
    found = Compiled(Kernel(cuda_gates.rounding, (), 128), F64, (9, 0))
    as_written(found, {}, unrolled=False)
    assert found.code.sass is not None
    found.code = replace(found.code, sass=found.code.sass.replace("DMUL", "DFMA"))
    for unrolled in (False, True):
        with pytest.raises(AssertionError):
            as_written(found, {}, unrolled)


def test_a_rounded_product_is_not_contracted() -> None:
    not_contracted(Compiled(Kernel(cuda_gates.rounding, (), 128), F64, (9, 0)))


def test_loads_in_flight_are_counted() -> None:
    text = """/*0000*/ LDG.E.128 R4, desc[UR4][R2.64] ; /*0010*/ @!P0 LDG.E.128 R8, desc[UR4][R2.64+0x80] ;
        /*0020*/ LDG.E.64.CONSTANT R20, desc[UR4][R18.64] ; /*0030*/ F2F.F64.F32 R12, R7 ;
        /*0040*/ LDG.E R16, desc[UR4][R2.64] ; /*0050*/ DADD R8, R8, R12 ; /*0060*/ LDG.E R17, desc[UR4][R2.64] ;"""
    assert sass.in_flight(text) == 2
    assert sass.in_flight(text.replace("R7", "R3").replace("DADD R8, R8", "DADD R8, R14")) == 4


# --- names -----------------------------------------------------------------------------------------------------------


@every_kernel
def test_entry(compiled: Compiled) -> None:
    """The name under which the driver will look for the kernel."""
    assert f".visible .entry {compiler.entry(compiled.cubin)}(" in compiled.code.ptx


def test_names_are_unique() -> None:
    """A name stands for one kernel; with the types and the capability, for one file."""
    kernels = {kernel for kernel, _, _ in KEYS}
    assert len({kernel.name for kernel in kernels}) == len({(k.build, k.constants) for k in kernels})
    files = {compiler.cache_file(kernel, kinds, capability) for kernel, kinds, capability in KEYS}
    assert len(files) == len(KEYS) > 100
    kernel, kinds, capability = KEYS[0]
    assert compiler.cache_file(Kernel(kernel.build, kernel.constants, 32), kinds, capability) not in files
