"""AltCLIP's files: where they are (hub, folder, root of a cache), and their content, read strictly."""

import contextlib
import functools
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor, nn

from model.protocol import DualEncoder, JsonObject
from model.weights.files import read_folder
from model.weights.hub_folders import download_weights, find_model
from model.weights.pretrained import read_tensors
from options import Options, UserError

if TYPE_CHECKING:
    from transformers import AltCLIPConfig, CLIPImageProcessor

logger = logging.getLogger(__name__)
BUFFERS = ("position_ids", "token_type_ids")  # in older files; they are recomputed
BIAS = "logit_bias"  # of the sigmoid loss; it changes no ranking, so it may be missing
# Blocks are called `layer` or `layers` by version; files of the hub, which every version reads, say these.
IN_HUB_FILES = (
    (r"^visual\.(vision_model\.|visual_projection\.)", r"\1"),
    (r"^text\.(text_model\.|text_projection\.)", r"\1"),
    (r"^vision_model\.encoder\.layers?\.", "vision_model.encoder.layers."),
    (r"^text_model\.roberta\.encoder\.layers?\.", "text_model.roberta.encoder.layer."),
)
ELSEWHERE = (
    "on a machine with a network: huggingface-cli download {id} --local-dir AltCLIP; copy the folder AltCLIP "
    "here and set model.altclip_pretrained to it"
)


def bad_altclip(pretrained: str | Path, problem: str) -> UserError:
    """The error for AltCLIP weights that have a `problem` ("is ...", "lacks ...")."""
    return UserError(f"model.altclip_pretrained: '{pretrained}' {problem}")


def locate(pretrained: str | Path) -> str:
    """The folder with AltCLIP's `config.json`, or the hub's id if `pretrained` is not a folder.

    Args:
        pretrained: a model folder, a cache root with `models--ORG--NAME/snapshots/...` in it, or a hub id.

    Raises:
        UserError: none of the three.
    """
    path = Path(pretrained).expanduser()
    if path.is_dir():
        return str(find_model(path, "altclip", functools.partial(bad_altclip, pretrained)))
    if path.exists():
        raise bad_altclip(pretrained, "is a file; a folder or a hub id is expected")
    parts = str(pretrained).split("/")
    if len(parts) != 2 or parts[0] in ("", ".", "..", "~"):
        raise bad_altclip(pretrained, "does not exist; " + ELSEWHERE.format(id="BAAI/AltCLIP"))
    return str(pretrained)


def load_config(pretrained: str | Path, cache_dir: str | Path | None) -> "AltCLIPConfig":
    """The `AltCLIPConfig` of a folder, cache root or hub id.

    Raises:
        UserError: nothing there, no network to get it, or another kind of model.
    """
    from transformers import AutoConfig

    where = locate(pretrained)
    try:
        config = AutoConfig.from_pretrained(where, cache_dir=cache_dir, trust_remote_code=False)
    except (OSError, ValueError) as error:
        problem = f"has no config.json that transformers can read ({_line(error)})"
        if not Path(where).is_dir():
            advice = ELSEWHERE.format(id=where if where.startswith("BAAI/") else "BAAI/AltCLIP")
            problem = "is not a folder, and no model could be loaded from the hub under that id "
            problem += f"({_line(error)}); {advice}"
        raise bad_altclip(pretrained, problem) from error
    if config.model_type != "altclip":
        raise bad_altclip(pretrained, f"holds a model of type '{config.model_type}'; an AltCLIP is expected")
    return config


