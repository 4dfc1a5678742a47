"""RoBERTa with norms before the blocks (fairseq's normalize-before models) in transformers."""

from model.hugging_face.bert_style import BertStyle
from model.hugging_face.roberta import CLASSIFIER, LM_HEAD

ROBERTA_PRELAYERNORM = BertStyle(
    model_type="roberta-prelayernorm",
    class_prefix="RobertaPreLayerNorm",
    norm_placement="pre",
    default_pad_token_id=1,
    positions_start_after_pad=True,
    layer_norms=("attention.LayerNorm", "intermediate.LayerNorm"),
    head=LM_HEAD,
    pooled_head=CLASSIFIER,
)
