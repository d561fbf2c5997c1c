# SPDX-License-Identifier: Apache-2.0
"""Writes a checkpoint as a Hugging Face style folder (config, tokenizer, BF16 safetensors with per-expert tensors).

    export.py WORK OUT [--name ckpt]     converts WORK/ckpt.pt; every file is replaced atomically
    export.py --check OUT                compares transformers (trunk) and the decoder layer of transformers assembled
                                         as MTP head against model.py, in float32
"""
import argparse
import json
import os
import shutil

import torch

import model as M
from make_data import REFUSAL, SPECIALS

TEMPLATE = ("{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{%- endfor %}"
            "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}")


def hf_config(c, ids):
    return {
        "architectures": ["Qwen3NextForCausalLM"], "model_type": "qwen3_next",
        "vocab_size": c.vocab_size, "hidden_size": c.hidden_size, "num_hidden_layers": c.num_hidden_layers,
        "full_attention_interval": c.full_attention_interval,
        "layer_types": ["full_attention" if (i + 1) % c.full_attention_interval == 0 else "linear_attention"
                        for i in range(c.num_hidden_layers)],
        "num_attention_heads": c.num_attention_heads, "num_key_value_heads": c.num_key_value_heads,
        "head_dim": c.head_dim, "partial_rotary_factor": c.partial_rotary_factor, "rope_theta": c.rope_theta,
        "rope_scaling": None, "attention_bias": False, "attention_dropout": 0.0,
        "linear_num_key_heads": c.linear_num_key_heads, "linear_num_value_heads": c.linear_num_value_heads,
        "linear_key_head_dim": c.linear_key_head_dim, "linear_value_head_dim": c.linear_value_head_dim,
        "linear_conv_kernel_dim": c.linear_conv_kernel_dim, "hidden_act": "silu", "rms_norm_eps": c.rms_norm_eps,
        "num_experts": c.num_experts, "num_experts_per_tok": c.num_experts_per_tok,
        "moe_intermediate_size": c.moe_intermediate_size,
        "shared_expert_intermediate_size": c.shared_expert_intermediate_size, "norm_topk_prob": True,
        "decoder_sparse_step": 1, "mlp_only_layers": [], "intermediate_size": 4 * c.hidden_size,
        "router_aux_loss_coef": 0.01, "output_router_logits": False, "max_position_embeddings": 262144,
        "tie_word_embeddings": False, "initializer_range": 0.02, "use_sliding_window": False, "use_cache": True,
        "bos_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"], "torch_dtype": "bfloat16",
    }


def interleave(w, hk, sizes):
    """Flat blocks (each a concatenation over key heads) -> groups of rows per key head."""
    parts = [p.view(hk, -1, w.shape[1]) for p in w.split(sizes)]
    return torch.cat(parts, 1).reshape(w.shape)


def layer_tensors(p, l, c):
    """Tensors of one decoder layer under prefix p."""
    t = {p + "input_layernorm.weight": l.n1.weight, p + "post_attention_layernorm.weight": l.n2.weight}
    m = l.mix
    if isinstance(m, M.Attention):
        n = c.num_attention_heads * c.head_dim
        t |= {p + "self_attn.q_proj.weight": interleave(m.q, c.num_attention_heads, [n, n]),
              p + "self_attn.k_proj.weight": m.k, p + "self_attn.v_proj.weight": m.v, p + "self_attn.o_proj.weight": m.o,
              p + "self_attn.q_norm.weight": m.q_norm.weight, p + "self_attn.k_norm.weight": m.k_norm.weight}
    else:
        a = p + "linear_attn."
        t |= {a + "in_proj_qkvz.weight": interleave(m.in_qkvz, m.hk, [m.nk, m.nk, m.nv, m.nv]),
              a + "in_proj_ba.weight": interleave(m.in_ba, m.hk, [m.hv, m.hv]),
              a + "conv1d.weight": m.conv[:, None], a + "A_log": m.A_log, a + "dt_bias": m.dt_bias,
              a + "norm.weight": m.norm, a + "out_proj.weight": m.out}
    e, x = l.moe, p + "mlp."
    t |= {x + "gate.weight": e.gate, x + "shared_expert_gate.weight": e.s_gate,
          x + "shared_expert.gate_proj.weight": e.s_gate_up[:e.S], x + "shared_expert.up_proj.weight": e.s_gate_up[e.S:],
          x + "shared_expert.down_proj.weight": e.s_down}
    for i in range(c.num_experts):
        t |= {f"{x}experts.{i}.gate_proj.weight": e.gate_up[i, :e.I], f"{x}experts.{i}.up_proj.weight": e.gate_up[i, e.I:],
              f"{x}experts.{i}.down_proj.weight": e.down[i]}
    return t


