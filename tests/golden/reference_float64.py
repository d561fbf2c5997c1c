# SPDX-License-Identifier: GPL-3.0-or-later
"""Qwen3-Next and its relatives Qwen3 and Qwen3-MoE in naive double precision, written from the models' equations: the
oracle for trunk and MTP logits.

Slow and simple on purpose: the recurrence runs token by token, attention forms the whole score matrix. Run as a program
it checks the published values of the 70-token example of the tiny configuration.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from deterministic_weights import is_qwen3_next, layer_kinds, norm_centre, read_config, tensor_shapes


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def silu(x):
    return x * sigmoid(x)


def softplus(x):
    return np.where(x > 20.0, x, np.log1p(np.exp(np.minimum(x, 20.0))))


def rms_norm(x, gain, eps):
    """Over the last axis; `gain` is the full factor (1 + w for the zero-centred norms)."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * gain


def rope_settings(config):
    """theta, fraction of the head that rotates, YaRN settings or None; accepts both spellings of config.json."""
    merged = {"rope_theta": config.get("rope_theta", 1e4),
              "partial_rotary_factor": config.get("partial_rotary_factor", 0.25 if is_qwen3_next(config) else 1.0)}
    merged |= config.get("rope_scaling") or {}
    merged |= config.get("rope_parameters") or {}
    yarn = merged if merged.get("rope_type", "default") == "yarn" else None
    return merged["rope_theta"], merged["partial_rotary_factor"], yarn


def rope_tables(config, positions):
    """cos and sin [T, rotary/2], YaRN factor included."""
    theta, fraction, yarn = rope_settings(config)
    dim = int(config["head_dim"] * fraction)
    index = np.arange(dim // 2, dtype=np.float64)
    frequency = theta ** (-2.0 * index / dim)
    factor = 1.0
    if yarn:
        scale, original = yarn["factor"], yarn["original_max_position_embeddings"]

        def correction(rotations):
            return dim * math.log(original / (2 * math.pi * rotations)) / (2 * math.log(theta))

        low = max(math.floor(correction(yarn.get("beta_fast", 32))), 0)
        high = min(math.ceil(correction(yarn.get("beta_slow", 1))), dim - 1)
        ramp = np.clip((index - low) / max(high - low, 1e-3), 0.0, 1.0)
        frequency = frequency / scale * ramp + frequency * (1.0 - ramp)
        factor = 0.1 * math.log(scale) + 1.0 if scale > 1 else 1.0
    angle = np.asarray(positions, dtype=np.float64)[:, None] * frequency
    return np.cos(angle) * factor, np.sin(angle) * factor


def rotate(x, cos, sin):
    """x [T, heads, head_dim]; rotates the first 2 * cos.shape[1] dims, halves paired."""
    half = cos.shape[1]
    first, second = x[..., :half], x[..., half:2 * half]
    cos, sin = cos[:, None, :], sin[:, None, :]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin, x[..., 2 * half:]], axis=-1)


@dataclass
class Trace:
    """What one forward pass over a whole sequence saw."""
    residual: list = field(default_factory=list)    # after each layer, [T, hidden]
    recurrent: dict = field(default_factory=dict)   # layer -> final state [value heads, dk, dv]
    conv_newest: dict = field(default_factory=dict)  # layer -> newest pre-activation column
    decay: dict = field(default_factory=dict)       # layer -> g [T, value heads]
    router_gap: float = math.inf                    # smallest distance between the last chosen and first dropped expert
    hidden: np.ndarray | None = None                # post-norm trunk output [T, hidden]
    logits: np.ndarray | None = None                # [T, vocabulary]


