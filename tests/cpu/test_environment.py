"""The same bits in any floating-point environment of the calling thread, which is as before once a call has ended."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import environments
import numba
import numpy as np
import pytest
from cases import DTYPES, METHODS, MODES, Case
from digest import SHARED
from environments import ENVIRONMENTS, SMALL, X86, arguments, bits, environment
from llvmlite import binding, ir
from numba import njit

import numbanorm
from numbanorm.cpu.arith import environment as package
from numbanorm.spec import blend

if not environments.HERE:
    pytest.skip("this CPU is neither x86-64 nor AArch64: nobody changes its environment here", allow_module_level=True)

PROGRAM = environments.__file__
every_environment = pytest.mark.parametrize("name", ENVIRONMENTS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.name)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    if request.param > numba.config.NUMBA_NUM_THREADS:
        pytest.skip("Numba has one thread here: set NUMBA_NUM_THREADS=2")
    before = numba.get_num_threads()
    numba.set_num_threads(request.param)
    yield request.param
    numba.set_num_threads(before)


@pytest.mark.parametrize(("name", "expected"), [
    ("flush", (0.0, 2 / 3, -2 / 3)), ("down", (2.0**-1060, 2 / 3, -2 / 3 - 2.0**-53)),
    ("up", (2.0**-1060, 2 / 3 + 2.0**-53, -2 / 3)), ("toward zero", (2.0**-1060, 2 / 3, -2 / 3)),
])  # fmt: skip
def test_environments_are_what_their_names_say(name: str, expected: tuple[float, ...]) -> None:
    """Or the tests below would show nothing. 2 / 3 is rounded down."""
    x, y = np.array([2.0**-1060, 2.0, -2.0]), np.array([1.0, 3.0, 3.0])
    out = np.empty(3)
    with environment(ENVIRONMENTS[name]):
        np.divide(x, y, out=out)
    assert tuple(out) == expected


def check(case: Case, dtype: np.dtype[Any], name: str) -> None:
    """With eps 0, groups of float64 are computed again, see `extreme`."""
    for parameters in (False, True):
        a, dy = arguments(case, dtype, parameters)
        for (method, eps), exact in product(((None, 1e-5), (METHODS[0], 1e-5), (METHODS[0], 0.0), (METHODS[1], 1e-5)), MODES):
            expected = bits(case, a, dy, method, eps, exact=exact)
            with environment(ENVIRONMENTS[name]):
                found = bits(case, a, dy, method, eps, exact=exact)
            assert found == expected, (method, eps, exact, parameters)


@every_dtype
@pytest.mark.parametrize("case", SHARED, ids=lambda c: c.name)
@pytest.mark.usefixtures("threads")
def test_same_bits_in_threads(case: Case, dtype: np.dtype[Any]) -> None:
    """Those of the pool were started in another environment than the caller's."""
    check(case, dtype, "flush")


@every_environment
@every_dtype
@pytest.mark.parametrize("case", SMALL, ids=lambda c: c.name)
def test_same_bits(case: Case, dtype: np.dtype[Any], name: str) -> None:
    check(case, dtype, name)


@every_environment
@every_dtype
@pytest.mark.parametrize("case", SMALL, ids=lambda c: c.name)
def test_same_bits_the_long_way(case: Case, dtype: np.dtype[Any], name: str) -> None:
    """Where NumPy converts parameters and results, before and after the kernels."""
    a, dy = arguments(case, dtype, parameters=True)
    for exact in MODES:
        expected = bits(case, a, dy, None, 1e-5, exact=exact)
        with environment(ENVIRONMENTS[name]):
            assert bits(case, a, dy, None, 1e-5, exact=exact, backend="cpu") == expected


