# SPDX-License-Identifier: GPL-3.0-or-later
"""About 3,000 strings that between them reach every rule of both tokenizers. The same list on every run."""

import random
import unicodedata

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|vision_pad|>", "<|image_pad|>",
           "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|repo_name|>", "<tool_response>", "<think>", "</think>"]

PROSE = """
The quick brown fox jumps over the lazy dog, and nobody's surprised: it's what foxes do.
I'M SURE WE'LL SEE; they've said he'd come, hadn't they? Don't 'quote' me, y'all.
In 1984, 3.14159 of 2,718,281 readers paid $19.99 (about €17.50, or ¥2,980) -- on 2024-02-29T23:59:60Z.
Section 4.2.1: The lessee shall, within thirty (30) days, notify the lessor pursuant to § 12(b)(iii).
Die Überprüfung der Straßenverkehrs-Zulassungs-Ordnung fällt größtenteils weg.
L’été dernier, nous étions à Besançon ; « c’était formidable », dit-elle — n’est-ce pas ?
El niño comió piñas en Ñuñoa. ¿Cuándo volverán? ¡Mañana!
Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy. Árvíztűrő tükörfúrógép.
Işık ılık süt içti; İstanbul'da ğ, ş, ç ve ö harfleri. Þórður æfir á Íslandi.
Съешь же ещё этих мягких французских булок, да выпей чаю. Ёлка, йод, Київ, ґанок, Ђорђе.
Ξεσκεπάζω την ψυχοφθόρα βδελυγμία. Ο Οδυσσέας είπε: «ΌΧΙ» στους ΣΟΦΟΥΣ.
עברית: שלום עולם, בְּרֵאשִׁית בָּרָא אֱלֹהִים. العربية: السَّلَامُ عَلَيْكُمْ، كيف الحال؟ ۱۲۳ ١٢٣
हिन्दी में नमस्ते दुनिया, क्षत्रिय ज्ञान। বাংলা ভাষা। தமிழ் மொழி। తెలుగు భాష। ಕನ್ನಡ ನುಡಿ। മലയാളം ഭാഷ।
ภาษาไทยไม่มีช่องว่างระหว่างคำ ๑๒๓ ພາສາລາວ ភាសាខ្មែរ မြန်မာဘာသာ
你好，世界！這是一個測試。今天是2026年11月21日，气温-3.5℃。「引用」『書名』
日本語のテキスト、ひらがな、カタカナ、ｶﾀｶﾅ、漢字が混ざる文章です。ＡＢＣ１２３、㌔、㈱。
한국어 문장입니다. 안녕하세요! 각각의 글자는 ᄒ ᅡ ᆫ 처럼 나뉩니다.
Tiếng Việt có nhiều dấu: Nguyễn Phước Quý, đường Điện Biên Phủ, ưỡn ẹo.
ქართული ენა, Հայոց լեզու, ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ, ᐃᓄᒃᑎᑐᑦ, አማርኛ ቋንቋ, བོད་ཡིག, ᠮᠣᠩᠭᠣᠯ.
∀ε>0 ∃δ>0: |x−a|<δ ⇒ |f(x)−f(a)|<ε; ∑ᵢ₌₁ⁿ xᵢ² ≈ ½·π² ± 10⁻³ Å, ∂²u/∂t² = c²∇²u, ℝⁿ→ℂ, x̄, ẋ, 𝔼[𝑿], 𝟙.
Ⅷ ⅷ ① ⑽ ½ ⅓ ² ³ ₂ ⁴ 〇 一二三 ٣ ߂ ४ ᠓ 𝟗 𐄇 𒐖 are numbers of many kinds.
""".strip().split("\n")