class Reference:
    def __init__(self, config, weights):
        self.config = config
        self.weights = {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}
        self.eps = config.get("rms_norm_eps", 1e-6)
        self.head = self.weights["model.embed_tokens.weight" if config["tie_word_embeddings"] else "lm_head.weight"]

    def _norm(self, x, name):
        return rms_norm(x, self.weights[name] + (1.0 - norm_centre(self.config)), self.eps)

    def _linear_attention(self, x, prefix, layer, trace):
        c, w = self.config, self.weights
        key_heads, value_heads = c["linear_num_key_heads"], c["linear_num_value_heads"]
        dk, dv, ratio = c["linear_key_head_dim"], c["linear_value_head_dim"], value_heads // key_heads
        tokens = x.shape[0]
        groups = (x @ w[prefix + "in_proj_qkvz.weight"].T).reshape(tokens, key_heads, 2 * dk + 2 * ratio * dv)
        q, k, v, z = np.split(groups, [dk, 2 * dk, 2 * dk + ratio * dv], axis=2)
        ba = (x @ w[prefix + "in_proj_ba.weight"].T).reshape(tokens, key_heads, 2 * ratio)
        b, a = (part.reshape(tokens, value_heads) for part in np.split(ba, 2, axis=2))

        channels = np.concatenate([part.reshape(tokens, -1) for part in (q, k, v)], axis=1)
        kernel = w[prefix + "conv1d.weight"][:, 0, :]
        width = kernel.shape[1]
        padded = np.concatenate([np.zeros((width - 1, channels.shape[1])), channels])
        mixed = silu(sum(kernel[:, j] * padded[j:j + tokens] for j in range(width)))
        q, k, v = np.split(mixed, [key_heads * dk, 2 * key_heads * dk], axis=1)
        q, k = (part.reshape(tokens, key_heads, dk) for part in (q, k))
        v = v.reshape(tokens, value_heads, dv)
        k = k / np.sqrt(np.sum(k * k, axis=2, keepdims=True) + 1e-6)
        q = q / np.sqrt(np.sum(q * q, axis=2, keepdims=True) + 1e-6) * dk**-0.5
        q, k = np.repeat(q, ratio, axis=1), np.repeat(k, ratio, axis=1)
        beta = sigmoid(b)
        g = -np.exp(w[prefix + "A_log"]) * softplus(a + w[prefix + "dt_bias"])

        state = np.zeros((value_heads, dk, dv))
        out = np.empty((tokens, value_heads, dv))
        for t in range(tokens):
            state *= np.exp(g[t])[:, None, None]
            memory = np.einsum("hkv,hk->hv", state, k[t])
            state += k[t][:, :, None] * (beta[t][:, None] * (v[t] - memory))[:, None, :]
            out[t] = np.einsum("hkv,hk->hv", state, q[t])
        trace.recurrent[layer], trace.conv_newest[layer], trace.decay[layer] = state, channels[-1], g

        out = rms_norm(out, w[prefix + "norm.weight"], self.eps) * silu(z.reshape(tokens, value_heads, dv))
        return out.reshape(tokens, -1) @ w[prefix + "out_proj.weight"].T

    def _attention(self, x, prefix, positions):
        c, w = self.config, self.weights
        heads, kv_heads, head = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        tokens = x.shape[0]
        query, gate = (x @ w[prefix + "q_proj.weight"].T).reshape(tokens, heads, -1), None
        if is_qwen3_next(c):
            query, gate = np.split(query, 2, axis=2)
        key = (x @ w[prefix + "k_proj.weight"].T).reshape(tokens, kv_heads, head)
        value = (x @ w[prefix + "v_proj.weight"].T).reshape(tokens, kv_heads, head)
        cos, sin = rope_tables(c, positions)
        query = rotate(self._norm(query, prefix + "q_norm.weight"), cos, sin)
        key = rotate(self._norm(key, prefix + "k_norm.weight"), cos, sin)
        hidden_future = np.triu(np.full((tokens, tokens), -np.inf), 1)
        out = np.empty((tokens, heads, head))
        for h in range(heads):
            kv = h // (heads // kv_heads)
            score = query[:, h] @ key[:, kv].T * head**-0.5 + hidden_future
            weight = np.exp(score - score.max(axis=1, keepdims=True))
            out[:, h] = weight / weight.sum(axis=1, keepdims=True) @ value[:, kv]
        if gate is not None:
            out *= sigmoid(gate)
        return out.reshape(tokens, -1) @ w[prefix + "o_proj.weight"].T

    def _mlp(self, x, prefix):
        w = self.weights
        gated = silu(x @ w[prefix + "gate_proj.weight"].T) * (x @ w[prefix + "up_proj.weight"].T)
        return gated @ w[prefix + "down_proj.weight"].T

    def _experts(self, x, prefix, trace):
        w, chosen = self.weights, self.config["num_experts_per_tok"]
        router = x @ w[prefix + "gate.weight"].T
        order = np.argsort(-router, axis=1, kind="stable")
        ranked = np.take_along_axis(router, order, axis=1)
        if chosen < ranked.shape[1]:
            trace.router_gap = min(trace.router_gap, float((ranked[:, chosen - 1] - ranked[:, chosen]).min()))
        weight = np.exp(ranked - ranked[:, :1])
        weight /= weight[:, :chosen if self.config["norm_topk_prob"] else None].sum(axis=1, keepdims=True)
        y = np.zeros_like(x)
        if is_qwen3_next(self.config):
            y = sigmoid(x @ w[prefix + "shared_expert_gate.weight"].T) * self._mlp(x, prefix + "shared_expert.")
        for expert in np.unique(order[:, :chosen]):
            token, slot = np.nonzero(order[:, :chosen] == expert)
            y[token] += weight[token, slot, None] * self._mlp(x[token], f"{prefix}experts.{expert}.")
        return y

    def _layer(self, h, prefix, mixer, trace):
        h = h + mixer(self._norm(h, prefix + "input_layernorm.weight"))
        x = self._norm(h, prefix + "post_attention_layernorm.weight")
        if self.config["model_type"] == "qwen3":
            return h + self._mlp(x, prefix + "mlp.")
        return h + self._experts(x, prefix + "mlp.", trace)

    def trunk(self, ids):
        trace = Trace()
        h = self.weights["model.embed_tokens.weight"][np.asarray(ids)]
        for i, full_attention in enumerate(layer_kinds(self.config)):
            prefix = f"model.layers.{i}."
            if full_attention:
                def mixer(x):
                    return self._attention(x, prefix + "self_attn.", np.arange(len(ids)))
            else:
                def mixer(x):
                    return self._linear_attention(x, prefix + "linear_attn.", i, trace)
            h = self._layer(h, prefix, mixer, trace)
            trace.residual.append(h)
        trace.hidden = self._norm(h, "model.norm.weight")
        trace.logits = trace.hidden @ self.head.T
        return trace

    def mtp(self, hidden, next_ids):
        """The draft head over rows (hidden[i], next_ids[i]) at positions 0..n-1."""
        trace = Trace()
        embedded = self._norm(self.weights["model.embed_tokens.weight"][np.asarray(next_ids)],
                               "mtp.pre_fc_norm_embedding.weight")
        carried = self._norm(hidden, "mtp.pre_fc_norm_hidden.weight")
        u = np.concatenate([embedded, carried], axis=1) @ self.weights["mtp.fc.weight"].T
        u = self._layer(u, "mtp.layers.0.",
                        lambda x: self._attention(x, "mtp.layers.0.self_attn.", np.arange(len(next_ids))), trace)
        trace.hidden = self._norm(u, "mtp.norm.weight")
        trace.logits = trace.hidden @ self.head.T
        return trace

    def mtp_chain(self, trunk_hidden, next_ids, steps):
        """Drafts `steps` further tokens: each uses the draft just chosen and the head's own post-norm output."""
        hidden, ids = np.asarray(trunk_hidden), list(next_ids)
        trace = self.mtp(hidden, ids)
        gap = trace.router_gap
        for _ in range(steps):
            ids.append(int(trace.logits[-1].argmax()))
            hidden = np.concatenate([hidden, trace.hidden[-1:]])
            trace = self.mtp(hidden, ids)
            gap = min(gap, trace.router_gap)
        trace.router_gap = gap
        return ids, trace


