"""What ptxas makes of a kernel: its log, the PTX that went in and the SASS that came out, counted.

SASS has two parts. The *main path* is what NVVM wrote, with the fast paths of IEEE operations; behind it lie ptxas's own
subroutines (`$__internal_0_$__cuda_sm20_div_rn_f64_full`), which serve operands that the fast paths do not, and all
64-bit integer divisions whose operands do not fit in 32 bits.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

#: wheels that bring nvdisasm, and where it lies in them
PLACES = [("triton", "backends/nvidia/bin"), *[("nvidia", f"{folder}/bin") for folder in ("cu13", "cu12", "cuda_nvdisasm")]]

PTX = re.compile(r"^\s*(?:@!?%p\d+\s+)?([a-z][\w.:]*)(?=[\s;])[^;{]*", re.M)
SASS = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);")
INTERNAL = re.compile(r"^\$__internal_\d+_\$(\w+):", re.M)
CALLED = re.compile(r"\$__internal_\d+_\$(\w+)")


def disassembler() -> str | None:
    """Path of nvdisasm, from PATH or a wheel; None where there is none."""
    found = shutil.which("nvdisasm")
    for package, folder in PLACES:
        spec = importlib.util.find_spec(package)
        for root in (spec.submodule_search_locations or []) if spec else []:
            path = Path(root, folder, "nvdisasm")
            found = found or (str(path) if path.exists() else None)
    return found


def disassembled(cubin: bytes, tool: str) -> str:
    """SASS of a cubin."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, "-c", "-ndf", file.name], check=True, capture_output=True, text=True).stdout


@dataclass(frozen=True)
class Code:
    """A kernel's PTX, ptxas's log of it, and its SASS if there is a disassembler."""

    ptx: str
    log: str
    sass: str | None = None

    def logged(self, pattern: str) -> int:
        """The number before or behind words of the log; 0 if they are not there, as ptxas leaves out what is none."""
        found = re.findall(pattern, self.log)
        assert len(found) <= 1, f"the log must speak of one kernel: {self.log}"
        return int(found[0]) if found else 0

    @property
    def registers(self) -> int:
        return self.logged(r"Used (\d+) registers")

    @property
    def local(self) -> int:
        """Bytes of local memory: stack, and spill stores and loads."""
        return sum(self.logged(rf"(\d+) bytes {what}") for what in ("stack frame", "spill stores", "spill loads"))

    @cached_property
    def written(self) -> Counter[str]:
        """PTX instructions, without their operands."""
        return Counter(m.group(1) for m in PTX.finditer(self.ptx))

    @cached_property
    def parts(self) -> dict[str, str]:
        """SASS text of the main path, called "", and of ptxas's subroutines."""
        assert self.sass is not None, "there is no nvdisasm"
        main, *others = INTERNAL.split(self.sass)
        return {"": main, **dict(zip(others[::2], others[1::2], strict=True))}

    @cached_property
    def main(self) -> Counter[str]:
        """SASS instructions of the main path, with their suffixes."""
        return Counter(m.group(1) for m in SASS.finditer(self.parts[""]))

    @cached_property
    def calls(self) -> Counter[str]:
        """What is called, all parts taken together: a subroutine of ptxas, or the operands of another call."""
        found = (m for text in self.parts.values() for m in SASS.finditer(text) if m.group(1).split(".")[0] in ("CALL", "JCAL"))
        return Counter(internal[1] if (internal := CALLED.search(m.group(2))) else m.group(2).strip() for m in found)


def total(counts: Counter[str], *beginnings: str) -> int:
    """Instructions whose names begin with one of these; a name ends at a dot."""
    return sum(n for op, n in counts.items() if any(op == b or op.startswith(b + ".") for b in beginnings))


def matching(counts: Counter[str], pattern: str) -> int:
    """Instructions whose whole name matches."""
    return sum(n for op, n in counts.items() if re.fullmatch(pattern, op))


REGISTER = re.compile(r"\bR(\d+)(?:\.(64))?")
WORDS = {"128": 4, "64": 2}


def touched(text: str, words: int = 1) -> set[int]:
    """Numbers of the registers in an operand, of which the first is the beginning of `words`."""
    return {int(m[1]) + k for m in REGISTER.finditer(text) for k in range(max(words, 2 if m[2] else 1))}


