# SPDX-License-Identifier: Apache-2.0
"""Writes unicode_tables.inc: the Unicode facts the tokenizers need.

Run it as `python3 make_unicode_tables.py`; it needs `pip install unicodedata2==16.0.0`, because the categories must be
those of Unicode 16.0, the version behind \\p{L}, \\p{N} and \\s in the reference tokenizer (Hugging Face tokenizers
0.23). The reference normalises with Unicode 9.0: characters added since then neither decompose nor reorder there, so
they are left out of the normalisation tables here (LATER_THAN_NORMALISER). For text of assigned characters up to
Unicode 9.0 all versions agree by the normalisation stability policy.
"""

import pathlib

import unicodedata2 as unicodedata

OUTPUT = pathlib.Path(__file__).with_name("unicode_tables.inc")
LAST = 0x10FFFF
CATEGORIES = (
    "Cn Cc Cf Co Cs Ll Lm Lo Lt Lu Mc Me Mn Nd Nl No Pc Pd Pe Pf Pi Po Ps Sc Sk Sm So Zl Zp Zs".split()
)
LATER_THAN_NORMALISER = [
    (0x07FD, 0x07FD), (0x0897, 0x089F), (0x08CA, 0x08D3), (0x09FE, 0x09FE), (0x0C3C, 0x0C3C), (0x0D3B, 0x0D3C),
    (0x0EBA, 0x0EBA), (0x1715, 0x1715), (0x1ABF, 0x1ACE), (0x1DF6, 0x1DFA), (0xA82C, 0xA82C), (0x105C9, 0x105C9),
    (0x105E4, 0x105E4), (0x10D24, 0x10D27), (0x10D69, 0x10D6D), (0x10EAB, 0x10EAC), (0x10EFD, 0x10EFF),
    (0x10F46, 0x10F50), (0x10F82, 0x10F85), (0x11070, 0x11070), (0x1133B, 0x1133B), (0x11383, 0x11383),
    (0x11385, 0x11385), (0x1138E, 0x1138E), (0x11391, 0x11391), (0x113C5, 0x113C5), (0x113C7, 0x113C8),
    (0x113CE, 0x113D0), (0x1145E, 0x1145E), (0x11839, 0x1183A), (0x11938, 0x11938), (0x1193D, 0x1193E),
    (0x11943, 0x11943), (0x119E0, 0x119E0), (0x11A34, 0x11A34), (0x11A47, 0x11A47), (0x11A99, 0x11A99),
    (0x11D42, 0x11D42), (0x11D44, 0x11D45), (0x11D97, 0x11D97), (0x11F41, 0x11F42), (0x16121, 0x16128),
    (0x1612F, 0x1612F), (0x16D68, 0x16D6A), (0x16FF0, 0x16FF1), (0x1E08F, 0x1E08F), (0x1E130, 0x1E136),
    (0x1E2AE, 0x1E2AE), (0x1E2EC, 0x1E2EF), (0x1E4EC, 0x1E4EF), (0x1E5EE, 0x1E5EF),
]


def is_later(code):
    return any(first <= code <= last for first, last in LATER_THAN_NORMALISER)


def change_points(value_of):
    """(first code, value) wherever the value differs from that of the code before."""
    points = []
    for code in range(LAST + 1):
        value = value_of(code)
        if not points or points[-1][1] != value:
            points.append((code, value))
    return points


def combining_class(code):
    return 0 if is_later(code) else unicodedata.combining(chr(code))


def canonical_decompositions():
    """(code, first, second) with second 0 for singletons; Hangul syllables are computed at run time."""
    rows = []
    for code in range(LAST + 1):
        mapping = unicodedata.decomposition(chr(code))
        if not mapping or mapping.startswith("<") or is_later(code):
            continue
        parts = [int(part, 16) for part in mapping.split()]
        rows.append((code, parts[0], parts[1] if len(parts) > 1 else 0))
    return rows


def composition_order(rows):
    """Indices of the rows that compose, sorted by (first, second)."""
    composing = [
        index
        for index, (code, first, second) in enumerate(rows)
        if second and unicodedata.normalize("NFC", chr(first) + chr(second)) == chr(code)
    ]
    return sorted(composing, key=lambda index: rows[index][1:])


def lower_case_runs():
    """(first, last, step, delta) of the one-to-one lower-case mappings."""
    runs = []
    for code in range(LAST + 1):
        lower = chr(code).lower()
        if len(lower) != 1 or lower == chr(code):
            continue
        delta = ord(lower) - code
        if runs and runs[-1][3] == delta and code - runs[-1][1] in (1, 2):
            step = code - runs[-1][1]
            if runs[-1][2] in (0, step):
                runs[-1][1], runs[-1][2] = code, step
                continue
        runs.append([code, code, 0, delta])
    return [(first, last, max(step, 1), delta) for first, last, step, delta in runs]


def write_table(out, comment, declaration, entries):
    out.write(f"\n// {comment}\nconstexpr {declaration} = {{{{\n")
    line = "   "
    for entry in entries:
        if len(line) + len(entry) + 2 > 120:
            out.write(line + "\n")
            line = "   "
        line += f" {entry},"
    out.write(line + "\n}};\n")


def main():
    def category(code):
        return CATEGORIES.index(unicodedata.category(chr(code)))

    categories = [first << 5 | value for first, value in change_points(category)]
    classes = [first << 8 | value for first, value in change_points(combining_class)]
    rows = canonical_decompositions()
    composing = composition_order(rows)
    lower = lower_case_runs()
    with OUTPUT.open("w", encoding="ascii") as out:
        out.write("// SPDX-License-Identifier: Apache-2.0\n")
        out.write(f"// Written by make_unicode_tables.py from Unicode {unicodedata.unidata_version}; do not edit.\n")
        out.write("// clang-format off\n")
        write_table(out, "Change points of the general category: first code << 5 | Category.",
                    f"std::array<std::uint32_t, {len(categories)}> kCategories", [f"{value:#x}" for value in categories])
        write_table(out, "Change points of the canonical combining class: first code << 8 | class.",
                    f"std::array<std::uint32_t, {len(classes)}> kCombiningClasses", [f"{value:#x}" for value in classes])
        write_table(out, "Canonical decompositions by code: code, first, second (0: none).",
                    f"std::array<Decomposition, {len(rows)}> kDecompositions",
                    [f"{{{code:#x}, {first:#x}, {second:#x}}}" for code, first, second in rows])
        write_table(out, "The composing rows of kDecompositions by (first, second).",
                    f"std::array<std::uint16_t, {len(composing)}> kCompositions", [str(index) for index in composing])
        write_table(out, "Lower case, one to one: first, last, step, delta.",
                    f"std::array<LowerCaseRun, {len(lower)}> kLowerCase",
                    [f"{{{first:#x}, {last:#x}, {step}, {delta}}}" for first, last, step, delta in lower])


if __name__ == "__main__":
    main()
