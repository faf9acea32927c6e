"""Golden files of what PEFT can do beside plain LoRA, on the tiny model: `peft/` and `peft.safetensors`.

Each kind is an adapter as PEFT saves it, with its unit embeddings, its loss and the gradient of every trained tensor in float64.
PiSSA and OLoRA change the weights: of these, start and trained factors are stored, and the adapter as PEFT converts it on saving.
"""

import shutil
import tempfile

import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from peft.optimizers import create_loraplus_optimizer

import common
from common import GOLDEN
from golden_tiny import ALL_LINEAR, FOLDER, Batch, gradients, peft_name, sort_lists

ADAPTERS = GOLDEN / "peft"
QKV = ["query", "key", "value"]

KINDS = {
    "bias_lora_only": {"target_modules": ["query", "output.dense"], "bias": "lora_only"},
    "bias_all": {"target_modules": ["value"], "bias": "all", "layers_to_transform": [1]},
    "saved": {"target_modules": QKV, "modules_to_save": ["LayerNorm", "word_embeddings"]},
    "saved_positions": {
        "target_modules": ["key"],
        "layers_to_transform": [1],
        "modules_to_save": ["position_embeddings", "token_type_embeddings", "1.output.LayerNorm"],
    },
    "narrowed": {
        "target_modules": ALL_LINEAR,
        "exclude_modules": ["key", "layer.0.intermediate.dense"],
        "layers_to_transform": [0],
        "layers_pattern": "layer",
        "rank_pattern": {"value": 2, r"layer\.0\.output\.dense": 3},
        "alpha_pattern": {"output.dense": 16},
        "use_rslora": True,
    },
    "excluded_regex": {"target_modules": "all-linear", "exclude_modules": r".*(query|pooler\.dense|layer\.0\..*)"},
    "dora": {"target_modules": QKV, "use_dora": True},
    "dora_all": {"target_modules": ALL_LINEAR, "use_dora": True, "bias": "lora_only", "use_rslora": True},
    "dora_outputs": {"target_modules": ["output.dense"], "use_dora": True, "rank_pattern": {"layer.1.output.dense": 2}},
}

# Kinds whose start changes the weights.
MUTATING = {
    "pissa": {"target_modules": ALL_LINEAR, "init_lora_weights": "pissa"},
    "pissa_rslora": {"target_modules": QKV, "init_lora_weights": "pissa", "use_rslora": True},
    "olora": {"target_modules": ALL_LINEAR, "init_lora_weights": "olora", "rank_pattern": {"query": 2}},
}


def base():
    encoder = common.load_encoder(FOLDER)
    encoder.name_or_path = encoder.config._name_or_path = "tiny_bert"
    return encoder


def make(arguments: dict, r=4, lora_alpha=8):
    config = LoraConfig(r=r, lora_alpha=lora_alpha, task_type=TaskType.FEATURE_EXTRACTION, **arguments)
    return get_peft_model(base(), config)


def save(model, folder, **arguments) -> None:
    model.save_pretrained(folder, save_embedding_layers=False, **arguments)
    (folder / "README.md").unlink(missing_ok=True)
    sort_lists(folder / "adapter_config.json")


def perturb(model) -> None:
    """Moves every trained tensor a little, so that none is at its start."""
    for name, tensor in model.named_parameters():
        if tensor.requires_grad:
            tensor.data += (0.2 if "lora_B" in name else 0.1) * torch.randn_like(tensor)


def trained(model, prefix: str) -> dict:
    return {f"{prefix}.{peft_name(name)}": p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def kinds(batch: Batch) -> dict:
    tensors = {}
    for seed, (name, arguments) in enumerate(KINDS.items(), start=100):
        torch.manual_seed(seed)
        model = make(arguments)
        perturb(model)
        save(model, ADAPTERS / name)
        tensors |= gradients(model.double().eval(), batch, name)
    return tensors


def mutating(batch: Batch) -> dict:
    tensors = {}
    for seed, (name, arguments) in enumerate(MUTATING.items(), start=200):
        torch.manual_seed(seed)
        model = make(arguments)
        tensors |= trained(model, f"{name}.start")
        with tempfile.TemporaryDirectory() as start:
            model.peft_config["default"].init_lora_weights = True
            model.save_pretrained(start)
            perturb(model)
            tensors |= trained(model, f"{name}.trained")
            save(model, ADAPTERS / name, path_initial_model_for_weight_conversion=start)
        tensors |= gradients(model.double().eval(), batch, name)
    return tensors


def merged() -> None:
    """Two adapters with a module in common and modules of their own, combined in each way."""
    torch.manual_seed(300)
    parts = {
        "part_a": make({"target_modules": QKV}),
        "part_b": make({"target_modules": ["query", "intermediate.dense"]}, lora_alpha=2),
    }
    for name, model in parts.items():
        perturb(model)
        save(model, ADAPTERS / name)
    model = PeftModel.from_pretrained(base(), str(ADAPTERS / "part_a"), adapter_name="part_a")
    model.load_adapter(str(ADAPTERS / "part_b"), adapter_name="part_b")
    for combination in ("linear", "cat", "svd"):
        name = f"merged_{combination}"
        model.add_weighted_adapter(["part_a", "part_b"], [0.7, -0.4], name, combination_type=combination)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder, selected_adapters=[name], save_embedding_layers=False)
            shutil.rmtree(ADAPTERS / name, ignore_errors=True)
            shutil.move(f"{folder}/{name}", ADAPTERS / name)
        (ADAPTERS / name / "README.md").unlink(missing_ok=True)
        sort_lists(ADAPTERS / name / "adapter_config.json")


def loraplus(batch: Batch) -> dict:
    """Three steps of AdamW under `create_loraplus_optimizer`, from the adapter `bias_lora_only`."""
    model = PeftModel.from_pretrained(base(), str(ADAPTERS / "bias_lora_only"), is_trainable=True).double().eval()
    optimizer = create_loraplus_optimizer(model, torch.optim.AdamW, lr=1e-3, loraplus_lr_ratio=16.0)
    for _ in range(3):
        optimizer.zero_grad()
        batch.forward(model)[2].backward()
        optimizer.step()
    return trained(model, "loraplus")


def generate() -> None:
    shutil.rmtree(ADAPTERS, ignore_errors=True)
    batch = Batch()
    tensors = kinds(batch) | mutating(batch)
    merged()
    tensors |= loraplus(batch)
    common.write_tensors(GOLDEN / "peft.safetensors", tensors)
