"""RoBERTa (Liu et al. 2019) in transformers."""

from model.hugging_face.bert_style import BertStyle, PooledHeadNames
from model.hugging_face.tied_head import HeadNames

LM_HEAD = HeadNames("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder")
CLASSIFIER = PooledHeadNames("classifier.dense", "classifier.out_proj")

ROBERTA = BertStyle(
    model_type="roberta",
    class_prefix="Roberta",
    norm_placement="post",
    default_pad_token_id=1,
    positions_start_after_pad=True,
    layer_norms=("attention.output.LayerNorm", "output.LayerNorm"),
    head=LM_HEAD,
    pooled_head=CLASSIFIER,
)
