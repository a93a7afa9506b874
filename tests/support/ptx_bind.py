"""PTX instructions bound to arrays: each becomes one function of where, among the threads, it applies."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from ptx_ops import DTYPES, comparison, operation

if TYPE_CHECKING:
    from ptx import Memory, Program

Array = NDArray[Any]
Where = Any  # True, or an array (threads,) of bool
Step = Callable[[Where], None]

WARP = 32
#: hints and orderings that change nothing where stores are seen at once; what ends in "::" takes an argument
HINTS = {"nc", "ca", "cg", "cs", "lu", "cv", "cwb", "wb", "wt", "weak", "volatile", "relaxed", "cta", "gpu", "sys"}
HINT_PREFIXES = ("L1::", "L2::")
#: these wait or order only, and copies are made at once
NO_OPERATION = ("membar.", "fence.", "cp.async.commit_group", "cp.async.wait_group", "cp.async.wait_all")


class Instruction(NamedTuple):
    guard: str  # "", a predicate, or "!" and a predicate
    op: str
    args: list[str]
    text: str


class Threads:
    """A program bound to the registers of `blocks` blocks: `steps` are its instructions, but for jumps."""

    def __init__(
        self,
        program: Program,
        memory: Memory,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        blocks: int,
        shared: int = 0,
    ) -> None:
        self.program, self.memory, self.grid, self.block, self.blocks = program, memory, grid, block, blocks
        self.per_block = int(np.prod(block))
        self.threads = blocks * self.per_block
        self.dynamic, self.first = shared, 0  # the number of the first block, see `Machine.start`
        self.sizes = {"shared": program.static + shared, "local": program.local}
        self.origins = {space: np.zeros(self.threads, np.int64) for space in self.sizes}  # positions in the arena
        self.registers: dict[str, Array] = {}
        self.specials: dict[str, Array] = {}
        self.parameters: dict[str, Any] = {}
        self.control: dict[int, tuple[str, Any]] = {}
        self.steps: list[Step | None] = []
        for at, instruction in enumerate(program.code):
            try:
                self.steps.append(self.bind(at, instruction))
            except (KeyError, ValueError, IndexError) as error:
                raise NotImplementedError(f"{program.name}: `{instruction.text}` is not known here") from error

    # operands

    def register(self, name: str) -> Array:
        if name not in self.registers:
            kind = DTYPES[self.program.registers[name]]
            dtype = kind if kind.kind == "b" else np.dtype(f"u{kind.itemsize}")
            self.registers[name] = np.zeros(self.threads, dtype)
        return self.registers[name]

    def source(self, arg: str, kind: str) -> Any:
        """An operand as type `kind`: (threads,), live, of a wider register the lower part; or a scalar."""
        dtype = DTYPES[kind]
        if arg in self.program.registers:
            return self.narrow(self.register(arg), dtype)
        if arg.startswith("%"):
            return self.narrow(self.special(arg[1:]), dtype)
        if arg[:2] in ("0d", "0D", "0f", "0F"):
            bits = f"u{(len(arg) - 2) // 2}"
            return np.array(int(arg[2:], 16), bits).view(dtype)[()]
        if arg in self.program.symbols:
            return dtype.type(self.program.symbols[arg])
        value = int(arg.rstrip("U"), 0)
        if kind == "pred":
            return np.bool_(value)
        return np.array(value % (1 << 8 * dtype.itemsize), f"u{dtype.itemsize}").view(dtype)[()]

    def narrow(self, values: Array, dtype: np.dtype[Any]) -> Array:
        ratio, rest = divmod(values.dtype.itemsize, dtype.itemsize)
        if rest or (values.dtype.kind == "b") != (dtype.kind == "b"):
            raise ValueError(f"{values.dtype} is not read as {dtype}")
        return values.view(dtype)[::ratio]

    def target(self, arg: str, kind: str) -> Array:
        """The register to be written, of a dtype that extends the sign where `kind` has one and is narrower."""
        register, dtype = self.register(arg), DTYPES[kind]
        if (register.dtype.kind == "b") != (dtype.kind == "b") or register.dtype.itemsize < dtype.itemsize:
            raise ValueError(f"{dtype} does not fit into {arg}")
        if register.dtype.itemsize == dtype.itemsize:
            return register.view(dtype)
        if dtype.kind == "f" and dtype.itemsize > 2:
            raise ValueError(f"{dtype} is not extended")
        return register.view(f"{'i' if dtype.kind == 'i' else 'u'}{register.dtype.itemsize}")

    def special(self, name: str) -> Array:
        if name not in self.specials:
            thread = np.arange(self.threads) % self.per_block
            base, _, axis = name.partition(".")
            axes = {"ntid": self.block, "nctaid": self.grid}
            if base in axes:
                values: Any = axes[base]["xyz".index(axis)]
            elif base == "tid":
                values = np.unravel_index(thread, self.block[::-1])["zyx".index(axis)]
            elif base == "ctaid":
                values = {"x": 0, "y": 0, "z": 0}[axis]  # differs between batches
            else:
                values = {"laneid": thread % WARP, "warpid": thread // WARP, "dynamic_smem_size": self.dynamic}[name]
            self.specials[name] = np.empty(self.threads, np.uint32)
            self.specials[name][...] = values
        return self.specials[name]

    # instructions

    def bind(self, at: int, instruction: Instruction) -> Step | None:
        """The instruction as a function of where it applies; None for a jump."""
        guard, op, args, _ = instruction
        name = op.split(".")[0]
        if op in ("bra", "bra.uni", "ret", "exit"):
            self.control[at] = (name, self.program.labels[args[0]] if name == "bra" else None)
            return None
        if op in ("bar.sync", "barrier.sync", "barrier.sync.aligned") and args == ["0"]:
            self.control[at] = ("barrier", self.per_block)
            return lambda where: None
        if op == "bar.warp.sync" or name in ("shfl", "vote"):
            self.control[at] = ("barrier" if name == "bar" else "exchange", WARP)
        step = self.plain(instruction)
        if not guard or at in self.control:
            return step
        predicate = self.guard(guard)

        def guarded(where: Where) -> None:
            chosen = predicate() & where
            if chosen.any():
                step(chosen)

        return guarded

    def guard(self, guard: str) -> Callable[[], Array]:
        predicate = self.source(guard.lstrip("!"), "pred")
        return (lambda: ~predicate) if guard.startswith("!") else (lambda: predicate)

    def plain(self, instruction: Instruction) -> Step:
        """The instruction without its guard."""
        _, op, args, _ = instruction
        name = op.split(".")[0]
        if name in ("ld", "st"):
            return self.load_parameter(op, args) if op.startswith("ld.param.") else self.transfer(instruction)
        if name == "cp" and re.match(r"cp\.async\.c[ag]\.shared(::cta)?\.global(\.L2::\w+)?$", op):
            return self.copy(instruction)
        special = {"mov": self.move, "cvta": self.convert_address, "setp": self.compare}
        special |= {"shfl": self.shuffle, "vote": self.vote}
        if name in special:
            return special[name](op, args)
        if op.startswith(NO_OPERATION) or op == "bar.warp.sync":
            return lambda where: None
        fn, kinds = operation(op)
        if len(kinds) != len(args):
            raise ValueError(op)
        target = self.target(args[0], kinds[0])
        sources = [self.source(a, k) for a, k in zip(args[1:], kinds[1:], strict=True)]
        return self.apply(fn, target, sources)

    def apply(self, fn: Callable[..., Any], target: Array, sources: list[Any]) -> Step:
        if isinstance(fn, np.ufunc):

            def step(where: Where) -> None:
                fn(*sources, out=target, where=where)
        else:

            def step(where: Where) -> None:
                np.copyto(target, fn(*sources), where=where, casting="unsafe")

        return step

    def move(self, op: str, args: list[str]) -> Step:
        """mov; {a, b} are the parts of a register, the lowest first."""
        kind = op.split(".")[1]
        packs = [a.startswith("{") for a in args]
        if op.count(".") != 1 or all(packs):
            raise ValueError(op)
        if not any(packs):
            return self.apply(np.asarray, self.target(args[0], kind), [self.source(args[1], kind)])
        whole = self.register(args[packs.index(False)])
        parts = [a.strip() for a in args[packs.index(True)].strip("{}").split(",")]
        if whole.dtype.itemsize != DTYPES[kind].itemsize:
            raise ValueError(op)
        part = f"b{8 * whole.dtype.itemsize // len(parts)}"
        split = whole.view(DTYPES[part]).reshape(self.threads, len(parts)).T
        pairs = [(name, row) for name, row in zip(parts, split, strict=True) if name != "_"]
        moves = [(self.target(n, part), row) if packs[0] else (row, self.source(n, part)) for n, row in pairs]

        def step(where: Where) -> None:
            for target, source in moves:
                np.copyto(target, source, where=where)

        return step

    def load_parameter(self, op: str, args: list[str]) -> Step:
        kind, name = op.split(".")[2], args[1].strip("[] ")
        kinds = {n: DTYPES[k] for k, n, array in self.program.parameters if not array}
        target, dtype = self.target(args[0], kind), DTYPES[kind]
        if kinds[name].itemsize != dtype.itemsize:
            raise ValueError(op)
        return lambda where: np.copyto(target, self.parameters[name].view(dtype), where=where)

    def convert_address(self, op: str, args: list[str]) -> Step:
        """cvta; a generic address is where the byte lies in the arena, in shared and local memory too."""
        *to, space, kind = op.split(".")[1:]
        target, source = self.target(args[0], kind), self.source(args[1], kind)
        if space == "global":
            return self.apply(np.asarray, target, [source])
        if space not in self.origins or kind != "u64":
            raise ValueError(op)
        origin, base = self.origins[space].view(np.uint64), np.uint64(self.memory.BASE)
        if to:
            return self.apply(lambda a: a - origin - base, target, [source])
        return self.apply(lambda a: a + origin + base, target, [source])

    def compare(self, op: str, args: list[str]) -> Step:
        """setp: p, or p|q where q has the opposite, each combined with a third predicate."""
        _, name, *combine, kind = op.split(".")
        test = comparison(name, kind)
        a, b = (self.source(x, kind) for x in args[1:3])
        targets = [self.target(p.strip(), "pred") for p in args[0].split("|")]
        if not combine and len(args) == 3 and len(targets) == 1:
            return self.apply(test, targets[0], [a, b])
        merge = {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}[combine[0]] if combine else None
        third = self.guard(args[3]) if merge else None

        def step(where: Where) -> None:
            yes = test(a, b)
            results = [merge(r, third()) if merge and third else r for r in (yes, ~yes)]
            for target, result in zip(targets, results, strict=False):
                np.copyto(target, result, where=where)

        return step

    def shuffle(self, op: str, args: list[str]) -> Step:
        """shfl.sync: whole warps only, so all source lanes are there."""
        _, sync, mode, kind = op.split(".")
        registers = [r.strip() for r in args[0].split("|")]
        target = self.target(registers[0], kind)
        valid = self.target(registers[1], "pred") if len(registers) > 1 else None
        values, operand, clamp, members = (self.source(a, "b32") for a in args[1:5])
        lane = (np.arange(self.threads) % WARP).astype(np.int64)
        start = np.arange(self.threads) - lane
        combine = {"bfly": np.bitwise_xor, "up": np.subtract, "down": np.add, "idx": None}[mode]
        if sync != "sync" or kind != "b32":
            raise ValueError(op)

        def step(where: Where) -> None:
            require_all(members, where)
            segment, last, by = (clamp >> 8) & 31, clamp & 31, (operand & 31).astype(np.int64)
            low, free = lane & segment, ~segment & 31
            wanted = low | (by & free) if combine is None else combine(lane, by)
            bound = low | (last & free)
            inside = wanted >= bound if mode == "up" else wanted <= bound
            np.copyto(target, values[start + np.where(inside, wanted, lane)], where=where)
            if valid is not None:
                np.copyto(valid, inside, where=where)

        return step

    def vote(self, op: str, args: list[str]) -> Step:
        _, sync, mode, kind = op.split(".")
        fn: Callable[[Array], Any] = {
            "all": lambda p: p.all(1),
            "any": lambda p: p.any(1),
            "uni": lambda p: p.all(1) | ~p.any(1),
            "ballot": lambda p: np.packbits(p, axis=1, bitorder="little").view(np.uint32)[:, 0],
        }[mode]
        target, predicate, members = self.target(args[0], kind), self.guard(args[1]), self.source(args[2], "b32")
        if sync != "sync" or (mode == "ballot") != (kind == "b32"):
            raise ValueError(op)

        def step(where: Where) -> None:
            require_all(members, where)
            np.copyto(target, np.repeat(fn(predicate().reshape(-1, WARP)), WARP), where=where)

        return step

    # memory

    def address(self, arg: str, space: str, nbytes: int, text: str) -> Callable[[Where], Array]:
        """A function giving where the threads that run access memory, in units of `nbytes`."""
        m = re.fullmatch(r"\[\s*([%$\w]+)\s*(?:\+\s*(-?\w+))?\s*\]", arg)
        if m is None:
            raise ValueError(arg)
        kind = self.program.registers.get(m[1], "b64")
        offset = int(m[2] or "0", 0)
        addresses = self.source(m[1], f"{'s' if kind[1:] == '64' else 'u'}{kind[1:]}")
        addresses = np.broadcast_to(addresses, self.threads)
        size, origin, shift = self.sizes.get(space), self.origins.get(space), nbytes.bit_length() - 1

        def locate(where: Where) -> Array:
            a = (addresses if where is True else addresses[where]).astype(np.int64) + offset
            first, end = int(a.min()), int(a.max()) + nbytes
            bad = None
            if size is not None:
                if first < 0 or end > size:
                    bad = (a < 0) | (a + nbytes > size)
            elif not self.memory.holds(first, end):
                bad = self.memory.outside(a, nbytes)
            if bad is not None and bad.any():
                self.fail("out of bounds", text, where, a, bad)
            if np.bitwise_or.reduce(a) & (nbytes - 1):
                self.fail("misaligned", text, where, a, a & (nbytes - 1) != 0)
            a += -self.memory.BASE if origin is None else origin if where is True else origin[where]
            return a >> shift

        return locate

    def fail(self, what: str, text: str, where: Where, addresses: Array, bad: Array) -> None:
        i = int(np.argmax(bad))
        thread = i if where is True else int(np.flatnonzero(where)[i])
        block, lane = divmod(thread, self.per_block)
        raise IndexError(
            f"{self.program.name}: `{text}` is {what} in thread {lane} of block {self.first + block}: "
            f"address {int(addresses[i]):#x}"
        )

    def transfer(self, instruction: Instruction) -> Step:
        """ld or st of one, two or four elements per thread."""
        name, *modifiers, kind = re.sub(r"\bshared::cta\b", "shared", instruction.op).split(".")
        spaces = [m for m in modifiers if m in ("global", "shared", "local")]
        vectors = [m for m in modifiers if m in ("v2", "v4")]
        rest = {m for m in modifiers if not m.startswith(HINT_PREFIXES)} - HINTS - {*spaces, *vectors}
        if rest:
            raise ValueError(instruction.op)
        count = int(vectors[0][1:]) if vectors else 1
        registers, place = instruction.args if name == "ld" else instruction.args[::-1]
        names = [r.strip() for r in registers.strip("{}").split(",")]
        if len(names) != count:
            raise ValueError(instruction.op)
        dtype = DTYPES[kind]
        locate = self.address(place, spaces[0] if spaces else "", count * dtype.itemsize, instruction.text)
        cells = self.memory.bytes.view(dtype).reshape(-1, count)
        if name == "ld":
            targets = [self.target(n, kind) for n in names]

            def load(where: Where) -> None:
                rows = cells.take(locate(where), axis=0)
                for k, target in enumerate(targets):
                    target[... if where is True else where] = rows[:, k]

            return load
        columns = [cells[:, k] for k in range(count)]
        sources = [np.broadcast_to(self.source(n, kind), self.threads) for n in names]

        def store(where: Where) -> None:
            rows = locate(where)
            for column, source in zip(columns, sources, strict=True):
                column[rows] = source if where is True else source[where]

        return store

    def copy(self, instruction: Instruction) -> Step:
        """cp.async of 4, 8 or 16 bytes, done at once."""
        to, source, nbytes = instruction.args
        width = {"4": 4, "8": 8, "16": 16}[nbytes]
        cells = self.memory.bytes.view(f"V{width}")
        here = self.address(to, "shared", width, instruction.text)
        there = self.address(source, "global", width, instruction.text)

        def step(where: Where) -> None:
            cells[here(where)] = cells[there(where)]

        return step


def require_all(members: Any, where: Where) -> None:
    """The member mask of a shuffle or vote names the whole warp."""
    if np.any((members != 0xFFFFFFFF) & where):
        raise NotImplementedError("the member mask of an exchange within a warp must be 0xffffffff")
