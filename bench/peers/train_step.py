"""Times a training step of torch and PEFT on padded batches, dropout on. Prints one JSON line.

Step `s` takes rows `s·batch` to `(s+1)·batch` of the file, in order, as `loriot train --no-shuffle` does; tokenisation is done
before the clock starts, as the reference does it. A step is two forward passes, loss, backward, Adam, schedule and zeroing.
`--padding max_length` is the reference; `--padding longest --compile` is torch at its best. Compiled steps see every batch of
the timed ones before the clock starts, so that no compilation is timed.
"""

import argparse

import peer
import torch
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModel, AutoTokenizer, get_scheduler
from transformers.utils import logging


class SentenceEmbedder(torch.nn.Module):
    """Mean of the real tokens, L2 norm."""

    def __init__(self, encoder):
        super().__init__()
        self.model = encoder

    def forward(self, **inputs):
        hidden = self.model(**inputs)[0]
        mask = inputs["attention_mask"].unsqueeze(-1).float()
        return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9), p=2, dim=1)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", required=True, help="`.csv` or `.csv.gz` with query, product_title, relevance_label")
    parser.add_argument("--model", required=True, help="encoder folder")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--padding", choices=["max_length", "longest"], default="max_length", help="longest: of each batch")
    parser.add_argument("--mode", choices=["lora", "full"], default="lora")
    parser.add_argument("--precision", choices=["f32", "bf16"], default="f32", help="bf16: torch's autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile with dynamic shapes")
    parser.add_argument("--no-dropout", action="store_true")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--max-length", type=int, default=70)
    parser.add_argument("--warm-up", type=int, default=2, help="steps that are not timed")
    parser.add_argument("--steps", type=int, default=7, help="steps that are")
    return parser.parse_args()


def make_model(args):
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0} if args.no_dropout else {}
    model = SentenceEmbedder(AutoModel.from_pretrained(args.model, dtype=torch.float32, **off))
    if args.mode == "lora":
        targets = ["key", "query", "value"]
        task = TaskType.FEATURE_EXTRACTION
        model = get_peft_model(model, LoraConfig(r=8, lora_alpha=16, bias="none", task_type=task, target_modules=targets))
    return model.train()


def make_batches(args, n_batches: int) -> list[tuple]:
    rows = peer.read_rows(args.rows, n_batches * args.batch_size)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    encode = lambda texts: tokenizer(
        texts, padding=args.padding, max_length=args.max_length, truncation=True, return_tensors="pt"
    )
    batches = []
    for start in range(0, len(rows), args.batch_size):
        batch = rows[start : start + args.batch_size]
        queries, titles = (encode([row[column] for row in batch]) for column in ("query", "product_title"))
        batches.append((queries, titles, torch.tensor([float(row["relevance_label"]) for row in batch])))
    return batches


def main() -> None:
    args = parse()
    logging.disable_progress_bar()
    torch.set_num_threads(args.threads)
    torch.manual_seed(42)
    batches = make_batches(args, args.warm_up + args.steps)
    model = make_model(args)
    embed = torch.compile(model, dynamic=True) if args.compile else model
    optimizer = torch.optim.Adam([tensor for tensor in model.parameters() if tensor.requires_grad], lr=5e-4)
    scheduler = get_scheduler("linear", optimizer, 0, 2 * len(batches))

    def step(queries, titles, labels) -> float:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.precision == "bf16"):
            cosines = (embed(**queries) * embed(**titles)).sum(1)
            loss = torch.mean(torch.square(labels * (1 - cosines) + torch.clamp((1 - labels) * cosines, min=0.0)))
        loss.backward()
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        return loss.item()

    losses = [step(*batch) for batch in (batches if args.compile else batches[: args.warm_up])]
    clock = peer.Clock()
    for batch in batches[args.warm_up :]:
        with clock:
            losses.append(step(*batch))
    timed = batches[args.warm_up :]
    lengths = [inputs["attention_mask"].sum(1).tolist() for queries, titles, _ in timed for inputs in (queries, titles)]
    peer.report(
        f"torch{'+peft' if args.mode == 'lora' else ''}, {args.precision}, padded to {args.padding}",
        clock,
        first_loss=losses[0],
        lengths=[queries + titles for queries, titles in zip(lengths[::2], lengths[1::2])],
        padded_tokens=sum(queries["input_ids"].numel() + titles["input_ids"].numel() for queries, titles, _ in timed),
        versions={"torch": torch.__version__},
    )


if __name__ == "__main__":
    main()
