# SPDX-License-Identifier: Apache-2.0
"""The nano model: a small Qwen3-Next (hybrid Gated DeltaNet / gated attention, sparse MoE, MTP) in PyTorch.

Parameters are kept in training order (q|k|v|z rows flat, experts stacked); `export.py` turns them into the
interleaved, per-expert layout of Hugging Face checkpoints. Matrix products run in bf16, everything else in fp32.
The recurrence runs in kernels.cpp (compiled on first use) because no PyTorch formulation is fast on one CPU core.
"""
import ctypes
import math
import os
import subprocess
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F


@dataclass
class Config:
    vocab_size: int = 4096
    hidden_size: int = 192
    num_hidden_layers: int = 12
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    partial_rotary_factor: float = 0.25
    rope_theta: float = 10000.0
    linear_num_key_heads: int = 2
    linear_num_value_heads: int = 4
    linear_key_head_dim: int = 32
    linear_value_head_dim: int = 32
    linear_conv_kernel_dim: int = 4
    num_experts: int = 16
    num_experts_per_tok: int = 4
    moe_intermediate_size: int = 48
    shared_expert_intermediate_size: int = 64
    full_attention_interval: int = 4
    rms_norm_eps: float = 1e-6


# ---------------------------------------------------------------- compiled kernels
def _load_kernels():
    here = os.path.dirname(os.path.abspath(__file__))
    out = os.environ.get("NANO_KERNELS", os.path.join(here, "nano_kernels.so"))
    src = os.path.join(here, "kernels.cpp")
    if not os.path.exists(out) or os.path.getmtime(out) < os.path.getmtime(src):
        subprocess.run(["g++", "-O3", "-march=native", "-mprefer-vector-width=512", "-ffast-math", "-shared",
                        "-fPIC", src, "-o", out], check=True)
    return ctypes.CDLL(out)


_lib = None


def lib():
    global _lib
    if _lib is None:
        _lib = _load_kernels()
    return _lib


def _p(t):
    return ctypes.c_void_p(t.data_ptr())


class DeltaRule(torch.autograd.Function):
    """o = gated delta rule(q, k, v, g, beta); shapes as in kernels.cpp."""

    @staticmethod
    def forward(ctx, q, k, v, g, beta):
        q, k, v, g, beta = (x.contiguous() for x in (q, k, v, g, beta))
        B, T, Hk, D = q.shape
        Hv = v.shape[2]
        o = torch.empty_like(v)
        ckpt = torch.empty(B, Hv, (T + 31) // 32, D, D)
        lib().delta_fwd(B, T, Hk, Hv, _p(q), _p(k), _p(v), _p(g), _p(beta), _p(o), _p(ckpt))
        ctx.save_for_backward(q, k, v, g, beta, ckpt)
        return o

    @staticmethod
    def backward(ctx, do):
        q, k, v, g, beta, ckpt = ctx.saved_tensors
        B, T, Hk, D = q.shape
        do = do.contiguous()
        dq, dk = torch.zeros_like(q), torch.zeros_like(k)
        dv, dg, db = torch.empty_like(v), torch.empty_like(g), torch.empty_like(beta)
        lib().delta_bwd(B, T, Hk, v.shape[2], _p(q), _p(k), _p(v), _p(g), _p(beta), _p(ckpt), _p(do),
                        _p(dq), _p(dk), _p(dv), _p(dg), _p(db))
        return dq, dk, dv, dg, db


class ConvSilu(torch.autograd.Function):
    """Causal depthwise convolution over the first C columns of u [B,T,L], then silu; also returns the other columns."""

    @staticmethod
    def forward(ctx, u, w):
        B, T, L = u.shape
        C = w.shape[0]
        wt = w.t().contiguous()
        pre, y = torch.empty(B, T, C), torch.empty(B, T, C)
        lib().conv_fwd(B, T, C, L, _p(u), _p(wt), _p(pre), _p(y))
        ctx.save_for_backward(u, wt, pre)
        return y, u[..., C:].clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx, dy, dz):
        u, wt, pre = ctx.saved_tensors
        B, T, L = u.shape
        C = wt.shape[1]
        dy = dy.clone(memory_format=torch.contiguous_format)
        du, dwt = torch.empty_like(u), torch.zeros_like(wt)
        du[..., C:] = dz
        lib().conv_bwd(B, T, C, L, _p(u), _p(wt), _p(pre), _p(dy), _p(du), _p(dwt))
        return du, dwt.t()


