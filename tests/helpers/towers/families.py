"""A small model of each family of transformers, with a tokenizer made on the spot, in the hub's layout."""

import json
from pathlib import Path

import torch
from torch import nn

from misc.tiny_altclip import synthetic_captions, write_tokenizer
from model.families import FAMILIES

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
PATCH_SIZE, IMAGE_SIZE, POSITIONS = 8, 32, 24


def write_bert(folder: Path) -> int:
    """Chinese-CLIP's kind of tokenizer: BERT's, of which vocab.txt is all that must be there."""
    words = {word for caption in synthetic_captions(20) for word in caption.split()}
    characters = [chr(number) for number in range(33, 127)] + list("红色上衣的女生")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = list(dict.fromkeys([*special, *characters, *sorted(words)]))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    return len(vocabulary)


def write_gemma(folder: Path) -> int:
    """SigLIP 2's kind of tokenizer: an end token and no start, pad id 0, and padding on the left."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    words = sorted({word for caption in synthetic_captions(20) for word in caption.split()})
    vocabulary = {word: number for number, word in enumerate(dict.fromkeys([*special, *words]))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", pair="$A <eos> $B <eos>", special_tokens=[("<eos>", 1)]
    )
    tokenizer.add_special_tokens(special)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{token[1:-1]}_token": token for token in special}
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "padding_side": "left", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(vocabulary)


def write_model(folder: Path, kind: str) -> None:
    """The model with random weights that tell its inputs apart, and its tokenizer."""
    import transformers

    folder.mkdir()
    text, vision = dict(SIZES), {**SIZES, "patch_size": PATCH_SIZE, "image_size": IMAGE_SIZE}
    text["max_position_embeddings"] = POSITIONS
    if kind == "chinese_clip":
        text["vocab_size"] = write_bert(folder)
    elif kind == "metaclip_2":
        text["vocab_size"] = write_tokenizer(folder, synthetic_captions(60), 400, POSITIONS)
        text |= {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
    else:  # pad_token_id stays at the library's default, 1, which is not the tokenizer's
        text["vocab_size"] = write_gemma(folder)
        vision |= {"num_patches": (IMAGE_SIZE // PATCH_SIZE) ** 2}
    shared = {} if kind.startswith("siglip") else {"projection_dim": 24}
    if kind == "siglip2":
        del vision["image_size"]
    model_class = getattr(transformers, FAMILIES[kind].transformers_class)
    model = model_class(model_class.config_class(text_config=text, vision_config=vision, **shared))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        std = 0.1 if parameter.ndim < 2 else parameter.shape[-1] ** -0.5
        nn.init.normal_(parameter, parameter.mean().item(), std, generator=generator)
    nn.init.constant_(model.logit_scale, 4.7)
    model.save_pretrained(folder)
