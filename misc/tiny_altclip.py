"""Generate a small AltCLIP with random weights: python -m misc.tiny_altclip --out FOLDER.

Its tokenizer is a real one: SentencePiece, trained on captions of the synthetic pedestrians in four
languages. The folder has the hub's layout, so everything that loads `BAAI/AltCLIP` loads it.
"""

from __future__ import annotations

import io
import json
import random
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.synthetic.attributes import draw_identities
from data.synthetic.camera import draw_shot
from data.synthetic.captions import image_captions
from misc.cli import Parser, exit_status
from text_utils.captions import clean_caption

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")


def synthetic_captions(num_people: int, seed: int = 0) -> list[str]:
    """Cleaned captions of synthetic people, in all languages of the synthetic data set."""
    rng = random.Random(seed)
    texts = []
    for identity in draw_identities(seed, num_people):
        for language in image_captions(identity, draw_shot(rng, camera=0), rng).values():
            texts += [clean_caption(caption) for caption in language["captions"]]
    return texts


def train_pieces(captions: Iterable[str], vocab_size: int) -> tuple[bytes, list[tuple[str, float]]]:
    """A SentencePiece unigram model: (the file's bytes, its pieces without special ones, with scores)."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(captions),
        model_writer=model,
        vocab_size=vocab_size,
        model_type="unigram",
        character_coverage=1.0,
        normalization_rule_name="identity",  # transformers 5 reads no normaliser from tokenizer.json
        hard_vocab_limit=False,
        minloglevel=2,
        num_threads=1,
    )
    reader = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = [i for i in range(reader.get_piece_size()) if not (reader.is_control(i) or reader.is_unknown(i))]
    return model.getvalue(), [(reader.id_to_piece(i), reader.get_score(i)) for i in ids]


def write_tokenizer(folder: Path, captions: Iterable[str], vocab_size: int, text_length: int) -> int:
    """XLM-RoBERTa's tokenizer files; returns the number of tokens: four special, the pieces, the mask."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors

    proto, pieces = train_pieces(captions, vocab_size)
    (folder / "sentencepiece.bpe.model").write_bytes(proto)
    vocabulary = [*((token, 0.0) for token in SPECIAL), *pieces, ("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=SPECIAL.index("<unk>")))
    splitters = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(splitters)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", SPECIAL.index("<s>")), ("</s>", SPECIAL.index("</s>"))],
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (*SPECIAL, "<mask>")])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos": "<s>", "eos": "</s>", "sep": "</s>", "cls": "<s>", "unk": "<unk>", "pad": "<pad>"}
    config = {f"{name}_token": token for name, token in {**names, "mask": "<mask>"}.items()}
    config |= {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": text_length}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    return len(vocabulary)


def make_tiny_altclip(
    folder: Path,
    captions: Sequence[str],
    *,
    vocab_size: int = 2000,
    width: int = 64,
    layers: int = 2,
    heads: int = 2,
    embed_dim: int = 64,
    image_size: int = 64,
    patch_size: int = 8,
    text_length: int = 77,
    seed: int = 0,
) -> None:
    """Write a folder that `AltCLIPModel`, `AutoTokenizer` and `CLIPImageProcessor` load.

    The tokenizer is trained on `captions`, with at most `vocab_size` pieces. `width`, `layers` and `heads`
    are of both towers; `image_size` and `patch_size` in pixels, the image square.
    """
    import torch
    from transformers import AltCLIPConfig, AltCLIPModel, CLIPImageProcessor

    folder.mkdir(parents=True, exist_ok=True)
    num_tokens = write_tokenizer(folder, captions, vocab_size, text_length)
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    sizes |= {"intermediate_size": 4 * width, "initializer_range": width**-0.5}
    text = {**sizes, "vocab_size": num_tokens, "max_position_embeddings": text_length + 2}
    text |= {"project_dim": embed_dim, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}
    vision = {**sizes, "image_size": image_size, "patch_size": patch_size}
    config = AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=embed_dim)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AltCLIPModel(config)
        _initialise_image_tower(model.vision_model, width, layers)
        _initialise_text_tower(model.text_model, width)
        torch.nn.init.normal_(model.text_projection.weight, std=width**-0.5)
        model.save_pretrained(folder)
    side = {"height": image_size, "width": image_size}
    CLIPImageProcessor(size={"shortest_edge": image_size}, crop_size=side).save_pretrained(folder)


def _initialise_image_tower(tower: PreTrainedModel, width: int, layers: int) -> None:
    """OpenAI's initialisation; with that of transformers, narrow towers hardly depend on the image."""
    from torch.nn import init

    tower.embeddings.patch_embedding.reset_parameters()
    init.normal_(tower.embeddings.position_embedding.weight, std=width**-0.5)
    residual_std = (2 * layers * width) ** -0.5
    for block in tower.encoder.layers:
        attention, mlp = block.self_attn, block.mlp
        for projection in (attention.q_proj, attention.k_proj, attention.v_proj):
            init.normal_(projection.weight, std=width**-0.5)
        init.normal_(mlp.fc1.weight, std=(2 * width) ** -0.5)
        for projection in (attention.out_proj, mlp.fc2):
            init.normal_(projection.weight, std=residual_std)


def _initialise_text_tower(tower: PreTrainedModel, width: int) -> None:
    """An initialisation in which the features depend on every word: `<s>`, which is read, starts as the zero
    vector and attends to the mean of all tokens; embeddings are small, so that a few steps separate words.
    """
    import torch
    from torch.nn import init

    for module in tower.modules():
        if isinstance(module, torch.nn.Linear):
            init.normal_(module.weight, std=width**-0.5)
    embeddings = tower.roberta.embeddings
    words, places = embeddings.word_embeddings.weight, embeddings.position_embeddings.weight
    init.normal_(words, std=0.006)
    init.normal_(places, std=0.003)
    init.zeros_(embeddings.token_type_embeddings.weight)
    with torch.no_grad():
        words[[SPECIAL.index("<s>"), SPECIAL.index("<pad>")]] = 0
        places[tower.config.pad_token_id + 1] = 0  # the first


def build_parser() -> Parser:
    """The command line."""
    description = "Generate a small AltCLIP, random weights."
    parser = Parser(prog="python -m misc.tiny_altclip", description=description)
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FOLDER", help="the folder to write")
    add("--width", type=int, default=64, help="of both towers (64)")
    add("--layers", type=int, default=2, help="of both towers (2)")
    add("--heads", type=int, default=2, help="of both towers (2)")
    add("--embed-dim", type=int, default=64, help="of the shared space (64)")
    add("--vocab-size", type=int, default=2000, help="the maximum number of the tokenizer's pieces (2000)")
    return parser


def run(out: Path, **sizes: int) -> None:
    """Generate the folder `out`."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # writing takes less than a second
    make_tiny_altclip(out, synthetic_captions(1000), **sizes)
    print(f"Wrote a small AltCLIP with random weights to {out}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0, or 2 and an error line for a user error."""
    return exit_status(lambda: run(**vars(build_parser().parse_args(arguments))))


if __name__ == "__main__":
    sys.exit(main())
