"""A straightforward implementation of the same losses and features, which the benchmark compares with.

Attention is torch's own that returns its weights, captions are padded to the text length, each view goes
through the tower separately, soft labels come from a second pass of both towers, AdamW has a group for each
parameter, a training sample has all four views, used or not, metrics sort the whole matrix. In fp32.
"""

import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from data.types import VIEWS, Tokens
from model.clip import CLIP
from model.tbps import TBPS
from model.towers.layers import Attention, Block
from text_utils.tokenizer import CLIPTokenizer

Captions = Sequence[Tensor]  # token ids, without padding


def without_padding(tokens: Tokens) -> Captions:
    """The captions of a batch, each of its own length."""
    lengths = tokens["attention_mask"].sum(dim=1).tolist()
    return [row[:length] for row, length in zip(tokens["input_ids"], lengths, strict=True)]


def encode_image(clip: CLIP, pixels: Tensor) -> Tensor:
    """(B, 3, H, W) -> features (B, D)."""
    visual = clip.visual
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
    first = visual.class_embedding.expand(len(patches), 1, -1)
    x = visual.ln_pre(torch.cat([first, patches], dim=1) + visual.positional_embedding)
    for block in visual.transformer.resblocks:
        x = _block(block, x)
    return visual.ln_post(x[:, 0]) @ visual.proj


def encode_text(clip: CLIP, captions: Captions) -> Tensor:
    """Captions, padded to the text length -> features (B, D)."""
    text = clip.text
    length = len(text.positional_embedding)
    ids = torch.stack([F.pad(row, (0, length - len(row))) for row in captions])
    mask = torch.full((length, length), -math.inf, device=ids.device).triu(1)
    x = text.token_embedding(ids) + text.positional_embedding
    for block in text.transformer.resblocks:
        x = _block(block, x, mask)
    ends = [len(row) - 1 for row in captions]
    return text.ln_final(x)[range(len(ends)), ends] @ text.text_projection


@torch.no_grad()
def encode_captions(
    clip: CLIP, tokenizer: CLIPTokenizer, captions: Sequence[str], batch_size: int, device: torch.device
) -> Tensor:
    """Captions in their order -> features (Q, D), on the CPU."""
    features = []
    for start in range(0, len(captions), batch_size):
        rows = [torch.tensor(tokenizer.encode(text)) for text in captions[start : start + batch_size]]
        features.append(encode_text(clip, [row.to(device) for row in rows]).cpu())
    return torch.cat(features)


def _block(block: Block, x: Tensor, mask: Tensor | None = None) -> Tensor:
    x = x + _attention(block.attn, block.ln_1(x), mask)
    hidden = block.mlp.c_fc(block.ln_2(x))
    return x + block.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))


def _attention(attention: Attention, x: Tensor, mask: Tensor | None) -> Tensor:
    x = x.transpose(0, 1)
    weights = (attention.in_proj_weight, attention.in_proj_bias, None, None, False)
    out = (attention.dropout, attention.out_proj.weight, attention.out_proj.bias, attention.training)
    sizes = (x.shape[2], attention.heads)
    return F.multi_head_attention_forward(x, x, x, *sizes, *weights, *out, attn_mask=mask)[0].transpose(0, 1)