@every_environment
@pytest.mark.parametrize("power", [-1030, -600, 600, 1020])
def test_same_bits_beyond_the_range(power: int, name: str) -> None:
    """float64 whose squares leave it, some rows next to others."""
    case = Case("layer", (5, 20))
    a, dy = (np.random.default_rng(k).standard_normal(case.shape) for k in (0, 1))
    x = np.ldexp(a, np.array([[0], [power], [power // 2], [-power // 2], [0]]))
    given = environments.cases.Arguments(x, np.ones(20), np.zeros(20))
    for eps in (0.0, 1e-5, 1e-300):
        expected = bits(case, given, dy, METHODS[0], eps)
        with environment(ENVIRONMENTS[name]):
            assert bits(case, given, dy, METHODS[0], eps) == expected


@every_environment
@every_dtype
def test_moments(dtype: np.dtype[Any], name: str) -> None:
    a, _ = arguments(Case("layer", (40, 1111)), dtype, False)
    for axis in (None, 0, 1):
        one = numbanorm.moments(a.x, axis)
        with environment(ENVIRONMENTS[name]):
            other = numbanorm.moments(a.x, axis)
        for row in ("mean", "m2"):
            assert np.asarray(getattr(other, row)).tobytes() == np.asarray(getattr(one, row)).tobytes()


@every_environment
def test_weights_of_running_statistics(name: str) -> None:
    """Python's own numbers. They are what Python says in the default environment."""
    shares = [0.0, -0.0, 1.0, 0.1, 1 / 3, 0.7, 0.999, 2.0**-60, 2.0**-1000]
    momenta = [(1.0 - share, abs(share)) for share in shares]
    averages = [(1.0 - 1.0 / n, 1.0 / n) for n in range(1, 100)]
    blend.of_momentum.cache_clear()
    with environment(ENVIRONMENTS[name]):
        new = [blend.of_momentum(share) for share in shares]
        old = [blend.of_momentum(share, False) for share in shares]
        found = [blend.of_average(n) for n in range(1, 100)]
    assert new == momenta
    assert old == [pair[::-1] for pair in momenta]
    assert found == averages
    blend.of_momentum.cache_clear()


REFUSED: dict[str, tuple[type[Exception], Callable[[Any], Any]]] = {
    "weight of another shape": (ValueError, lambda x: numbanorm.layer_norm(x, 20, np.ones(21))),
    "out that overlaps": (ValueError, lambda x: numbanorm.layer_norm(x[1:], 20, out=x[:-1])),
    "no array": (TypeError, lambda x: numbanorm.layer_norm([1.0], 1)),
    "statistics of another shape": (ValueError, lambda x: numbanorm.layer_norm_backward(x, x, 20, (np.ones(3), np.ones(3)))),
}


@every_environment
@pytest.mark.parametrize("what", REFUSED)
def test_environment_is_as_before_after_a_refused_call(what: str, name: str) -> None:
    error, call = REFUSED[what]
    x = np.ones((5, 20))
    with environment(ENVIRONMENTS[name]), pytest.raises(error):  # which looks at it afterwards
        call(x)


@njit
def fails(x: float) -> float:
    if x > 1:
        raise ValueError("in compiled code")
    return x / 3


@njit
def calls(x: float) -> float:
    return package.call_by_default(fails, (x,))  # type: ignore[no-any-return]


def test_environment_is_as_before_after_an_error_in_compiled_code() -> None:
    """As when no memory is left for work space."""
    third = 1 / 3
    with environment(ENVIRONMENTS["up"]):
        assert calls(1.0) == third
        with pytest.raises(ValueError, match="in compiled code"):
            calls(2.0)


def test_environment_is_as_before_after_an_error_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(numbanorm.cpu.backend, "scaled_groups", no_memory)
    x = np.full((2, 3), 1e200) * [1, 2, 3]
    with environment(ENVIRONMENTS["flush"]), pytest.raises(MemoryError):
        numbanorm.layer_norm(x, 3)


def printed(*command: str, **variables: str) -> str:
    """What a program prints."""
    env = {**os.environ, **variables}
    done = subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def expected() -> str:
    return printed(PROGRAM, "default", NUMBA_NUM_THREADS="1")


@pytest.mark.parametrize("layer", ["omp", pytest.param("workqueue", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", ["flush", pytest.param("up", marks=pytest.mark.long)])
def test_threads_that_were_started_in_it(name: str, layer: str, expected: str) -> None:
    """They have the environment of whoever called first."""
    two = {"NUMBA_NUM_THREADS": "2", "NUMBA_THREADING_LAYER": layer}
    assert printed(PROGRAM, name, **two) == expected


@pytest.mark.long
def test_kernels_that_are_compiled_in_it() -> None:
    code = f"""
import numpy as np, numbanorm
from environments import environment
x = np.ldexp(np.arange(20.0).reshape(4, 5), -1030)
with environment({ENVIRONMENTS["up"]}):
    y = numbanorm.layer_norm(x, 5)
print(y.tobytes().hex())
"""
    x = np.ldexp(np.arange(20.0).reshape(4, 5), -1030)
    assert printed("-c", code, NUMBANORM_CACHE="0") == numbanorm.layer_norm(x, 5).tobytes().hex()


@pytest.mark.skipif(not X86, reason="AArch64 CPUs may trap nothing, whatever they are told")
def test_exceptions_that_the_caller_has_trapped() -> None:
    """feenableexcept(FE_ALL_EXCEPT & ~FE_INEXACT): 0 / 0 in the caller would end the process; what kernels meet does not."""
    code = """
import sys
import numpy as np, numbanorm
from environments import environment
x = np.array([[np.inf, -np.inf, 1, 2], [1e300, -1e300, 0, 1e-320], [np.nan, 0, 0, 0], [1, 1, 1, 1]])
with environment(0x1000):  # all but the inexact
    for backend in (None, "cpu"):
        y, stats = numbanorm.layer_norm(x, 4, eps=0.0, return_stats=True, backend=backend)
        numbanorm.layer_norm_backward(x, x, 4, stats, backend=backend)
print(np.isnan(y).any())
if len(sys.argv) > 1:
    with environment(0x1000):
        np.divide(x, x - x, out=y)
"""
    assert printed("-c", code) == "True"
    with pytest.raises(AssertionError, match="-8"):  # SIGFPE
        printed("-c", code, "divide")


def emitted(architecture: str) -> str:
    """A function that changes the environment as it is done there, if it is well formed."""
    module = ir.Module()
    function = ir.Function(module, ir.FunctionType(ir.IntType(64), []), "f")
    builder = ir.IRBuilder(function.append_basic_block())
    before = package.current(builder, architecture)
    package.change(builder, before, architecture)
    builder.ret(before)
    binding.parse_assembly(str(module)).verify()
    return str(module)


def test_other_architectures() -> None:
    assert "llvm.x86.sse.ldmxcsr" in emitted("x86_64")
    assert "llvm.aarch64.set.fpcr" in emitted("aarch64")
    assert "call" not in emitted("riscv64")


def test_no_arithmetic_beside_the_changes() -> None:
    """LLVM might carry it across them: between the changes is the call alone."""
    calls(1.0)
    (code,) = calls.inspect_llvm().values()
    name = next(iter(calls.overloads.values())).fndesc.llvm_func_name
    body = code.partition(f"@{name}(")[2].partition("\n}\n")[0]
    _, between, _ = body.split("ldmxcsr(" if X86 else "set.fpcr(")
    assert [line for line in between.splitlines() if " call " in line and "fails" in line]
    assert "fdiv" not in body
    assert "fdiv" in code
