"""NomicBERT (Nussbaum et al. 2024) in transformers: post-norm, rotary positions, SwiGLU."""

from model.hugging_face.rotary_style import RotaryStyle
from model.hugging_face.tied_head import HeadNames

NOMIC_BERT = RotaryStyle(
    model_type="nomic_bert",
    class_prefix="NomicBert",
    prefix="nomic_bert",
    head=HeadNames(
        dense="cls.predictions.transform.dense",
        norm="cls.predictions.transform.layer_norm",
        bias="cls.predictions.bias",
        decoder="cls.predictions.decoder",
    ),
    head_has_its_activation=True,
    bias={"attention": False, "mlp": False},
    least_segments=1,
    default_theta=1_000.0,
    default_pad_token_id=0,
    default_hidden_act="silu",
    default_type_vocab_size=2,
    default_hidden_dropout=0.0,
    renamed=(
        (r"(^|\.)encoder\.layers\.", r"\1layers."),
        (r"(^|\.)emb_ln\.", r"\1embeddings.LayerNorm."),
        (r"\.attn\.out_proj\.", ".self_attn.o_proj."),
        (r"\.attn\.Wqkv\.", ".self_attn.Wqkv."),
        (r"\.fc11\.", ".up_proj."),
        (r"\.fc12\.", ".gate_proj."),
        (r"\.fc2\.", ".down_proj."),
        (r"\.norm1\.", ".post_attention_layernorm."),
        (r"\.norm2\.", ".post_mlp_layernorm."),
    ),
    fused={"Wqkv": ("q_proj", "k_proj", "v_proj")},
)
