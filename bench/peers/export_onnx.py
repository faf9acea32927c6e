"""Writes a BERT-type encoder as ONNX, by hand, from the fused operators that onnxruntime's own optimiser would put there.

    export_onnx.py --model FOLDER --output FILE [--precision f32|int8]

Inputs: `input_ids` and `attention_mask`, both int32 `(b, n)`. Output: the unit vectors `(b, d)` of the mean over the real tokens.
A graph that is fused from the start does not depend on whether the optimiser's patterns still know what an exporter writes.
int8 is `quantize_dynamic`, per channel, of all linear layers.
"""

import argparse
import json
from pathlib import Path

import numpy
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

FUSED = "com.microsoft"


class Graph:
    """Nodes and constants; every method gives the name of what it adds."""

    def __init__(self, tensors: dict):
        self.tensors, self.nodes, self.constants, self.known = tensors, [], [], set()

    def constant(self, name: str, array) -> str:
        if name not in self.known:
            self.known.add(name)
            self.constants.append(numpy_helper.from_array(numpy.ascontiguousarray(array), name))
        return name

    def tensor(self, name: str, transposed: bool = False) -> str:
        array = self.tensors[name]
        return self.constant(name, array.T if transposed else array)

    def node(self, kind: str, inputs: list[str], domain: str = "", n_outputs: int = 1, **attributes) -> str:
        outputs = [f"{kind}_{len(self.nodes)}_{at}" for at in range(n_outputs)]
        self.nodes.append(helper.make_node(kind, inputs, outputs, outputs[0], domain=domain, **attributes))
        return outputs[0]


def build(folder: Path) -> onnx.ModelProto:
    config = json.loads((folder / "config.json").read_text())
    tensors = {name.removeprefix("bert."): array for name, array in load_file(folder / "model.safetensors").items()}
    graph, eps, n_heads = Graph(tensors), config["layer_norm_eps"], config["num_attention_heads"]
    embeddings = [f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type")]
    norm = [f"embeddings.LayerNorm.{part}" for part in ("weight", "bias")]
    hidden = graph.node(
        "EmbedLayerNormalization", ["input_ids", "", *map(graph.tensor, embeddings), *map(graph.tensor, norm)], FUSED, 2, epsilon=eps
    )
    mask = "attention_mask"
    for layer in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{layer}"
        parts = [f"{at}.attention.self.{name}" for name in ("query", "key", "value")]
        weight = graph.constant(f"{at}.qkv.weight", numpy.concatenate([tensors[f"{part}.weight"].T for part in parts], axis=1))
        bias = graph.constant(f"{at}.qkv.bias", numpy.concatenate([tensors[f"{part}.bias"] for part in parts]))
        context = graph.node("Attention", [hidden, weight, bias, mask], FUSED, num_heads=n_heads)
        attended = linear(graph, context, f"{at}.attention.output.dense")
        hidden = skip_norm(graph, attended, hidden, f"{at}.attention.output", eps)
        wide = graph.node("MatMul", [hidden, graph.tensor(f"{at}.intermediate.dense.weight", transposed=True)])
        wide = graph.node("BiasGelu", [wide, graph.tensor(f"{at}.intermediate.dense.bias")], FUSED)
        narrow = linear(graph, wide, f"{at}.output.dense")
        hidden = skip_norm(graph, narrow, hidden, f"{at}.output", eps)
    shares = graph.node("Cast", [mask], to=TensorProto.FLOAT)
    shares = graph.node("Unsqueeze", [shares, graph.constant("axis_1", numpy.array([1], numpy.int64))])
    # The sum over real tokens; its length is divided out by the norm, so that the mean need not be formed.
    summed = graph.node("MatMul", [shares, hidden])
    summed = graph.node("Squeeze", [summed, "axis_1"])
    length = graph.node("ReduceL2", [summed, "axis_1"], keepdims=1)
    graph.nodes.append(helper.make_node("Div", [summed, length], ["vectors"]))
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT32, ["b", "n"]) for name in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("vectors", TensorProto.FLOAT, ["b", config["hidden_size"]])
    body = helper.make_graph(graph.nodes, "encoder", inputs, [output], graph.constants)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(FUSED, 1)]
    return helper.make_model(body, opset_imports=opsets, ir_version=9)


def linear(graph: Graph, x: str, name: str) -> tuple[str, str]:
    """The product and, apart, the bias: `SkipLayerNormalization` adds it."""
    return graph.node("MatMul", [x, graph.tensor(f"{name}.weight", transposed=True)]), graph.tensor(f"{name}.bias")


def skip_norm(graph: Graph, product: tuple[str, str], residual: str, name: str, eps: float) -> str:
    x, bias = product
    norm = [graph.tensor(f"{name}.LayerNorm.{part}") for part in ("weight", "bias")]
    return graph.node("SkipLayerNormalization", [x, residual, *norm, bias], FUSED, epsilon=eps)


def write(folder: Path, output: Path, precision: str) -> None:
    if precision == "f32":
        onnx.save(build(folder), output)
        return
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = output.with_suffix(".f32.onnx")
    onnx.save(build(folder), plain)
    quantize_dynamic(
        plain,
        output,
        weight_type=QuantType.QInt8,
        per_channel=True,
        op_types_to_quantize=["MatMul", "Attention"],
        extra_options={"DefaultTensorType": TensorProto.FLOAT},  # Shapes do not pass through the fused operators.
    )
    plain.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="encoder folder")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--precision", choices=["f32", "int8"], default="f32")
    args = parser.parse_args()
    write(args.model, args.output, args.precision)


if __name__ == "__main__":
    main()
