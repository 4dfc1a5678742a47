"""CamemBERT (Martin et al. 2020) in transformers: RoBERTa under its own class names."""

from dataclasses import replace

from model.hugging_face.roberta import ROBERTA

CAMEMBERT = replace(
    ROBERTA, model_type="camembert", class_prefix="Camembert", encoder_name="roberta"
)
