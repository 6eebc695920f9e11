"""What open_clip's names, folders and tags stand for: configurations, files, statistics of the images."""

import copy
import difflib
import functools
import logging
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from model.protocol import JsonObject
from model.weights.files import read_folder
from model.weights.hub_folders import (
    OPEN_CLIP_CONFIG,
    OPEN_CLIP_WEIGHTS,
    TOKENIZERS,
    WEIGHTS,
    cached_snapshot,
    download_file,
    find_model,
    first_on_the_hub,
    read_config,
)
from model.weights.pretrained import read_saved, under_our_names
from model.weights.shapes import bad_weights, saved_image_size
from options import UserError
from text_utils.hub_tokenizer import FILES

logger = logging.getLogger(__name__)
INSTALL = "model.backbone=open_clip needs open_clip_torch and timm: pip install open_clip_torch timm"
# In checkpoints of this project the modules of open_clip stand below a name of ours.
OURS = re.compile(r"^(visual|text)\.tower\.")
# In older files; they are recomputed.
BUFFERS = ("position_ids", "attn_mask")


@dataclass(frozen=True)
class Source:
    """What `model.open_clip_name` and `model.open_clip_pretrained` stand for.

    Attributes:
        title: for messages.
        config: open_clip's `model_cfg`.
        weights: a file, or a folder with weights; None: random.
        preparation: open_clip's `preprocess_cfg`, as far as it is known.
        told_by: what tells the preparation, for the log.
        folder: a folder that may have tokenizer files.
    """

    title: str
    config: JsonObject
    weights: Path | None
    preparation: JsonObject
    told_by: str
    folder: Path | None = None


def bad_name(name: str | None, problem: str) -> UserError:
    """The error for a name of open_clip that has a `problem`."""
    return UserError(f"model.open_clip_name: '{name}' {problem}")


def find_source(
    name: str | None, pretrained: str | Path | None, cache_dir: str | Path | None, with_weights: bool = True
) -> Source:
    """What a name and its weights stand for; a tag's file is downloaded if it is not in the hub's cache.

    Args:
        name: of `open_clip.list_models()`; None: the folder's configuration tells.
        pretrained: a file, a folder, a tag of open_clip for that name, or None.
        cache_dir: the hub's cache; None: the default.
        with_weights: false where others take their place: no file of weights is needed then.

    Raises:
        UserError: no such name, file, folder or tag; a file that cannot be downloaded; no library.
    """
    try:
        import open_clip
        import timm  # noqa: F401  open_clip can do without, until it builds a tower
    except ImportError as error:
        raise UserError(INSTALL) from error
    if name is not None and name not in open_clip.list_models():
        near = difflib.get_close_matches(name, open_clip.list_models(), n=3, cutoff=0.4)
        raise bad_name(name, f"is no name of open_clip {open_clip.__version__}; near: {', '.join(near)}")
    path = None if pretrained is None else Path(os.path.expanduser(pretrained))
    if path is not None and path.is_dir():
        return _of_folder(name, path)
    if name is None:
        return _of_file(path, pretrained)
    config, told = _config(name), _of_all_tags(name)
    if path is None:
        return Source(name, config, None, *told)
    tag, is_gone = open_clip.get_pretrained_cfg(name, str(pretrained)), not path.exists()
    if tag and is_gone:
        return _of_tag(name, str(pretrained), tag, config, cache_dir, with_weights)
    if is_gone and with_weights:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise UserError(
            f"model.open_clip_pretrained: '{pretrained}' is no file, no folder and no tag of '{name}' (tags: "
            f"{tags}); null starts from random weights"
        )
    if is_gone:
        logger.warning(
            "model.open_clip_pretrained: '%s' does not exist; configuration and preparation are of '%s'",
            *(pretrained, name),
        )
    return Source(name, config, path, *told)


def _of_file(path: Path | None, pretrained: str | Path | None) -> Source:
    """What a file stands for without a name: the configuration beside it tells.

    Raises:
        UserError: there is none.
    """
    if path is not None and (path.parent / OPEN_CLIP_CONFIG).exists():
        return replace(_of_folder(None, path.parent), weights=path)
    if path is not None and not path.exists():
        raise UserError(
            f"model.open_clip_pretrained: '{pretrained}' does not exist; its {OPEN_CLIP_CONFIG} tells what "
            "to build, for a checkpoint too: set it to a copy of that folder, or set model.open_clip_name"
        )
    raise UserError(
        f"model.open_clip_name: null is for a folder with {OPEN_CLIP_CONFIG}, found "
        f"model.open_clip_pretrained={pretrained or 'null'}; set a name of open_clip.list_models()"
    )


