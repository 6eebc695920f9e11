"""Models of transformers on disk or on the hub: where their files are, and their content, read strictly."""

import contextlib
import functools
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from misc.process.failures import reason_of
from model.protocol import DualEncoder, JsonObject
from model.weights.files import read_folder
from model.weights.hub_folders import find_model, find_snapshot, read_config
from model.weights.pretrained import read_tensors
from options import UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig

logger = logging.getLogger(__name__)
BUFFERS = ("position_ids", "token_type_ids")  # in older files; they are recomputed
BIAS = "logit_bias"  # of the sigmoid loss; it changes no ranking, so it may be missing
ELSEWHERE = (
    "on a machine with a network: huggingface-cli download {id} --local-dir {name}; copy the folder {name} "
    "here and set {option} to it"
)


@dataclass(frozen=True)
class HubModel:
    """A model of transformers as a user names it.

    Attributes:
        option: the option that names it, for messages.
        pretrained: a model folder, the root of a hub cache with `models--ORG--NAME/snapshots/...` in it, or a
            hub id.
        cache_dir: the hub's cache, for an id; None: the default.
        classes: {`model_type` of its config.json: its class in transformers}.
        expected: what it should be, such as "an AltCLIP".
        example: a hub id that it may be.
    """

    option: str
    pretrained: str | Path
    cache_dir: str | Path | None
    classes: Mapping[str, str]
    expected: str
    example: str

    def bad(self, problem: str) -> UserError:
        """The error for a model that has a `problem` ("is ...", "lacks ...")."""
        return UserError(f"{self.option}: '{self.pretrained}' {problem}")

    @functools.cached_property
    def folder(self) -> Path:
        """The folder with its files, for an id in the hub's cache: what that lacks is downloaded.

        Raises:
            UserError: none of the three, or no network to get it.
        """
        path = Path(self.pretrained).expanduser()
        if path.is_dir():
            return find_model(path, tuple(self.classes), self.bad)
        if path.exists():
            raise self.bad("is a file; a folder or a hub id is expected")
        owner, _, name = str(self.pretrained).partition("/")
        if not name or "/" in name or owner in ("", ".", "..", "~"):
            raise self.bad("does not exist; " + self._elsewhere(self.example))
        try:
            return find_snapshot(str(self.pretrained), self.cache_dir)
        except Exception as error:  # of the network, raised by several libraries in many ways
            problem = "is not a folder, and no model could be loaded from the hub under that id "
            advice = self._elsewhere(str(self.pretrained))
            raise self.bad(f"{problem}({_line(error)}); {advice}") from error

    def _elsewhere(self, hub_id: str) -> str:
        return ELSEWHERE.format(id=hub_id, name=hub_id.partition("/")[2], option=self.option)

    def config(self) -> "PretrainedConfig":
        """Its configuration.

        Raises:
            UserError: one that cannot be read, or of another kind of model.
        """
        from transformers import AutoConfig

        found = read_config(self.folder).get("model_type")
        if found is not None and found not in self.classes:
            raise self.bad(f"holds a model of type '{found}'; {self.expected} is expected")
        try:
            if found is None:
                raise ValueError("no model_type")
            with _quiet():
                return AutoConfig.from_pretrained(self.folder, trust_remote_code=False)
        except (OSError, ValueError) as error:
            raise self.bad(f"has no config.json that transformers can read ({_line(error)})") from error

    def load(self, config: "PretrainedConfig") -> nn.Module:
        """The model with all its weights, fp32. The files are read here: older versions of transformers
        execute what is pickled in a pytorch_model.bin.

        Raises:
            UserError: weights that cannot be read, or that do not fill the model exactly.
        """
        try:
            tensors = {name: tensor.clone() for name, tensor in read_folder(self.folder).items()}  # no views
            with _quiet():
                model, info = self._class(config).from_pretrained(
                    None, config=config, state_dict=tensors, output_loading_info=True
                )
        except Exception as error:  # of the sizes, raised by two libraries in many ways
            raise self.bad(f"has no weights that can be read ({_line(error)})") from error
        for kind in ("missing", "unexpected", "mismatched"):
            names = sorted(map(str, info[f"{kind}_keys"]))
            if names := [name for name in names if not name.endswith(BUFFERS)]:
                raise self.bad(f"does not fill the model: {len(names)} tensors {kind} (first: {names[0]})")
        logger.info("%s: all %d tensors used, none initialised", self.folder, len(model.state_dict()))
        return model.float()

    def random(self, config: "PretrainedConfig") -> nn.Module:
        """The model with random weights, for a checkpoint to fill."""
        return self._class(config)(config)

    def _class(self, config: "PretrainedConfig") -> type[nn.Module]:
        import transformers

        return getattr(transformers, self.classes[config.model_type])


