"""Vectors of `LANES` numbers inside numba kernels: loads, stores, arithmetic, transposition, exp2, softplus.

LLVM's own vectorizer gives up on loops with many arrays (it cannot prove that they do not overlap), so kernels that
must be fast say what the vector is. A vector is a value like any other: ``y += a * h`` on vectors of sixteen
float32 becomes two fused multiply-adds of AVX2, one of AVX-512, four of NEON. Only contraction into fused
multiply-adds is allowed, so NaN and infinity behave as in IEEE arithmetic.

The polynomials are near-minimax (interpolation at Chebyshev points, in float64): `exp2` keeps a relative error
below 2e-7 in float32 and 2e-15 in float64, gives exactly 0 below 2^-127 (2^-1023) and inf above 2^128 (2^1024).

Everything here is for use inside ``@numba.njit`` functions only.
"""

import math
import operator
import typing

import numpy as np
from llvmlite import ir
from numpy.polynomial import chebyshev

from gramian.linalg import kernels  # noqa: F401  (first: it sets numba's cache folder)

from numba.core import types  # isort: skip
from numba.core.typing.templates import AbstractTemplate, infer_global, signature  # isort: skip
from numba.extending import intrinsic, lower_builtin, models, register_model  # isort: skip

LANES = 16
"""Numbers in a vector."""

_FLAGS = ("contract",)


class VectorType(types.Type):
    """Numba's name for a vector of `LANES` floats."""

    def __init__(self, dtype: object) -> None:
        self.dtype = dtype
        super().__init__(name=f"Vector{LANES}({dtype})")


@typing.no_type_check
@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, vector):
        element = ir.FloatType() if vector.dtype.bitwidth == 32 else ir.DoubleType()
        super().__init__(manager, vector, ir.VectorType(element, LANES))


def _splat(builder: typing.Any, scalar: typing.Any, lanes: int = LANES) -> typing.Any:
    """The scalar in every lane."""
    one = builder.insert_element(
        ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined), scalar, ir.IntType(32)(0)
    )
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(one, one, zeros)


def _constant(vector: typing.Any, value: float) -> typing.Any:
    """A vector constant of LLVM type `vector`."""
    return ir.Constant(vector, [value] * vector.count)


@typing.no_type_check
def _register_arithmetic() -> None:
    """Teach numba +, -, *, / between two vectors, and between a vector and a number."""
    for op, name in (
        (operator.add, "fadd"),
        (operator.sub, "fsub"),
        (operator.mul, "fmul"),
        (operator.truediv, "fdiv"),
        (operator.iadd, "fadd"),
        (operator.imul, "fmul"),
    ):

        @infer_global(op)  # pyright: ignore[reportOptionalCall]
        class _Template(AbstractTemplate):
            def generic(self, args, kws):
                left, right = args
                if isinstance(left, VectorType) and (left == right or isinstance(right, types.Number)):
                    return signature(left, left, right)
                if isinstance(right, VectorType) and isinstance(left, types.Number):
                    return signature(right, left, right)
                return None

        def lower(context, builder, sig, args, name=name):
            operands = []
            for value, kind in zip(args, sig.args, strict=True):
                if not isinstance(kind, VectorType):
                    value = _splat(builder, context.cast(builder, value, kind, sig.return_type.dtype))
                operands.append(value)
            return getattr(builder, name)(*operands, flags=_FLAGS)

        lower_builtin(op, VectorType, VectorType)(lower)
        lower_builtin(op, VectorType, types.Number)(lower)
        lower_builtin(op, types.Number, VectorType)(lower)


_register_arithmetic()


@typing.no_type_check
def _pointer(context, builder, array_type, array, index, lanes):
    """A pointer to `lanes` numbers of a flat array."""
    data = context.make_array(array_type)(context, builder, array).data
    element = builder.gep(data, [index])
    return builder.bitcast(element, ir.VectorType(element.type.pointee, lanes).as_pointer())


@typing.no_type_check
@intrinsic
def load(typingctx, array, index):
    """``load(array, index)``: the `LANES` numbers of a flat array from `index` on."""

    def codegen(context, builder, sig, args):
        index = context.cast(builder, args[1], sig.args[1], types.intp)
        pointer = _pointer(context, builder, sig.args[0], args[0], index, LANES)
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return VectorType(array.dtype)(array, index), codegen


