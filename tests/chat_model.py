"""A tiny random chat model in a folder, as a user would have one: weights, tokenizer, template."""

import json
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import tokenizers
import torch
from tokenizers import AddedToken, decoders, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import LlamaConfig, LlamaForCausalLM

TRAINED_LENGTH = 256
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TOOL = "<tool>"
"""Added to the vocabulary, but not flagged special."""

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = (
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.",
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it.",
    "What is the pass key? The pass key is 12345. Remember it.\n\nQuestion: What is it?\nAnswer:",
    "In the beginning there was a word, and the word was 'window', 10 tokens wide; naïve, déjà vu.",
)


def build_tokenizer() -> tokenizers.Tokenizer:
    """A byte-level BPE in which any text can be spelled."""
    backend = tokenizers.Tokenizer(BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(TEXTS, trainer)
    # As in real vocabularies, a run of white space stands behind tokens that mean something.
    backend.add_tokens([AddedToken(TOOL, special=False), AddedToken("    ", special=False)])
    return backend


def save_model(
    folder: Path, *, seed: int = 0, template: str | None = TEMPLATE, **config: Any
) -> Path:
    """Write a model folder; keywords join its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    backend = build_tokenizer()
    backend.save(str(folder / "tokenizer.json"))
    names: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[2]}
    if template is not None:
        names["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    settings = {
        "vocab_size": backend.get_vocab_size(),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": TRAINED_LENGTH,
        "bos_token_id": None,
        "eos_token_id": backend.token_to_id(SPECIAL[2]),
        "tie_word_embeddings": False,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        LlamaForCausalLM(LlamaConfig(**settings | config)).save_pretrained(folder)
    return folder


def save_endless_model(folder: Path) -> Path:
    """Write a model without any end token; its answers end at their limit, or in a loop."""
    save_model(folder, template=None, eos_token_id=None)
    (folder / "generation_config.json").unlink()
    names = {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))
    path = folder / "tokenizer.json"  # an end of the text is known by its name, too
    path.write_text(path.read_text().replace("<|endoftext|>", "<|nothing|>"))
    return folder


@cache
def shared_model() -> Path:
    """One such model for all tests that change nothing in it."""
    return save_model(Path(mkdtemp(prefix="lmi-tests-")) / "tiny")
