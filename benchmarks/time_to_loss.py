r"""Time to a loss: Hugging Face's Trainer for a fixed time, then this system until it is as good.

    python -m benchmarks.time_to_loss roberta configs/demo.yaml --rows 8000 16000
    python -m benchmarks.time_to_loss modernbert CONFIG --minutes 20 --set optimizer.type=adamw ...

Both train on the rows of the config's data set, with its tokenizer and the sizes of its model. The
Trainer does it the usual way: the named class, 15 % masks (ModernBERT: 30 %) drawn again for each
batch, autocast where the config's precision is bf16, a linear schedule that ends with the time.
This system trains one run for each number of `--rows`, each with a whole schedule of its own,
launched as a user launches it, start-up included, until one is as good. Both results are Hugging
Face folders; the same function scores them: mean loss on the held-out rows with fixed 15 % masks,
fp32. The Trainer needs `accelerate`, which the project itself does not.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.launched import Launched
from configs import command
from configs.load import load
from model.objectives import MaskedLanguageModelConfig
from pipeline.data.heldout import load_heldout
from pipeline.data.shard_cache import open_data_set, row_reader
from pipeline.run.config import TrainConfig

PROBE_STEPS = 20
HELDOUT_ROWS = 400
MASK_RATES = {"roberta": 0.15, "modernbert": 0.3}


@dataclass(frozen=True)
class Result:
    """A finished training."""

    wall_s: float
    cpu_s: float
    steps: int
    rows: int
    loss: float
    """Held out, nats per masked token."""
    accuracy: float


def score(folder: Path, config: TrainConfig) -> tuple[float, float]:
    """(mean held-out loss, share of tokens predicted right) of the model in `folder`."""
    import transformers

    manifest = open_data_set(config.data)
    objective = MaskedLanguageModelConfig(mask_rate=0.15)
    model = transformers.AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    losses, right = [], []
    heldout = load_heldout(config.data, manifest, objective, HELDOUT_ROWS)
    for masked in heldout.sources.values():
        for start in range(0, len(masked.tokens), 32):
            part = slice(start, start + 32)
            tokens = torch.from_numpy(masked.tokens[part].astype(np.int64))
            labels = torch.from_numpy(masked.labels[part].astype(np.int64))
            rows, slots = torch.nonzero(labels >= 0, as_tuple=True)
            positions = torch.from_numpy(masked.positions[part].astype(np.int64))[rows, slots]
            with torch.inference_mode():
                logits = model(tokens, attention_mask=tokens != manifest.special_tokens.pad).logits
            logits, labels = logits[rows, positions].float(), labels[rows, slots]
            losses.append(torch.nn.functional.cross_entropy(logits, labels, reduction="none"))
            right.append(logits.argmax(1) == labels)
    return float(torch.cat(losses).mean()), float(torch.cat(right).float().mean())


def all_rows(config: TrainConfig) -> torch.Tensor:
    """The training rows, [rows, tokens of a row]."""
    manifest = open_data_set(config.data)
    reader = row_reader(config.data, manifest, "train")
    sources = manifest.splits["train"]
    rows = [reader.read(name, np.arange(sources[name].rows)) for name in sorted(sources)]
    return torch.from_numpy(np.concatenate(rows).astype(np.int64))


def build_hugging_face(kind: str, config: TrainConfig, vocab_size: int) -> Any:
    """A new model of transformers with the sizes of the config's model."""
    import transformers

    ours = config.model
    sizes = {
        "vocab_size": vocab_size,
        "hidden_size": ours.hidden_size,
        "num_hidden_layers": ours.num_layers,
        "num_attention_heads": ours.num_attention_heads,
        "intermediate_size": ours.ffn_hidden_size,
        "pad_token_id": ours.pad_token_id,
        "bos_token_id": 0,
        "eos_token_id": 2,
    }
    if kind == "roberta":
        places = ours.max_row_tokens + ours.pad_token_id + 1
        return transformers.RobertaForMaskedLM(
            transformers.RobertaConfig(
                **sizes, max_position_embeddings=places, type_vocab_size=1, layer_norm_eps=1e-5
            )
        )
    return transformers.ModernBertForMaskedLM(
        transformers.ModernBertConfig(
            **sizes,
            cls_token_id=0,
            sep_token_id=2,
            max_position_embeddings=ours.max_row_tokens,
            layer_types=["full_attention"] * ours.num_layers,
            attn_implementation="sdpa",
        )
    )


