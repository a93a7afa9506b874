"""The functions inside numba.njit: the bits of the Python call, whoever calls, now and from his cache in the next process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cases
import inside
import numba
import numpy as np
import pytest
from cases import Case, arguments, call, call_backward, upstream
from numba.core.errors import TypingError

import numbanorm as nb

DTYPES = (np.dtype(np.float32), np.dtype(np.float64))
PACKAGE = Path(nb.__file__).parent
FLOAT64 = DTYPES[1]


@numba.njit
def rows(x: Any, weight: Any, bias: Any) -> Any:
    return nb.layer_norm(x, x.shape[-1], weight, bias)


def test_a_norm_has_the_bits_of_the_python_call() -> None:
    """Compiles no kernel but those that other tests compile, and what calls them."""
    a = arguments(Case("layer", (13, 300)), DTYPES[0])
    assert rows(a.x, a.weight, a.bias).tobytes() == nb.layer_norm(a.x, 300, a.weight, a.bias).tobytes()
    with pytest.raises(ValueError, match="weight must have an element for each place"):
        rows(a.x, a.weight[1:], a.bias)


def test_the_hook_of_numba_is_there() -> None:
    """Without it nothing fails, but functions of users that call ours are not cached: see docs/njit.md."""
    a = arguments(Case("layer", (3, 7)), DTYPES[0])
    rows(a.x, a.weight, a.bias)
    library = rows.overloads[rows.signatures[0]].library
    assert [type(hook).__name__ for hook in library._reload_init].count("Reload") == 2


REFUSED = [
    ("nb.layer_norm(x, 1.5)", "normalized_shape must be an integer or a tuple of integers"),
    ("nb.layer_norm(x, (2, 3, 7))", "normalized_shape must be the last axes of x: got 3"),
    ("nb.layer_norm(x, 7, eps=None)", "eps must be a number"),
    ("nb.layer_norm(x, 7, method='fast')", "method must be 'two_pass', 'welford' or None"),
    ("nb.layer_norm(x, 7, exact=x.size > 0)", "exact must be a constant"),
    ("nb.layer_norm(x, 7, where=x > 0)", "where must be left out"),
    ("nb.layer_norm(x, 7, residual=x)", "residual must be left out"),
    ("nb.layer_norm(x, (3,), axis=0)", "axis must be left out"),
    ("nb.rms_norm(x, 7, weight, weight_offset=1.0)", "weight_offset must be left out"),
    ("nb.rms_norm_backward(x, x, 7, (None, mean), activation='relu')", "activation must be left out"),
    ("nb.moments(x, 0, nan='omit')", "nan must be left out"),
    ("nb.standardize_backward(x, x, weight, weight, axis=0, sums=weight)", "sums must be \\(sum of dy"),
    ("nb.layer_norm(x, 7, bias, x)", "weight must have 1 axes|bias must have 1 axes"),
    ("nb.layer_norm(x.astype(np.int64), 7)", "x must be an array of float32 or float64"),
    ("nb.layer_norm(x, 7, out=x.astype(np.float64))", "out must have the dtype of x"),
    ("nb.batch_norm(x, weight)", "running_mean and running_var must be given together"),
    ("nb.batch_norm(x, training=True, channel_axis=2)", "channel_axis must be an axis of x"),
    ("nb.batch_norm(x, weight, weight, return_stats=True)", "return_stats must be False"),
    ("nb.group_norm(x, 1, batch_axis=1)", "batch_axis must be 0, or None"),
    ("nb.layer_norm(x.view(np.uint16), 7)", "x must be an array of float32 or float64"),
    ("nb.standardize(x, weight, axis=0)", "rstd must be given"),
    ("nb.standardize(x, weight, weight, axis=size)", "axis must be a constant"),
    ("nb.standardize(x, weight, x, axis=0)", "rstd must broadcast to the axes that are not in axis, 1: got 2"),
    ("nb.layer_norm_backward(x, x, 7, weight)", "stats must be \\(mean, rstd\\)"),
    ("nb.layer_norm_backward(x, x, 7, (weight, weight))", "mean must be C-contiguous and float64"),
    ("nb.layer_norm_backward(x, x, 7, (weight, weight), needs=(True,))", "needs must be 3 of True or False"),
]


@pytest.mark.parametrize(("line", "words"), REFUSED, ids=[line for line, _ in REFUSED])
def test_types_that_do_not_fit_are_refused_when_the_function_is_compiled(line: str, words: str) -> None:
    x, weight = np.ones((3, 7), np.float32), np.ones(7, np.float32)
    with pytest.raises(TypingError, match=words):
        inside.compiled(line)(None, x, 7, None, weight, weight, None, None, None)


WRONG = [
    ("nb.layer_norm(x, size + 1)", "normalized_shape must be the last axes of x"),
    ("nb.layer_norm(x, size, eps=-1.0)", "eps must be finite and not negative"),
    ("nb.layer_norm(x, size, out=x[1:])", "out must have the shape of x"),
    ("nb.layer_norm(x[:2], size, out=x[1:])", "out must not overlap what is read"),
    ("nb.group_norm(x, size + 1)", "num_groups must divide the channels"),
    ("nb.batch_norm(x[:1], training=True)", "a variance needs more than one value"),
    ("nb.batch_norm(x, mean, var, training=True, momentum=2.0)", "momentum must lie in"),
    ("nb.standardize(x, mean, var[1:], axis=0)", "rstd must broadcast to the axes that are not in axis"),
]


@pytest.mark.long
@pytest.mark.parametrize(("line", "words"), WRONG, ids=[line for line, _ in WRONG])
def test_values_that_do_not_fit_are_refused_when_it_runs(line: str, words: str) -> None:
    x = np.ones((3, 7), np.float32)
    with pytest.raises(ValueError, match=words):
        inside.compiled(line)(None, x, 7, None, None, None, np.zeros(7), np.ones(7), None)


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_table(dtype: np.dtype[Any]) -> None:
    for case in cases.TABLE:
        a, more = arguments(case, dtype), {"return_stats": True} if case.training else {}
        expected = call(case, a, **more)
        assert inside.same(inside.norm(case, a, ", return_stats=True" if case.training else ""), expected), case.name


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_of_the_table(dtype: np.dtype[Any]) -> None:
    for case in cases.TABLE:
        a, dy = arguments(case, dtype), upstream(case, dtype)
        stats = call(case, a, return_stats=True)[1]
        expected = call_backward(case, a, dy, stats)
        assert inside.same(inside.gradients(case, a, dy, stats), expected), case.name


@pytest.mark.long
def test_options() -> None:
    """Methods, the exact mode, results in place, other layouts, and parameters that float32 does not have."""
    case = Case("layer", (9, 70))
    a = arguments(case, DTYPES[0])
    for more, options in (
        (", exact=True", {"exact": True}), (", method='welford'", {"method": "welford"}), (", eps=1e-3", {"eps": 1e-3}),
    ):  # fmt: skip
        assert inside.same(inside.norm(case, a, more), call(case, a, **options)), more
    wide = replace(a, weight=a.weight.astype(np.float64) + 1e-12)
    assert inside.same(inside.norm(case, wide), call(case, wide))
    turned = replace(a, x=np.asfortranarray(a.x))
    assert inside.same(inside.norm(case, turned), call(case, a))
    own = a.x.copy()
    assert inside.norm(case, replace(a, x=own), ", out=x").tobytes() == own.tobytes() == call(case, a).tobytes()
    strided = np.empty((9, 140), np.float32)[:, ::2]
    assert inside.same(inside.norm(case, a, ", out=out", strided), strided)
    assert inside.same(strided, call(case, a))


@pytest.mark.long
@pytest.mark.parametrize("more", ["", ", convention='keras'", ", momentum=None, num_batches_tracked=out"])
@pytest.mark.parametrize("case", [Case("batch", (9, 70)), Case("instance", (5, 3, 40))], ids=lambda c: c.name)
def test_running_statistics(case: Case, more: str) -> None:
    a, found = arguments(case, DTYPES[0]), []
    for python in (True, False):
        running = np.full(case.parameter_shape, 0.3, np.float32), np.full(case.parameter_shape, 2.0)
        own, counter = replace(a, running_mean=running[0], running_var=running[1]), np.array([3])
        if python:
            options = {"convention": "keras"} if "keras" in more else {}
            options |= {"momentum": None, "num_batches_tracked": counter} if "tracked" in more else {}
            y = call(case, own, **options)
        else:
            y = inside.norm(case, own, more, counter)
        found.append((y, *running, counter))
    assert inside.same(*found)
    assert found[0][3] == 4 if "tracked" in more else 3


@pytest.mark.long
@pytest.mark.parametrize("exponent", [500, 1019, -460, -1000])
@pytest.mark.parametrize(
    "case", [Case("layer", (5, 33)), Case("batch", (9, 70)), Case("batch", (3, 2, 300)), Case("group", (2, 6, 5, 5), groups=3)],
    ids=lambda c: c.name,
)  # fmt: skip
def test_float64_out_of_its_range(case: Case, exponent: int) -> None:
    """What is computed again from scaled numbers, and what is let be: a group with an infinity."""
    a, dy = arguments(case, FLOAT64), upstream(case, FLOAT64)
    x = np.ldexp(a.x, exponent)
    x.flat[1] = np.inf
    own = replace(a, x=x)
    expected = call(case, own, return_stats=True)
    assert inside.same(inside.norm(case, own, ", return_stats=True"), expected)
    out = own.x.copy()
    assert inside.same(inside.norm(case, replace(own, x=out), ", out=x"), expected[0])
    gradients = call_backward(case, own, dy, expected[1])
    assert inside.same(inside.gradients(case, own, dy, expected[1]), gradients)
    target = dy.copy()
    assert inside.same(inside.gradients(case, own, target, expected[1], ", out=dy"), gradients)


@pytest.mark.long
@pytest.mark.parametrize(
    "case", [Case("layer", (5, 33)), Case("batch", (9, 70)), Case("batch", (3, 2, 300))], ids=lambda c: c.name
)
def test_gradients_for_which_float32_has_no_room(case: Case) -> None:
    a, dy = arguments(case, DTYPES[0]), upstream(case, DTYPES[0])
    x = a.x.copy()
    x[-1] *= 1e30
    own = replace(a, x=x)
    stats = call(case, own, return_stats=True)[1]
    assert inside.same(inside.gradients(case, own, dy, stats), call_backward(case, own, dy, stats))
    loud = dy.copy()
    loud.flat[0] = 1e38
    assert inside.same(inside.gradients(case, a, loud * 3, stats), call_backward(case, a, loud * 3, stats))


USER = """
import numba, numpy as np, numbanorm as nb