def operand_words(op: str) -> int:
    """Registers that each operand of an instruction takes; of a conversion the source, which its last type names."""
    parts = op.split(".")
    if parts[0] == "F2F":
        return 2 if [p for p in parts if p in ("F64", "F32", "F16", "BF16")][-1] == "F64" else 1
    return 2 if op.startswith("D") else next((n for width, n in WORDS.items() if width in parts), 1)


def in_flight(main: str) -> int:
    """Most loads of x that are on their way at once, in the order of the code: asked for, and not yet used.

    Those of constants (parameters, statistics) are left out; copies to shared memory are waited for together. It is what hides
    the latency of memory.
    """
    waiting: list[set[int]] = []
    most, copies = 0, 0
    for m in SASS.finditer(main):
        op, (target, *rest) = m.group(1), m.group(2).split(",")
        if op.startswith("LDG") and "CONSTANT" not in op:
            waiting.append(touched(target, operand_words(op)))
        elif op.startswith("LDGSTS"):
            copies += 1
        elif op.startswith("DEPBAR"):
            copies = 0
        else:
            used = touched(",".join(rest if rest else [target]), operand_words(op))
            waiting = [w for w in waiting if not w & used]
        most = max(most, len(waiting) + copies)
    return most


LINE = re.compile(r"^\s*(\.L_x_\d+):|/\*[0-9a-f]{4,}\*/\s+(@!?U?P\w+\s+)?([A-Z][\w.]*)([^;]*);", re.M)


def followers(text: str) -> tuple[list[str], list[list[int]]]:
    """Instructions, and the places of those that can come next."""
    found, labels = [], dict[str, int]()
    for m in LINE.finditer(text):
        if m.group(1):
            labels[m.group(1)] = len(found)
        else:
            found.append((m.group(2), m.group(3), m.group(4)))
    following = []
    for i, (guard, op, operands) in enumerate(found):
        jump, name = op.startswith("BRA"), re.search(r"\.L_x_\d+", operands)
        conditional = guard or re.search(r"\bU?P\d", operands.split("`")[0])
        places = [labels[name[0]]] if jump and name else []
        places += [i + 1] if conditional or not (jump or op.startswith(("EXIT", "RET"))) else []
        following.append([place for place in places if place < len(found)])
    return [op for _, op, _ in found], following


def reached(start: int, edges: list[list[int]]) -> set[int]:
    """What can be reached from a place."""
    seen, waiting = {start}, [start]
    while waiting:
        new = [place for place in edges[waiting.pop()] if place not in seen]
        seen.update(new)
        waiting += new
    return seen


def looped(following: list[list[int]]) -> set[int]:
    """Instructions in loops."""
    before: list[list[int]] = [[] for _ in following]
    for i, places in enumerate(following):
        for place in places:
            before[place].append(i)
    back = [(i, place) for i, places in enumerate(following) for place in places if place <= i]
    return set().union(*(reached(place, following) & reached(i, before) for i, place in back))


def straight(text: str) -> int:
    """Instructions on the shortest of the ways without a loop that make the most loads: all of x and its parameters."""
    ops, following = followers(text)
    loops, best, waiting = looped(following), dict[int, tuple[int, int] | None](), [0]
    while waiting:
        i = waiting[-1]
        places = [place for place in following[i] if place not in loops]
        new = [place for place in places if place not in best]
        if new:
            waiting += new
            continue
        waiting.pop()
        ways = [way for place in places if (way := best[place]) is not None]
        loads, length = min(ways + [(0, 0)] * ops[i].startswith("EXIT"), default=(1, 0))
        found = loads - ops[i].startswith("LDG"), length + (ops[i] != "NOP")
        best[i] = found if ways or ops[i].startswith("EXIT") else None
    assert best[0] is not None
    return best[0][1]


LABEL_OR_CODE = re.compile(r"^\.(L_x_\d+):|/\*[0-9a-f]{4,}\*/\s+([^;]*);", re.M)
BACK = re.compile(r"BRA(?:\.\w+)* .*`\(\.(L_x_\d+)\)")


def longest_loop(main: str) -> int:
    """Instructions of the longest loop, of the code before the kernel's last exit: behind it lies what is hardly ever run."""
    places, count, longest = dict[str, int](), 0, 0
    for m in LABEL_OR_CODE.finditer(main[: main.rindex("EXIT")]):
        if m[1]:
            places[m[1]] = count
            continue
        count += 1
        back = BACK.search(m[2])
        if back and back[1] in places:
            longest = max(longest, count - places[back[1]])
    return longest
