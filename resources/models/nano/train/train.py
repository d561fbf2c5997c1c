# SPDX-License-Identifier: Apache-2.0
"""Trains the nano model on one CPU core.

    train.py WORK [--tokens 16e6] [--resume] [--lr 3e-3]
WORK holds corpus.json and tokenizer.json (make_data.py) and receives ckpt.pt and log.txt.

Loss: cross entropy of answer tokens, a small share of the other tokens, MTP cross entropy (trunk detached), load
balancing of the experts, and "guidance": a training-only loss on single heads of the attention layers. In layer 3,
question words must find the same words in the right sentence, and words of a passage the start of their sentence and the number of their
passage. In layer 7, one head must find the right sentence when the question is complete. In layer 11 and in the MTP layer, head 0 must find the
token that is to be copied next.
Exercises grow longer as soon as the running share of exactly right answers passes a threshold.
"""
import argparse
import json
import math
import os
import random
import signal
import time

import torch
import torch.nn.functional as F

from make_data import Encoder, Maker
from model import Config, Nano, count

LEVELS = [  # passages (min, max), words per passage (lo, hi), turns
    ((1, 3), (6, 16), 4), ((2, 3), (12, 30), 5), ((2, 3), (20, 50), 5), ((2, 4), (30, 80), 8), ((3, 4), (50, 120), 10),
    ((1, 6), (60, 190), 14)]
UP = [0.5, 0.5, 0.55, 0.6, 0.6]           # share of exact answers that starts the next level
FORCE = [0.34, 0.55, 0.63, 0.72, 0.80]    # share of all tokens that starts it at the latest