@numba.njit(cache=True)
def inner(x, weight, bias):
    return nb.layer_norm(x, x.shape[-1], weight, bias)


@numba.njit(cache=True)
def outer(x, weight, bias):
    return inner(x, weight, bias)


@numba.njit(cache=True, parallel=True)
def many(x, weight, bias):
    y = np.empty_like(x)
    for k in numba.prange(len(x)):
        y[k] = nb.layer_norm(x[k], x.shape[-1], weight, bias)
    return y


@numba.guvectorize(["void(f4[:,:], f4[:], f4[:], f4[:,:])"], "(n,d),(d),(d)->(n,d)", cache=True, nopython=True)
def each(x, weight, bias, y):
    nb.layer_norm(x, x.shape[-1], weight, bias, out=y)


if __name__ == "__main__":
    rng = np.random.default_rng(0)
    x, weight, bias = rng.standard_normal((16, 9, 40), np.float32), rng.random(40, np.float32), rng.random(40, np.float32)
    expected = nb.layer_norm(x, 40, weight, bias)
    for function in (outer, many, each):
        assert function(x, weight, bias).tobytes() == expected.tobytes(), function
    hits = [sum(function.stats.cache_hits.values()) for function in (outer, many)]
    print(hits, numba.threading_layer())
"""


def user(folder: Path, program: str = USER, **environment: str) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own."""
    file = folder / "user.py"
    if not file.exists():  # an older Numba takes one that was written again for another one
        file.write_text(program)
    own = {"NUMBA_NUM_THREADS": "2", **environment}
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 480, "check": False}
    return subprocess.run([sys.executable, "user.py"], cwd=folder, env={**os.environ, **own}, **options)


