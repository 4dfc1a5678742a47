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
    own_code_keys={
        "n_embd": "hidden_size",
        "n_layer": "num_hidden_layers",
        "n_head": "num_attention_heads",
        "n_inner": "intermediate_size",
        "n_positions": "max_position_embeddings",
        "layer_norm_epsilon": "layer_norm_eps",
        "rotary_emb_base": "rope_theta",
        "resid_pdrop": "hidden_dropout_prob",
        "attn_pdrop": "attention_probs_dropout_prob",
    },
    own_code_settings={
        **dict.fromkeys(("prenorm", "use_rms_norm", "parallel_block", "causal"), False),
        **dict.fromkeys(("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"), False),
        "rotary_emb_fraction": 1.0,
        "rotary_emb_interleaved": False,
        "activation_function": "swiglu",
    },
)
