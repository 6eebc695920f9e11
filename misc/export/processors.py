"""The files of an export that turn captions into tokens and images into pixels, for transformers to load."""

import json
from pathlib import Path
from typing import Any

from PIL import Image

from misc.export.source import Source
from model.altclip_adapter import AltImageProcessor
from model.weights.altclip_files import locate
from options import Options


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Readable, and non-ASCII as it is."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_processors(source: Source, folder: Path) -> None:
    """The files that `AutoTokenizer` and `AutoImageProcessor` of transformers load."""
    write_json(folder / "preprocessor_config.json", _image_settings(source.processor))
    source.tokenizer.save(folder)


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


def altclip_folder(options: Options) -> Path:
    """The folder of the AltCLIP that the options name, in the hub's cache where they name an id: the model
    was built with these files, so they are there.
    """
    where = locate(options.model.altclip_pretrained)
    if Path(where).is_dir():
        return Path(where)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(where, cache_dir=options.model.tokenizer_cache_dir, local_files_only=True))