@typing.no_type_check
@intrinsic
def store(typingctx, array, index, vector):
    """``store(array, index, vector)``: write the vector into a flat array from `index` on."""

    def codegen(context, builder, sig, args):
        index = context.cast(builder, args[1], sig.args[1], types.intp)
        pointer = _pointer(context, builder, sig.args[0], args[0], index, LANES)
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, index, vector), codegen


@typing.no_type_check
@intrinsic
def splat(typingctx, array, index):
    """``splat(array, index)``: the number ``array[index]`` of a flat array in every lane."""

    def codegen(context, builder, sig, args):
        index = context.cast(builder, args[1], sig.args[1], types.intp)
        data = context.make_array(sig.args[0])(context, builder, args[0]).data
        return _splat(builder, builder.load(builder.gep(data, [index])))

    return VectorType(array.dtype)(array, index), codegen


@typing.no_type_check
@intrinsic
def zero_like(typingctx, array):
    """``zero_like(array)``: a vector of zeros of the array's dtype."""

    def codegen(context, builder, sig, args):
        return _constant(context.get_value_type(sig.return_type), 0.0)

    return VectorType(array.dtype)(array), codegen


@typing.no_type_check
@intrinsic
def add_halves(typingctx, array, index, vector):
    """``add_halves(array, index, vector)``: add the vector, folded to `LANES` / 2 numbers, onto a flat array."""

    def codegen(context, builder, sig, args):
        index = context.cast(builder, args[1], sig.args[1], types.intp)
        half = LANES // 2
        pointer = _pointer(context, builder, sig.args[0], args[0], index, half)
        align = array.dtype.bitwidth // 8
        folded = builder.fadd(_part(builder, args[2], 0, half), _part(builder, args[2], half, half), flags=_FLAGS)
        builder.store(builder.fadd(builder.load(pointer, align=align), folded, flags=_FLAGS), pointer, align=align)
        return context.get_dummy_value()

    return types.void(array, index, vector), codegen


def _part(builder: typing.Any, vector: typing.Any, start: int, lanes: int) -> typing.Any:
    """`lanes` numbers of a vector from `start` on."""
    mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(start, start + lanes)))
    return builder.shuffle_vector(vector, vector, mask)


@typing.no_type_check
@intrinsic
def transpose8(typingctx, source, start, stride, target, target_start, target_stride):
    """Transpose an 8 × 8 block between two flat arrays.

    ``target[target_start + j * target_stride + i] = source[start + i * stride + j]`` for i, j in 0 … 7.
    """

    def codegen(context, builder, sig, args):
        source_type, start_type, stride_type, target_type, target_start_type, target_stride_type = sig.args
        start, stride, target_start, target_stride = (
            context.cast(builder, args[i], kind, types.intp)
            for i, kind in ((1, start_type), (2, stride_type), (4, target_start_type), (5, target_stride_type))
        )
        align = source.dtype.bitwidth // 8
        rows = []
        for i in range(8):
            index = builder.add(start, builder.mul(stride, stride.type(i)))
            rows.append(builder.load(_pointer(context, builder, source_type, args[0], index, 8), align=align))
        for step in (1, 2, 4):  # exchange the off-diagonal blocks of size 1, 2, 4
            upper = [8 + j - step if j & step else j for j in range(8)]
            lower = [8 + j if j & step else j + step for j in range(8)]
            for i in range(8):
                if not i & step:
                    first, second = rows[i], rows[i + step]
                    for row, mask in ((i, upper), (i + step, lower)):
                        mask = ir.Constant(ir.VectorType(ir.IntType(32), 8), mask)
                        rows[row] = builder.shuffle_vector(first, second, mask)
        for j in range(8):
            index = builder.add(target_start, builder.mul(target_stride, target_stride.type(j)))
            pointer = _pointer(context, builder, target_type, args[3], index, 8)
            builder.store(rows[j], pointer, align=align)
        return context.get_dummy_value()

    return types.void(source, start, stride, target, target_start, target_stride), codegen


# ---- elementary functions


def _fit(function: typing.Any, low: float, high: float, degree: int) -> list[float]:
    """Coefficients, constant first, of the polynomial that interpolates `function` at Chebyshev points."""
    fitted = chebyshev.Chebyshev.interpolate(function, degree, domain=[low, high])
    return [float(c) for c in fitted.convert(kind=np.polynomial.Polynomial).coef]


def _exp2_slope(f: np.ndarray) -> np.ndarray:
    """(2^f − 1) / f."""
    f = np.where(f == 0, 1e-300, f)
    return np.expm1(f * math.log(2)) / f