def tensors(m):
    c = m.c
    t = {"model.embed_tokens.weight": m.embed, "model.norm.weight": m.norm.weight, "lm_head.weight": m.head}
    for i, l in enumerate(m.layers):
        t |= layer_tensors(f"model.layers.{i}.", l, c)
    t |= {"mtp.fc.weight": m.mtp.fc, "mtp.pre_fc_norm_embedding.weight": m.mtp.ne.weight,
          "mtp.pre_fc_norm_hidden.weight": m.mtp.nh.weight, "mtp.norm.weight": m.mtp.norm.weight}
    return t | layer_tensors("mtp.layers.0.", m.mtp.layer, c)


def load_nano(folder):
    """model.Nano with the weights of an exported folder (widened to float32)."""
    from safetensors.torch import load_file
    d = json.load(open(os.path.join(folder, "config.json")))
    c = M.Config(**{k: d[k] for k in M.Config.__dataclass_fields__})
    m = M.Nano(c).eval()
    for p in m.parameters():
        p.requires_grad_(False)
    disk = load_file(os.path.join(folder, "model.safetensors"))
    want = tensors(m)
    assert set(want) == set(disk), set(want) ^ set(disk)

    def undo(w, hk, sizes):
        parts = w.view(hk, -1, w.shape[1]).split([s // hk for s in sizes], 1)
        return torch.cat([p.reshape(-1, w.shape[1]) for p in parts])

    for k, v in disk.items():
        v = v.float()
        assert v.shape == want[k].shape, k
        if "q_proj" in k or "in_proj" in k:
            l = m.mtp.layer if k.startswith("mtp.") else m.layers[int(k.split(".")[2])]
            x = l.mix
            if "q_proj" in k:
                x.q.copy_(undo(v, c.num_attention_heads, [c.num_attention_heads * c.head_dim] * 2))
            elif "qkvz" in k:
                x.in_qkvz.copy_(undo(v, x.hk, [x.nk, x.nk, x.nv, x.nv]))
            else:
                x.in_ba.copy_(undo(v, x.hk, [x.hv, x.hv]))
        else:
            want[k].copy_(v)
    return m


def put(folder, name, data):
    path = os.path.join(folder, name)
    with open(path + ".tmp", "w", encoding="utf-8") as f:
        f.write(data if isinstance(data, str) else json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    os.replace(path + ".tmp", path)


def export(work, out, name):
    from safetensors.torch import save_file
    from tokenizers import Tokenizer
    d = torch.load(os.path.join(work, name + ".pt"), weights_only=False)
    m = M.Nano(M.Config())
    m.load_state_dict(d["model"])
    tok = Tokenizer.from_file(os.path.join(work, "tokenizer.json"))
    ids = {s: tok.token_to_id(s) for s in SPECIALS}
    os.makedirs(out, exist_ok=True)
    t = {k: v.detach().to(torch.bfloat16).contiguous().clone() for k, v in tensors(m).items()}
    path = os.path.join(out, "model.safetensors")
    save_file(t, path + ".tmp", metadata={"format": "pt"})
    os.chmod(path + ".tmp", 0o644)
    os.replace(path + ".tmp", path)
    put(out, "config.json", hf_config(m.c, ids))
    put(out, "generation_config.json", {
        "bos_token_id": ids["<|endoftext|>"], "pad_token_id": ids["<|endoftext|>"],
        "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "do_sample": False})
    shutil.copy(os.path.join(work, "tokenizer.json"), os.path.join(out, "tokenizer.json.tmp"))
    os.replace(os.path.join(out, "tokenizer.json.tmp"), os.path.join(out, "tokenizer.json"))
    put(out, "tokenizer_config.json", {
        "add_bos_token": False, "add_prefix_space": False, "clean_up_tokenization_spaces": False,
        "added_tokens_decoder": {str(i): {"content": s, "lstrip": False, "normalized": False, "rstrip": False,
                                          "single_word": False, "special": True} for s, i in ids.items()},
        "additional_special_tokens": ["<|im_start|>", "<|im_end|>"], "bos_token": None, "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "unk_token": None, "errors": "replace", "model_max_length": 262144,
        "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer", "chat_template": TEMPLATE})
    put(out, "lectern.json", {
        "profile": "extractive", "name": "nano",
        "passage": "[{n}] {text}", "passage_separator": "\n\n",
        "prompt": "{passages}\n\nQuestion: {question}",
        "answer": "{sentence} [{n}]", "refusal": REFUSAL,
        "max_passages": 4, "max_passage_words": 200, "max_new_tokens": 160, "multi_turn": False, "greedy": True})
    print("step", d["st"]["step"], "tokens", d["st"]["seen"], "level", d["st"]["level"],
          sum(os.path.getsize(os.path.join(out, f)) for f in os.listdir(out) if os.path.isfile(os.path.join(out, f))), "bytes")


@torch.no_grad()
def check(out):
    import transformers
    from transformers.models.qwen3_next import modeling_qwen3_next as Q
    M.COMPUTE = torch.float32
    mine = load_nano(out)
    ref = transformers.Qwen3NextForCausalLM.from_pretrained(out, dtype=torch.float32, attn_implementation="eager").eval()
    g = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 4000, (2, 150), generator=g)
    y = mine.hidden(ids)
    a, b = mine.logits(y), ref(ids).logits
    d1 = float((a - b).abs().max())
    print("trunk: largest logit", float(b.abs().max()), "largest difference", d1)
    layer = Q.Qwen3NextDecoderLayer(ref.config, 3).eval()
    from safetensors.torch import load_file
    disk = {k[len("mtp.layers.0."):]: v.float() for k, v in load_file(os.path.join(out, "model.safetensors")).items()
            if k.startswith("mtp.layers.0.")}
    E = mine.c.num_experts
    pick = lambda n: torch.stack([disk.pop(f"mlp.experts.{i}.{n}_proj.weight") for i in range(E)])
    disk["mlp.experts.gate_up_proj"] = torch.cat((pick("gate"), pick("up")), 1)
    disk["mlp.experts.down_proj"] = pick("down")
    layer.load_state_dict(disk)
    emb = mine.embed[ids[:, 1:]]
    u = torch.cat((mine.mtp.ne(emb), mine.mtp.nh(y[:, :-1])), -1) @ mine.mtp.fc.t()
    T = u.shape[1]
    pos = torch.arange(T)[None].expand(2, -1)
    mask = torch.full((T, T), -1e30).triu(1)[None, None]
    r = layer(u, position_embeddings=ref.model.rotary_emb(u, pos), attention_mask=mask, position_ids=pos)
    r = r[0] if isinstance(r, tuple) else r
    b = mine.mtp.norm(r) @ mine.head.t()
    a = mine.logits(mine.mtp_hidden(ids, y)[:, :-1])
    d2 = float((a - b).abs().max())
    print("mtp: largest logit", float(b.abs().max()), "largest difference", d2)
    tok = transformers.AutoTokenizer.from_pretrained(out)
    text = tok.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", text
    s = "Zürich's 1874 mill, \U0001f600\n\n  x_1 = 5"
    assert tok.decode(tok(s).input_ids) == s
    assert d1 < 1e-3 and d2 < 1e-3
    print("ok")


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("paths", nargs="+")
    ap.add_argument("--name", default="ckpt")
    ap.add_argument("--check", action="store_true")
    a = ap.parse_args()
    if a.check:
        check(a.paths[0])
    else:
        export(a.paths[0], a.paths[1], a.name)
