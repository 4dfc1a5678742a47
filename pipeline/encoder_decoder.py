"""Fine-tunes an encoder-decoder: ``python -m pipeline.encoder_decoder FOLDER PAIRS --output NEW``.

Encoder and decoder start from the exported encoder in FOLDER (Rothe et al. 2020). PAIRS is a file
of JSON lines ``{"source": ..., "target": ...}``: a sentence and its translation, a text and its
summary. NEW becomes a folder for transformers' EncoderDecoderModel and AutoTokenizer.
"""

import json
import logging
from pathlib import Path

from configs import command
from configs.load import UserError
from configs.terminal import visible
from configs.writable import check_folder

NUM_SHOWN = 3

logger = logging.getLogger(__name__)


def main() -> None:
    """Trains, evaluates and writes the model."""
    parser = command.plain_parser("Fine-tune an encoder-decoder that starts from an encoder.")
    parser.add_argument("folder", type=Path, help="the exported encoder (RUN/hf)")
    parser.add_argument("pairs", type=Path, help="JSON lines with source and target")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="a new folder")
    parser.add_argument("--dev", type=Path, metavar="FILE", help="pairs to evaluate on")
    parser.add_argument(
        "--decoder", type=Path, metavar="FOLDER", help="another model for the decoder"
    )
    parser.add_argument("--random", action="store_true", help="random weights, to compare with")
    parser.add_argument("--steps", type=int, default=1000, metavar="N", help="optimizer steps")
    parser.add_argument("--batch-pairs", type=int, default=16, metavar="N", help="pairs of a step")
    parser.add_argument("--lr", type=float, default=5e-4, metavar="X", help="peak learning rate")
    parser.add_argument("--max-tokens", type=int, default=128, metavar="N", help="longest text")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the order and of random weights"
    )
    arguments = parser.parse_args()
    for name in ("steps", "batch_pairs", "lr", "max_tokens"):
        if not getattr(arguments, name) > 0:
            raise UserError(f"--{name.replace('_', '-')} must be more than 0")
    if arguments.output.exists() and (
        not arguments.output.is_dir() or any(arguments.output.iterdir())
    ):
        raise UserError(f"--output {arguments.output}: exists already; choose a new folder")
    check_folder(arguments.output, "--output")

    import torch  # late: the errors above need none

    from pipeline.generation.training import Recipe, evaluate, read_pairs, train
    from pipeline.generation.warm_start import warm_start

    pairs = read_pairs(arguments.pairs)
    dev = read_pairs(arguments.dev) if arguments.dev else []
    decoder = arguments.decoder or arguments.folder
    tokenizer, model = warm_start(arguments.folder, decoder, arguments.random, arguments.seed)
    recipe = Recipe(
        steps=arguments.steps,
        batch_pairs=arguments.batch_pairs,
        learning_rate=arguments.lr,
        max_tokens=min(arguments.max_tokens, tokenizer.model_max_length),
        seed=arguments.seed,
    )
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    train(tokenizer, model, pairs, recipe)
    model.save_pretrained(arguments.output)
    tokenizer.save_pretrained(arguments.output)
    print(visible(f"{arguments.output}: {arguments.steps:,} steps on {len(pairs):,} pairs"))
    if dev:
        values, texts = evaluate(tokenizer, model, dev, recipe)
        (arguments.output / "dev.json").write_text(json.dumps(values) + "\n")
        print(f"  dev loss {values['loss']:.4f}, exact {values['exact']:.1%}")
        for (source, target), text in list(zip(dev, texts, strict=True))[:NUM_SHOWN]:
            print(visible(f"  {source!r} -> {text!r}, target {target!r}"))


if __name__ == "__main__":
    command.run(main)