def _atanh_slope(w: np.ndarray) -> np.ndarray:
    """Atanh(√w) / √w."""
    root = np.sqrt(np.maximum(w, 1e-300))
    return np.arctanh(root) / root


# by bits of the float: interpolation degree leaves the truncation error under the rounding error
_EXP2 = {32: _fit(_exp2_slope, -0.5, 0.5, 5), 64: _fit(_exp2_slope, -0.5, 0.5, 12)}
_ATANH = {32: _fit(_atanh_slope, 0.0, 1 / 9, 4), 64: _fit(_atanh_slope, 0.0, 1 / 9, 12)}


@typing.no_type_check
def _horner(builder, vector, coefficients, x):
    """The polynomial, constant first."""
    value = _constant(vector, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        value = builder.fadd(builder.fmul(value, x, flags=_FLAGS), _constant(vector, c), flags=_FLAGS)
    return value


@typing.no_type_check
def _emit_exp2(builder, x):
    """2^x = 2^k 2^f with k = round(x): the polynomial for 2^f, k added onto its exponent bits."""
    vector = x.type
    bits, mantissa, bias = (32, 23, 127) if isinstance(vector.element, ir.FloatType) else (64, 52, 1023)
    integers = ir.VectorType(ir.IntType(bits), vector.count)
    low, high = _constant(vector, -float(bias)), _constant(vector, float(bias + 1))
    x = builder.select(builder.fcmp_ordered("<", x, low), low, x)  # ordered: NaN passes
    x = builder.select(builder.fcmp_ordered(">", x, high), high, x)
    magic = _constant(vector, 1.5 * 2.0**mantissa)  # adding it rounds, and leaves k in the low bits
    shifted = builder.fadd(x, magic)
    fraction = builder.fsub(x, builder.fsub(shifted, magic))
    slope = _horner(builder, vector, _EXP2[bits], fraction)
    power = builder.fadd(builder.fmul(slope, fraction, flags=_FLAGS), _constant(vector, 1.0), flags=_FLAGS)
    exponent = builder.shl(builder.bitcast(shifted, integers), ir.Constant(integers, [mantissa] * vector.count))
    return builder.bitcast(builder.add(builder.bitcast(power, integers), exponent), vector)


@typing.no_type_check
@intrinsic
def exp2(typingctx, vector):
    """``exp2(vector)``: 2 to the power of each lane."""

    def codegen(context, builder, sig, args):
        return _emit_exp2(builder, args[0])

    return vector(vector), codegen


@typing.no_type_check
def _emit_negative_exp(builder, x):
    """exp(−|x|)."""
    vector = x.type
    zero = _constant(vector, 0.0)
    minus = builder.select(builder.fcmp_ordered(">", x, zero), builder.fsub(zero, x), x)
    return _emit_exp2(builder, builder.fmul(minus, _constant(vector, 1 / math.log(2))))


@typing.no_type_check
@intrinsic
def softplus(typingctx, vector):
    """``softplus(vector)``: log(1 + exp(x)) = max(x, 0) + log1p(exp(−|x|)), without overflow."""

    def codegen(context, builder, sig, args):
        x, kind = args[0], args[0].type
        bits = 32 if isinstance(kind.element, ir.FloatType) else 64
        small = _emit_negative_exp(builder, x)  # s in [0, 1]; log1p(s) = 2 atanh(s / (2 + s))
        ratio = builder.fdiv(small, builder.fadd(small, _constant(kind, 2.0)))
        series = _horner(builder, kind, _ATANH[bits], builder.fmul(ratio, ratio))
        log1p = builder.fmul(builder.fadd(ratio, ratio), series)
        zero = _constant(kind, 0.0)
        return builder.fadd(builder.select(builder.fcmp_ordered("<", x, zero), zero, x), log1p)

    return vector(vector), codegen


@typing.no_type_check
@intrinsic
def sigmoid(typingctx, vector):
    """``sigmoid(vector)``: 1 / (1 + exp(−x)), without overflow."""

    def codegen(context, builder, sig, args):
        x, kind = args[0], args[0].type
        small = _emit_negative_exp(builder, x)
        one = _constant(kind, 1.0)
        numerator = builder.select(builder.fcmp_ordered("<", x, _constant(kind, 0.0)), small, one)
        return builder.fdiv(numerator, builder.fadd(one, small))

    return vector(vector), codegen


__all__ = [
    "LANES", "VectorType", "add_halves", "exp2", "load", "sigmoid", "softplus", "splat", "store", "transpose8",
    "zero_like",
]  # fmt: skip
