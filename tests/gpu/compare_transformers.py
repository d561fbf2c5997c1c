#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-3.0-or-later
"""Compares the engine with PyTorch's transformers on one machine: Qwen3-Next of the true width, cut to a few layers,
with random BF16 weights. Logits of both are held against transformers in float32; tokens per second of both are
measured, those of transformers with every setting that works here, the fastest named.

Exit status: 0 passed, 1 failed, 77 skipped (no torch, no transformers, no GPU, no room), with a reason on stdout."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

SKIPPED = 77


def skip(reason):
    print(json.dumps({"skipped": reason}))
    sys.exit(SKIPPED)


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", required=True, help="gpu_logits, as built")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--prompt", type=int, default=4096, help="tokens read for the timing")
    parser.add_argument("--compared", type=int, default=128, help="tokens whose logits are compared")
    parser.add_argument("--decoded", type=int, default=64, help="tokens decoded for the timing")
    parser.add_argument("--budget-seconds", type=float, default=90)
    parser.add_argument("--json", help="file of the results")
    parser.add_argument("--tiny", action="store_true", help="a small shape, to try this script out")
    parser.add_argument("--device", default="cuda")
    return parser.parse_args()


def make_config(arguments):
    from transformers import Qwen3NextConfig

    shape = dict(
        num_hidden_layers=arguments.layers, hidden_size=2048, vocab_size=151936, num_attention_heads=16,
        num_key_value_heads=2, head_dim=256, linear_num_key_heads=16, linear_num_value_heads=32,
        linear_key_head_dim=128, linear_value_head_dim=128, num_experts=512, num_experts_per_tok=10,
        moe_intermediate_size=512, shared_expert_intermediate_size=512, max_position_embeddings=262144,
        tie_word_embeddings=False)
    if arguments.tiny:
        shape.update(hidden_size=256, vocab_size=512, num_attention_heads=4, head_dim=64, linear_num_key_heads=2,
                     linear_num_value_heads=4, linear_key_head_dim=64, linear_value_head_dim=64, num_experts=16,
                     num_experts_per_tok=4, moe_intermediate_size=64, shared_expert_intermediate_size=64)
    return Qwen3NextConfig(**shape)


def fill(model, torch):
    """Rows of variance 1 / columns, gains near 1, decays of 0.9 to 0.9999: as tests/gpu/synthetic_model.cpp."""
    generator = torch.Generator(device=model.device).manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("A_log"):
                decay = torch.logspace(-1, -4, weight.numel(), device=weight.device)
                weight.copy_(torch.log(decay / 0.6931))
            elif name.endswith("dt_bias"):
                weight.zero_()
            elif "norm" in name:
                ones = 1.0 if "linear_attn.norm" in name else 0.0  # the other gains are kept less 1
                weight.copy_(ones + 0.05 * torch.randn(weight.shape, generator=generator, device=weight.device))
            elif "embed_tokens" in name:
                weight.normal_(generator=generator)
            else:
                columns = weight.shape[-1] if "conv1d" not in name else 4
                weight.normal_(std=columns ** -0.5, generator=generator)


def settings():
    for experts in ("grouped_mm", "batched_mm", "eager"):
        for attention in ("flash_attention_2", "sdpa", "eager"):
            yield {"attn_implementation": attention, "experts_implementation": experts}


def apply_setting(model, setting):
    model.set_attn_implementation(setting["attn_implementation"])
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation(setting["experts_implementation"])
    else:
        model.config._experts_implementation = setting["experts_implementation"]


def synchronise(torch, device):
    if device == "cuda":
        torch.cuda.synchronize()


def time_setting(model, tokens, decoded, torch, device):
    """Seconds of reading the prompt, and tokens per second after it; the first of two runs is the warm-up."""
    for run in range(2):
        synchronise(torch, device)
        begin = time.perf_counter()
        out = model(tokens, use_cache=True, logits_to_keep=1)
        synchronise(torch, device)
        reading = time.perf_counter() - begin
        cache, token = out.past_key_values, out.logits[:, -1:].argmax(-1)
        count = 4 if run == 0 else decoded
        begin = time.perf_counter()
        for _ in range(count):
            out = model(token, past_key_values=cache, use_cache=True)
            cache, token = out.past_key_values, out.logits[:, -1:].argmax(-1)
        synchronise(torch, device)
        decoding = time.perf_counter() - begin
    return reading, count / decoding


def time_transformers(model, tokens, arguments, torch, deadline):
    results = []
    for setting in settings():
        if results and time.monotonic() > deadline:
            results.append({**setting, "not_measured": "the time was used up"})
            continue
        try:
            apply_setting(model, setting)
            reading, speed = time_setting(model, tokens, arguments.decoded, torch, arguments.device)
            results.append({**setting, "prefill_seconds": reading, "decode_tokens_per_second": speed})
        except Exception as error:  # a package or memory that this machine lacks
            if arguments.device == "cuda":
                torch.cuda.empty_cache()
            results.append({**setting, "not_measured": str(error).splitlines()[0][:200]})
    return results


def fused_packages():
    """What transformers uses for the linear attention layers, if it is there."""
    import importlib.util

    return [name for name in ("fla", "causal_conv1d", "flash_attn", "kernels") if importlib.util.find_spec(name)]


def relative_errors(logits, reference):
    difference = (logits.double() - reference.double()).norm(dim=-1)
    return difference / reference.double().norm(dim=-1)


def compare(ours, theirs, reference):
    """Medians over positions: where routers nearly tie, single positions differ by more than rounding."""
    report = {}
    for name, logits in (("engine", ours), ("transformers_bf16", theirs)):
        errors = relative_errors(logits, reference)
        report[name] = {
            "median_relative_error": errors.median().item(), "largest_relative_error": errors.max().item(),
            "same_best_token": (logits.argmax(-1) == reference.argmax(-1)).double().mean().item()}
    allowed = max(2 * report["transformers_bf16"]["median_relative_error"], 1e-2)
    report["allowed_median_relative_error"] = allowed
    report["passed"] = report["engine"]["median_relative_error"] <= allowed
    return report


def run_engine(arguments, folder, tokens):
    import numpy

    token_file, logit_file = os.path.join(folder, "tokens"), os.path.join(folder, "logits")
    tokens.cpu().numpy().astype(numpy.int32).tofile(token_file)
    run = subprocess.run(
        [arguments.program, folder, token_file, logit_file, str(arguments.compared), str(arguments.decoded)],
        capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(run.stderr.strip() or f"{arguments.program} ended with {run.returncode}")
    return json.loads(run.stdout.splitlines()[-1]), numpy.fromfile(logit_file, dtype=numpy.float32)


def folder_with_room(needed):
    for parent in ("/dev/shm", tempfile.gettempdir()):
        if os.path.isdir(parent) and shutil.disk_usage(parent).free > needed:
            return tempfile.mkdtemp(prefix="lectern-compare-", dir=parent)
    skip(f"no folder has {needed >> 30} GiB free for the model")


def measure(arguments, torch):
    from transformers import AutoModelForCausalLM
    import transformers

    begin = time.monotonic()
    deadline = begin + arguments.budget_seconds * 0.7
    config = make_config(arguments)
    with torch.device(arguments.device):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    fill(model, torch)
    parameters = sum(weight.numel() for weight in model.parameters())
    tokens = torch.randint(0, config.vocab_size, (1, arguments.prompt), device=arguments.device,
                           generator=torch.Generator(device=arguments.device).manual_seed(2))
    folder = folder_with_room(2 * parameters + (1 << 30))
    try:
        model.save_pretrained(folder, max_shard_size="8GB")
        saved = time.monotonic() - begin
        with torch.no_grad():
            apply_setting(model, {"attn_implementation": "sdpa", "experts_implementation": "eager"})
            theirs = model(tokens[:, :arguments.compared]).logits[0].float().cpu()
            timings = time_transformers(model, tokens, arguments, torch, deadline)
            apply_setting(model, {"attn_implementation": "sdpa", "experts_implementation": "eager"})
            reference = model.float()(tokens[:, :arguments.compared]).logits[0].float().cpu()
        del model
        if arguments.device == "cuda":
            torch.cuda.empty_cache()
        speed, logits = run_engine(arguments, folder, tokens[0])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    ours = torch.from_numpy(logits).reshape(arguments.compared, config.vocab_size)
    measured = [timing for timing in timings if "prefill_seconds" in timing]
    return {
        "model": f"Qwen3-Next, {arguments.layers} layers, random BF16 weights", "parameters": parameters,
        "torch": torch.__version__, "transformers": transformers.__version__, "fused_packages": fused_packages(),
        "prompt_tokens": arguments.prompt, "logits": compare(ours, theirs, reference), "engine": speed,
        "transformers_settings": timings,
        "transformers_best_prefill": min(measured, key=lambda timing: timing["prefill_seconds"], default=None),
        "transformers_best_decode": max(measured, key=lambda timing: timing["decode_tokens_per_second"], default=None),
        "seconds_until_saved": saved, "seconds": time.monotonic() - begin}


def main():
    arguments = parse_arguments()
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        skip(f"{error.name} is not installed")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        skip("torch sees no GPU")
    try:
        report = measure(arguments, torch)
    except Exception as error:
        report = {"failed": f"{type(error).__name__}: {error}"}
    text = json.dumps(report)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            file.write(text + "\n")
    print(text)
    return 0 if report.get("logits", {}).get("passed") else 1


if __name__ == "__main__":
    sys.exit(main())