def example_prompt():
    return [(7 * t * t + 3 * t + 5) % 96 for t in range(70)]


PUBLISHED = {  # position: (logits 0..5, argmax, max, L2 norm)
    0: ([0.754885429, 1.555776527, -0.166640766, -1.609463397, 0.846150972, -0.722173765], 12, 2.337808032,
        9.508290712),
    1: ([0.608498862, 1.328779362, -1.298267639, -0.498998445, 0.638567836, -0.266135120], 51, 2.329879470,
        10.377047139),
    63: ([0.229200998, -0.880043344, 1.409564618, -0.640162156, 1.681326571, -1.069313286], 62, 2.608344979,
         9.177121068),
    64: ([-0.951597195, 2.075617395, -0.523009227, -1.594880806, -1.393142246, 0.975698957], 51, 2.430236493,
         10.223946681),
    69: ([0.083863185, 0.420182944, 1.854647509, -0.437788336, -0.716807611, 0.052042348], 78, 2.568923385,
         9.513240739),
}
PUBLISHED_RESIDUAL = [  # after layers 0..3 at t = 69, first four values
    [-0.240555599, -2.028316476, -0.250052843, 0.731530741], [1.169466198, -1.797669875, -0.476590793, 0.663581805],
    [2.006033835, 0.131102976, 0.069993325, 1.565351380], [2.009391642, -0.359798809, 0.586801446, 1.529466722]]
