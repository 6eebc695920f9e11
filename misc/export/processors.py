"""The files of an export that turn captions into tokens and images into pixels, for transformers to load."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from misc.export.source import Source
from model.altclip_adapter import AltImageProcessor
from model.weights.altclip_files import locate
from options import Options
from text_utils.tokenizer import CLIPTokenizer, byte_pairs

ALTCLIP_TOKENIZER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("sentencepiece.bpe.model", "added_tokens.json"),
)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Readable, and non-ASCII as it is."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_processors(source: Source, folder: Path) -> None:
    """The files that `AutoTokenizer` and `AutoImageProcessor` of transformers load."""
    write_json(folder / "preprocessor_config.json", _image_settings(source.processor))
    if source.is_altclip:
        _copy_altclip_tokenizer(source, folder)
    else:
        _write_clip_tokenizer(source.tokenizer, folder)


def _image_settings(processor: Any) -> dict[str, Any]:
    if isinstance(processor, AltImageProcessor):
        return json.loads(processor.processor.to_json_string())
    height, width = processor.image_size
    return {
        # ViT's, since CLIP's of transformers 4.35 knows no resizing without a crop.
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": Image.Resampling.BICUBIC.value,
        "do_center_crop": False,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": processor.image_mean,
        "image_std": processor.image_std,
    }


def _write_clip_tokenizer(tokenizer: CLIPTokenizer, folder: Path) -> None:
    """Byte pairs as vocab.json and merges.txt: of all forms the one that every version reads."""
    pairs = json.loads(byte_pairs().to_str())["model"]
    special = ("<|mask|>", "<|startoftext|>", "<|endoftext|>")
    ids = (tokenizer.mask_token_id, tokenizer.sot_token_id, tokenizer.eot_token_id)
    write_json(folder / "vocab.json", pairs["vocab"] | dict(zip(special, ids, strict=True)))
    # Older versions of tokenizers join a pair with a space, newer ones keep it apart.
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in pairs["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    # Padding with "!", id 0, as we do, would make transformers take every "!" for padding.
    tokens = {"bos_token": special[1]} | dict.fromkeys(("eos_token", "pad_token", "unk_token"), special[2])
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": tokenizer.text_length}
    write_json(folder / "tokenizer_config.json", settings | tokens)


def altclip_folder(options: Options) -> Path:
    """The folder of the AltCLIP that the options name, in the hub's cache where they name an id: the model
    was built with these files, so they are there.
    """
    where = locate(options.model.altclip_pretrained)
    if Path(where).is_dir():
        return Path(where)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(where, cache_dir=options.model.tokenizer_cache_dir, local_files_only=True))


def _copy_altclip_tokenizer(source: Source, folder: Path) -> None:
    origin = altclip_folder(source.options)
    for name in ALTCLIP_TOKENIZER:
        if (origin / name).exists():
            (folder / name).write_bytes((origin / name).read_bytes())
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    write_json(file, settings | {"model_max_length": source.tokenizer.text_length})