def printed(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.long
@pytest.mark.parametrize("layer", ["omp", "workqueue", "tbb"])
def test_cached_functions_in_the_next_process(layer: str, tmp_path: Path) -> None:
    """A caller of a cached function, a parallel loop and a gufunc, under each of Numba's threading layers."""
    if layer == "tbb" and not inside.installed("tbb"):
        pytest.skip("the package tbb is not installed")
    assert printed(user(tmp_path, NUMBA_THREADING_LAYER=layer)) == f"[0, 0] {layer}"
    assert printed(user(tmp_path, NUMBA_THREADING_LAYER=layer)) == f"[1, 1] {layer}"


@pytest.mark.long
def test_an_upgrade_never_serves_what_was_compiled_before(tmp_path: Path) -> None:
    """A copy of the package, edited between two processes: whatever was compiled against it is compiled again."""
    shutil.copytree(PACKAGE, tmp_path / "numbanorm", ignore=shutil.ignore_patterns("__pycache__", "bench"))
    assert printed(user(tmp_path)).startswith("[0, 0]")
    assert printed(user(tmp_path)).startswith("[1, 1]")
    edited = tmp_path / "numbanorm" / "spec" / "norms.py"  # of what is hashed, that for which no kernel is compiled again
    edited.write_text(edited.read_text() + "\n# another version\n")
    assert printed(user(tmp_path)).startswith("[0, 0]")
    assert printed(user(tmp_path)).startswith("[1, 1]")


COPIED = """
from dataclasses import replace

import numba, numpy as np

import cases, inside, numbanorm
from cases import Case

def apart(v):
    room = np.empty(2 * v.size, v.dtype)[::2]
    room[...] = v
    return room

@numba.njit
def squares(x):
    return numbanorm.moments(x, (1,)).m2

for case in (Case("layer", (13, 70)), Case("rms", (13, 70)), Case("batch", (9, 70)), Case("batch", (9, 70), training=False),
             Case("instance", (5, 3, 40)), Case("group", (5, 6, 40), groups=2)):
    a, dy = cases.arguments(case, cases.FLOAT32), np.asfortranarray(cases.upstream(case, cases.FLOAT32))
    a = replace(a, x=np.asfortranarray(a.x), weight=apart(a.weight), bias=None if a.bias is None else apart(a.bias))
    y, stats = cases.call(case, a, return_stats=True)
    found = inside.norm(case, a, ", return_stats=True" * case.training)
    assert inside.same(found, (y, stats) if case.training else y), case
    assert inside.same(inside.gradients(case, a, dy, stats), cases.call_backward(case, a, dy, stats)), case
assert inside.same(squares(a.x[:, 0]), numbanorm.moments(a.x[:, 0], (1,)).m2)
"""


@pytest.mark.long
def test_copies_live_until_the_kernels_have_read_them(tmp_path: Path) -> None:
    """Kernels take addresses, which Numba does not see: glibc is told to overwrite what is freed, where there is glibc."""
    assert printed(user(tmp_path, COPIED, MALLOC_PERTURB_="165")) == ""


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_moments(dtype: np.dtype[Any]) -> None:
    """Over axes that lie in any order, some of one element; of numbers whose squares leave float64's range, too."""
    x = np.random.default_rng(0).normal(3.0, 2.0, (3, 1, 4, 5, 70)).astype(dtype)
    for axis in (None, -1, (0, 2), (0, 2, 4)):
        for data in (x, np.ldexp(x, 900 if dtype == FLOAT64 else 0), x[:0]):
            expected = nb.moments(data, axis)
            got = inside.compiled(f"nb.moments(x, {axis})")(None, data, *[None] * 7)
            assert got.count == expected.count
            arrays = [np.asarray(a) for a in (expected.mean, expected.m2, expected.mean_low)]
            assert inside.same([got.mean, got.m2, got.mean_low], arrays), (axis, data.shape)


@pytest.mark.long
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_standardize(dtype: np.dtype[Any]) -> None:
    """Layouts as they lie, of samples by themselves, with a block moved to the front, with all axes moved, and of no axis."""
    rng, several = np.random.default_rng(0), (3, 2, 4, 5, 3)
    cases = ((2, 64, 200, 3), (1, 2)), (several, (1, 3)), (several, (0, 2, 4)), ((5, 3, 40), (0, 2)), ((7,), None)
    for shape, axis in cases[:: 1 if dtype == DTYPES[0] else 3]:  # each is compiled anew
        x, dy = rng.normal(3.0, 2.0, shape).astype(dtype), rng.standard_normal(shape).astype(dtype)
        m = nb.moments(x, axis)
        mean, rstd = np.asarray(m.mean), np.asarray(1 / np.sqrt(m.var() + 1e-5))
        weight, bias = rng.random(mean.shape).astype(np.float32), rng.random(mean.shape[-1:])
        expected, out = nb.standardize(x, mean, rstd, weight, bias, axis=axis), np.empty_like(x)
        whole = inside.compiled(f"nb.standardize(x, stats[0], stats[1], weight, bias, axis={axis}, out=out)")
        assert inside.same(whole(None, x, None, (mean, rstd), weight, bias, None, None, out), expected), (shape, axis)
        assert inside.same(out, expected)
        of_moments = inside.compiled(f"nb.standardize_sums(dy, x, mean=nb.moments(x, {axis}), rstd=stats, axis={axis})")
        sums = nb.standardize_sums(dy, x, m, rstd, axis=axis)
        got = of_moments(dy, x, None, rstd, *[None] * 5)
        assert inside.same(got[:2], sums[:2]), (shape, axis)
        assert got.count == sums.count
        both = inside.compiled(
            f"nb.standardize_backward(dy, x, stats[0], stats[1], weight, axis={axis}, sums=size, out=out), "
            f"nb.standardize_backward(dy, x, stats[0], stats[1], bias, axis={axis}, needs=(True, False, True))"
        )
        got = both(dy, x, sums, (mean, rstd), weight, bias, None, None, out)
        expected = [nb.standardize_backward(dy, x, mean, rstd, weight, axis=axis, sums=sums)]
        expected += [nb.standardize_backward(dy, x, mean, rstd, bias, axis=axis, needs=(True, False, True))]
        assert inside.same(got, expected), (shape, axis)
        assert inside.same(out, expected[0][0])


@pytest.mark.long
def test_standardize_in_place_of_any_layout_and_without_room() -> None:
    """Of x, dy and out that do not lie side by side, statistics that float32 does not have, and a count of each group."""
    rng = np.random.default_rng(0)
    axis, whole = (0,), rng.standard_normal((3, 40, 12), np.float32)
    x, dy, apart = whole[0].T, np.asfortranarray(whole[1].T), np.empty((12, 80), np.float32)[:, ::2]
    x[:, 1] *= 1e30
    mean, rstd = x.mean(0, np.float64), 1 / x.std(0, dtype=np.float64)
    mean[2], rstd[2], rstd[3], counts = 1e38, 1e-38, 1e35, np.arange(40) % 5 * 12
    line = f"nb.standardize_backward(dy, x, stats[0], stats[1], None, axis={axis}, sums=size, out=out, exact=mean)[0]"
    for exact in (False, True):
        user = inside.compiled(line.replace("mean", str(exact)))
        for one, two, out in ((x, dy, apart), (x, dy.copy(), None), *(((x, own, own)) for own in (dy.copy(),))):
            sums = (*nb.standardize_sums(two, one, mean, rstd, axis=axis)[:2], counts)
            expected = nb.standardize_backward(two, one, mean, rstd, axis=axis, sums=sums, exact=exact)[0]
            got = user(two, one, sums, (mean, rstd), None, None, None, None, out)
            assert inside.same(got, expected)
            assert out is None or inside.same(out, expected)
    plain = inside.compiled(f"nb.standardize(x, stats[0], stats[1], axis={axis}, out=out)")
    expected = nb.standardize(x, mean, rstd, axis=axis)
    assert inside.same(plain(None, x, None, (mean, rstd), *[None] * 4, x), expected)
    assert inside.same(x, expected)


def test_without_the_hook_a_function_works_and_is_not_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numbanorm.jit.symbols.hooks_of", lambda library: None)
    a = arguments(Case("layer", (3, 7)), DTYPES[0])
    user = numba.njit(rows.py_func)
    turned = a.bias[::-1]  # a type that no other test has, or what was compiled for that would be taken
    assert user(a.x, a.weight, turned).tobytes() == nb.layer_norm(a.x, 7, a.weight, turned).tobytes()
    assert user.overloads[user.signatures[0]].library.has_dynamic_globals  # what Numba does not cache
