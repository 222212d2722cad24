"""Functions on vectors of 16 floats, written as LLVM's text and compiled when the process starts.

numba brings LLVM along (llvmlite), but its own loops cannot be told what stays in registers, and that is all that a
convolution's speed depends on.
Promises: a function does what was written, in that order of additions, whatever the processor; one that has AVX-512
does each vector in one instruction. Refuses, with `EngineUnavailable`: processors without it.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import llvmlite.binding as llvm

from microtome.segmentation.engine import EngineUnavailable

LANES = 16
_VECTOR = f"<{LANES} x float>"
ZEROS = "zeroinitializer"
_DECLARED = f"declare {_VECTOR} @llvm.fma.v{LANES}f32({_VECTOR}, {_VECTOR}, {_VECTOR})\n"


class Function:
    """One function under construction. Values are names of LLVM's; offsets and strides count floats."""

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        """`arguments` with their types: `ptr %source`."""
        self.name = name
        self._head = f"define void @{name}({', '.join(arguments)})"
        self._lines: list[str] = []
        self._made = 0
        self._block = "entry"

    def text(self) -> str:
        """The function in LLVM's language."""
        return "\n".join([f"{self._head} {{", "entry:", *self._lines, "  ret void", "}", ""])

    def new(self, kind: str = "v") -> str:
        """Give a name that nothing has."""
        self._made += 1
        return f"{kind}{self._made}"

    def does(self, instruction: str) -> None:
        """Add an instruction that gives nothing."""
        self._lines.append(f"  {instruction}")

    def gives(self, instruction: str) -> str:
        """Add an instruction and return the name of what it gives."""
        name = f"%{self.new()}"
        self.does(f"{name} = {instruction}")
        return name

    def plus(self, one: object, other: object) -> str:
        """Add integers."""
        return self.gives(f"add nsw i64 {one}, {other}")

    def times(self, one: object, other: object) -> str:
        """Multiply integers."""
        return self.gives(f"mul nsw i64 {one}, {other}")

    def smaller(self, one: object, other: object) -> str:
        """Give the smaller of two integers."""
        less = self.gives(f"icmp slt i64 {one}, {other}")
        return self.gives(f"select i1 {less}, i64 {one}, i64 {other}")

    def at(self, pointer: str, offset: object) -> str:
        """Give a pointer to so many floats behind another."""
        return self.gives(f"getelementptr float, ptr {pointer}, i64 {offset}")

    def load(self, pointer: str) -> str:
        """Read a vector."""
        return self.gives(f"load {_VECTOR}, ptr {pointer}, align 4")

    def store(self, vector: str, pointer: str) -> None:
        """Write a vector."""
        self.does(f"store {_VECTOR} {vector}, ptr {pointer}, align 4")

    def spread(self, pointer: str) -> str:
        """Read one float into all lanes."""
        one = self.gives(f"load float, ptr {pointer}, align 4")
        first = self.gives(f"insertelement {_VECTOR} poison, float {one}, i64 0")
        return self.gives(f"shufflevector {_VECTOR} {first}, {_VECTOR} poison, <{LANES} x i32> {ZEROS}")

    def fma(self, one: str, other: str, to: str) -> str:
        """Give one · other + to, rounded once."""
        return self.gives(f"call {_VECTOR} @llvm.fma.v{LANES}f32({_VECTOR} {one}, {_VECTOR} {other}, {_VECTOR} {to})")

    def sum(self, one: str, other: str) -> str:
        """Add vectors."""
        return self.gives(f"fadd {_VECTOR} {one}, {other}")

    def difference(self, one: str, other: str) -> str:
        """Subtract vectors."""
        return self.gives(f"fsub {_VECTOR} {one}, {other}")

    def product(self, one: str, other: str) -> str:
        """Multiply vectors, lane by lane."""
        return self.gives(f"fmul {_VECTOR} {one}, {other}")

    def larger(self, one: str, other: str) -> str:
        """Give the larger of each lane."""
        more = self.gives(f"fcmp ogt {_VECTOR} {one}, {other}")
        return self.gives(f"select <{LANES} x i1> {more}, {_VECTOR} {one}, {_VECTOR} {other}")

    def lower(self, one: str, other: str) -> str:
        """Give the smaller of each lane."""
        less = self.gives(f"fcmp olt {_VECTOR} {one}, {other}")
        return self.gives(f"select <{LANES} x i1> {less}, {_VECTOR} {one}, {_VECTOR} {other}")

    def bytes_as_floats(self, pointer: str) -> str:
        """Read 16 bytes as a vector of floats."""
        read = self.gives(f"load <{LANES} x i8>, ptr {pointer}, align 1")
        return self.gives(f"uitofp <{LANES} x i8> {read} to {_VECTOR}")

    def mixed(self, one: str, other: str, lanes: Sequence[int]) -> str:
        """Choose 16 lanes of 32: those of `one`, then those of `other`."""
        chosen = ", ".join(f"i32 {lane}" for lane in lanes)
        return self.gives(f"shufflevector {_VECTOR} {one}, {_VECTOR} {other}, <{LANES} x i32> <{chosen}>")

    def loop(self, end: object, step: object = 1, first: object = 0, carried: Sequence[str] = ()) -> Loop:
        """Count from `first` to before `end`, once at least; `carried`: vectors that go from one turn to the next."""
        return Loop(self, str(first), str(end), str(step), carried)

    def begins(self, block: str) -> None:
        """Begin a block of that name."""
        self._lines.append(f"{block}:")
        self._block = block

    @property
    def block(self) -> str:
        """The block that is being written."""
        return self._block

    @property
    def length(self) -> int:
        """How many lines there are."""
        return len(self._lines)

    def rewrite(self, line: int, text: str) -> None:
        """Replace a line: a loop knows only at its end what its turns hand on."""
        self._lines[line] = text


