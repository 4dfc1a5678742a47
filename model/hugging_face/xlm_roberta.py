"""XLM-R (Conneau et al. 2020) in transformers: RoBERTa under its own class names."""

from dataclasses import replace

from model.hugging_face.roberta import ROBERTA

XLM_ROBERTA = replace(
    ROBERTA, model_type="xlm-roberta", class_prefix="XLMRoberta", encoder_name="roberta"
)