def train_hugging_face(
    kind: str, config: TrainConfig, minutes: float, lr: float, folder: Path
) -> Result:
    """transformers' Trainer for about `minutes`; the model is saved to `folder`."""
    import transformers

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    transformers.set_seed(0)
    manifest = open_data_set(config.data)
    special, rows = manifest.special_tokens, all_rows(config)
    rate = MASK_RATES[kind]
    kept = torch.tensor([special.bos, special.eos, special.pad, special.mask])

    def collate(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """BERT's masks: of the chosen tokens 80 % hidden, 10 % random, 10 % as they are."""
        tokens = torch.stack([item["input_ids"] for item in items])
        chosen = (torch.rand(tokens.shape) < rate) & ~torch.isin(tokens, kept)
        labels = tokens.masked_fill(~chosen, -100)
        fate = torch.rand(tokens.shape)
        inputs = tokens.masked_fill(chosen & (fate < 0.8), special.mask)
        is_random = chosen & (fate >= 0.9)
        inputs[is_random] = torch.randint(manifest.vocab_size, (int(is_random.sum()),))
        return {"input_ids": inputs, "labels": labels}

    def run(num_steps: int) -> Any:
        arguments = transformers.TrainingArguments(
            output_dir=tempfile.mkdtemp(prefix="hf-trainer-"),
            per_device_train_batch_size=config.batch.global_rows,
            max_steps=num_steps,
            learning_rate=lr,
            weight_decay=0.01,
            warmup_steps=min(500, num_steps // 10),
            lr_scheduler_type="linear",
            bf16=config.precision == "bf16",
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            logging_steps=500,
            disable_tqdm=True,
            seed=0,
        )
        model = build_hugging_face(kind, config, manifest.vocab_size)
        data = [{"input_ids": row} for row in rows]
        trainer = transformers.Trainer(
            model=model, args=arguments, train_dataset=data, data_collator=collate
        )
        trainer.train()
        return model

    run(PROBE_STEPS)  # the first steps are slower
    probe = time.perf_counter()
    run(PROBE_STEPS)
    step_s = (time.perf_counter() - probe) / PROBE_STEPS
    num_steps = int(minutes * 60 / step_s)
    started, started_cpu = time.perf_counter(), time.process_time()
    run(num_steps).save_pretrained(folder)
    wall_s, cpu_s = time.perf_counter() - started, time.process_time() - started_cpu
    loss, accuracy = score(folder, config)
    return Result(wall_s, cpu_s, num_steps, num_steps * config.batch.global_rows, loss, accuracy)


def train_ours(config_path: Path, overrides: list[str], rows: int, folder: Path) -> Result:
    """One run of this system, from its launch to its end; one rank needs no launcher."""
    tensor = load(config_path, TrainConfig, overrides).parallel.tensor
    changes = [*overrides, f"total_rows={rows}", f"output={folder}", "tracking.enabled=false"]
    log = folder.parent / f"{folder.name}.log"
    started, cpu = time.perf_counter(), _children_cpu_s()
    launcher = ["-m", "deepspeed.launcher.runner", "--num_accelerators", str(tensor)]
    program = ["pipeline/train.py", str(config_path), *changes]
    Launched(program if tensor == 1 else [*launcher, *program], log).finish()
    wall_s, cpu_s = time.perf_counter() - started, _children_cpu_s() - cpu
    export = ["-m", "pipeline.export", str(config_path), *changes]
    Launched(export, log).finish()
    config = load(config_path, TrainConfig, changes)
    loss, accuracy = score(folder / "hf", config)
    return Result(wall_s, cpu_s, config.steps.total_steps, rows, loss, accuracy)


def _children_cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _line(name: str, result: Result, base: Result) -> str:
    return (
        f"{name:28} loss {result.loss:.3f}  accuracy {result.accuracy:.1%}  "
        f"{result.steps:6,} steps  {result.wall_s:7.1f} s ({result.wall_s / base.wall_s:.3f} x)  "
        f"{result.cpu_s:7.1f} CPU s ({result.cpu_s / base.cpu_s:.3f} x)"
    )


def main() -> None:
    """Prints both times and their ratio."""
    parser = command.plain_parser((__doc__ or "").splitlines()[0])
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("kind", choices=sorted(MASK_RATES), help="class that the Trainer trains")
    parser.add_argument("config", type=Path, help="this system's run")
    parser.add_argument("--rows", type=int, nargs="+", required=True, help="in ascending order")
    parser.add_argument("--set", nargs="*", default=[], help="changes of the config, key=value")
    parser.add_argument("--minutes", type=float, default=20, help="of the Trainer")
    parser.add_argument("--lr", type=float, default=5e-4, help="of the Trainer")
    parser.add_argument("--output", type=Path, required=True, help="folder of results, kept")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    config = load(arguments.config, TrainConfig, arguments.set)
    stored = arguments.output / f"trainer-{arguments.kind}.json"
    if stored.exists():  # a ladder of our runs can be continued
        base = Result(**json.loads(stored.read_text()))
    else:
        with ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn")) as pool:
            folder = arguments.output / f"trainer-{arguments.kind}"
            sizes = (arguments.kind, config, arguments.minutes, arguments.lr, folder)
            base = pool.submit(train_hugging_face, *sizes).result()
        stored.write_text(json.dumps(asdict(base), indent=1) + "\n")
    print(_line(f"Trainer, {arguments.kind}", base, base), flush=True)
    for rows in arguments.rows:
        folder = arguments.output / f"{arguments.config.stem}-{rows}"
        stored = arguments.output / f"{folder.name}.json"
        if stored.exists():
            result = Result(**json.loads(stored.read_text()))
        else:
            result = train_ours(arguments.config, arguments.set, rows, folder)
            stored.write_text(json.dumps(asdict(result), indent=1) + "\n")
        print(_line(f"{arguments.config.stem}, {rows:,} rows", result, base), flush=True)
        if result.loss <= base.loss:
            return
    raise SystemExit("no run reached the Trainer's loss: give more rows")


if __name__ == "__main__":
    command.run(main)
