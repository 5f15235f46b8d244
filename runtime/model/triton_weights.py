"""A model's weights as the kernels take them: where they lie, and no copy of them.

On a device weights lie as rows of whole cache lines, those of 8 and 4 bits interleaved, and kernels
read them as they are. Only in the interpreter, on a CPU, a form that a library packed is brought
back.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from nldc.runtime.checkpoint.weights import LayerWeights
from nldc.runtime.invariant.interleaved import Interleaved
from nldc.runtime.invariant.linear import Packed, Weight
from nldc.runtime.kernels.product import Matrix


@dataclass(frozen=True, eq=False)
class KernelLayer:
    """One layer; see `LayerWeights`."""

    input_norm: Tensor
    qkv: Matrix
    output: Matrix
    post_norm: Tensor
    gate: Matrix
    up: Matrix
    down: Matrix

    @staticmethod
    def of(layer: LayerWeights) -> KernelLayer:
        """Return the same weights for kernels."""
        return KernelLayer(
            input_norm=layer.input_norm,
            qkv=matrix_of(layer.qkv),
            output=matrix_of(layer.output),
            post_norm=layer.post_norm,
            gate=matrix_of(layer.gate),
            up=matrix_of(layer.up),
            down=matrix_of(layer.down),
        )


def matrix_of(weight: Weight) -> Matrix:
    """Return a weight [out, width] as kernels read it, where it lies if it lies so."""
    if isinstance(weight, Tensor):
        return Matrix(weight.contiguous(), *weight.shape)
    if isinstance(weight, Interleaved):
        return Matrix.of_numbers(weight)
    if isinstance(weight, Packed) and weight.way.form == "plain":
        return Matrix(weight.data, *weight.shaped.shape)
    dense = weight.to_dense().contiguous()
    return Matrix(dense, *dense.shape)
