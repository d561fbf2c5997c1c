# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the sentence embeddings of bert/: a small random BERT always, all-MiniLM-L6-v2 when its directory is given.
README.md describes the files.

    OMP_NUM_THREADS=1 python make_bert_golden.py [all-MiniLM-L6-v2 directory]
"""

import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import BertConfig, BertModel

from deterministic_weights import make_weights

FOLDER = Path(__file__).parent / "bert"
PARAGRAPH = ("The court held that the agreement, although signed in haste, bound both parties; the tenant's claim for "
             "damages was dismissed with costs. Each annex forms an integral part of this contract. ")
TEXTS = [
    "", "a", "The cat sits on the mat.", "A feline rests on the rug.", "Stock prices fell sharply on Monday.",
    "How do I reset my password?", "To change your password, open Settings and choose Security.",
    "def quicksort(items):\n    return items if len(items) < 2 else partition(items)",
    "SELECT name FROM users WHERE id = 42;", "Die Katze sitzt auf der Matte.", "Le chat est assis sur le tapis.",
    "猫はマットの上に座っている。", "Кошка сидит на коврике.", "naïve café résumé Ångström İSTANBUL",
    "x = 3.14159; y = 2.71828", "!!! ??? ... --- ###", "antidisestablishmentarianism electroencephalographically",
    "[CLS] tokens typed as text [SEP]", PARAGRAPH, PARAGRAPH * 12, "word " * 300, "\t \n ", "z" * 150, "emoji 👍🏽 here",
]


def tiny_vocabulary():
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["the", "and", "of", "on", "to", "mat", "cat", "##at", "##ing", "##ed", "##er", "##tion", "par", "con",
             "re"]
    return (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] + list(letters) + ["##" + letter for letter in letters]
            + list(".,;:!?'\"()[]<>=-_#%*/") + words)


def bert_shapes(config):
    """Name -> shape of the tensors an encoder needs (no pooler), as on disk."""
    hidden, wide = config.hidden_size, config.intermediate_size
    shapes = {
        "embeddings.word_embeddings.weight": (config.vocab_size, hidden),
        "embeddings.position_embeddings.weight": (config.max_position_embeddings, hidden),
        "embeddings.token_type_embeddings.weight": (config.type_vocab_size, hidden),
    }
    parts = {"attention.self.query": (hidden, hidden), "attention.self.key": (hidden, hidden),
             "attention.self.value": (hidden, hidden), "attention.output.dense": (hidden, hidden),
             "intermediate.dense": (wide, hidden), "output.dense": (hidden, wide)}
    norms = ["embeddings.LayerNorm"]
    for i in range(config.num_hidden_layers):
        prefix = f"encoder.layer.{i}."
        for name, shape in parts.items():
            shapes[f"{prefix}{name}.weight"], shapes[f"{prefix}{name}.bias"] = shape, shape[:1]
        norms += [prefix + "attention.output.LayerNorm", prefix + "output.LayerNorm"]
    for name in norms:
        shapes[name + ".weight"] = shapes[name + ".bias"] = (hidden,)
    return shapes


def make_tokenizer(vocabulary):
    tokenizer = Tokenizer(models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


@torch.no_grad()
def embed(config, weights, vocabulary, max_tokens):
    model = BertModel(config, add_pooling_layer=False).eval()
    result = model.load_state_dict(weights, strict=False)
    assert not [name for name in result.missing_keys if "position_ids" not in name and "token_type_ids" not in name]
    tokenizer = make_tokenizer(vocabulary)
    ends = vocabulary.index("[CLS]"), vocabulary.index("[SEP]")
    rows = []
    for text in TEXTS:
        ids = [ends[0]] + tokenizer.encode(text).ids[:max_tokens - 2] + [ends[1]]
        mean = model(torch.tensor([ids])).last_hidden_state[0].mean(dim=0)
        rows.append(torch.nn.functional.normalize(mean, dim=0))
    return torch.stack(rows).numpy().astype("<f4")


def write_tiny():
    vocabulary = tiny_vocabulary()
    config = BertConfig(vocab_size=len(vocabulary), hidden_size=36, num_attention_heads=3, num_hidden_layers=2,
                        intermediate_size=52, max_position_embeddings=40, attn_implementation="eager")
    weights = {name: torch.from_numpy(value) for name, value in make_weights(bert_shapes(config)).items()}
    embed(config, weights, vocabulary, 40).tofile(FOLDER / "tiny_embeddings.f32")
    keys = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "max_position_embeddings",
            "type_vocab_size", "vocab_size", "layer_norm_eps", "hidden_act", "model_type")
    (FOLDER / "config.json").write_text(json.dumps({key: getattr(config, key) for key in keys}, indent=2) + "\n")
    (FOLDER / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    print(f"tiny: {sum(math.prod(shape) for shape in bert_shapes(config).values())} parameters")


def write_minilm(directory):
    config = BertConfig.from_pretrained(directory, attn_implementation="eager")
    weights = load_file(directory / "model.safetensors")
    vocabulary = (directory / "vocab.txt").read_text().split("\n")[:-1]
    limit = json.loads((directory / "sentence_bert_config.json").read_text())["max_seq_length"]
    embed(config, weights, vocabulary, limit).tofile(FOLDER / "minilm_embeddings.f32")


if __name__ == "__main__":
    torch.set_num_threads(1)
    (FOLDER / "texts.json").write_text(json.dumps(TEXTS, indent=0) + "\n")
    write_tiny()
    if len(sys.argv) > 1:
        write_minilm(Path(sys.argv[1]))
