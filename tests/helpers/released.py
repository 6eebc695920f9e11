"""Checkpoints in the layouts of TBPS-CLIP, IRRA, RDE and ITSELF, made of our weights."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from easydict import EasyDict
from torch import Tensor

from model import build_model
from options import load_options

SIMCLR = {"simclr_mlp.0": (4, 8), "simclr_mlp.2": (8, 4)}
CLASSIFIER = {"classifier": (5, 8)}
MLM = {
    "cross_attn.out_proj": (8, 8),
    "cross_modal_transformer.resblocks.0.attn.out_proj": (8, 8),
    "ln_pre_t": (8,),
    "ln_pre_i": (8,),
    "ln_post": (8,),
    "mlm_head.dense": (8, 8),
    "mlm_head.ln": (8,),
    "mlm_head.fc": (20, 8),
}
OF_ITSELF = {"classifier_tse": (6, 9), "mlp_grab.0": (9, 18), "classifier_id_global": (5, 8)}
TOKEN_SELECTION = {
    "visul_emb_layer.linear": (9, 8),
    "visul_emb_layer.fc": (9, 8),
    "visul_emb_layer.mlp.bns.0": (4,),
    "texual_emb_layer.linear": (9, 8),
    "texual_emb_layer.mlp.layers.0": (4, 8),
}


def our_weights(config: Path) -> dict[str, Tensor]:
    """Random towers of the options of `config` under our names, no tensor left at a constant."""
    torch.manual_seed(0)
    model, _, _ = build_model(load_options(config), 0)
    return {
        name: tensor + 0.05 * torch.randn_like(tensor) for name, tensor in model.clip.state_dict().items()
    }


def heads(*groups: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A weight and a bias for each layer of these heads."""
    layers = {name: shape for group in groups for name, shape in group.items()}
    weights = {f"{name}.weight": torch.ones(shape) for name, shape in layers.items()}
    return weights | {f"{name}.bias": torch.zeros(shape[0]) for name, shape in layers.items()}


def tbps_clip(
    ours: dict[str, Tensor], recipe: str = "full", image_size: tuple[int, int] = (64, 32)
) -> dict[str, Any]:
    """What TBPS-CLIP saves: the text tower under `encode_text.`, an optimiser with numpy's learning rates
    and its options as an EasyDict.
    """
    model = {name.replace("text.", "encode_text.", 1): tensor for name, tensor in ours.items()}
    model |= heads(SIMCLR) if recipe == "full" else {}
    moments = [torch.optim.AdamW([torch.nn.Parameter(tensor.clone())]) for tensor in model.values()]
    for number, optimizer in enumerate(moments):
        optimizer.param_groups[0] |= {"ratio": 1.0, "lr": np.linspace(1e-6, 1e-4, len(moments))[number]}
        optimizer.param_groups[0]["params"][0].grad = torch.ones_like([*model.values()][number])
        optimizer.step()
    config = EasyDict(
        misc={"seed": 1},
        experiment={"input_resolution": list(image_size), "text_length": 77, "ss": recipe == "full"},
        schedule={"betas": [0.9, 0.98], "niter_per_ep": 212},
        model={"ckpt_type": "original_clip", "embed_dim": 512, "vocab_size": 49_408},
        distributed={"rank": 0, "url": "env://"},
        device="cuda:0",
    )
    return {
        "model": torch.nn.Module.state_dict(_Holder(model)),
        "optimizer": {
            "state": {number: part.state_dict()["state"][0] for number, part in enumerate(moments)},
            "param_groups": [part.state_dict()["param_groups"][0] for part in moments],
        },
        "config": config,
    }


class _Holder(torch.nn.Module):
    """Its state dict is an OrderedDict with metadata, as a trained model's is."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.tensors = tensors

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        destination.update(self.tensors)


def irra(ours: dict[str, Tensor], *groups: dict[str, tuple[int, ...]], start: str = "") -> dict[str, Any]:
    """What IRRA and RDE save: CLIP's names under `base_model.`, no logit_scale, and heads beside it."""
    model = {
        f"base_model.{name.removeprefix('text.')}": t for name, t in ours.items() if name != "logit_scale"
    }
    model = {start + name: tensor for name, tensor in {**model, **heads(*groups)}.items()}
    scheduler = {"milestones": (20, 50), "mode": "cosine", "last_epoch": 60, "_last_lr": [1e-5]}
    return {
        "model": model,
        "optimizer": {"state": {}, "param_groups": []},
        "scheduler": scheduler,
        "epoch": 57,
    }
