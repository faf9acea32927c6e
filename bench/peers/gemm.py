"""Times oneDNN's products with packed weights, through torch, on one thread. Prints one JSON line for each shape.

    gemm.py [--precision f32 bf16 int8] [--m 7 16 64 512 2048] [--seconds 0.3]

f32 and bf16 are what a frozen, compiled torch model calls: `mkldnn._linear_pointwise` on a weight that was reordered once for that
M. int8 is `onednn.qlinear_pointwise`: u8 activations with one scale, s8 weights with a scale per output channel, f32 out. Answers
are checked against the product in f64 before anything is timed; figures are medians over `--seconds`, as those of gemm_peak.
"""

import argparse
import json
import statistics
import time

import torch

SHAPES = [(384, 384), (384, 1536), (1536, 384), (1024, 1024), (1024, 4096), (4096, 1024)]
TOLERANCE = {"f32": 1e-5, "bf16": 1e-2, "int8": 3e-2}  # Of the largest element of the product.


def packed_product(precision: str, x, w_ok):
    """The product `x·wᵀ` as a call without arguments; `w_ok` is (outputs, inputs)."""
    if precision == "int8":
        scale_o = w_ok.abs().amax(1) / 127
        w_s8 = torch.round(w_ok / scale_o[:, None]).to(torch.int8)
        x_scale, x_zero = 2 / 255, 127
        x_u8 = torch.clamp(torch.round(x / x_scale) + x_zero, 0, 255).to(torch.uint8)
        packed = torch.ops.onednn.qlinear_prepack(w_s8, list(x.shape))
        zero_o = torch.zeros(len(w_ok), dtype=torch.int64)
        more = (1.0, 0, torch.float32, "none", [], "")
        return lambda: torch.ops.onednn.qlinear_pointwise(x_u8, x_scale, x_zero, packed, scale_o, zero_o, None, *more)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[precision]
    x = x.to(dtype)
    packed = torch.ops.mkldnn._reorder_linear_weight(w_ok.to(dtype), len(x))
    return lambda: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], "")


def measure(precision: str, m: int, k: int, n: int, seconds: float) -> dict:
    x, w_ok = torch.rand(m, k) * 2 - 1, torch.rand(n, k) * 2 - 1
    product = packed_product(precision, x, w_ok)
    want = x.double() @ w_ok.double().T
    error = ((product().double() - want).abs().max() / want.abs().max()).item()
    if not error <= TOLERANCE[precision]:
        raise SystemExit(f"error: {precision} {m}x{k}x{n} is off by {error:.1e} of its largest element; nothing is timed")
    flops = 2 * m * k * n
    n_calls, speeds, begin = max(1, round(1e8 / flops)), [], time.perf_counter()
    while time.perf_counter() - begin < seconds or len(speeds) < 5:
        start = time.perf_counter()
        for _ in range(n_calls):
            product()
        speeds.append(flops * n_calls / (time.perf_counter() - start) / 1e9)
    return {"precision": precision, "m": m, "k": k, "n": n, "gflops": round(statistics.median(speeds), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--precision", nargs="+", choices=list(TOLERANCE), default=list(TOLERANCE))
    parser.add_argument("--m", type=int, nargs="+", default=[7, 16, 64, 512, 2048])
    parser.add_argument("--seconds", type=float, default=0.3, help="how long each product is run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        for precision in args.precision:
            for k, n in SHAPES:
                for m in args.m:
                    print(json.dumps(measure(precision, m, k, n, args.seconds)), flush=True)


if __name__ == "__main__":
    main()
