"""The heads in a checkpoint: ours, and those of TBPS-CLIP, IRRA, RDE and ITSELF under the names of ours."""

import logging
import os
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from model.objectives import OBJECTIVES, head_names
from model.weights.files import read_file
from model.weights.shapes import bad_weights
from model.weights.wrappers import plain_names

logger = logging.getLogger(__name__)
# What RDE's and ITSELF's checkpoints hold and their forward passes do not read.
UNREAD = ("visul_emb_layer.linear", "visul_emb_layer.mlp.bns.1", "texual_emb_layer.mlp.bns.1")
# {how RDE and ITSELF name what selects tokens: its name in our head}
BRANCHES = {"visul_emb_layer": "image", "texual_emb_layer": "text"}
ITSELF_WIDTH = 4096  # of the embedding that ITSELF makes of them; RDE's has 1024
# {how ITSELF names its embeddings, also in its earlier state: the names of ours}
EMBEDDINGS = {"global": "pooled", "bge": "pooled", "grab": "grab_head", "tse": "grab_head"}
# {how a name of ITSELF begins: how it begins in ours}
OF_ITSELF = {
    f"{part}_{theirs}": ours
    for theirs, name in EMBEDDINGS.items()
    for part, ours in (
        ("mlp", f"cid_head.{name}.mlp"),
        ("classifier", f"cid_head.{name}.classifier"),
        ("classifier_id", f"classifier.{name}".removesuffix(".pooled")),
    )
}


def _renamed(head_name: str) -> dict[str, str]:
    """{how a name in a release begins: how it begins in ours}, the first that fits. TBPS-CLIP and IRRA have
    our `mlm_head` in several modules. `head_name` is that of the head that selects tokens.
    """
    of_mlm = ("cross_attn", "cross_modal_transformer", "ln_pre_t", "ln_pre_i", "ln_post")
    layers = {"mlp.layers.0": "hidden", "mlp.bns.0": "norm", "mlp.layers.1": "output"}
    return {
        **{part: f"mlm_head.{part}" for part in of_mlm},
        "visul_emb_layer.fc": f"{head_name}.image.residual",
        "texual_emb_layer.linear": f"{head_name}.text.residual",
        **{
            f"{theirs}.{part}": f"{head_name}.{ours}.{name}"
            for theirs, ours in BRANCHES.items()
            for part, name in layers.items()
        },
        **{theirs: f"{head_name}.{ours}" for theirs, ours in BRANCHES.items()},
        **OF_ITSELF,
    }


def is_of_itself(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these tensors, by name, are of ITSELF's release: told from RDE's by its classifiers or, where
    it was trained without them, by the width of its second embedding.
    """
    second = tensors.get("visul_emb_layer.fc.bias")
    is_wide = second is not None and len(second) == ITSELF_WIDTH
    return is_wide or any(name.split(".")[0] in OF_ITSELF for name in tensors)


def places(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, str]]:
    """{name: its group, its name in our checkpoints} of a file's tensors: "ln_post.bias" has the group
    "mlm_head", and is "mlm_head.ln_post.bias". The group is the first part of that name, or an entry of
    `UNREAD`.
    """
    renamed = _renamed("grab_head" if is_of_itself(tensors) else "tse_head")
    return {name: _place(name, renamed) for name in tensors}


def _place(name: str, renamed: Mapping[str, str]) -> tuple[str, str]:
    for part in UNREAD:
        if name.startswith(f"{part}."):
            return part, name
    for theirs, ours in renamed.items():
        if name.startswith(f"{theirs}."):
            name = ours + name.removeprefix(theirs)
            break
    return name.split(".")[0], name


def fill_heads(path: Path, heads: Mapping[str, nn.Module], is_evaluated: bool) -> None:
    """Fill the heads of a model from a checkpoint, ours or a release, and log what becomes of each in it.

    In training a head that the file lacks, or that does not fit (another number of persons, another depth),
    starts from random weights.

    Args:
        path: of the weights; a folder, or the name of a model on the hub, has no heads.
        heads: of the model, by name.
        is_evaluated: these are the heads that act at test time, and all must be filled.

    Raises:
        UserError: such a head is missing or does not fit; a tensor under two names.
    """
    saved = _read_heads(path)
    for head_name, head in heads.items():
        tensors = saved.pop(head_name, {})
        if problem := _misfit(head_name, head, tensors):
            if is_evaluated:
                raise bad_weights(path, f"{problem}; {_way_out(head_name, tensors)}")
            logger.info("%s: %s starts from random weights: the file %s", path, head_name, problem)
            continue
        head.load_state_dict({name.removeprefix(f"{head_name}."): tensor for name, tensor in tensors.items()})
        logger.info("%s: loaded %s (%d)", path, head_name, len(tensors))
    for group, tensors in saved.items():
        _log_unused(path, group, len(tensors), is_evaluated)


def _read_heads(path: Path) -> dict[str, dict[str, Tensor]]:
    """The tensors of a file that belong to heads, by group and our name; see `place`."""
    path = Path(os.path.expanduser(path))
    if not path.is_file():
        return {}
    content, _ = read_file(path, again=True)
    known = {*head_names(), *UNREAD}
    heads: dict[str, dict[str, Tensor]] = defaultdict(dict)
    names = plain_names(path, content, again=True)
    placed = places({names[name]: tensor for name, tensor in content.items()})
    for name, plain in names.items():
        group, ours = placed[plain]
        if group in known:
            if ours in heads[group]:
                raise bad_weights(path, f"holds {ours!r} under two names")
            heads[group][ours] = content[name]
    return heads


def _misfit(head_name: str, head: nn.Module, tensors: Mapping[str, Tensor]) -> str | None:
    """Why these tensors do not fill the head; None: they do."""
    if not tensors:
        return f"has no {head_name}"
    own = {f"{head_name}.{name}": tensor for name, tensor in head.state_dict().items()}
    for name in sorted(own.keys() | tensors.keys()):
        if name not in tensors:
            return f"lacks {name!r}"
        if name not in own:
            return f"has {name!r}, which is not in the model"
        found, expected = tuple(tensors[name].shape), tuple(own[name].shape)
        if found != expected:
            return f"has {name!r} of shape {found}; {expected} is expected"
    return None


def _way_out(head_name: str, tensors: Mapping[str, Tensor]) -> str:
    if tensors:
        return "use the options that it was trained with"
    return f"set experiment.{_loss_of(head_name)}=false, or give a checkpoint that was trained with it"


def _log_unused(path: Path, group: str, count: int, is_evaluated: bool) -> None:
    """Say why tensors are not used; warn where their head would change the figures."""
    if group in UNREAD:
        reason = "which the forward pass of its release does not read"
    elif not is_evaluated:
        reason = f"since experiment.{_loss_of(group)} is false"
    elif group in head_names(at_test=True):
        logger.warning(
            "weights '%s': its %s, which acts at test time, is not used: the figures are those of the pooled "
            "features alone. Set experiment.%s=true, or give the --config that it was trained with (of "
            "releases: config/rde.yaml, config/itself.yaml)",
            *(path, group, _loss_of(group)),
        )
        return
    else:
        reason = "which only training uses"
    logger.info("%s: not used: %s (%d), %s", path, group, count, reason)


def _loss_of(head_name: str) -> str:
    """The loss that a head belongs to."""
    return next(loss for loss, kind in OBJECTIVES.items() if kind.head_name == head_name)
