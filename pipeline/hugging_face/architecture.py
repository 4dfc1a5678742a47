"""The architecture of a Hugging Face folder, from its config.json alone. Imports no torch."""

from pathlib import Path

from configs.load import UserError
from data_prep.dataset.files import read_json
from model.config import ModelConfig
from model.hugging_face.families import family_of_folder


def architecture_of(folder: Path, leave_out: tuple[str, ...] = ()) -> tuple[ModelConfig, int]:
    """(our config, vocabulary size) of the model in `folder`; its weights are not read.

    `leave_out`: prefixes of tensor names that do not count.
    Raises UserError for a folder without config.json, of a family that cannot be imported, or with
    settings that our network does not compute.
    """
    file = folder / "config.json"
    try:
        hf = read_json(file)
    except OSError as error:
        raise UserError(f"{folder}: not a Hugging Face folder: no config.json ({error})") from None
    if hf.get("model_type") is None:  # files of old versions: the tensors' names decide
        from pipeline.hugging_face.weights import read_hf_folder

        found = read_hf_folder(folder, leave_out)
        return found.config, found.vocab_size
    return family_of_folder(hf, (), str(file)).model_config(hf, str(file))
