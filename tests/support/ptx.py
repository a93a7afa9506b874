"""An interpreter of PTX in NumPy, vectorized over the threads of a grid: kernels run bit by bit where there is no GPU.

It covers what LLVM and nvJitLink make of the kernels of this package; everything else raises NotImplementedError with
the text of the instruction, flush-to-zero and approximations included. Each register is an array with one element per
thread, and each instruction one call on such arrays. Threads that part wait: those with the smallest program counter
run, barriers and shuffles wait for the rest of their block or warp, and what can never be met raises.

It says nothing about what ptxas makes of the PTX, nor about races: the threads of an instruction run in one order.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import DTypeLike
from ptx_bind import WARP, Array, Instruction, Threads, Where
from ptx_ops import DTYPES

#: threads that run at once: more do not fit in the caches with all their registers
BATCH = 1 << 14


class Memory:
    """Fake device memory: one arena of bytes, allocations in it with gaps between.

    New memory is filled with 0xFF (nan in every float format), for a GPU promises nothing about it either.
    """

    BASE = 1 << 32
    GAP = 4096

    def __init__(self, capacity: int = 1 << 28) -> None:
        self.bytes = np.zeros(-(-capacity // 16) * 16, np.uint8)  # the system hands out pages as they are touched
        self.starts: list[int] = []
        self.ends: list[int] = []

    def allocate(self, nbytes: int, align: int = 256) -> int:
        """Address of `nbytes` new bytes."""
        after = (self.ends[-1] if self.ends else self.BASE) + self.GAP
        start = -(-after // align) * align
        if start + nbytes + self.GAP > self.BASE + self.bytes.size:
            raise MemoryError(f"{nbytes} bytes do not fit in an arena of {self.bytes.size}: make it Memory(capacity=...)")
        self.starts.append(start)
        self.ends.append(start + nbytes)
        self.view(start, nbytes, np.uint8).fill(0xFF)
        return start

    def put(self, array: Array) -> int:
        """Address of a copy of `array`."""
        address = self.allocate(array.nbytes)
        self.view(address, array.shape, array.dtype)[...] = array
        return address

    def view(self, address: int, shape: int | tuple[int, ...], dtype: DTypeLike) -> Array:
        """The live memory at `address` as an array."""
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if not self.holds(address, address + nbytes):
            raise IndexError(f"{nbytes} bytes at {address:#x} are not inside of one allocation")
        return self.bytes[address - self.BASE :][:nbytes].view(dtype).reshape(shape)

    def free(self, address: int) -> None:
        """Give an allocation back; its bytes are used again once all later ones are free."""
        i = self.starts.index(address)
        del self.starts[i], self.ends[i]

    def holds(self, first: int, end: int) -> bool:
        """Whether one allocation has all of [first, end)."""
        i = bisect_right(self.starts, first) - 1
        return i >= 0 and end <= self.ends[i]

    def outside(self, addresses: Array, nbytes: int) -> Array:
        """(n,) bool: the accesses of `nbytes` that no allocation has."""
        i = np.searchsorted(self.starts, addresses, side="right") - 1
        return np.asarray((i < 0) | (addresses + nbytes > np.array([*self.ends, 0])[i]))


# --- parsing ---------------------------------------------------------------------------------------------------------


def statements(body: str) -> Iterator[str]:
    """Statements of a function's body; registers declared in inner braces get names of their own."""
    scopes: list[dict[str, str]] = []
    for n, token in enumerate(re.findall(r"\{|\}|[$\w]+:(?!:)|[^\s{};:](?:[^{};:]|::|\{[^{};]*\})*;", body)):
        if token == "{":
            scopes.append({})
        elif token == "}":
            scopes.pop()
        else:
            if scopes and token.startswith(".reg"):
                names = re.findall(r"[%$\w]+", token[4:-1])[1:]
                scopes[-1].update({name: f"%{n}_{name.strip('%')}" for name in names})
            inner = {old: new for scope in scopes for old, new in scope.items()}
            yield re.sub(r"[%$\w]+", lambda m, inner=inner: inner.get(m[0], m[0]), token) if inner else token