def total_loss(
    model: TBPS, images: dict[str, Tensor], captions: Captions, person_ids: Tensor, soft_label: float
) -> Tensor:
    """The weighted losses of the full or simplified recipe; `images`: the views used, (B, 3, H, W) each."""
    clip, weights = model.clip, model.weights
    scale = clip.logit_scale.exp()
    same = (person_ids[:, None] == person_ids).float()
    targets = same / same.sum(dim=1, keepdim=True)
    texts = F.normalize(encode_text(clip, captions), dim=1)
    with torch.no_grad():
        soft_texts = F.normalize(encode_text(clip, captions), dim=1)
    nitc, pairs = [], []
    for view in [name for name in VIEWS[:2] if name in model.views]:
        features = F.normalize(encode_image(clip, images[view]), dim=1)
        with torch.no_grad():
            soft = scale * F.normalize(encode_image(clip, images[view]), dim=1) @ soft_texts.T
        logits = scale * features @ texts.T
        pairs.append((features, logits))
        for found, own in ((logits, soft), (logits.T, soft.T)):
            wanted = (1 - soft_label) * targets + soft_label * own.softmax(dim=1)
            nitc.append(-(wanted * found.log_softmax(dim=1)).sum(dim=1).mean())
    total = weights["nitc"] * sum(nitc) / len(nitc)
    features, logits = pairs[0]
    for found in (logits, logits.T):
        p = found.log_softmax(dim=1)
        reversed_kl = (p.exp() * (p - (targets + model.objectives["ritc"].eps).log())).sum(dim=1).mean()
        total = total + weights["ritc"] * reversed_kl / 2
    if "citc" in weights:
        within, across = model.objectives["citc"].lambdas
        loss = within * (features @ features.T - texts @ texts.T).square().mean()
        loss = loss + across * (features @ texts.T - texts @ features.T).square().mean()
        total = total + weights["citc"] * loss
    if "ss" in weights:
        views = [model.simclr_mlp(encode_image(clip, images[name])) for name in VIEWS[2:]]
        rows = F.normalize(torch.cat(views), dim=1)
        own = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
        partners = torch.arange(len(rows), device=rows.device).roll(len(texts))
        similar = (rows @ rows.T / model.objectives["ss"].temperature).masked_fill(own, -math.inf)
        total = total + weights["ss"] * F.cross_entropy(similar, partners)
    return total


def build_optimizer(model: nn.Module, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW with a group for each parameter."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [{"params": [p], "weight_decay": weight_decay if p.ndim > 1 else 0.0} for p in trained]
    return torch.optim.AdamW(groups, lr=1e-6, betas=(0.9, 0.98))


def training_samples(
    images: Sequence[Path], size: tuple[int, int], mean: Sequence[float], std: Sequence[float]
) -> Iterator[dict[str, Tensor]]:
    """The four views of each image, (3, H, W) fp32, normalised, by torchvision's operations on images."""
    pool = [v2.ColorJitter(0.1, 0.1, 0.1), v2.RandomRotation(15), v2.RandomResizedCrop(size, (0.9, 1.0))]
    pool += [v2.RandomGrayscale(0.1), v2.RandomHorizontalFlip(), v2.RandomErasing(scale=(0.10, 0.20))]
    resize = v2.Resize(size)
    jitter = v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8)
    blur = v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))])
    crop, flip = v2.RandomResizedCrop(size, (0.2, 1.0)), v2.RandomHorizontalFlip()
    strong = v2.Compose([crop, jitter, v2.RandomGrayscale(0.2), blur, flip])
    finish = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
    for path in images:
        with Image.open(path) as file:
            image = file.convert("RGB")
        views = {}
        for name in VIEWS[:2]:
            view = resize(image)
            for operation in random.choices(pool, k=2):
                view = operation(v2.functional.to_image(view) if operation is pool[-1] else view)
            views[name] = finish(view)
        yield views | {name: finish(strong(image)) for name in VIEWS[2:]}


def retrieval_metrics(
    queries: Tensor, gallery: Tensor, query_ids: Tensor, gallery_ids: Tensor
) -> dict[str, float]:
    """The figures of `misc.metrics.retrieval_metrics`, by sorting all scores of all queries."""
    scores = F.normalize(queries, dim=1) @ F.normalize(gallery, dim=1).T
    order = scores.argsort(dim=1, descending=True, stable=True)
    hits = gallery_ids[order] == query_ids[:, None]
    found = hits.cumsum(dim=1)
    places = torch.arange(1, hits.shape[1] + 1, device=hits.device)
    figures = {f"R{k}": (found[:, k - 1] > 0).float().mean() for k in (1, 5, 10)}
    figures["mAP"] = ((found / places * hits).sum(dim=1) / found[:, -1]).mean()
    last = (hits * places).max(dim=1).values
    figures["mINP"] = (found[:, -1] / last).mean()
    return {name: 100 * float(value) for name, value in figures.items()}