def _config(name: str) -> JsonObject:
    import open_clip

    return copy.deepcopy(open_clip.get_model_config(name))


def _of_folder(name: str | None, path: Path) -> Source:
    has_own = any((path / file).exists() for file in (OPEN_CLIP_CONFIG, *OPEN_CLIP_WEIGHTS, *WEIGHTS))
    folder = path if has_own else find_model(path, ("clip",), functools.partial(bad_weights, path))
    content = read_config(folder, OPEN_CLIP_CONFIG)
    config = content.get("model_cfg")
    if config is None and name is None:
        problem = f"has no {OPEN_CLIP_CONFIG} with a model_cfg; copy it there, or set model.open_clip_name"
        raise bad_weights(folder, problem)
    if config is None:
        return Source(name, _config(name), folder, *_of_all_tags(name), folder)
    if not all(isinstance(config.get(tower), dict) for tower in ("vision_cfg", "text_cfg")):
        raise bad_weights(folder / OPEN_CLIP_CONFIG, "has a model_cfg without vision_cfg and text_cfg")
    for key, default in (("context_length", 77), ("tokenizer_kwargs", {}), ("preprocess_cfg", {})):
        value = (content if key == "preprocess_cfg" else config["text_cfg"]).get(key, default)
        if not isinstance(value, type(default)) and (default or value is not None):
            raise bad_weights(folder / OPEN_CLIP_CONFIG, f"has a {key} that it cannot have: {value!r:.60}")
    if name is not None and config != _config(name):
        logger.warning("'%s' describes another model than '%s': the folder's is built", folder, name)
    preparation, told_by = content.get("preprocess_cfg"), f"'{folder / OPEN_CLIP_CONFIG}'"
    if not preparation:
        preparation, told_by = _of_all_tags(name) if name else _of_timm(config)
    return Source(str(path), config, folder, preparation, told_by, folder)


def _of_tag(
    name: str,
    tag: str,
    settings: JsonObject,
    config: JsonObject,
    cache_dir: str | Path | None,
    download: bool,
) -> Source:
    """Raises UserError for weights of the other activation: the features would be wrong, in silence."""
    is_quick = bool(settings.get("quick_gelu"))
    if is_quick != bool(config.get("quick_gelu")):
        other = f"{name}-quickgelu" if is_quick else name.removesuffix("-quickgelu")
        kind = "QuickGELU" if is_quick else "GELU"
        raise bad_name(
            name, f"has another activation than '{tag}', which was trained with {kind}: use {other}"
        )
    repository, _, file = settings.get("hf_hub", "").rpartition("/")
    if not repository:
        raise UserError(
            f"model.open_clip_pretrained: '{tag}' of '{name}' is not on the hub: download "
            f"{settings.get('url')} and set model.open_clip_pretrained to the file"
        )
    names = OPEN_CLIP_WEIGHTS if not file else (f"{os.path.splitext(file)[0]}.safetensors", file)
    weights = download_file(repository, names, cache_dir) if download else None
    return Source(name, config, weights, settings, f"the tag '{tag}'")


def _of_all_tags(name: str) -> tuple[JsonObject, str]:
    """The preparation that the published weights of a name share; without any, open_clip's default."""
    import open_clip

    tags = open_clip.list_pretrained_tags_by_model(name)
    known = [open_clip.get_pretrained_cfg(name, tag) for tag in tags]
    shared = {
        key: known[0].get(key)
        for key in ("mean", "std", "interpolation")
        if known and all(settings.get(key) == known[0].get(key) for settings in known)
    }
    if {"mean", "std"} <= shared.keys():
        return shared, f"the published weights of {name} ({', '.join(tags)})"
    return _of_timm(_config(name)) if "siglip" in name.lower() else ({}, "open_clip's default")