def layout(declarations: list[tuple[str, str, str, str]], offset: int = 0) -> tuple[dict[str, int], int]:
    """Offsets of the variables (alignment, type, name, count) of an address space, and their size."""
    offsets = {}
    for align, kind, name, count in declarations:
        offset = -(-offset // int(align)) * int(align)
        offsets[name] = offset
        offset += DTYPES[kind].itemsize * int(count or 1)
    return offsets, offset


def braced(text: str) -> str:
    """The text between the first brace and the one that closes it."""
    start = text.index("{") + 1
    depth = 1
    for m in re.finditer("[{}]", text[start:]):
        depth += 1 if m[0] == "{" else -1
        if not depth:
            return text[start : start + m.start()]
    raise ValueError("PTX ends within a function")


class Program:
    """The one kernel of a PTX text, as nvJitLink writes it; NotImplementedError for what is not known here."""

    def __init__(self, ptx_text: str) -> None:
        text = re.sub(r"//[^\n]*|/\*.*?\*/", "", ptx_text, flags=re.S)
        entries = re.findall(r"\.entry\s+([$\w]+)", text)
        if len(entries) != 1:
            raise ValueError(f"the PTX must have one kernel: got {entries}")
        self.name = entries[0]
        text_of_entry = text[text.index(".entry") :]
        head, body = text_of_entry.split("{", 1)[0], braced(text_of_entry)
        parameter = r"\.param\s+(?:\.align\s+\d+\s+)?\.(\w+)\s+(?:\.(?:ptr|align|global)(?:\s+\d+)?\s+)*([$\w]+)(\[\d+\])?"
        self.parameters = re.findall(parameter, head)
        variable = r"\s+\.align\s+(\d+)\s+\.(\w+)\s+([$\w]+)(?:\[(\d*)\])?\s*;"
        shared, local = (re.findall(rf"\.{s}{variable}", t) for s, t in (("shared", text), ("local", body)))
        dynamic = [v for v in shared if re.search(rf"\b{re.escape(v[2])}\[\]", text)]
        self.symbols, self.static = layout([v for v in shared if v not in dynamic])
        self.static = -(-self.static // 16) * 16
        self.symbols |= {v[2]: self.static for v in dynamic}
        depots, self.local = layout(local)
        self.symbols |= depots
        self.registers: dict[str, str] = {}
        self.labels: dict[str, int] = {}
        self.code: list[Instruction] = []
        for statement in statements(body):
            self.read(statement)
        self.code.append(Instruction("", "ret", [], "ret;"))
        Machine(self, Memory(1 << 16), (1, 1, 1), (WARP, 1, 1), 1)  # raises for what is not known

    def read(self, statement: str) -> None:
        """Declare the registers or take the label or instruction of a statement."""
        if statement.endswith(":"):
            self.labels[statement[:-1]] = len(self.code)
        elif statement.startswith(".reg"):
            kind, *names = re.findall(r"[%$\w]+(?:<\d+>)?", statement[4:])
            for name in names:
                stem, _, count = name.rstrip(">").partition("<")
                self.registers |= {f"{stem}{i}": kind for i in range(int(count))} if count else {name: kind}
        elif m := re.match(r"(?:@(!?[%$\w]+)\s+)?([a-z][\w.:]*)\s*(.*);", statement, re.S):
            args = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,\s][^,]*", m[3])
            text = " ".join(statement.split())
            self.code.append(Instruction(m[1] or "", m[2], [a.strip() for a in args], text))
        elif not statement.startswith((".shared", ".local", ".loc", ".pragma")):
            raise NotImplementedError(f"{self.name}: {statement}")

    def launch(
        self,
        memory: Memory,
        grid: tuple[int, int, int],
        block: int | tuple[int, ...],
        args: Sequence[int | float],
        shared: int = 0,
    ) -> int:
        """Run the kernel on a grid of blocks with `shared` bytes of dynamic shared memory; number of executed instructions.

        Batches of blocks run one after the other, and an instruction counts once for all threads that run it together.
        """
        if len(args) != len(self.parameters):
            raise TypeError(f"{self.name} takes {len(self.parameters)} arguments: got {len(args)}")
        sizes = (block,) if isinstance(block, int) else block
        shape = (*sizes, 1, 1)[:3]
        blocks, threads = int(np.prod(grid)), int(np.prod(shape))
        step = max(1, BATCH // threads)
        executed = 0
        machine = None
        with np.errstate(all="ignore"):
            for first in range(0, blocks, step):
                count = min(step, blocks - first)
                if machine is None or machine.blocks != count:
                    machine = Machine(self, memory, grid, shape, count, shared)
                executed += machine.run(first, args)
        return executed


# --- running ---------------------------------------------------------------------------------------------------------


class Machine(Threads):
    """Runs the threads of a batch of blocks."""

    def start(self, first: int, args: Sequence[int | float]) -> list[int]:
        """Set what differs between batches, the first of whose blocks is `first`; addresses of its own memory."""
        self.first = first
        block = first + np.arange(self.threads) // self.per_block
        for axis, values in zip("zyx", np.unravel_index(block, self.grid[::-1]), strict=True):
            if f"ctaid.{axis}" in self.specials:
                self.specials[f"ctaid.{axis}"][...] = values
        for (kind, name, _), value in zip(self.program.parameters, args, strict=True):
            if isinstance(value, float | np.floating) or kind[0] == "f":
                if kind[0] not in "bf":
                    raise TypeError(f"{name} is .{kind}: got {value!r}; pass an integer")
                self.parameters[name] = np.array(value, f"f{int(kind[1:]) // 8}")
            else:
                width = int(kind[1:]) // 8
                self.parameters[name] = np.array(int(value) % (1 << 8 * width), f"u{width}")
        taken = []
        for space, owner in (("shared", block - first), ("local", np.arange(self.threads))):
            if size := self.sizes[space]:
                stride = -(-size // 16) * 16
                taken.append(self.memory.allocate(stride * (int(owner[-1]) + 1)))
                self.origins[space][...] = taken[-1] - Memory.BASE + stride * owner
        return taken

    def run(self, first: int, args: Sequence[int | float]) -> int:
        """Run all threads to their end."""
        taken = self.start(first, args)
        try:
            return self.execute()
        finally:
            for address in taken[::-1]:
                self.memory.free(address)

    def execute(self) -> int:
        """Always run the threads with the smallest program counter, up to where others wait or control may change."""
        waiting = {0: np.ones(self.threads, bool)}
        self.live, executed = np.ones(self.threads, bool), 0
        self.parked: dict[int, Array] = {}  # program counter of a barrier or exchange -> those who wait there
        steps, control, last = self.steps, self.control, len(self.steps)
        while waiting:
            at = min(waiting)
            active = waiting.pop(at)
            stop = min(waiting, default=last)
            where: Where = True if active.all() else active
            begin = at
            while at < stop and at not in control:
                steps[at](where)  # type: ignore[misc]
                at += 1
            executed += at - begin
            if at == stop:
                waiting[at] |= active
                continue
            executed += 1
            for to, threads in self.decide(at, active):
                if threads.any():
                    waiting[to] = waiting[to] | threads if to in waiting else threads
        for at in self.parked:
            self.diverged(at)
        return executed

    def decide(self, at: int, active: Array) -> list[tuple[int, Array]]:
        """Which of the active threads go where after the jump, barrier or exchange at `at`."""
        kind, value = self.control[at]
        guard = self.program.code[at].guard
        chosen = active & self.guard(guard)() if guard else active
        rest = active & ~chosen if guard else np.zeros_like(active)
        if kind == "bra":
            return [(value, chosen), (at + 1, rest)]
        if kind == "ret":
            self.live &= ~chosen
            for there, threads in self.parked.items():
                size = self.control[there][1]
                if (threads.reshape(-1, size).any(1) & chosen.reshape(-1, size).any(1)).any():
                    self.diverged(there)
            return [(at + 1, rest)]
        if self.threads % value or self.per_block % value:
            raise ValueError(f"`{self.program.code[at].text}` needs blocks of whole warps: got {self.per_block} threads")
        here = chosen | self.parked.pop(at, False)
        groups = here.reshape(-1, value)
        expected = self.live.reshape(-1, value) if kind == "barrier" else True
        met = np.repeat((groups == expected).all(1), value) & here
        if not met.all() and (missing := here & ~met).any():
            self.parked[at] = missing
        if met.any():
            self.steps[at](True if met.all() else met)  # type: ignore[misc]
        return [(at + 1, met | rest)]

    def diverged(self, at: int) -> None:
        thread = int(np.argmax(self.parked[at]))
        block, lane = divmod(thread, self.per_block)
        raise RuntimeError(
            f"{self.control[at][0]} with divergent threads: {self.program.name}: `{self.program.code[at].text}`, "
            f"where thread {lane} of block {self.first + block} waits for others in vain"
        )