PUBLISHED_MTP = {  # position: (logits 0..5, argmax, L2 norm)
    0: ([-0.755740975, 0.935292708, 0.153617100, 0.799414269, 2.841726927, -1.664287374], 4, 9.712631409),
    68: ([-0.799959287, 0.268985178, -1.100372255, 0.400039840, -1.070419839, 0.870163500], 29, 7.459384221),
    69: ([-1.435638017, -1.033310748, 1.055651254, -0.990103513, 0.801588997, -1.579853404], 52, 11.056909329),
    70: ([0.501852558, -0.919494330, -1.275213739, -0.553566404, -0.155074023, -0.744824493], 60, 7.998907044),
}


def check_published_values():
    """Largest difference from the published example (weights in float64, as there)."""
    from deterministic_weights import tensor_values
    config = read_config(Path(__file__).parent / "models" / "tiny")
    shapes = tensor_shapes(config, mtp=True)
    reference = Reference(config, {name: tensor_values(name, shape) for name, shape in shapes.items()})
    trace = reference.trunk(example_prompt())
    worst = 0.0
    for t, (head, argmax, largest, norm) in PUBLISHED.items():
        row = trace.logits[t]
        assert int(row.argmax()) == argmax
        worst = max(worst, np.abs(row[:6] - head).max(), abs(row.max() - largest), abs(np.linalg.norm(row) - norm))
    for layer, values in enumerate(PUBLISHED_RESIDUAL):
        worst = max(worst, np.abs(trace.residual[layer][69, :4] - values).max())
    for layer, norm in enumerate([1.804376785, 2.628679374, 2.057207801]):
        worst = max(worst, abs(np.linalg.norm(trace.recurrent[layer]) - norm))
    worst = max(worst, np.abs(trace.recurrent[0][0, :2, :3].ravel() - [
        0.049135240, -0.003752546, 0.029548383, 0.015415940, 0.025272143, 0.018574101]).max())
    worst = max(worst, np.abs(trace.conv_newest[0][:3] - [-1.703978979, -0.566019448, -0.561202567]).max())
    greedy = int(trace.logits[-1].argmax())
    ids, draft = reference.mtp_chain(trace.hidden, example_prompt()[1:] + [greedy], steps=1)
    for t, (head, argmax, norm) in PUBLISHED_MTP.items():
        row = draft.logits[t]
        assert int(row.argmax()) == argmax
        worst = max(worst, np.abs(row[:6] - head).max(), abs(np.linalg.norm(row) - norm))
    return worst, trace


if __name__ == "__main__":
    difference, example = check_published_values()
    print(f"largest difference from the published example: {difference:.2e}")
    print(f"decay of layer 0: {example.decay[0].min():.2f} to {example.decay[0].max():.3f}; "
          f"smallest router gap {example.router_gap:.1e}")
    assert difference < 2e-9
