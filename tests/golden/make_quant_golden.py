# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes quants/*.blocks and quants/*.f32: blocks of random bytes of the GGUF weight types and the numbers that the Python
package gguf makes of them. README.md describes the files.

    python make_quant_golden.py
"""

from pathlib import Path

import gguf
import numpy as np

FOLDER = Path(__file__).parent / "quants"
# Where the halves lie in a block.
HALVES = {
    "Q8_0": [0],
    "Q4_0": [0],
    "Q4_1": [0, 2],
    "Q5_0": [0],
    "Q5_1": [0, 2],
    "Q2_K": [80, 82],
    "Q3_K": [108],
    "Q4_K": [0, 2],
    "Q5_K": [0, 2],
    "Q6_K": [208],
    "IQ4_NL": [0],
    "IQ4_XS": [0],
    "MXFP4": [],
}
# Zeros, the smallest and largest subnormal, the smallest normal and the largest number, of both signs.
AWKWARD_HALVES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x8400, 0x7BFF, 0xFBFF]
AWKWARD_EXPONENTS = [0, 1, 2, 3, 127, 128, 253, 254, 255]


def random_half(random):
    """Finite, of ordinary size or not."""
    while True:
        half = int(random.integers(0, 0x10000))
        if half & 0x7C00 != 0x7C00:
            return half


def make_blocks(name, count, block_bytes, random):
    blocks = random.integers(0, 256, (count, block_bytes), dtype=np.uint8)
    for i, block in enumerate(blocks):
        for k, offset in enumerate(HALVES[name]):
            # Where there are two halves, they are not awkward in the same blocks.
            place = i - 3 * k
            half = AWKWARD_HALVES[place] if 0 <= place < len(AWKWARD_HALVES) else random_half(random)
            block[offset : offset + 2] = half & 255, half >> 8
        if name == "MXFP4" and i < len(AWKWARD_EXPONENTS):
            block[0] = AWKWARD_EXPONENTS[i]
    return blocks


def main():
    FOLDER.mkdir(exist_ok=True)
    for name in HALVES:
        random = np.random.default_rng(list(name.encode()))
        kind = gguf.GGMLQuantizationType[name]
        elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        blocks = make_blocks(name, 32 if elements == 32 else 14, block_bytes, random)
        with np.errstate(over="ignore"):  # the largest exponents of MXFP4 give infinities
            values = gguf.quants.dequantize(blocks, kind).astype("<f4")
        assert not np.isnan(values).any()
        (FOLDER / f"{name}.blocks").write_bytes(blocks.tobytes())
        (FOLDER / f"{name}.f32").write_bytes(values.tobytes())


if __name__ == "__main__":
    main()
