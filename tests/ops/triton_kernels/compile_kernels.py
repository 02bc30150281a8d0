"""Compiles every kernel for a GPU of compute capability 9.0 and prints its name; no GPU is needed for that."""

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from triton import JITFunction
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from triton.runtime import Autotuner

import perceptkd.ops.triton_kernels as package

ATTENTION = {
    "value": "*F", "spatial_shapes": "*i64", "level_start": "*i64", "locations": "*F", "attention": "*F",
    "LEVELS": 4, "POINTS": 4, "DIM": 32,
}  # fmt: skip
#: Kernel -> floating point types F, and what its arguments are: pointers by type, constants by value, else int32.
KERNELS = {
    "ball_query._query_kernel": (
        ("fp32", "fp64"),
        {"points": "*F", "centres": "*F", "bounds": "*F", "found": "*i32", "SLOTS": 8, "BLOCK": 512},
    ),
    "furthest_points._sample_kernel": (
        ("fp32", "fp64"),
        {"columns": "*F", "nearest": "*F", "indices": "*i32", "BLOCK": 2048},
    ),
    "rotated_intersection._intersection_kernel": (
        ("fp32", "fp64"),
        {"boxes1": "*F", "boxes2": "*F", "area": "*F", "ROWS": 8, "COLUMNS": 64},
    ),
    "voxelize._cell_keys_kernel": (
        ("fp32", "fp64"),
        {"points": "*F", "bounds": "*F", "keys": "*i64", "broken": "*i32", "BLOCK": 256},
    ),
    "voxelize._fill_kernel": (
        ("fp16", "fp32", "fp64"),
        {"points": "*F", "index": "*i32", "rank": "*i32", "voxels": "*F", "BLOCK": 256},
    ),
    "bev_pool._sum_rows_kernel": (
        ("fp32", "fp64"),
        {"weights": "*F", "rows": "*F", "row_index": "*i64", "offsets": "*i64", "summed": "*F", "BLOCK": 64},
    ),
    "bev_pool._dot_rows_kernel": (
        ("fp32", "fp64"),
        {"first": "*F", "first_index": "*i64", "second": "*F", "second_index": "*i64", "products": "*F", "BLOCK": 64},
    ),
    "ms_deform_attn._attend_kernel": (("fp32", "fp64"), {**ATTENTION, "output": "*F"}),
    "ms_deform_attn._gradients_kernel": (
        ("fp32", "fp64"),
        {
            **ATTENTION,
            "grad_output": "*F",
            "grad_value": "*F",
            "grad_locations": "*F",
            "grad_attention": "*F",
        },
    ),
    "sparse_conv._gather_multiply_kernel": (
        ("fp16", "bf16", "fp32"),
        {
            "features": "*F", "weight": "*F", "neighbours": "*i32", "order": "*i32", "result": "*F",
            "PRECISION": "ieee", "BLOCK_M": 64, "BLOCK_N": 32, "BLOCK_K": 16,
        },
    ),
    "sparse_conv._correlate_kernel": (
        ("fp16", "bf16", "fp32"),
        {
            "features": "*F", "gradient": "*F", "neighbours": "*i32", "parts": "*fp32",
            "PRECISION": "ieee", "BLOCK_P": 64, "BLOCK_IN": 16, "BLOCK_OUT": 32,
        },
    ),
}  # fmt: skip


def launched_kernels() -> dict[str, JITFunction | Autotuner]:
    """The kernels of the package, which are those whose names end so."""
    found = {}
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        for name, value in vars(module).items():
            if name.endswith("_kernel"):
                found[f"{info.name}.{name}"] = value
    return found


def compile_for_gpu(
    kernel: JITFunction, pointers: Mapping[str, str], constants: Mapping[str, Any], options: Mapping[str, int]
) -> None:
    """Compiles one specialisation; arguments that are neither pointers nor constants are int32."""
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in names}
    source = ASTSource(kernel, signature, {(names.index(n),): value for n, value in constants.items()})
    assert compile(source, target=GPUTarget("cuda", 90, 32), options=dict(options)).asm["cubin"]


def main() -> None:
    kernels = launched_kernels()
    assert kernels.keys() == KERNELS.keys(), kernels.keys() ^ KERNELS.keys()
    for name, launched in kernels.items():
        types, arguments = KERNELS[name]
        kernel = launched.fn if isinstance(launched, Autotuner) else launched
        assert arguments.keys() <= set(kernel.arg_names), (name, arguments.keys() - set(kernel.arg_names))
        constants = {n: a for n, a in arguments.items() if n.isupper()}
        pointers = {n: a for n, a in arguments.items() if not n.isupper()}
        for kind in types:
            compile_for_gpu(kernel, {n: a.replace("F", kind) for n, a in pointers.items()}, constants, {})
            print(name, kind, flush=True)
        typed = {n: a.replace("F", types[0]) for n, a in pointers.items()}
        # a launch makes constants of arguments that are 1
        ones = {n: 1 for n in kernel.arg_names if n not in pointers and n not in constants}
        compile_for_gpu(kernel, typed, {**ones, **constants}, {})
        print(name, "ones", flush=True)
        for tile in launched.configs if isinstance(launched, Autotuner) else ():
            options = {"num_warps": tile.num_warps, "num_stages": tile.num_stages}
            compile_for_gpu(kernel, typed, {**constants, **tile.kwargs}, options)
            print(name, tile, flush=True)


if __name__ == "__main__":
    main()
