"""Muon against AdamW at equal rows: steps until Muon has the last held-out loss of AdamW.

    python -m benchmarks.muon_steps --rows 204800 --output FOLDER [--sizes 64 128] [--batches 256]

Encoders of ModernBERT's kind (3 layers) on the demo's rows, 15 % masks, constant learning rates
after a warm-up over a tenth of the rows, fp32, one rank. Each optimizer is trained with every
learning rate of its list (AdamW's for the embeddings beside Muon is half of Muon's); the best last
loss counts. Finished runs in FOLDER are not repeated.
"""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.launched import Launched
from configs import command
from pipeline.tracking.event_log import metric_points

CONFIG = "configs/demo.yaml"
LEARNING_RATES = {"adamw": (2e-3, 5e-3), "muon": (5e-3, 1e-2)}
NUM_EVALUATIONS = 20


@dataclass(frozen=True)
class Curve:
    """Held-out losses of a run."""

    learning_rate: float
    points: tuple[tuple[int, float], ...]
    """(optimizer step, nats per masked token)."""

    @property
    def last_loss(self) -> float:
        """The loss at the end."""
        return self.points[-1][1]

    def steps_to(self, loss: float) -> float:
        """The first step with `loss`, linear between evaluations; infinite if there is none."""
        before_step, before_loss = 0, float("inf")
        for step, value in self.points:
            if value <= loss:
                if before_loss == float("inf"):
                    return step
                share = (before_loss - loss) / (before_loss - value)
                return before_step + share * (step - before_step)
            before_step, before_loss = step, value
        return float("inf")


def train(folder: Path, optimizer: str, lr: float, size: int, batch: int, rows: int) -> Curve:
    """The curve of one run, trained now if it is not finished in `folder`."""
    output = folder / f"{optimizer}-{lr:g}-{size}-{batch}-{rows}"
    steps = rows // batch
    changes = {
        "output": output,
        "model.hidden_size": size,
        "model.ffn_hidden_size": 3 * size,
        "model.num_attention_heads": size // 32,
        "objective.mask_rate": 0.15,
        "precision": "fp32",
        "total_rows": rows,
        "batch": f"{{global_rows: {batch}, micro_rows: 64}}",
        "schedule": f"{{type: constant, warmup_rows: {rows // 10}}}",
        "optimizer": f"{{type: {optimizer}, lr: {lr}, eps: 1.0e-8}}",
        "parallel.tensor": 1,
        "evaluation.every_steps": max(1, steps // NUM_EVALUATIONS),
        "checkpoint.every_steps": steps,
        "tracking.enabled": "false",
    }
    if optimizer == "muon":
        changes["optimizer.adamw_lr"] = lr / 2
    if not (output / "DONE").exists():
        folder.mkdir(parents=True, exist_ok=True)
        overrides = [f"{key}={value}" for key, value in changes.items()]
        log = folder / f"{output.name}.log"
        Launched(["pipeline/train.py", CONFIG, *overrides], log).finish()
    return Curve(lr, tuple(metric_points(output, "heldout_loss")["heldout_loss"]))


def main() -> None:
    """Prints a line for every size and batch."""
    parser = command.plain_parser((__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=204_800, help="rows of each run")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128], help="hidden sizes")
    parser.add_argument("--batches", type=int, nargs="+", default=[256, 2048], help="rows a step")
    parser.add_argument("--output", type=Path, required=True, help="folder of the runs, kept")
    arguments = parser.parse_args()
    for size in arguments.sizes:
        for batch in arguments.batches:
            best = {
                optimizer: min(
                    (
                        train(arguments.output, optimizer, lr, size, batch, arguments.rows)
                        for lr in rates
                    ),
                    key=lambda curve: curve.last_loss,
                )
                for optimizer, rates in LEARNING_RATES.items()
            }
            adamw, muon = best["adamw"], best["muon"]
            num_steps = adamw.points[-1][0]
            needed = muon.steps_to(adamw.last_loss)
            print(
                f"hidden {size:4}  batch {batch:5}  {num_steps:5} steps  "
                f"AdamW {adamw.last_loss:.3f} (lr {adamw.learning_rate:g})  "
                f"Muon {muon.last_loss:.3f} (lr {muon.learning_rate:g}), "
                f"AdamW's loss after {needed:.0f} steps ({needed / num_steps:.2f} x)",
                flush=True,
            )


if __name__ == "__main__":
    command.run(main)