class RmsNorm(torch.autograd.Function):
    """x * rsqrt(mean(x^2) + eps) * w over the last dimension."""

    @staticmethod
    def forward(ctx, x, w, eps):
        x, w = x.contiguous(), w.contiguous()
        n = x.shape[-1]
        y, inv = torch.empty_like(x), torch.empty(x.numel() // n)
        lib().rms_fwd(ctypes.c_long(x.numel() // n), n, ctypes.c_float(eps), _p(x), _p(w), _p(y), _p(inv))
        ctx.save_for_backward(x, w, inv)
        return y

    @staticmethod
    def backward(ctx, dy):
        x, w, inv = ctx.saved_tensors
        n = x.shape[-1]
        dy = dy.contiguous()
        dx, dw = torch.empty_like(x), torch.zeros_like(w)
        lib().rms_bwd(ctypes.c_long(x.numel() // n), n, _p(x), _p(w), _p(inv), _p(dy), _p(dx), _p(dw))
        return dx, dw, None


class SwiGlu(torch.autograd.Function):
    """silu(first half) * second half of bf16 rows."""

    @staticmethod
    def forward(ctx, a):
        a = a.contiguous()
        h = torch.empty(a.shape[0], a.shape[1] // 2, dtype=a.dtype)
        lib().swiglu_fwd(ctypes.c_long(h.shape[0]), h.shape[1], _p(a), _p(h))
        ctx.save_for_backward(a)
        return h

    @staticmethod
    def backward(ctx, dh):
        a, = ctx.saved_tensors
        dh, da = dh.contiguous(), torch.empty_like(a)
        lib().swiglu_bwd(ctypes.c_long(dh.shape[0]), dh.shape[1], _p(a), _p(dh), _p(da))
        return da


def swiglu(a):
    if a.dtype == torch.bfloat16:
        return SwiGlu.apply(a)
    x, y = a.chunk(2, -1)
    return F.silu(x) * y


class GroupedLinear(torch.autograd.Function):
    """Rows of x, sorted by expert with the given counts, times the transposed weight of their expert."""

    @staticmethod
    def forward(ctx, x, w, counts):
        out = torch.empty(x.shape[0], w.shape[1], dtype=x.dtype)
        s = 0
        for e, n in enumerate(counts):
            if n:
                torch.mm(x[s:s + n], w[e].t(), out=out[s:s + n])
            s += n
        ctx.save_for_backward(x, w)
        ctx.counts = counts
        return out

    @staticmethod
    def backward(ctx, do):
        x, w = ctx.saved_tensors
        do = do.contiguous()
        dx, dw = torch.empty_like(x), torch.zeros_like(w)
        s = 0
        for e, n in enumerate(ctx.counts):
            if n:
                torch.mm(do[s:s + n], w[e], out=dx[s:s + n])
                torch.mm(do[s:s + n].t(), x[s:s + n], out=dw[e])
            s += n
        return dx, dw, None


class Gather(torch.autograd.Function):
    """Copies row n of x to the rows pos[n, :] of a zeroed buffer with `rows` rows (bf16)."""

    @staticmethod
    def forward(ctx, x, pos, rows):
        x = x.contiguous()
        N, H = x.shape
        xs = x.new_zeros(rows, H)
        lib().gather_fwd(ctypes.c_long(N), pos.shape[1], H, _p(x), _p(pos), _p(xs))
        ctx.save_for_backward(pos)
        ctx.shape = (N, H)
        return xs

    @staticmethod
    def backward(ctx, d):
        pos, = ctx.saved_tensors
        N, H = ctx.shape
        d = d.contiguous()
        dx = d.new_empty(N, H)
        lib().gather_bwd(ctypes.c_long(N), pos.shape[1], H, _p(d), _p(pos), _p(dx))
        return dx, None, None


class Combine(torch.autograd.Function):
    """out[n] = sum over j of w[n, j] y[pos[n, j]]; y bf16, out fp32."""

    @staticmethod
    def forward(ctx, y, pos, w):
        y, w = y.contiguous(), w.contiguous()
        N, k = w.shape
        out = torch.empty(N, y.shape[1])
        lib().combine_fwd(ctypes.c_long(N), k, y.shape[1], _p(y), _p(pos), _p(w), _p(out))
        ctx.save_for_backward(y, pos, w)
        return out

    @staticmethod
    def backward(ctx, d):
        y, pos, w = ctx.saved_tensors
        d, dy, dw = d.contiguous(), torch.zeros_like(y), torch.empty_like(w)
        lib().combine_bwd(ctypes.c_long(w.shape[0]), w.shape[1], y.shape[1], _p(y), _p(pos), _p(w), _p(d), _p(dy), _p(dw))
        return dy, None, dw


def delta_rule_reference(q, k, v, g, beta):
    """The recurrence token by token (for tests)."""
    B, T, Hk, D = q.shape
    r = v.shape[2] // Hk
    q, k = q.repeat_interleave(r, 2), k.repeat_interleave(r, 2)
    S = torch.zeros(B, v.shape[2], D, v.shape[3], dtype=q.dtype)
    out = []
    for t in range(T):
        S = S * g[:, t].exp()[..., None, None]
        m = (S * k[:, t][..., None]).sum(2)
        d = (v[:, t] - m) * beta[:, t][..., None]
        S = S + k[:, t][..., None] * d[:, :, None]
        out.append((S * q[:, t][..., None]).sum(2))
    return torch.stack(out, 1)


# ---------------------------------------------------------------- small helpers
COMPUTE = torch.bfloat16  # set to torch.float32 for exact comparisons


def lin(x, w):
    """x W^T with both factors rounded to COMPUTE and an fp32 result."""
    if COMPUTE == torch.float32:
        return F.linear(x, w)
    return F.linear(x.to(COMPUTE), w.to(COMPUTE)).float()


class Norm(nn.Module):
    """Zero-centred RMS norm."""

    def __init__(self, n, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(n))
        self.eps = eps

    def forward(self, x):
        return RmsNorm.apply(x, 1 + self.weight, self.eps)


def mat(out_f, in_f, scale=1.0):
    return nn.Parameter(torch.randn(out_f, in_f) * (scale / math.sqrt(in_f)))


def l2norm(x):
    return x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6)


class DeltaNet(nn.Module):
    def __init__(self, c, scale):
        super().__init__()
        self.hk, self.hv, self.d = c.linear_num_key_heads, c.linear_num_value_heads, c.linear_key_head_dim
        nk, nv = self.hk * self.d, self.hv * self.d
        self.nk, self.nv, self.eps = nk, nv, c.rms_norm_eps
        self.in_qkvz = mat(2 * nk + 2 * nv, c.hidden_size)
        self.in_ba = mat(2 * self.hv, c.hidden_size)
        w = torch.randn(2 * nk + nv, 4) * 0.2
        w[:, 3] += 0.7
        self.conv = nn.Parameter(w)
        self.A_log = nn.Parameter(torch.log(torch.empty(self.hv).uniform_(1, 8)))
        dt = torch.exp(torch.empty(self.hv).uniform_(math.log(1e-3), math.log(0.1)))
        self.dt_bias = nn.Parameter(dt + torch.log(-torch.expm1(-dt)))
        self.norm = nn.Parameter(torch.ones(self.d))
        self.out = mat(c.hidden_size, nv, scale)

    def forward(self, x):
        B, T, _ = x.shape
        nk, nv, d = self.nk, self.nv, self.d
        u = lin(x, self.in_qkvz)
        ba = lin(x, self.in_ba)
        y, z = ConvSilu.apply(u, self.conv)
        q = l2norm(y[..., :nk].reshape(B, T, self.hk, d)) * d ** -0.5
        k = l2norm(y[..., nk:2 * nk].reshape(B, T, self.hk, d))
        v = y[..., 2 * nk:].reshape(B, T, self.hv, d)
        beta = torch.sigmoid(ba[..., :self.hv])
        g = -torch.exp(self.A_log) * F.softplus(ba[..., self.hv:] + self.dt_bias)
        o = DeltaRule.apply(q, k, v, g, beta)
        o = RmsNorm.apply(o, self.norm, self.eps)
        return lin(o.reshape(B, T, nv) * F.silu(z), self.out)


_rope_cache = {}


def rope_tables(T, rot, theta):
    key = (rot, theta)
    if key not in _rope_cache or _rope_cache[key][0].shape[0] < T:
        inv = theta ** (-torch.arange(0, rot, 2, dtype=torch.float64) / rot)
        a = torch.arange(max(T, 2048), dtype=torch.float64)[:, None] * inv[None]
        _rope_cache[key] = (a.cos().float(), a.sin().float())
    c, s = _rope_cache[key]
    return c[:T, None], s[:T, None]


def rope(x, rot, theta):
    """x [B,T,H,D], half rotation of the first `rot` dims."""
    c, s = rope_tables(x.shape[1], rot, theta)
    h = rot // 2
    a, b = x[..., :h], x[..., h:rot]
    return torch.cat((a * c - b * s, b * c + a * s, x[..., rot:]), -1)


class Attention(nn.Module):
    def __init__(self, c, scale):
        super().__init__()
        self.h, self.kv, self.d = c.num_attention_heads, c.num_key_value_heads, c.head_dim
        self.rot, self.theta = int(c.head_dim * c.partial_rotary_factor), c.rope_theta
        self.q = mat(2 * self.h * self.d, c.hidden_size)  # rows: all queries, then all gates
        self.k = mat(self.kv * self.d, c.hidden_size)
        self.v = mat(self.kv * self.d, c.hidden_size)
        self.o = mat(c.hidden_size, self.h * self.d, scale)
        self.q_norm, self.k_norm = Norm(self.d, c.rms_norm_eps), Norm(self.d, c.rms_norm_eps)

    def forward(self, x):
        B, T, _ = x.shape
        n = self.h * self.d
        qg = lin(x, self.q)
        q = rope(self.q_norm(qg[..., :n].reshape(B, T, self.h, self.d)), self.rot, self.theta)
        k = rope(self.k_norm(lin(x, self.k).view(B, T, self.kv, self.d)), self.rot, self.theta)
        v = lin(x, self.v).view(B, T, self.kv, self.d)
        r = self.h // self.kv
        qh, kh, vh = q.to(COMPUTE).transpose(1, 2), k.to(COMPUTE).transpose(1, 2), v.to(COMPUTE).transpose(1, 2)
        o = F.scaled_dot_product_attention(qh, kh.repeat_interleave(r, 1), vh.repeat_interleave(r, 1), is_causal=True)
        o = o.transpose(1, 2).reshape(B, T, n).float() * torch.sigmoid(qg[..., n:])
        self.last_qk = (q, k)  # for the training-only attention guidance
        return lin(o, self.o)


class MoE(nn.Module):
    def __init__(self, c, scale):
        super().__init__()
        E, I, H, S = c.num_experts, c.moe_intermediate_size, c.hidden_size, c.shared_expert_intermediate_size
        self.E, self.k, self.I, self.S = E, c.num_experts_per_tok, I, S
        self.gate = mat(E, H)
        self.gate_up = nn.Parameter(torch.randn(E, 2 * I, H) / math.sqrt(H))
        self.down = nn.Parameter(torch.randn(E, H, I) * (scale / math.sqrt(I)))
        self.s_gate_up = mat(2 * S, H)
        self.s_down = mat(H, S, scale)
        self.s_gate = mat(1, H)

    def forward(self, x):
        B, T, H = x.shape
        x = x.reshape(-1, H)
        xb = x.to(COMPUTE)
        logits = F.linear(x, self.gate)
        top, idx = logits.topk(self.k, -1)
        w = top.softmax(-1)
        if self.training:  # load balancing loss
            p = logits.softmax(-1).mean(0)
            f = torch.bincount(idx.view(-1), minlength=self.E).float() / idx.numel()
            self.aux = self.E * (p * f).sum()
        # rows sorted by expert, every expert padded to a multiple of 64 rows: few distinct shapes, because the
        # matrix library compiles a kernel for every new shape
        flat = idx.view(-1)
        order = flat.argsort(stable=True)
        counts = torch.bincount(flat, minlength=self.E)
        padded = (counts + 63) // 64 * 64
        shift = (padded.cumsum(0) - padded) - (counts.cumsum(0) - counts)
        pos = torch.empty_like(order)
        pos[order] = torch.arange(len(order)) + shift[flat[order]]
        pos, pc = pos.view(-1, self.k), padded.tolist()
        fast = COMPUTE == torch.bfloat16
        if fast:
            xs = Gather.apply(xb, pos, sum(pc))
        else:
            xs = xb.new_zeros(sum(pc), H).index_copy(0, pos.view(-1), xb.repeat_interleave(self.k, 0))
        h = swiglu(GroupedLinear.apply(xs, self.gate_up.to(COMPUTE), pc))
        y = GroupedLinear.apply(h, self.down.to(COMPUTE), pc)
        y = Combine.apply(y, pos, w) if fast else (y[pos] * w[..., None]).sum(1)
        h = swiglu(F.linear(xb, self.s_gate_up.to(COMPUTE)))
        s = F.linear(h, self.s_down.to(COMPUTE)).float()
        s = s * torch.sigmoid(F.linear(x, self.s_gate))
        return (s + y).view(B, T, H)


class Layer(nn.Module):
    def __init__(self, c, full):
        super().__init__()
        scale = 1 / math.sqrt(2 * c.num_hidden_layers)
        self.n1, self.n2 = Norm(c.hidden_size, c.rms_norm_eps), Norm(c.hidden_size, c.rms_norm_eps)
        self.mix = Attention(c, scale) if full else DeltaNet(c, scale)
        self.moe = MoE(c, scale)

    def forward(self, x):
        x = x + self.mix(self.n1(x))
        return x + self.moe(self.n2(x))


class Mtp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.ne, self.nh, self.norm = (Norm(c.hidden_size, c.rms_norm_eps) for _ in range(3))
        self.fc = mat(c.hidden_size, 2 * c.hidden_size)
        self.layer = Layer(c, True)

    def forward(self, emb_next, hidden):
        u = lin(torch.cat((self.ne(emb_next), self.nh(hidden)), -1), self.fc)
        return self.norm(self.layer(u))


class Nano(nn.Module):
    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.embed = nn.Parameter(torch.randn(c.vocab_size, c.hidden_size) * 0.3)
        self.layers = nn.ModuleList(Layer(c, (i + 1) % c.full_attention_interval == 0)
                                    for i in range(c.num_hidden_layers))
        self.norm = Norm(c.hidden_size, c.rms_norm_eps)
        self.head = nn.Parameter(self.embed.detach().clone() * 0.1)
        self.mtp = Mtp(c)

    def hidden(self, ids):
        """Trunk output after the final norm (what lm_head and MTP consume)."""
        x = F.embedding(ids, self.embed)
        for l in self.layers:
            x = l(x)
        return self.norm(x)

    def logits(self, y):
        return lin(y, self.head)

    def mtp_hidden(self, ids, y):
        """Row i holds the state that predicts token i + 2; the last row is meaningless (no next token)."""
        return self.mtp(F.embedding(ids.roll(-1, 1), self.embed), y)


def count(c: Config):
    """Parameters: total with MTP, and active per token in the trunk with lm_head (embedding row not counted)."""
    m = Nano(c)
    total = sum(p.numel() for p in m.parameters())
    trunk = sum(p.numel() for n, p in m.named_parameters() if not n.startswith("mtp") and n != "embed")
    expert = c.num_hidden_layers * (c.num_experts - c.num_experts_per_tok) * 3 * c.hidden_size * c.moe_intermediate_size
    return total, trunk - expert