class Loop:
    """`with function.loop(...) as loop:`; `loop.counter`, `loop.values` in it; set `loop.values` to what goes on."""

    def __init__(self, function: Function, first: str, end: str, step: str, carried: Sequence[str]) -> None:
        self._function, self._first, self._end, self._step = function, first, end, step
        self._before = list(carried)
        self.counter = ""
        self.values: list[str] = []

    def __enter__(self) -> Loop:
        function = self._function
        self._head, self._came_from = function.new("loop"), function.block
        function.does(f"br label %{self._head}")
        function.begins(self._head)
        self.counter, self._next = f"%{function.new()}", f"%{function.new()}"
        self._line = function.length
        function.does("")
        self._entering = [f"%{function.new()}" for _ in self._before]
        for _ in self._entering:
            function.does("")
        self.values = list(self._entering)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        function = self._function
        function.does(f"{self._next} = add nsw i64 {self.counter}, {self._step}")
        more, after = function.gives(f"icmp slt i64 {self._next}, {self._end}"), function.new("after")
        function.does(f"br i1 {more}, label %{self._head}, label %{after}")
        came_from, back = self._came_from, function.block
        merged = f"phi i64 [ {self._first}, %{came_from} ], [ {self._next}, %{back} ]"
        function.rewrite(self._line, f"  {self.counter} = {merged}")
        for number, (name, before, on) in enumerate(zip(self._entering, self._before, self.values, strict=True)):
            merged = f"phi {_VECTOR} [ {before}, %{came_from} ], [ {on}, %{back} ]"
            function.rewrite(self._line + 1 + number, f"  {name} = {merged}")
        function.begins(after)


def constant(value: float) -> str:
    """A vector of one value."""
    single = struct.unpack("f", struct.pack("f", value))[0]
    bits = struct.pack(">d", single).hex().upper()
    return "<" + ", ".join([f"float 0x{bits}"] * LANES) + ">"


class Compiled:
    """Functions as machine code, for as long as this lives."""

    def __init__(self, functions: Sequence[Function]) -> None:
        """Compile for this processor. Raises `EngineUnavailable` if it has no AVX-512."""
        if (reason := missing()) is not None:
            raise EngineUnavailable(reason)
        module = llvm.parse_assembly(_DECLARED + "\n".join(function.text() for function in functions))
        module.verify()
        # LLVM would rather have vectors half as wide on some processors, and twice as many do not fit the registers.
        features = f"{llvm.get_host_cpu_features().flatten()},-prefer-256-bit"
        machine = llvm.Target.from_default_triple().create_target_machine(
            cpu=llvm.get_host_cpu_name(), features=features, opt=3
        )
        self._code: Any = llvm.create_mcjit_compiler(module, machine)
        self._code.finalize_object()
        self.addresses: Mapping[str, int] = {
            function.name: self._code.get_function_address(function.name) for function in functions
        }

    def function(self, name: str, arguments: int) -> Callable[..., None]:
        """One of them, to be called with addresses and integers; Python's other threads go on meanwhile."""
        return ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * arguments)(self.addresses[name])


def missing() -> str | None:
    """Say why this processor cannot run them; None if it can."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    if not llvm.get_host_cpu_features().get("avx512f", False):
        return "This processor has no AVX-512."
    return None