CODE = [
    "def f(x: int) -> int:\n    return x ** 2  # squared\n\n\nif __name__ == \"__main__\":\n    print(f(3))\n",
    "#include <vector>\ntemplate <class T>\nstd::vector<T> g(const T&& x) { return {x, x}; }\n",
    "for (let i = 0; i < 10; ++i) {\n\tconsole.log(`row ${i}: ${a[i] ?? 'none'}`);\n}\n",
    "fn main() -> Result<(), Box<dyn Error>> {\n    let v: Vec<_> = (0..=5).map(|x| x * x).collect();\n    Ok(())\n}",
    "SELECT a.id, COUNT(*) AS n FROM t_a a LEFT JOIN b ON a.id = b.a_id WHERE a.x <> 'it''s' GROUP BY 1;\n",
    "{\"key\": [1, 2.5e-10, true, null], \"nested\": {\"s\": \"a\\\\b\\\"c\\u00e9\"}}",
    "<!DOCTYPE html>\n<div class=\"a b\" data-x='1'>&nbsp;&lt;T&gt;</div>\r\n<!-- end -->\r\n",
    "\\begin{equation}\n  \\int_0^\\infty e^{-x^2}\\,dx = \\frac{\\sqrt{\\pi}}{2}\n\\end{equation}\n",
    "$ git log --oneline -n 5 | awk '{print $1}' | xargs -I{} git show {} > /tmp/out.txt 2>&1 && echo done\n",
    "| a | b |\n|---|:-:|\n| 1 | **2** |\n\n- [ ] todo\n- [x] done\n\n```c\nint x;\n```\n",
    "http://user:pw@example.org:8080/a/b.html?q=1&r=%20x#frag  mailto:someone@example.com",
    "0x7fffDEAD 0b1010 1_000_000 1e-9 .5f 3u 'c' L\"wide\" R\"(raw)\" @decorator #define X(a) #a ##b",
    "MOV EAX, [EBP-4]\r\nJNZ  .L2\r\n\r\n; comment\r\n",
    "camelCaseIdentifier snake_case_identifier SCREAMING_CASE kebab-case-name PascalCaseName x1y2z3 __dunder__",
    "::<>(){}[];:,.?!@#$%^&*-+=/\\|~`'\"... --> <-- => |> <=> !== === ... ;;; {{{ }}} ((()))",
]

EMOJI = ["👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫🇷", "❤️", "☺", "1️⃣", "🧑🏿‍🚀", "😀😃😄", "🤷‍♀️", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🫠", "✈︎", "©️", "🐻‍❄️"]
MARKS = [chr(c) for c in list(range(0x300, 0x345)) + [0x591, 0x5B0, 0x64B, 0x651, 0x93C, 0x94D, 0xE31, 0x1DC0, 0x20D0,
                                                      0x302A, 0x3099, 0x309A, 0xFE0F, 0xFE20]]
SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", "\u00a0", "\u2003", "\u3000", "\u2028", "\u0085", "\v",
          "\f", "\u200b", "\u1680", "\u202f", "        ", " \n ", "\t\t\n", "\n \n", "\ufeff", "\u2060"]
HAND = ["", " ", "  ", "\n", "\n\n\n", " \n", "\n ", " \n \n ", "\t", "\r\n\r\n", "a", " a", "a ", "  a", "a  b",
        "a   b",
        "1", " 1", "12345", "1a2b", "a1", "'s", "'S", "'re'RE'Re", "'ſ", "x's", "'", "''", " 's", "'sa", "'d'm'll",
        "..\n", " ..\n\n", "!\r\n", "?\n a", "a\n\nb", "a \n\n b", "-a", "--a", " -a", "_a_", "\u00a0a", "\ta", "\na",
        "\x00", "a\x00b", "\x01\x02\x7f", "\u00ad", "e\u0301", "é", "\u0301", "A\u030a", "\u212b", "\u2126", "\ufb01",
        "\u1100\u1161\u11a8", "각", "\u0344", "\u0958", "\u2adc", "\U0001d15e", "q\u0323\u0307", "q\u0307\u0323",
        "\ufffd", "\ufffe", "\uffff", "\U0010ffff", "\ue000", "\U000f0000", "İ", "ß", "ẞ", "ŉ", "ǰ", "ΐ", "Ŀ", "ﬃ",
        "Hello, world!", " 1234", "I'M", "你好世界", "x" * 99, "x" * 100, "x" * 101, "é" * 100, "ab" * 300, "1" * 50,
        " " * 300, "\n" * 100, "=" * 80, "中" * 70, "a b " * 60, "unaffable", "[CLS]", "[SEP] x [MASK]", "[UNK]",
        "##ing",
        "can't", "U.S.A.", "e-mail", "~!@#$%^&*()_+`-={}|[]\\:\";'<>?,./", "¿¡«»‹›“”‘’„‚–—…·•‽⁂※",
        "\u1c89\ua7cb", "x\U000105c0y", "\U0002ebf0\U00010d40", "a\u07fd\u0301", "\u08d4\u0316\u08ca", "\u1df6\u0323"]


