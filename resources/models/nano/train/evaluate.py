# SPDX-License-Identifier: Apache-2.0
"""Measures an exported folder on held-out exercises: 4 passages, one question.

    evaluate.py WORK OUT [--n 400] [--passages 4] [--words 60 200] [--json FILE]
    evaluate.py WORK OUT --cases FILE      also writes 40 cases for end-to-end tests
    evaluate.py --file CASES OUT           measures hand-written cases (same JSON format)
--constrained: decoding may only follow a sentence or line of the passages with its mark, or the refusal.
Greedy decoding. An answer is right when the whole text (sentence and mark, or the refusal) is equal. The passages come
from documents, names, words and partly relations that training never sees (see make_data.held).
MTP acceptance: share of answer positions where the first draft of the MTP layer equals the greedy token of the trunk.
"""
import argparse
import json
import os
import time

import torch
import transformers

from export import load_nano
from make_data import REFUSAL, Encoder, Maker, sentences


def cases(work, n, k, words, seed=99, free=False):
    """Held-out cases; about 15 % have no answer. free: only text that may be shipped (templates, public domain)."""
    mk = Maker(work, seed, evaluation=True, packages=["sqlite3-doc"] if free else None)
    if free:
        mk.definition = mk.svo
    out = []
    while len(out) < n:
        ps, turns = mk.material(k, words[0], words[1], turns=1)
        if any(p.n_words < words[0] * 0.8 or p.n_words > words[1] + 8 for p in ps) or not turns:
            continue
        q, t = turns[0]
        u = None if t is None else ps[t[0]].units[t[1]]
        out.append(dict(passages=[p.text for p in ps], question=q, answer=u and u.text, mark=t and t[0] + 1,
                        kind=u.kind if u else "refusal"))
    return out


def allowed(enc, passages, n_prompt):
    """Function for `generate` that lets only whole sentences or lines of the passages with their mark, or the refusal,
    pass."""
    trie = {}
    texts = [REFUSAL]
    for i, p in enumerate(passages):
        for line in p.split("\n"):
            texts += [f"{s} [{i + 1}]" for s in sentences(line) if s.strip()]
    for t in texts:
        node = trie
        for x in enc.ids(t) + [enc.end]:
            node = node.setdefault(x, {})

    def f(_, ids):
        node = trie
        for x in ids[n_prompt:].tolist():
            node = node.get(x, {})
        return list(node) or [enc.end]
    return f


@torch.no_grad()
def answer(m, hf, enc, prompt, want=None, limit=160, gate=None):
    """(greedy text, drafts right, drafts). With `want` the whole expected answer is tried in one pass first: if every
    token is the most likely one, greedy decoding yields exactly that text."""
    if want is not None:
        ids = torch.tensor([prompt + want])
        y = m.hidden(ids)
        a = len(prompt)
        got = m.logits(y[0, a - 1:-1]).argmax(-1)
        if got.tolist() == want:
            z = m.mtp_hidden(ids, y)[0, a - 1:-2]      # row i drafts token i + 2
            d = m.logits(z).argmax(-1) if len(z) else torch.zeros(0)
            return enc.raw.decode(want[:-1], skip_special_tokens=False), int((d == ids[0, a + 1:]).sum()), len(z)
    n = len(want) + 20 if want else limit                # otherwise decode with transformers, which has a cache
    ids = hf.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False,
                      max_new_tokens=min(n, limit), eos_token_id=[enc.end, enc.eot], pad_token_id=enc.eot,
                      prefix_allowed_tokens_fn=gate)[0].tolist()
    got = [t for t in ids[len(prompt):] if t not in (enc.end, enc.eot)]
    return enc.raw.decode(got, skip_special_tokens=False), 0, 0


def measure(m, hf, enc, todo, show=0, constrained=False):
    r = dict(n=0, exact=0, mark=0, sentence=0, refused_right=0, refused=0, unanswerable=0)
    kinds, good, drafts, t0 = {}, 0, 0, time.time()
    for c in todo:
        ref = c["answer"] is None
        want = REFUSAL if ref else f"{c['answer']} [{c['mark']}]"
        prompt = enc.prompt(c["passages"], c["question"])
        gate = allowed(enc, c["passages"], len(prompt)) if constrained else None
        text, g, d = answer(m, hf, enc, prompt, enc.ids(want) + [enc.end], gate=gate)
        good, drafts = good + g, drafts + d
        right = text == want
        k = kinds.setdefault(c.get("kind", "case"), [0, 0])
        k[0] += right
        k[1] += 1
        r["n"] += 1
        r["exact"] += right
        r["unanswerable"] += ref
        r["refused"] += text == REFUSAL
        r["refused_right"] += ref and text == REFUSAL
        if not ref:
            r["mark"] += text.endswith(f"[{c['mark']}]")
            r["sentence"] += text.rsplit(" [", 1)[0] == c["answer"]
        if not right and show > 0:
            show -= 1
            print("Q:", c["question"], "\n  want:", want, "\n  got: ", text)
    a = max(r["n"] - r["unanswerable"], 1)
    return dict(questions=r["n"], exact=r["exact"] / r["n"], exact_answerable=(r["exact"] - r["refused_right"]) / a,
                sentence=r["sentence"] / a, mark=r["mark"] / a,
                refusal_precision=r["refused_right"] / max(r["refused"], 1),
                refusal_recall=r["refused_right"] / max(r["unanswerable"], 1),
                mtp_acceptance=good / max(drafts, 1), mtp_positions=drafts,
                kinds={k: [v[0], v[1]] for k, v in sorted(kinds.items())}, seconds=round(time.time() - t0, 1))


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("paths", nargs="+")
    ap.add_argument("--n", type=int, default=400)
    ap.add_argument("--passages", type=int, default=4)
    ap.add_argument("--words", type=int, nargs=2, default=[60, 200])
    ap.add_argument("--json")
    ap.add_argument("--cases")
    ap.add_argument("--file")
    ap.add_argument("--show", type=int, default=0)
    ap.add_argument("--constrained", action="store_true", help="allow only sentences of the passages")
    ap.add_argument("--seed", type=int, default=99)
    a = ap.parse_args()
    torch.set_num_threads(1)
    out = a.paths[-1]
    hf = transformers.Qwen3NextForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    m, enc = load_nano(out), Encoder(os.path.join(out, "tokenizer.json"))
    transformers.logging.set_verbosity_error()
    todo = json.load(open(a.file)) if a.file else cases(a.paths[0], a.n, a.passages, a.words, a.seed)
    r = measure(m, hf, enc, todo, a.show, a.constrained)
    r |= dict(constrained=a.constrained, passages=a.passages, words=a.words, seed=a.seed)
    print(json.dumps(r, indent=1))
    if a.json:
        json.dump(r, open(a.json, "w"), indent=1)
    if a.cases:
        json.dump(cases(a.paths[0], 40, 4, [60, 200], seed=7, free=True), open(a.cases, "w"), indent=1)


if __name__ == "__main__":
    main()