def drop_attention_only(config: "PretrainedConfig", dropout: float) -> None:
    """Set the dropout of a configuration: on the attention weights of the text tower, and nowhere else."""
    for section, probability in ((config.text_config, dropout), (config.vision_config, 0.0)):
        for name in ("attention_probs_dropout_prob", "attention_dropout"):
            if hasattr(section, name):
                setattr(section, name, probability)
        if hasattr(section, "hidden_dropout_prob"):
            section.hidden_dropout_prob = 0.0


def checkpoint_activations(model: nn.Module) -> None:
    """Keep only the input of each block, and recompute the block in the backward pass."""
    old = model.gradient_checkpointing_enable
    getattr(model, "activation_checkpointing_enable", old)({"use_reentrant": False})


def fill_from_checkpoint(clip: DualEncoder, path: str | Path, title: str) -> None:
    """Load a checkpoint of this project into the towers, every tensor used and every parameter filled.

    Args:
        title: of the model, for messages.

    Raises:
        UserError: no such file, no such checkpoint, or one of another model.
    """
    if not Path(path).exists():
        article = "an" if title[0] in "AEIOU" else "a"
        raise UserError(
            f"weights: '{path}' does not exist; a checkpoint of {article} {title} run is expected"
        )
    own, tensors = clip.state_dict(), read_tensors(Path(path))
    names = {_any_version(name): name for name in own}
    tensors = {names.get(_any_version(name), name): tensor for name, tensor in tensors.items()}
    for name in sorted((own.keys() | tensors.keys()) - {BIAS}):
        found, expected = (tuple(part[name].shape) if name in part else None for part in (tensors, own))
        if found != expected:
            kind = "lacks" if found is None else "has unknown" if expected is None else "has other sizes in"
            raise UserError(
                f"weights: '{path}' {kind} {title}'s tensors (first: {name}); it belongs to another model"
            )
    clip.load_state_dict({name: tensors.get(name, own[name]) for name in own})


def to_transformers(clip: DualEncoder, folder: Path) -> tuple[JsonObject, dict[str, Tensor]]:
    """The content of a config.json, and the tensors, that `clip.transformers_class` loads.

    Args:
        folder: the one that the towers were built from.

    Raises:
        UserError: fewer tokens than the positions of a tower that is given no mask.
    """
    import transformers

    positions, text_length = clip.text.padded_length, clip.text.text_length
    if positions not in (0, text_length):
        raise UserError(
            f"experiment.text_length: expected {positions} for --format huggingface, found {text_length}: "
            f"{clip.transformers_class} reads the last position of captions that are padded to it"
        )
    config = read_config(folder)
    if "image_size" in config["vision_config"]:
        config["vision_config"]["image_size"] = clip.visual.image_size[0]
    model_class = getattr(transformers, clip.transformers_class)
    with torch.device("meta"):
        shapes = model_class(model_class.config_class.from_dict(config)).state_dict()
    ours = {re.sub(r"^(visual|text)\.", "", name): tensor for name, tensor in clip.state_dict().items()}
    bias = torch.as_tensor(clip.logit_bias).detach()  # 0 where it was not trained: it changes no ranking
    tensors = {name: ours.get(name, bias).reshape(shape.shape) for name, shape in shapes.items()}
    described = {"architectures": [clip.transformers_class], "torch_dtype": "float32"}
    return {**config, **described}, tensors


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


def _any_version(name: str) -> str:
    """The name with the blocks called `layers`: `layer` in some versions of `transformers`, by tower."""
    return name.replace(".encoder.layer.", ".encoder.layers.")


def _line(error: Exception) -> str:
    text = reason_of(error)
    return text if isinstance(error, UserError) else text[:160]
