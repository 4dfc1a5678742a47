"""What exported folders compute in the interpreter that runs this file; see export_versions.py.

``python export_versions_peer.py JOBS.json`` needs transformers and torch, nothing of this project.
With sentence-transformers installed, folders with ``modules.json`` give the vectors of the texts
too. A job has a folder, the class to load it by, texts and an output file (.npz).
"""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers


def main() -> None:
    """Writes ids, logits, vectors and versions of every job, or what went wrong."""
    for job in json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")):
        try:
            found = computed(job)
        except Exception as error:  # any of another version's; it stands in the table
            found = {"error": np.array(f"{type(error).__name__}: {error}".splitlines()[0])}
        version = np.array(transformers.__version__)
        np.savez(job["output"], version=version, **found)


def computed(job: dict[str, Any]) -> dict[str, Any]:
    """Arrays by name."""
    folder = job["folder"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    auto = getattr(transformers, job["class"])
    model, loading = auto.from_pretrained(folder, output_loading_info=True)
    unfit = [*loading["missing_keys"], *loading["unexpected_keys"]]
    if unfit:
        raise ValueError(f"tensors that do not fit: {', '.join(sorted(unfit))}")
    inputs = tokenizer(job["texts"], padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model.eval()(**inputs).logits
    found = {"ids": inputs["input_ids"].numpy(), "logits": logits.numpy()}
    has_package = importlib.util.find_spec("sentence_transformers") is not None
    if has_package and (Path(folder) / "modules.json").is_file():
        import sentence_transformers

        encoder = sentence_transformers.SentenceTransformer(folder, device="cpu")
        found["vectors"] = encoder.encode(job["texts"])
        found["sentence_version"] = np.array(sentence_transformers.__version__)
    return found


if __name__ == "__main__":
    main()
