# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes qwen_strings.jsonl and wordpiece_strings.jsonl: token ids by Hugging Face `tokenizers`. README.md describes
them.

    python make_text_golden.py
"""

import json
import string
import unicodedata
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from sample_strings import sample_strings

FOLDER = Path(__file__).parent
QWEN_PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
                r"|\s+(?!\S)|\s+")


def qwen_tokenizer(with_added_tokens):
    folder = FOLDER / "qwen_tokenizer"
    vocabulary = json.loads((folder / "vocab.json").read_text())
    merges = [tuple(line.split(" ")) for line in (folder / "merges.txt").read_text().splitlines()]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, fuse_unk=False, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(QWEN_PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    if with_added_tokens:
        added = json.loads((folder / "tokenizer_config.json").read_text())["added_tokens_decoder"]
        for token_id, entry in sorted(added.items(), key=lambda item: int(item[0])):
            token = AddedToken(entry["content"], special=entry["special"], normalized=False)
            (tokenizer.add_special_tokens if entry["special"] else tokenizer.add_tokens)([token])
            assert tokenizer.token_to_id(entry["content"]) == int(token_id)
    return tokenizer


def bert_tokenizer():
    """Without added tokens: text that spells [SEP] is ordinary text."""
    vocabulary = {token: i for i, token in enumerate((FOLDER / "bert_vocab.txt").read_text().split("\n")[:-1])}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=None,
                                                      lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def is_classified_alike(character):
    """Whether the reference's older Unicode tables agree with current ones about a character."""
    def normalise(text, clean=False, accents=False, lower=False):
        return normalizers.BertNormalizer(clean_text=clean, handle_chinese_chars=False, strip_accents=accents,
                                          lowercase=lower).normalize_str(text)

    category = unicodedata.category(character)
    split = len(pre_tokenizers.BertPreTokenizer().pre_tokenize_str(f"a{character}b")) == 3
    is_removed = category in ("Cc", "Cf", "Co") or character == "\ufffd"
    return ((normalise("a" + character, accents=True) == "a") == (category == "Mn")
            and (normalise(f"a{character}b", clean=True) == "ab") == is_removed
            and normalise(character, lower=True) == character.lower()
            and split == (category[0] == "P" or character in string.punctuation))


def write_lines(path, records):
    path.write_text("".join(json.dumps(record, separators=(",", ":")) + "\n" for record in records))
    print(f"{path.name}: {len(records)} strings, {path.stat().st_size} bytes")


def main():
    added, plain = qwen_tokenizer(True), qwen_tokenizer(False)
    assert added.encode("<|im_start|>user\nHi<|im_end|>\n").ids == [151644, 872, 198, 13048, 151645, 198]
    assert plain.encode("I'M").ids == [40, 27603]
    pieces = [text for text in (plain.decode([i]) for i in range(0, 151643, 37)) if "\ufffd" not in text]
    strings = sample_strings(pieces)
    records = []
    for text in strings:
        record = {"text": text, "ids": added.encode(text).ids}
        as_text = plain.encode(text).ids
        if as_text != record["ids"]:
            record["plain"] = as_text  # when added tokens are not recognised
        records.append(record)
    write_lines(FOLDER / "qwen_strings.jsonl", records)

    bert = bert_tokenizer()
    allowed = {character: character.isspace() or is_classified_alike(character) for character in set("".join(strings))}
    print("not compared for WordPiece:", sum(not same for same in allowed.values()), "of", len(allowed), "characters")
    strings = [text for text in strings if all(allowed[character] for character in text)]
    write_lines(FOLDER / "wordpiece_strings.jsonl",
                [{"text": text, "ids": bert.encode(text).ids} for text in strings[:300] + strings[300::2]])


if __name__ == "__main__":
    main()