class Stream:
    """Batches of about `budget` tokens; rows of similar length are batched together."""

    def __init__(self, work, seed):
        self.mk, self.enc = Maker(work, seed), Encoder(os.path.join(work, "tokenizer.json"))
        self.r = random.Random(seed + 1)
        self.pool = []

    def example(self, level):
        (k0, k1), (lo, hi), turns = LEVELS[level]
        r = self.r
        if level == len(LEVELS) - 1:
            k = r.choice([1, 2, 3, 4, 4, 4, 4, 4, 5, 6])
        else:
            k = r.randint(k0, k1)
        while True:
            ps, ts = self.mk.material(k, lo, hi, turns)
            if ts:
                e = self.enc.encode(ps, ts)
                if len(e["ids"]) < 3072:
                    e["level"] = level
                    return e

    def batch(self, level, budget):
        if self.pool and self.pool[0]["level_at"] != level:
            self.pool = []
        need = budget * 10
        while sum(len(e["ids"]) for e in self.pool) < need:
            l = level if self.r.random() < 0.7 else self.r.randint(max(0, level - 2), level)
            e = self.example(l)
            e["level_at"] = level
            self.pool.append(e)
        self.pool.sort(key=lambda e: len(e["ids"]))
        i = self.r.randrange(len(self.pool))
        T = round_up(len(self.pool[i]["ids"]))
        rows = []
        while len(rows) < max(1, budget // T) and self.pool:  # the longest rows that fit T
            fit = sum(len(e["ids"]) <= T for e in self.pool)
            if not fit:
                break
            rows.append(self.pool.pop(fit - 1))
        return collate(rows, T, max(1, budget // T))


def round_up(n):
    """Few distinct row lengths: the matrix library compiles a kernel for every new shape."""
    m = 16 if n <= 384 else 64 if n <= 1024 else 128
    return (n + m - 1) // m * m


def collate(rows, T=None, B=None):
    T, B = T or max(len(e["ids"]) for e in rows), B or len(rows)
    ids = torch.zeros(B, T, dtype=torch.long)
    w, wt, src, turn = torch.zeros(B, T, dtype=torch.bool), torch.zeros(B, T), torch.full((B, T), -1), torch.full((B, T), -1)
    real = torch.zeros(B, T, dtype=torch.bool)
    for b, e in enumerate(rows):
        n = len(e["ids"])
        ids[b, :n] = torch.tensor(e["ids"])
        wt[b, :n] = torch.tensor(e["w"]).float()
        w[b] = wt[b] > 0
        src[b, :n] = torch.tensor(e["src"])
        real[b, :n] = True
        d = torch.diff(w[b].int(), prepend=torch.zeros(1, dtype=torch.int)).clamp(min=0).cumsum(0) - 1
        turn[b] = torch.where(w[b], d, -1)
    return dict(ids=ids, w=w, wt=wt, src=src, turn=turn, real=real, spans=[e["spans"] for e in rows] + [[]] * (B - len(rows)),
                match=[e["match"] for e in rows] + [[]] * (B - len(rows)), 
                mine=[random.sample(e["mine"], min(32, len(e["mine"]))) for e in rows] + [[]] * (B - len(rows)),
                own=[random.sample(e["own"], min(48, len(e["own"]))) for e in rows] + [[]] * (B - len(rows)))


def pointer_loss(attn, b, t, p):
    """Cross entropy of the attention of heads 0 and 2 (one of each key/value pair, so that two value vectors carry the
    token) at (row b, position t) towards position p. Returns (loss, accuracy of head 0)."""
    l0, acc = head_pointer(attn, b, t, p, 0)
    l1, _ = head_pointer(attn, b, t, p, attn.h // 2)
    return (l0 + l1) / 2, acc


def head_pointer(attn, b, t, p, head):
    q, k = attn.last_qk
    kv = head * attn.kv // attn.h
    tot, hit, n = 0.0, 0, 0
    for row in range(q.shape[0]):
        m = b == row
        if not m.any():
            continue
        s = q[row, t[m], head] @ k[row, :, kv].t() * attn.d ** -0.5
        s = s.masked_fill(torch.arange(k.shape[1])[None] > t[m][:, None], -1e9)
        tot = tot + F.cross_entropy(s, p[m], reduction="sum")
        hit += int((s.argmax(-1) == p[m]).sum())
        n += int(m.sum())
    return tot / max(n, 1), hit / max(n, 1)


def span_loss(attn, spans, head=2):
    """-log of the attention mass of one head on the right sentence."""
    q, k = attn.last_qk
    kv = head * attn.kv // attn.h
    tot, n, mass = 0.0, 0, 0.0
    for row, sp in enumerate(spans):
        if not sp:
            continue
        sp = torch.tensor(sp)
        s = q[row, sp[:, 0], head] @ k[row, :, kv].t() * attn.d ** -0.5
        j = torch.arange(k.shape[1])[None]
        s = s.masked_fill(j > sp[:, :1], -1e9).log_softmax(-1)
        l = s.masked_fill((j < sp[:, 1:2]) | (j > sp[:, 2:]), -1e9).logsumexp(-1)
        tot = tot - l.sum()
        mass += float(l.detach().exp().sum())
        n += len(sp)
    return tot / max(n, 1), mass / max(n, 1)


def match_loss(attn, pairs, head=2):
    """-log of the attention mass of one head of question words on the same words of the right sentence."""
    q, k = attn.last_qk
    kv = head * attn.kv // attn.h
    tot, n, mass = 0.0, 0, 0.0
    for row, mp in enumerate(pairs):
        if not mp:
            continue
        mp = torch.tensor(mp)
        pos, inv = mp[:, 0].unique(return_inverse=True)
        s = q[row, pos, head] @ k[row, :, kv].t() * attn.d ** -0.5
        good = torch.zeros_like(s, dtype=torch.bool)
        good[inv, mp[:, 1]] = True
        s = s.masked_fill(torch.arange(k.shape[1])[None] > pos[:, None], -1e9).log_softmax(-1)
        l = s.masked_fill(~good, -1e9).logsumexp(-1)
        tot = tot - l.sum()
        mass += float(l.detach().exp().sum())
        n += len(pos)
    return tot / max(n, 1), mass / max(n, 1)


class Muon:
    """Momentum with orthogonalised updates (Newton-Schulz in bf16) for matrices; AdamW for everything else."""

    def __init__(self, named):
        small = ("gate", "s_gate", "in_ba", "conv")
        self.mat = [p for n, p in named if p.ndim >= 2 and n.split(".")[-1] not in small + ("embed", "head")]
        rest = [p for n, p in named if not any(p is q for q in self.mat)]
        self.adam = torch.optim.AdamW([{"params": [p for p in rest if p.ndim >= 2]},
                                       {"params": [p for p in rest if p.ndim < 2]}],
                                      betas=(0.9, 0.98), eps=1e-8, weight_decay=0.0, foreach=True)
        self.mom = [torch.zeros_like(p) for p in self.mat]

    def step(self, lr):
        for g in self.adam.param_groups:
            g["lr"] = lr
        self.adam.step()
        for p, m in zip(self.mat, self.mom):
            if p.grad is None:
                continue
            m.mul_(0.95).add_(p.grad)
            u = (p.grad + 0.95 * m).bfloat16()
            tall = u.shape[-2] > u.shape[-1]
            if tall:
                u = u.mT
            u = u / (u.float().flatten(-2).norm(dim=-1)[..., None, None].bfloat16() + 1e-7)
            for _ in range(4):
                a = u @ u.mT
                u = 3.4445 * u + (-4.7750 * a + 2.0315 * a @ a) @ u
            if tall:
                u = u.mT
            p.data.mul_(1 - lr * 0.05).add_(u.float(), alpha=-lr * 0.2 * math.sqrt(max(p.shape[-2:])))

    def state(self):
        return {"adam": self.adam.state_dict(), "mom": self.mom}

    def load(self, s):
        self.adam.load_state_dict(s["adam"])
        self.mom = s["mom"]


def losses(model, b, mtp, gen):
    ids, w, src, real = b["ids"], b["w"], b["src"], b["real"]
    y = model.hidden(ids)
    tgt = ids[:, 1:]
    aw = w[:, 1:]
    ctx = real[:, 1:] & ~aw & (torch.rand(tgt.shape, generator=gen) < 0.06)
    ya, yc = y[:, :-1][aw], y[:, :-1][ctx]
    na, n = len(ya), len(ya) + len(yc)
    logits = model.logits(F.pad(torch.cat((ya, yc)), (0, 0, 0, -n % 256)))[:n]
    ce = F.cross_entropy(logits, torch.cat((tgt[aw], tgt[ctx])), reduction="none")
    out = {"ans": ce[:na].mean(), "imp": (ce[:na] * (b["wt"][:, 1:][aw] - 1)).mean(), "ctx": ce[na:].mean()}
    ok = logits[:na].argmax(-1) == tgt[aw]
    copy, start = src[:, 1:] >= 0, b["wt"][:, 1:] > 1
    bb, tt = torch.nonzero(copy & ~start, as_tuple=True)
    out["ptr"], ptr_acc = pointer_loss(model.layers[11].mix, bb, tt, src[:, 1:][bb, tt])
    bb, tt = torch.nonzero(copy & start, as_tuple=True)
    out["sel"], sel_acc = pointer_loss(model.layers[11].mix, bb, tt, src[:, 1:][bb, tt])
    out["span"], mass = span_loss(model.layers[7].mix, b["spans"])
    out["own"], _ = match_loss(model.layers[3].mix, b["own"], head=1)
    out["mine"], _ = match_loss(model.layers[3].mix, b["mine"], head=3)
    out["match"], mmass = match_loss(model.layers[3].mix, b["match"])
    out["bal"] = sum(l.moe.aux for l in model.layers) / len(model.layers)
    y1 = out["ans"] + out["imp"]
    total = (y1 + 0.15 * out["ctx"] + 0.2 * out["ptr"] + 0.3 * out["sel"] + 0.3 * out["span"]
             + 0.15 * out["match"] + 0.05 * out["own"] + 0.05 * out["mine"] + 0.03 * out["bal"])
    # exact answers per turn (teacher forcing: all tokens right means greedy decoding is right as well)
    rows = torch.nonzero(aw)
    key = rows[:, 0] * 64 + b["turn"][:, 1:][aw]
    uniq, inv = key.unique(return_inverse=True)
    bad = torch.zeros(len(uniq)).index_add_(0, inv, (~ok).float())
    copied = torch.zeros(len(uniq)).index_add_(0, inv, (src[:, 1:][aw] >= 0).float()) > 0
    stat = dict(em=float((bad == 0).float().mean()), tok=float(ok.float().mean()), ptr_acc=ptr_acc, sel_acc=sel_acc, mass=mass, mmass=mmass,
                ref=float((bad == 0)[~copied].float().mean()) if (~copied).any() else float("nan"),
                em_ans=float((bad == 0)[copied].float().mean()) if copied.any() else float("nan"))
    if mtp:
        z = model.mtp_hidden(ids, y.detach())          # row i predicts token i + 2
        mw = w[:, 2:]
        n = int(mw.sum())
        lg = model.logits(F.pad(z[:, :-2][mw], (0, 0, 0, -n % 256)))[:n]
        out["mtp"] = F.cross_entropy(lg, ids[:, 2:][mw])
        stat["mtp_acc"] = float((lg.argmax(-1) == ids[:, 2:][mw]).float().mean())
        bb, tt = torch.nonzero(src[:, 2:] >= 1, as_tuple=True)
        out["mtp_ptr"], _ = pointer_loss(model.mtp.layer.mix, bb, tt, src[:, 2:][bb, tt] - 1)
        total = total + out["mtp"] + 0.3 * out["mtp_ptr"] + 0.03 * model.mtp.layer.moe.aux
    return total, {k: float(v.detach()) for k, v in out.items()} | stat


def share_rows(model, tok_path):
    """Starts the rows of ' word' and 'Word' near the row of 'word', and the output rows at the input rows."""
    from tokenizers import Tokenizer
    v = Tokenizer.from_file(tok_path).get_vocab()
    E = model.embed.data
    noise = torch.randn_like(E)
    space, cap = torch.randn(E.shape[1]) * 0.1, torch.randn(E.shape[1]) * 0.1
    for t, i in sorted(v.items(), key=lambda x: x[1]):
        low = t.lstrip("\u0120")
        j = v.get(low.lower(), v.get(low)) if low.isalpha() and low.isascii() else v.get(low)
        if j is not None and j != i:
            E[i] = E[j] * 0.85 + noise[i] * 0.15 + space * (low != t) + cap * (low.lower() != low)
    model.head.data.copy_(E * 0.15)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("work")
    ap.add_argument("--tokens", type=float, default=16e6)
    ap.add_argument("--lr", type=float, default=3e-3)
    ap.add_argument("--decay", type=float, default=0.5, help="share of the tokens over which the rate falls to zero")
    ap.add_argument("--mtp-from", type=float, default=0.25)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--fresh-optimizer", action="store_true")
    ap.add_argument("--resume", action="store_true")
    ap.add_argument("--minutes", type=float, default=1e9, help="stop after this time (for trials)")
    ap.add_argument("--name", default="ckpt")
    a = ap.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    c = Config()
    model = Nano(c)
    share_rows(model, os.path.join(a.work, "tokenizer.json"))
    model.train()
    opt = Muon(list(model.named_parameters()))
    path = os.path.join(a.work, a.name + ".pt")
    st = dict(step=0, seen=0, level=0, em=0.0, wall=0.0, history=[])
    if a.resume and os.path.exists(path):
        d = torch.load(path, weights_only=False)
        model.load_state_dict(d["model"])
        if not a.fresh_optimizer:
            opt.load(d["opt"])
        st = d["st"]
    log = open(os.path.join(a.work, a.name + ".log"), "a")

    def say(s):
        print(s, flush=True)
        log.write(s + "\n")
        log.flush()

    say(f"parameters total, active: {count(c)}; config {c}; args {vars(a)}")
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))   # save and leave
    data = Stream(a.work, a.seed * 1000 + st["step"])
    gen = torch.Generator().manual_seed(a.seed + st["step"])
    warm = st["step"] if not a.fresh_optimizer else 0
    acc, t0, last_save, begin = {}, time.time(), time.time(), time.time()
    tok_log = 0
    while st["seen"] < a.tokens:
        f = st["seen"] / a.tokens
        warm += 1
        lr = a.lr * min(1.0, warm / 60, (1 - f) / a.decay)
        lv = st["level"]
        b = data.batch(lv, 4096 if lv < 3 else 6144 if lv < 5 else 8192)
        mtp = f >= a.mtp_from and st["step"] % 2 == 0
        loss, s = losses(model, b, mtp, gen)
        loss.backward()
        s["gn"] = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        if not math.isfinite(s["gn"]):
            say(f"step {st['step']}: gradient not finite, skipped")
        else:
            opt.step(lr)
        for p in model.parameters():
            p.grad = None
        n = int(b["real"].sum())
        st["seen"] += n
        tok_log += n
        st["step"] += 1
        st["em"] = 0.98 * st["em"] + 0.02 * s["em"]
        for k, v in s.items():
            if v == v:
                acc.setdefault(k, []).append(v)
        if lv < len(UP) and (st["em"] > UP[lv] or st["seen"] > FORCE[lv] * a.tokens):
            st["level"] += 1
            st["em"] = 0.0
            say(f"level {st['level']} at step {st['step']}, {st['seen']} tokens")
        if st["step"] % 25 == 0:
            dt = time.time() - t0
            m = {k: sum(v) / len(v) for k, v in acc.items()}
            say(f"{time.strftime('%H:%M:%S')} step {st['step']} tok {st['seen'] / 1e6:.2f}M L{lv} lr {lr:.1e} {tok_log / dt:.0f}/s "
                + " ".join(f"{k} {v:.3f}" for k, v in m.items()))
            st["history"].append(dict(step=st["step"], seen=st["seen"], level=lv, **m))
            st["wall"] += dt
            acc, t0, tok_log = {}, time.time(), 0
        if time.time() - last_save > 150 or st["seen"] >= a.tokens:
            torch.save(dict(model=model.state_dict(), opt=opt.state(), st=st), path + ".tmp")
            os.replace(path + ".tmp", path)
            last_save = time.time()
        if stop or time.time() - begin > a.minutes * 60:
            break
    torch.save(dict(model=model.state_dict(), opt=opt.state(), st=st), path + ".tmp")
    os.replace(path + ".tmp", path)


if __name__ == "__main__":
    main()
