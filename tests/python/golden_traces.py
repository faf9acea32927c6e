"""Golden files of training: the loss of every step of short runs, and the learning rates of the six schedules.

Every run takes the rows in order, 32 a step, dropout off, each half of a batch padded to its longest text. It is done in
float32, which is what Loriot is compared with, and in float64, which says how much of a difference is rounding.
"""

from pathlib import Path

import torch
from transformers import get_scheduler

import common
import golden_tiny
from common import GOLDEN
from golden_minilm import peft_name, with_adapter

ROWS = GOLDEN / "train_rows.csv"
N_ROWS, BATCH = 1280, 32
SCHEDULES = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup")

# What a run changes of these.
DEFAULTS = {
    "optimizer": "adam",
    "learning_rate": 5e-4,
    "weight_decay": 0.0,
    "schedule": "linear",
    "warmup_steps": 0,
    "clip": None,
    "batch_size": BATCH,
}
TINY_RUNS = {
    "lora": {"steps": 40, "adapter": "adapters/qkv", "learning_rate": 5e-3},
    "lora_adamw": {
        "steps": 40,
        "adapter": "adapters/all_linear",
        "learning_rate": 5e-3,
        "optimizer": "adamw",
        "weight_decay": 0.05,
        "schedule": "cosine",
        "warmup_steps": 5,
        "clip": 0.6,
    },
    "full": {"steps": 40, "learning_rate": 1e-3},
}
MINILM_RUNS = {"lora": {"steps": 40, "adapter": "minilm_adapter"}, "full": {"steps": 20, "learning_rate": 2e-5}}


def copy_rows(train) -> None:
    """The first rows of the example's training file, as they are, header included."""
    lines = Path(train).read_text(encoding="utf-8").splitlines(keepends=True)[: N_ROWS + 1]
    ROWS.write_text("".join(lines), encoding="utf-8")
    if len(common.read_pairs(ROWS)) != N_ROWS:
        raise SystemExit(f"error: `{train}` has fewer than {N_ROWS} rows of one line each")


def run(model, tokenizer, max_length: int, settings: dict) -> dict:
    """Trains in the precision of the model."""
    names = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad and "pooler" not in name}
    start = {name: tensor.detach().clone() for name, tensor in names.items()}
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[settings["optimizer"]]
    optimizer = kind(names.values(), lr=settings["learning_rate"], weight_decay=settings["weight_decay"])
    scheduler = get_scheduler(settings["schedule"], optimizer, settings["warmup_steps"], settings["steps"])
    rows = common.read_pairs(ROWS)
    trace = {"loss": [], "gradient_norm": []}
    model.train()
    for step in range(settings["steps"]):
        batch = rows[step * BATCH : (step + 1) * BATCH]
        halves = [common.tokenize(tokenizer, [row[side] for row in batch], max_length) for side in (0, 1)]
        queries, titles = (common.embed_batch(model, half) for half in halves)
        cosines = (queries * titles).sum(1)
        loss = common.cosine_loss(cosines, torch.tensor([row[2] for row in batch], dtype=cosines.dtype))
        optimizer.zero_grad()
        loss.backward()
        limit = float("inf") if settings["clip"] is None else settings["clip"]
        trace["gradient_norm"].append(torch.nn.utils.clip_grad_norm_(list(names.values()), limit).item())
        optimizer.step()
        scheduler.step()
        trace["loss"].append(loss.item())
    trace["final"] = {
        peft_name(name): {"norm": tensor.detach().norm().item(), "change": (tensor.detach() - start[name]).norm().item()}
        for name, tensor in names.items()
    }
    return trace


def run_both(folder, settings: dict, max_length: int) -> dict:
    """The same run in float32 and in float64."""
    settings = DEFAULTS | settings | {"max_length": max_length}
    traces = {}
    for precision, dtype in (("f32", torch.float32), ("f64", torch.float64)):
        model = common.load_encoder(folder)
        if adapter := settings.get("adapter"):
            model = with_adapter(model, GOLDEN / adapter)
        traces[precision] = run(model.to(dtype), common.tokenizer_of(folder), max_length, settings)
    pairs = list(zip(traces["f32"]["loss"], traces["f64"]["loss"]))
    worst = max(abs(single / double - 1) for single, double in pairs)
    print(f"losses {pairs[0][0]:.4f} to {pairs[-1][0]:.4f}, float32 off float64 by {worst:.1e} at most")
    return {"settings": settings} | traces


def write_schedules() -> None:
    """The learning rate that each of 40 steps is taken with, without warm-up and with 7 steps of it."""
    rates = {}
    for name in SCHEDULES:
        for warmup in (0, 7):
            optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=5e-4)
            scheduler = get_scheduler(name, optimizer, warmup, 40)
            steps = []
            for _ in range(40):
                steps.append(optimizer.param_groups[0]["lr"])
                optimizer.step()
                scheduler.step()
            rates[f"{name}, warm-up {warmup}"] = {"schedule": name, "warmup_steps": warmup, "learning_rate": steps}
    common.write_json(GOLDEN / "schedules.json", {"learning_rate": 5e-4, "steps": 40, "schedules": rates})


def generate(model, train) -> None:
    write_schedules()
    copy_rows(train)
    header = {"rows": ROWS.name, "rows_sha256": common.sha256(ROWS)}
    tiny = {name: run_both(golden_tiny.FOLDER, settings, golden_tiny.MAX_LENGTH) for name, settings in TINY_RUNS.items()}
    common.write_json(GOLDEN / "tiny_traces.json", header | {"runs": tiny})
    minilm = {name: run_both(model, settings, common.MAX_LENGTH) for name, settings in MINILM_RUNS.items()}
    header["weights_sha256"] = common.sha256(Path(model) / "model.safetensors")
    common.write_json(GOLDEN / "minilm_traces.json", header | {"runs": minilm})