def _of_timm(config: JsonObject) -> tuple[JsonObject, str]:
    """The preparation of the image tower's timm model; without one, open_clip's default."""
    if not (model := config["vision_cfg"].get("timm_model_name")):
        return {}, "open_clip's default"
    import timm

    settings = timm.get_pretrained_cfg(model, allow_unregistered=True)
    if settings is None:
        return {}, "open_clip's default"
    found = {"mean": settings.mean, "std": settings.std, "interpolation": settings.interpolation}
    return found, f"timm's {model}"


def tokenizer_folder(source: Source, cache_dir: str | Path | None) -> Path | None:
    """The folder with the tokenizer's files, downloaded if need be; None: OpenAI's byte pairs.

    Raises:
        UserError: files that are missing; a tokenizer with settings that are not supported, such as one that
            removes the end token.
    """
    text = source.config["text_cfg"]
    hub_id = text.get("hf_tokenizer_name")
    others = {**(text.get("tokenizer_kwargs") or {}), "tokenizer_mode": text.get("tokenizer_mode")}
    if hub_id or others.get("clean") != "whitespace":  # it keeps capitals, which OpenAI's pairs do not have
        others.pop("clean", None)
    if unknown := sorted(name for name, value in others.items() if value):
        raise bad_name(source.title, f"has a tokenizer with {', '.join(unknown)}, which is not supported")
    if not hub_id:
        return None
    for folder in (source.folder, Path(hub_id), cached_snapshot(hub_id, cache_dir)):
        if folder and any((folder / file).exists() for file in TOKENIZERS):
            return folder
    from huggingface_hub import snapshot_download

    first_on_the_hub(hub_id, TOKENIZERS, cache_dir)
    return Path(snapshot_download(hub_id, cache_dir=cache_dir, allow_patterns=FILES))


def native_cleaning(config: JsonObject) -> str:
    """The name in `CLEANINGS` of the cleaning that the weights were trained with."""
    text = config["text_cfg"]
    default = "whitespace" if text.get("hf_tokenizer_name") else "none"  # OpenAI's byte pairs bring their own
    return (text.get("tokenizer_kwargs") or {}).get("clean", default)


def read_weights(path: Path) -> tuple[dict[str, Tensor], tuple[int, int] | None]:
    """The tensors of a file or folder under open_clip's names for a model with a text tower by itself, fp32;
    and the image size that was saved with them.

    Raises:
        UserError: no weights there that can be read.
    """
    if path.is_dir():
        tensors, options = under_our_names(path, read_folder(path, (*OPEN_CLIP_WEIGHTS, *WEIGHTS))), {}
    else:
        tensors, options = read_saved(path)
    tensors = {OURS.sub(r"\1.", name): tensor for name, tensor in tensors.items()}
    return tensors, saved_image_size(path, options)


def fill(model: nn.Module, path: Path, tensors: dict[str, Tensor], title: str) -> None:
    """Load the tensors of `path` into open_clip's model, every one used and every parameter filled, but for
    the scale and the bias, which the caller reads.

    Raises:
        UserError: a tensor that is missing, unexpected or of another shape.
    """
    scalars = ("logit_scale", "logit_bias")
    own = {name: tensor for name, tensor in model.state_dict().items() if name not in scalars}
    found = {
        name: tensor
        for name, tensor in tensors.items()
        if name not in scalars and not (name.endswith(BUFFERS) and name not in own)
    }
    for name in sorted(own.keys() | found.keys()):
        theirs, ours = (tuple(part[name].shape) if name in part else None for part in (found, own))
        if theirs is None:
            raise bad_weights(path, f"lacks {name!r} of {title}; it belongs to another model")
        if ours is None:
            raise bad_weights(path, f"has {name!r}, which {title} has not; it belongs to another model")
        if theirs != ours:
            hint = ""
            if name.endswith(("positional_embedding", "pos_embed")):
                hint = ": it is of another image size or text length, or another model; give a folder whose "
                hint += f"{OPEN_CLIP_CONFIG} tells it (image_size, context_length)"
            raise bad_weights(path, f"has {name!r} of shape {theirs}; {title} has {ours}{hint}")
    if "logit_scale" not in tensors:
        raise bad_weights(path, "lacks 'logit_scale'; it holds no model of two towers")
    model.load_state_dict(found, strict=False)
    logger.info("%s: all %d tensors used, none initialised", path, len(found))
