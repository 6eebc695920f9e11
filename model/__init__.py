"""The models. `build_model` is where options become a model; everything below takes plain arguments."""

import dataclasses
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from model import altclip_adapter, clip, open_clip_adapter, transformers_adapter
from model.mismatch import Mismatch
from model.objective import Objective, Sizes
from model.objectives import OBJECTIVES, build_objectives
from model.protocol import Backbone, DualEncoder, Processor, Tokenizer
from model.tbps import TBPS
from model.weights.heads import fill_heads
from options import LOSSES, Options, UserError

logger = logging.getLogger(__name__)


BACKBONES: Mapping[str, Backbone] = {
    "clip": clip.BACKBONE,
    "altclip": altclip_adapter.BACKBONE,
    "open_clip": open_clip_adapter.BACKBONE,
    "transformers": transformers_adapter.BACKBONE,
}


def backbone_of(options: Options) -> Backbone:
    """The registry entry of `model.backbone`.

    Raises:
        UserError: there is none of that name.
    """
    name = options.model.backbone
    if name not in BACKBONES:
        raise UserError(f"model.backbone: expected one of {', '.join(BACKBONES)}, found '{name}'")
    return BACKBONES[name]


def build_model(
    options: Options, num_identities: int, weights: str | None = None
) -> tuple[TBPS, Tokenizer, Processor]:
    """The model that the options describe, with the tokenizer and the image processor that go with it.

    Args:
        options: `model`, `experiment` and the image size are read.
        num_identities: persons in the training split; 0 where nothing is trained: the model then has no head
            but those that act at test time, and no loss.
        weights: a file to evaluate, whose towers and heads that act at test time take the place of those that
            the options name.

    Returns:
        (model, tokenizer, processor), the model with its frozen parts frozen.

    Raises:
        UserError: weights that cannot be loaded; options that do not go with them, or with each other.
    """
    experiment, settings = options.experiment, options.model
    if settings.compile and settings.grad_checkpointing:  # torch traces no checkpoint over sizes that vary
        raise UserError("model.compile and model.grad_checkpointing exclude each other: set one to false")
    backbone = backbone_of(options)
    towers, tokenizer, processor = backbone.build(options, weights)
    names = _enabled_losses(options, tokenizer, towers) if num_identities else _test_time_losses(options)
    _check_selection(options, names, towers)
    sizes = Sizes(towers.embed_dim, towers.vocab_size, num_identities, tokenizer.text_length)
    objectives = build_objectives(names, experiment, sizes)
    model = TBPS(
        towers,
        objectives,
        {name: getattr(experiment, f"{name}_ratio") for name in names},
        settings.use_gather,
        experiment.rewrites,
        bool(num_identities) and experiment.mask_captions != "none",
        _mismatch(options, towers, tokenizer, objectives.values()) if num_identities else None,
    )
    if source := weights or (getattr(settings, backbone.weights_option) if num_identities else None):
        heads = {objective.head_name: objective.head for objective in model.objectives.values()}
        fill_heads(Path(source), {name: head for name, head in heads.items() if name}, bool(weights))
    towers.lock(
        settings.lock_patch_embedding,
        settings.lock_text_embeddings,
        settings.lock_image_blocks,
        settings.lock_text_blocks,
        settings.lock_text_layers,
    )
    if settings.compile:
        compile_towers(towers)
    return model, tokenizer, processor


def with_hidden_settings(options: Options, towers: DualEncoder) -> Options:
    """The options for those who read a checkpoint of these towers: with what no tensor shows, where null
    would mean something else. The weights that a run starts from told it, and they may be gone by then.
    """
    told = {name: value for name, (value, null) in towers.hidden_settings().items() if value != null}
    return dataclasses.replace(options, model=dataclasses.replace(options.model, **told))


def _enabled_losses(options: Options, tokenizer: Tokenizer, towers: DualEncoder) -> list[str]:
    """The losses that are switched on; MLM only where the tokenizer has a mask token.

    Raises:
        UserError: no loss is left; MLM over more words than `experiment.mlm_max_words`.
    """
    names = [name for name in LOSSES if getattr(options.experiment, name)]
    if "mlm" in names and tokenizer.mask_token_id is None:
        logger.warning("experiment.mlm has no effect: this backbone's tokenizer has no mask token")
        names.remove("mlm")
        if not names:
            raise UserError(
                "experiment.mlm is the only loss, and this backbone's tokenizer has no mask token; set "
                "another loss to true"
            )
    words, largest = towers.vocab_size, options.experiment.mlm_max_words
    if "mlm" in names and words > largest:
        parameters = words * towers.embed_dim
        raise UserError(
            f"experiment.mlm: its head would predict one of {words:,} words, more than "
            f"experiment.mlm_max_words={largest:,}: {parameters / 1e6:,.0f} M parameters, "
            f"{16 * parameters / 1e9:,.1f} GB with their gradients and moments; set experiment.mlm to "
            f"false, or experiment.mlm_max_words={words}"
        )
    return names


