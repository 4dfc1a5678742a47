"""BERT (Devlin et al. 2019) in transformers."""

from model.hugging_face.bert_style import BertStyle, PooledHeadNames
from model.hugging_face.tied_head import HeadNames

BERT = BertStyle(
    model_type="bert",
    class_prefix="Bert",
    norm_placement="post",
    default_pad_token_id=0,
    positions_start_after_pad=False,
    layer_norms=("attention.output.LayerNorm", "output.LayerNorm"),
    head=HeadNames(
        dense="cls.predictions.transform.dense",
        norm="cls.predictions.transform.LayerNorm",
        bias="cls.predictions.bias",
        decoder="cls.predictions.decoder",
    ),
    pooled_head=PooledHeadNames("bert.pooler.dense", "classifier"),
    head_has_its_activation=True,
)