def load_model(pretrained: str | Path, config: "AltCLIPConfig", cache_dir: str | Path | None) -> nn.Module:
    """`AltCLIPModel` with all its weights, fp32. The files are read here: older versions of transformers
    execute what is pickled in a pytorch_model.bin.

    Raises:
        UserError: weights that cannot be read, or that do not fill the model exactly.
    """
    from transformers import AltCLIPModel

    where = locate(pretrained)
    try:
        folder = Path(where) if Path(where).is_dir() else download_weights(where, cache_dir)
        tensors = {name: tensor.clone() for name, tensor in read_folder(folder).items()}  # no views of a file
        with _quiet():
            model, info = AltCLIPModel.from_pretrained(
                None, config=config, state_dict=tensors, output_loading_info=True
            )
    except Exception as error:  # of the network or of the sizes, raised by two libraries in many ways
        raise bad_altclip(pretrained, f"has no weights that can be read ({_line(error)})") from error
    for kind in ("missing", "unexpected", "mismatched"):
        if names := [name for name in sorted(map(str, info[f"{kind}_keys"])) if not name.endswith(BUFFERS)]:
            problem = f"does not fill the model: {len(names)} tensors {kind} (first: {names[0]})"
            raise bad_altclip(pretrained, problem)
    logger.info("%s: all %d tensors used, none initialised", where, len(model.state_dict()))
    return model.float()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses the many lines in which `transformers` reports tensors that do not fit."""
    from transformers.utils import logging as transformers_logging

    verbosity, had_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_bars:
            transformers_logging.enable_progress_bar()


def load_image_processor(
    pretrained: str | Path, config: "AltCLIPConfig", cache_dir: str | Path | None
) -> "CLIPImageProcessor":
    """AltCLIP's own image processor, from its files or, if there are none, with its default settings."""
    from transformers import CLIPImageProcessor

    try:
        return CLIPImageProcessor.from_pretrained(locate(pretrained), cache_dir=cache_dir)
    except OSError:
        side = config.vision_config.image_size
        message = "%s has no processor files: using AltCLIP's default preprocessing at %d pixels"
        logger.warning(message, pretrained, side)
        return CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def fill_from_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint of this project into the towers, every tensor used and every parameter filled.

    Raises:
        UserError: no such file, no such checkpoint, or one of another model.
    """
    if not Path(path).exists():
        raise UserError(f"weights: '{path}' does not exist; a checkpoint of an AltCLIP run is expected")
    own, tensors = model.state_dict(), read_tensors(Path(path))
    names = {_any_version(name): name for name in own}
    tensors = {names.get(_any_version(name), name): tensor for name, tensor in tensors.items()}
    for name in sorted((own.keys() | tensors.keys()) - {BIAS}):
        found, expected = (tuple(part[name].shape) if name in part else None for part in (tensors, own))
        if found != expected:
            kind = "lacks" if found is None else "has unknown" if expected is None else "has other sizes in"
            raise UserError(
                f"weights: '{path}' {kind} AltCLIP's tensors (first: {name}); it belongs to another model"
            )
    model.load_state_dict({name: tensors.get(name, own[name]) for name in own})


def altclip_folder(options: Options) -> Path:
    """The folder of the AltCLIP that the options name, in the hub's cache where they name an id: the model
    was built from these files, so they are there.
    """
    where = locate(options.model.altclip_pretrained)
    if Path(where).is_dir():
        return Path(where)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(where, cache_dir=options.model.tokenizer_cache_dir, local_files_only=True))


def to_transformers(clip: DualEncoder, options: Options) -> tuple[JsonObject, dict[str, Tensor]]:
    """The content of a config.json, and the tensors, that `AltCLIPModel.from_pretrained` loads."""
    config = json.loads((altclip_folder(options) / "config.json").read_text(encoding="utf-8"))
    for section in ("vision_config", "vision_config_dict"):  # old files have both, and the second is read
        if config.get(section):
            config[section]["image_size"] = clip.visual.image_size[0]
    tensors = {}
    for name, tensor in clip.state_dict().items():
        for ours, theirs in IN_HUB_FILES:
            name = re.sub(ours, theirs, name)
        if name != BIAS and not name.endswith(BUFFERS):
            tensors[name] = tensor
    return config | {"architectures": ["AltCLIPModel"], "torch_dtype": "float32"}, tensors


def _any_version(name: str) -> str:
    """The name with the blocks called `layers`: `layer` in some versions of `transformers`, by tower."""
    return name.replace(".encoder.layer.", ".encoder.layers.")


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return (text if isinstance(error, UserError) else text[:160]) or type(error).__name__
