"""GTE (Zhang et al. 2024, mGTE) in transformers: post-norm, rotary positions, GeGLU."""

from model.hugging_face.rotary_style import RotaryStyle
from model.hugging_face.tied_head import HeadNames

GTE = RotaryStyle(
    model_type="gte",
    class_prefix="Gte",
    prefix="gte",
    head=HeadNames(
        "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder.bias", "lm_head.decoder"
    ),
    head_has_its_activation=False,
    bias={"mlp_up": False},
    least_segments=0,
    default_theta=160_000.0,
    default_pad_token_id=1,
    default_hidden_act="gelu",
    default_type_vocab_size=1,
    default_hidden_dropout=0.1,
    renamed=(
        (r"^new\.", ""),
        (r"(^|\.)encoder\.layer\.", r"\1layers."),
        (r"\.attention\.(o_proj|qkv_proj)\.", r".self_attn.\1."),
        (r"\.attn_ln\.", ".post_attention_layernorm."),
        (r"\.mlp_ln\.", ".post_mlp_layernorm."),
        (r"^lm_head\.norm\.", "lm_head.layer_norm."),
    ),
    fused={
        "qkv_proj": ("q_proj", "k_proj", "v_proj"),
        "up_gate_proj": ("up_proj", "gate_proj"),
    },
    own_code_keys={},
    own_code_settings={
        "position_embedding_type": "rope",
        "layer_norm_type": "layer_norm",
        "logn_attention_scale": False,
    },
)