def assigned_characters():
    """Assigned code points by plane, controls left to HAND."""
    planes = [[] for _ in range(17)]
    for code in range(0x21, 0x110000):
        if unicodedata.category(chr(code)) not in ("Cs", "Cn", "Cc"):
            planes[code >> 16].append(chr(code))
    return [plane for plane in planes if plane]


def _random_plane_text(rng, planes):
    plane = rng.choice(planes)
    start = rng.randrange(len(plane))
    block = plane[start:start + 200]
    return "".join(rng.choice(block) for _ in range(rng.randint(1, 12)))


def _random_marks(rng):
    bases = "aeiounyAEO가각कก\u1100\u1161אب漢1 -"
    return "".join(rng.choice(bases) + "".join(rng.choice(MARKS) for _ in range(rng.choice([0, 1, 1, 2, 3])))
                   for _ in range(rng.randint(1, 8)))


def _random_mixture(rng, planes, pieces):
    words = " ".join(PROSE).split(" ")
    choices = [lambda: rng.choice(words), lambda: rng.choice(SPACES), lambda: rng.choice(EMOJI),
               lambda: _random_marks(rng), lambda: str(rng.randrange(10**rng.randint(1, 9))),
               lambda: rng.choice(["'s", "'LL", "n't", "…", "/*", "*/", "->", "::", "\\n", "e\u0301", "."]),
               lambda: _random_plane_text(rng, planes)]
    return "".join(rng.choice(choices)() for _ in range(pieces))


def _slice(rng, text, length):
    start = rng.randrange(max(1, len(text) - length))
    return text[start:start + length]


def sample_strings(vocabulary_pieces):
    """`vocabulary_pieces`: texts of tokens, so that every region of the merge table is used."""
    rng = random.Random(20240229)
    planes = assigned_characters()
    strings = HAND + PROSE + CODE + EMOJI + SPACES + SPECIAL
    strings += ["".join(pair) for pair in zip(SPACES, reversed(SPACES))] + [f"a{s}b" for s in SPACES]
    strings += [f"{a}{s}{b}" for s in SPACES for a, b in (("x", "."), ("1", "y"), ("!", "\n"))]
    strings += [_random_plane_text(rng, planes) for _ in range(500)]
    strings += [_random_marks(rng) for _ in range(300)]
    strings += [_random_mixture(rng, planes, rng.randint(2, 10)) for _ in range(600)]
    strings += ["".join(rng.choice(vocabulary_pieces) for _ in range(rng.randint(1, 8))) for _ in range(700)]
    strings += [_slice(rng, rng.choice(CODE), rng.randint(3, 60)) for _ in range(250)]
    strings += [_slice(rng, rng.choice(PROSE), rng.randint(3, 60)) for _ in range(250)]
    for _ in range(200):
        parts = [rng.choice([rng.choice(SPECIAL), rng.choice(SPACES), _random_mixture(rng, planes, 1),
                             rng.choice(SPECIAL)[rng.randint(0, 3):], "<|", "|>", "<"])
                 for _ in range(rng.randint(2, 7))]
        strings.append("".join(parts))
    return list(dict.fromkeys(strings))