def _check_selection(options: Options, names: Sequence[str], towers: DualEncoder) -> None:
    """Raise UserError where a loss selects tokens by an attention that the towers do not show."""
    if "tse" in names and not towers.selects_tokens:
        raise UserError(
            f"experiment.tse: it selects tokens by the attention of the last block, which the towers of "
            f"model.backbone={options.model.backbone} do not show; set it to false"
        )
    if "grab" in names:
        _check_rollout(options, towers)


def _check_rollout(options: Options, towers: DualEncoder) -> None:
    """Raise UserError where the towers do not show the attention of the two blocks, or do not have them."""
    if not towers.rolls_out:
        raise UserError(
            f"experiment.grab: it selects tokens by the attention of two blocks, which the towers of "
            f"model.backbone={options.model.backbone} do not show (clip and altclip do); set it to false"
        )
    found, parts = options.experiment.grab_blocks, towers.lockable()
    for tower, blocks in (("image", parts.image_blocks), ("text", parts.text_blocks)):
        own = [range(len(blocks))[number] for number in found if -len(blocks) <= number < len(blocks)]
        if len(own) < 2 or own[0] >= own[1]:
            raise UserError(
                f"experiment.grab_blocks: expected two blocks of the {tower} tower, which has {len(blocks)}, "
                f"numbered from 0, the earlier one first; found {list(found)}"
            )


def _mismatch(
    options: Options, towers: DualEncoder, tokenizer: Tokenizer, objectives: Iterable[Objective]
) -> Mismatch | None:
    """What watches the mismatch of tokens, for noise-aware masking.

    Raises:
        UserError: the towers do not show the tokens of the block, or are compiled; no loss has a use for it.
    """
    experiment, parts = options.experiment, towers.lockable()
    if experiment.mask_captions != "noise-aware":
        return None
    if not {"view1", "tokens"} <= {name for objective in objectives for name in objective.inputs}:
        raise UserError(
            "experiment.mask_captions=noise-aware compares images and captions, and the losses that are true "
            "do not read both; set it to none"
        )
    if not towers.shows_blocks:
        raise UserError(
            "experiment.mask_captions=noise-aware compares tokens of an earlier block, which these towers of "
            f"model.backbone={options.model.backbone} do not show; set it to random, or none"
        )
    if options.model.compile:  # a compiled tower does not call what watches a block
        raise UserError(
            "model.compile and experiment.mask_captions=noise-aware exclude each other: set the former to "
            "false, or the latter to random"
        )
    block, depths = experiment.mask_block, (len(parts.image_blocks), len(parts.text_blocks))
    # The last block makes few rows in some towers.
    if not all(-depth <= block < depth - 1 and block != -1 for depth in depths):
        raise UserError(
            "experiment.mask_block: expected a block before the last one of both towers, which have "
            f"{depths[0]} (images) and {depths[1]} (captions), numbered from 0 or, below 0, from the end; "
            f"found {block}"
        )
    return Mismatch(towers, block, tokenizer.text_length)


def _test_time_losses(options: Options) -> list[str]:
    """Those of the enabled losses whose heads act at test time."""
    return [name for name in LOSSES if getattr(options.experiment, name) and OBJECTIVES[name].acts_at_test]


def compile_towers(towers: DualEncoder) -> None:
    """Hand both towers to torch.compile, in place: parameters keep their names.

    Captions are of any length, so the text tower is compiled for all of them at once. Dropout draws from
    torch's own generators, so that an accumulated step can draw the same twice. The towers stay whole under
    DistributedDataParallel: torch would split their graphs where its buckets end, and fails to compile parts
    whose sizes vary.
    """
    from torch._dynamo import config as dynamo

    dynamo.optimize_ddp = False
    towers.visual.compile(options={"fallback_random": True})
    towers.text.compile(options={"fallback_random": True}, dynamic=True)
