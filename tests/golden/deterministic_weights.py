# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights that C++ and Python derive alike from a tensor's name, so that no weight file has to be stored.

Value i of a tensor is a function of FNV-1a(name) and i (a SplitMix64 step), scaled by the tensor's role. The C++ side
is deterministic_model.cpp in this folder; both must change together.
"""

import json
import math
from pathlib import Path

import numpy as np

MASK = (1 << 64) - 1


def fnv1a(name):
    value = 0xCBF29CE484222325
    for byte in name.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def uniform(name, count):
    """`count` float64 values in [-1, 1)."""
    index = np.arange(1, count + 1, dtype=np.uint64)
    with np.errstate(over="ignore"):
        z = np.uint64(fnv1a(name)) + index * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0


def is_qwen3_next(config):
    """The relatives qwen3 and qwen3_moe have attention layers alone, no output gate, shared expert or draft head."""
    return config["model_type"] == "qwen3_next"


def norm_centre(config):
    """What stored gains lie around: the norms of Qwen3-Next add 1 to theirs."""
    return 0.0 if is_qwen3_next(config) else 1.0


def tensor_values(name, shape, norm_centre=0.0):
    """float64 values of one tensor of any model."""
    u = uniform(name, math.prod(shape)).reshape(shape)
    if name.endswith(".A_log"):
        return np.log(4.0 + 3.5 * u)
    if name.endswith(".dt_bias"):
        return u - 2.0
    if name.endswith(("linear_attn.norm.weight", "LayerNorm.weight")):
        return 1.0 + 0.2 * u
    if name.endswith(".bias"):
        return 0.2 * u
    if "norm" in name.split(".")[-2]:
        return norm_centre + 0.2 * u
    if name.endswith(".conv1d.weight"):
        return 0.5 * u
    if "embed" in name.split(".")[-2]:
        return u
    return u * math.sqrt(3.0 / shape[-1])


def layer_kinds(config):
    if not is_qwen3_next(config):
        return [True] * config["num_hidden_layers"]
    if "layer_types" in config:
        return [kind == "full_attention" for kind in config["layer_types"]]
    interval = config.get("full_attention_interval", 4)
    return [(i + 1) % interval == 0 for i in range(config["num_hidden_layers"])]


def _layer_shapes(config, prefix, full_attention):
    hidden = config["hidden_size"]
    shapes = {
        "input_layernorm.weight": (hidden,),
        "post_attention_layernorm.weight": (hidden,),
    }
    if full_attention:
        heads, kv_heads, head = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
        shapes |= {
            "self_attn.q_proj.weight": (heads * head * (2 if is_qwen3_next(config) else 1), hidden),
            "self_attn.k_proj.weight": (kv_heads * head, hidden),
            "self_attn.v_proj.weight": (kv_heads * head, hidden),
            "self_attn.o_proj.weight": (hidden, heads * head),
            "self_attn.q_norm.weight": (head,),
            "self_attn.k_norm.weight": (head,),
        }
    else:
        key = config["linear_num_key_heads"] * config["linear_key_head_dim"]
        values, value_dim = config["linear_num_value_heads"], config["linear_value_head_dim"]
        shapes |= {
            "linear_attn.in_proj_qkvz.weight": (2 * key + 2 * values * value_dim, hidden),
            "linear_attn.in_proj_ba.weight": (2 * values, hidden),
            "linear_attn.conv1d.weight": (2 * key + values * value_dim, 1, config["linear_conv_kernel_dim"]),
            "linear_attn.A_log": (values,),
            "linear_attn.dt_bias": (values,),
            "linear_attn.norm.weight": (value_dim,),
            "linear_attn.out_proj.weight": (hidden, values * value_dim),
        }
    if config["model_type"] == "qwen3":
        mlps = {"mlp": config["intermediate_size"]}
    else:
        shapes["mlp.gate.weight"] = (config["num_experts"], hidden)
        mlps = {f"mlp.experts.{e}": config["moe_intermediate_size"] for e in range(config["num_experts"])}
    if is_qwen3_next(config):
        shapes["mlp.shared_expert_gate.weight"] = (1, hidden)
        mlps["mlp.shared_expert"] = config["shared_expert_intermediate_size"]
    for name, width in mlps.items():
        shapes[f"{name}.gate_proj.weight"] = (width, hidden)
        shapes[f"{name}.up_proj.weight"] = (width, hidden)
        shapes[f"{name}.down_proj.weight"] = (hidden, width)
    return {prefix + name: shape for name, shape in shapes.items()}


def tensor_shapes(config, mtp):
    """Name -> shape of every tensor of a checkpoint, under the names used on disk."""
    hidden, vocabulary = config["hidden_size"], config["vocab_size"]
    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (vocabulary, hidden)
    for i, full_attention in enumerate(layer_kinds(config)):
        shapes |= _layer_shapes(config, f"model.layers.{i}.", full_attention)
    if mtp:
        shapes |= {
            "mtp.fc.weight": (hidden, 2 * hidden),
            "mtp.pre_fc_norm_embedding.weight": (hidden,),
            "mtp.pre_fc_norm_hidden.weight": (hidden,),
            "mtp.norm.weight": (hidden,),
        }
        shapes |= _layer_shapes(config, "mtp.layers.0.", True)
    return shapes


def round_to_bfloat16(values):
    """float32 values rounded to the nearest bfloat16, ties to even."""
    bits = np.asarray(values, dtype=np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)


def make_weights(shapes, bfloat16=False, norm_centre=0.0):
    """Name -> float32 array, exactly as the C++ side writes them."""
    weights = {name: tensor_values(name, shape, norm_centre).astype(np.float32) for name, shape in shapes.items()}
    return {name: round_to_bfloat16(value) for name, value in weights.items()} if bfloat16 else weights


def read_config(directory):
    return json.loads((Path(directory) / "config.json").read_text())
