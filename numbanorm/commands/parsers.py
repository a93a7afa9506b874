"""The commands of the command line and their options.

Whatever a user can get wrong ends in one line on stderr and exit status 2.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn

import numbanorm

from ..spec.dtypes import NATIVE
from ..spec.norms import NORMS

# Which options say something to which norm; an option that would be ignored is refused.
NORM_OPTIONS = {
    name.removesuffix("_norm"): (norm.sized, *(["channel_axis"] if norm.channels else []), *norm.parameters, "where")
    for name, norm in NORMS.items()
}
NORM_OPTIONS["batch"] = NORM_OPTIONS["batch"][:-1]  # whose chunks have moments that are merged, and know no mask


class CommandError(Exception):
    """A mistake of the user's: rule, what came, and the remedy, in one line."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CommandError(f"{message} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m numbanorm", description="Exact, reproducible normalization for NumPy arrays.")
    parser.add_argument("--version", action="version", version=f"numbanorm {numbanorm.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="{demo,normalize,bench,compare,dashboard,info}")

    demo = commands.add_parser("demo", help="normalize two photographs with every norm: a table and a picture")
    demo.add_argument("--out", type=Path, default=Path("before_after.png"), help="the picture (default: %(default)s)")

    commands.add_parser("info", help="print versions, CPU, vector width, threads, cache folder, GPU")

    _add_bench(commands.add_parser("bench", help="time numbanorm against a copy and against other libraries, here"))
    _add_compare(commands.add_parser("compare", help="measure what is not committed yet against a commit: what changed"))
    _add_dashboard(commands.add_parser("dashboard", help="show asv's results in a browser, without the internet"))

    _add_normalize(commands.add_parser("normalize", help="normalize a .npy file or zarr array of any size into another"))
    return parser


def _add_normalize(normalize: argparse.ArgumentParser) -> None:
    normalize.add_argument("input", type=Path, metavar="IN.npy", help="or the folder of a zarr array")
    normalize.add_argument("output", type=Path, metavar="OUT.npy", help="or OUT.zarr")
    normalize.add_argument("--norm", choices=tuple(NORM_OPTIONS), required=True)
    normalize.add_argument(
        "--normalized-shape", type=_shape, metavar="D,D,...", help="layer, rms: the last axes (default: the last one)"
    )
    normalize.add_argument("--num-groups", type=int, metavar="G", help="group: how many groups of channels")
    normalize.add_argument(
        "--channel-axis", type=int, metavar="AXIS", help="batch, instance, group: 1 (default), or -1 for channels last"
    )
    normalize.add_argument(
        "--eps", type=float, help="added to the variance (default: 1e-5; rms: epsilon of float32, or float64)"
    )
    normalize.add_argument("--weight", type=Path, metavar="W.npy", help="multiplied onto the result")
    normalize.add_argument("--bias", type=Path, metavar="B.npy", help="added to the result")
    normalize.add_argument(
        "--where", type=Path, metavar="MASK.npy", help="not batch: a bool array that broadcasts to IN, True for what counts"
    )
    normalize.add_argument(
        "--method",
        choices=("two_pass", "welford"),
        help="how the statistics are taken (default: in one read where that is as good)",
    )
    normalize.add_argument("--exact", action="store_true", help="compute in float64 and round once (default: float32, 3 ulp)")
    normalize.add_argument(
        "--dtype", choices=NATIVE, help="compute and write as this type (default: that of IN; integers need one)"
    )
    normalize.add_argument("--overwrite", action="store_true", help="replace OUT.npy if it is there")


def _add_bench(bench: argparse.ArgumentParser) -> None:
    bench.add_argument("--sizes", type=_words, metavar="N,N,...", help="elements: any of 1e3 ... 1e8 (default: 1e4 and above)")
    bench.add_argument(
        "--norms",
        type=_words,
        metavar="NORM,...",
        help="of layer, rms, batch, eval, group, instance (the default), layer+residual, rms+residual, batch+relu, eval+relu",
    )
    bench.add_argument("--direction", choices=("forward", "backward", "both"), default="both")
    bench.add_argument("--layout", choices=("first", "last", "both"), default="both", help="where the channels are")
    bench.add_argument("--dtype", type=_words, metavar="TYPE,...", help="any of float32 (default), float16, bfloat16, float64")
    bench.add_argument("--peers", type=_words, metavar="NAME,...", help="compare with these only, or with none")
    bench.add_argument("--rounds", type=int, metavar="N", help="rounds that a median is taken of (default: 15; quick: 5)")
    bench.add_argument("--threads", type=int, metavar="N", help="for every contender (default: one for each core)")
    bench.add_argument(
        "--quick", action="store_true", help="at most a minute, a few lines: one size, few rounds; --out has the rest"
    )
    bench.add_argument("--scaling", action="store_true", help="only time against the number of threads, at 1e7 elements")
    bench.add_argument("--out", type=Path, metavar="DIR", help="also write bench.md, bench.json and bench.png there")


def _add_compare(compare: argparse.ArgumentParser) -> None:
    compare.add_argument(
        "base", nargs="?", metavar="BASE", help="a commit (default: HEAD; HEAD~1 if nothing differs from HEAD)"
    )
    compare.add_argument(
        "--factor", type=float, default=1.15, metavar="F", help="less than that is noise (default: %(default)s)"
    )
    compare.add_argument("--rounds", type=int, default=3, metavar="N", help="rounds, each on both (default: %(default)s)")
    compare.add_argument("--threads", type=_shape, metavar="N,N,...", help="numbers of threads to measure with (default: 1)")
    compare.add_argument("--bench", metavar="REGEX", help="benchmarks, by asv's names (default: those in benchmarks/fast.txt)")


def _add_dashboard(dashboard: argparse.ArgumentParser) -> None:
    dashboard.add_argument("--out", type=Path, metavar="DIR", help="write the pages there (default: html_dir of asv.conf.json)")
    dashboard.add_argument("--results", type=Path, metavar="DIR", help="asv's results (default: results_dir of asv.conf.json)")
    dashboard.add_argument("--port", type=int, default=0, metavar="N", help="port of localhost (default: any that is free)")
    dashboard.add_argument("--no-serve", dest="serve", action="store_false", help="only write; the pages open as files too")


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"wants integers between commas, such as 3,224,224: got {text!r}") from None
