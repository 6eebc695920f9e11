"""IRRA and RDE, written down once more and plainly from their papers and the names of their checkpoints,
against `config/irra.yaml` and `config/rde.yaml`: whole runs step by step, and the evaluation of checkpoints.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import open_clip
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from torchvision import transforms

from data.types import Batch
from main import main
from misc.evaluation.features import load_features
from model import build_model
from model.tbps import TBPS, LossOutput
from options import load_options
from tests.helpers.released import heads, irra, our_weights
from tests.helpers.whole_runs import losses

Weights = dict[str, Tensor]  # by the names of the releases

HEADS = 2  # of the towers
SIZE, EMBED, LENGTH, VOCABULARY = (64, 32), 64, 77, 49_408
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


# The models


def norm(w: Weights, at: str, x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{at}.weight"], w[f"{at}.bias"])


def linear(w: Weights, at: str, x: Tensor) -> Tensor:
    return x @ w[f"{at}.weight"].T + w[f"{at}.bias"]


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def attend(
    w: Weights, at: str, queries: Tensor, keys: Tensor, heads: int, is_causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Multi-head attention, and its weights averaged over the heads."""
    ways = zip(w[f"{at}.in_proj_weight"].chunk(3), w[f"{at}.in_proj_bias"].chunk(3), strict=True)
    inputs = zip((queries, keys, keys), ways, strict=True)
    q, k, v = ((x @ a.T + b).unflatten(2, (heads, -1)).transpose(1, 2) for x, (a, b) in inputs)
    logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    if is_causal:
        logits = logits + torch.full(logits.shape[2:], -torch.inf).triu(1)
    rows = logits.softmax(-1)
    return linear(w, f"{at}.out_proj", (rows @ v).transpose(1, 2).flatten(2)), rows.mean(1)


def transformer(w: Weights, at: str, x: Tensor, heads: int, is_causal: bool = False) -> tuple[Tensor, Tensor]:
    """The tokens after all blocks, and the attention of the last."""
    number = len([name for name in w if name.startswith(at) and name.endswith("ln_1.weight")])
    for block in (f"{at}.resblocks.{i}" for i in range(number)):
        own = norm(w, f"{block}.ln_1", x)
        attended, rows = attend(w, f"{block}.attn", own, own, heads, is_causal)
        x = x + attended
        hidden = quick_gelu(linear(w, f"{block}.mlp.c_fc", norm(w, f"{block}.ln_2", x)))
        x = x + linear(w, f"{block}.mlp.c_proj", hidden)
    return x, rows


def image_tokens(w: Weights, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """The projected tokens (B, 1 + P, E), and the last block's attention."""
    at = "base_model.visual"
    patches = F.conv2d(pixels, w[f"{at}.conv1.weight"], stride=w[f"{at}.conv1.weight"].shape[-1])
    first = w[f"{at}.class_embedding"].expand(len(pixels), 1, -1)
    x = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1) + w[f"{at}.positional_embedding"]
    x, rows = transformer(w, f"{at}.transformer", norm(w, f"{at}.ln_pre", x), HEADS)
    return norm(w, f"{at}.ln_post", x) @ w[f"{at}.proj"], rows


def text_tokens(w: Weights, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The projected tokens (B, 77, E), and the last block's attention."""
    x = w["base_model.token_embedding.weight"][ids] + w["base_model.positional_embedding"]
    x, rows = transformer(w, "base_model.transformer", x, HEADS, is_causal=True)
    return norm(w, "base_model.ln_final", x) @ w["base_model.text_projection"], rows


def at_end(tokens: Tensor, ids: Tensor) -> Tensor:
    return torch.stack([own[place] for own, place in zip(tokens, ids.argmax(1), strict=True)])


def chosen_patches(rows: Tensor) -> list[Tensor]:
    """For each image the three tenths of its patches that the class token attends to most."""
    scores = rows[:, 0, 1:]
    return [1 + own.argsort(descending=True)[: int(scores.shape[1] * 0.3)] for own in scores]


def chosen_words(rows: Tensor, ids: Tensor) -> list[Tensor]:
    """For each caption the words that its end token attends to most. Id 0 is padding, wherever it stands."""
    chosen = []
    for own, caption in zip(rows, ids, strict=True):
        end = int(caption.argmax())
        words = [place for place in range(1, end) if caption[place] != 0]
        words.sort(key=own[end].tolist().__getitem__, reverse=True)
        chosen.append(torch.tensor(words[: int((LENGTH - 2) * 0.3)]))
    return chosen


def selection(w: Weights, at: str, residual: str, tokens: Tensor, chosen: list[Tensor]) -> Tensor:
    """The embedding by token selection, BatchNorm with what it has stored."""
    rows, mlp = [], f"{at}.mlp"
    stored = [w[f"{mlp}.bns.0.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    for own, places in zip(tokens, chosen, strict=True):
        x = F.normalize(own[places], dim=1)
        hidden = F.batch_norm(linear(w, f"{mlp}.layers.0", x), *stored)
        all_places = linear(w, f"{at}.{residual}", x) + linear(w, f"{mlp}.layers.1", hidden.relu())
        rows.append(all_places.amax(0))
    return torch.stack(rows)


def embeddings(w: Weights, pixels: Tensor, ids: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Images and captions: the pooled features and, of RDE, those by token selection."""
    images, image_rows = image_tokens(w, pixels)
    texts, text_rows = text_tokens(w, ids)
    pooled = (images[:, 0], at_end(texts, ids))
    if "visul_emb_layer.fc.weight" not in w:
        return [pooled]
    by_selection = (
        selection(w, "visul_emb_layer", "fc", images, chosen_patches(image_rows)),
        selection(w, "texual_emb_layer", "linear", texts, chosen_words(text_rows, ids)),
    )
    return [pooled, by_selection]


def similarities(w: Weights, pixels: Tensor, ids: Tensor) -> Tensor:
    """(captions, images), as the releases rank by them."""
    parts = [F.normalize(texts) @ F.normalize(images).T for images, texts in embeddings(w, pixels, ids)]
    return sum(parts) / len(parts)


# The losses


def sdm(cosines: Tensor, same: Tensor) -> Tensor:
    q, p = same / same.sum(1, keepdim=True), (50 * cosines).softmax(1)
    return (p * (p.log() - (q + 1e-8).log())).sum(1).mean()


def tal(cosines: Tensor, same: Tensor) -> Tensor:
    """One value for each row."""
    tau, margin, values = 0.015, 0.1, []
    for own, is_same in zip(cosines, same.bool(), strict=True):
        near = own[is_same] @ (own[is_same].detach() / tau).softmax(0)
        values.append((margin - near + tau * (own[~is_same] / tau).exp().sum().log()).clamp(min=0))
    return torch.stack(values)


def both_ways(
    loss: Callable[[Tensor, Tensor], Tensor], images: Tensor, texts: Tensor, same: Tensor
) -> Tensor:
    cosines = F.normalize(texts, dim=1) @ F.normalize(images, dim=1).T
    return loss(cosines, same) + loss(cosines.T, same)


def irra_loss(
    w: Weights, pixels: Tensor, ids: Tensor, persons: Tensor, labels: Tensor, weights: None
) -> Tensor:
    images, texts = image_tokens(w, pixels)[0], text_tokens(w, ids)[0]
    pooled, same = (images[:, 0], at_end(texts, ids)), (persons[:, None] == persons).float()
    identity = sum(F.cross_entropy(linear(w, "classifier", rows), persons) for rows in pooled) / 2
    heads = images.shape[2] // 64
    x, _ = attend(w, "cross_attn", norm(w, "ln_pre_t", texts), norm(w, "ln_pre_i", images), heads)
    x = norm(w, "ln_post", transformer(w, "cross_modal_transformer", x, heads)[0])
    is_masked = labels != -100
    x = norm(w, "mlm_head.ln", quick_gelu(linear(w, "mlm_head.dense", x[is_masked])))
    words = F.cross_entropy(linear(w, "mlm_head.fc", x), labels[is_masked])
    return both_ways(sdm, *pooled, same) + identity + words


def rde_loss(
    w: Weights, pixels: Tensor, ids: Tensor, persons: Tensor, labels: None, weights: Tensor
) -> Tensor:
    same = (persons[:, None] == persons).float()
    return sum((weights * both_ways(tal, *pair, same)).sum() for pair in embeddings(w, pixels, ids))


LOSSES = {"irra": irra_loss, "rde": rde_loss}


# The training


def rate(epoch: int, num_epochs: int, warmup: float) -> float:
    """The base rate in an epoch, counted from 1, as a share of its peak."""
    t = epoch - 1
    if t < warmup:
        return 0.1 * (1 - t / warmup) + t / warmup
    return (1 + math.cos(math.pi * (t - warmup) / (num_epochs - warmup))) / 2


def peak_and_decay(name: str) -> tuple[float, float]:
    """Of a tensor, by its name; a later rule wins."""
    peak, decay = 1e-5, 4e-5
    if "cross" in name:
        peak = 5e-5
    if "bias" in name:
        peak, decay = 2e-5, 0.0
    if "classifier" in name or "mlm_head" in name:
        peak = 5e-5
    if "emb_layer" in name:
        peak = 1e-3
    return peak, decay


def train(
    start: Weights, loss: Callable[..., Tensor], batches: list[tuple], shares: list[float]
) -> list[float]:
    """Trains `start` in place on a batch for each share of the peak rates; returns the losses."""
    trained = {name: tensor for name, tensor in start.items() if "running" not in name and "num_" not in name}
    settings = {name: peak_and_decay(name) for name in trained}
    groups = [{"params": [p.requires_grad_()], "weight_decay": settings[n][1]} for n, p in trained.items()]
    optimizer, values = torch.optim.Adam(groups, betas=(0.9, 0.999), eps=1e-3), []
    for batch, share in zip(batches, shares, strict=True):
        for group, (peak, _) in zip(optimizer.param_groups, settings.values(), strict=True):
            group["lr"] = peak * share
        optimizer.zero_grad()
        value = loss(start, *batch)
        value.backward()
        optimizer.step()
        values.append(value.item())
    for tensor in trained.values():
        tensor.requires_grad_(False)
    return values


# The tests


TOWERS = {"patch_size": 16, "image_width": 32, "image_layers": 2, "image_heads": HEADS, "embed_dim": EMBED}
TOWERS |= {"text_width": EMBED, "text_layers": 2, "text_heads": HEADS}
MARKS = ("{} !!!", '"{}" -- it\'s (really) so: 100%; #1!!', "a!b!!c &lt;{}&gt; ~!@$^&*", "{} {} {} {} {} {}")


@pytest.fixture(scope="module")
def marked(people: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`people` with captions full of punctuation, one of one word, and images of odd sizes."""
    folder = tmp_path_factory.mktemp("marked")
    for path in (people / "train_reid_en.json", people / "test_reid_en.json"):
        records = json.loads(path.read_text(encoding="utf-8"))
        for number, record in enumerate(records):
            record["captions"] = [MARKS[number % len(MARKS)].replace("{}", c) for c in record["captions"]]
            with Image.open(people / "imgs" / record["file_path"]) as image:
                target = folder / "imgs" / record["file_path"]
                target.parent.mkdir(parents=True, exist_ok=True)
                image.resize((37 + 31 * number % 97, 61 + 53 * number % 211)).save(target)
        if path.name.startswith("test"):
            records[0]["captions"][0] = "man"
        (folder / path.name).write_text(json.dumps(records), encoding="utf-8")
    return folder


def small_config(recipe: str, data: Path, path: Path) -> Path:
    """The recipe with small towers and images, on `data`."""
    options = {
        "base": str(Path(f"config/{recipe}.yaml").absolute()),
        "misc": {"device": "cpu"},
        "model": TOWERS | {"clip_pretrained": None},
        "experiment": {"cmt_depth": 1} if recipe == "irra" else {"tse_width": 2 * EMBED},
        "data": {"annotation_file": str(data), "image_root": str(data / "imgs"), "dataset": "auto"},
        "output": {"dir": str(path.with_suffix(""))},
        "log": {"print_period": 1},
    }
    options["data"] |= {"image_size": list(SIZE), "num_workers": 0, "batch_size": 16}
    path.write_text(yaml.safe_dump(options), encoding="utf-8")
    return path


def release(recipe: str, config: Path, num_persons: int) -> Weights:
    """A checkpoint of the release with the towers of `config`; no tensor is left at a constant."""
    block = "base_model.transformer.resblocks.0."
    towers = irra(our_weights(config))["model"]
    if recipe == "irra":
        layers = {"cross_attn.out_proj": (EMBED, EMBED), "mlm_head.dense": (EMBED, EMBED)}
        layers |= {"classifier": (num_persons, EMBED), "mlm_head.fc": (VOCABULARY, EMBED)}
        layers |= dict.fromkeys(("ln_pre_t", "ln_pre_i", "ln_post", "mlm_head.ln"), (EMBED,))
        others = {name: tensor for name, tensor in towers.items() if name.startswith(block)}
        others = {name.replace("base_model.", "cross_modal_"): tensor for name, tensor in others.items()}
        others |= {
            f"cross_attn.{n}": others[f"cross_modal_{block.removeprefix('base_model.')}attn.{n}"]
            for n in ("in_proj_weight", "in_proj_bias")
        }
    else:
        layers, others = {"visul_emb_layer.fc": (2 * EMBED, EMBED)}, {}
        for at in ("visul_emb_layer", "texual_emb_layer"):
            layers |= {f"{at}.linear": (2 * EMBED, EMBED), f"{at}.mlp.layers.0": (EMBED, EMBED)}
            layers |= {f"{at}.mlp.layers.1": (2 * EMBED, EMBED)}
            for number, width in enumerate((EMBED, 2 * EMBED)):
                norm = f"{at}.mlp.bns.{number}"
                layers[norm] = (width,)
                others |= {
                    f"{norm}.running_mean": torch.zeros(width),
                    f"{norm}.running_var": torch.ones(width),
                }
                others[f"{norm}.num_batches_tracked"] = torch.tensor(0)
    content = towers | heads(layers) | others
    torch.manual_seed(1)
    return {
        name: tensor + 0.1 * torch.randn_like(tensor).clamp(-2, 2) if tensor.is_floating_point() else tensor
        for name, tensor in content.items()
    }


def save(weights: Weights, path: Path) -> Path:
    torch.save({"model": weights, "optimizer": {}, "scheduler": {}, "epoch": 57}, path)
    return path


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What the losses of the runs to come read in each step, as `LOSSES` do."""
    batches, original = [], TBPS.forward

    def forward(model: TBPS, batch: Batch, soft_label: float) -> LossOutput:
        more = LENGTH - batch.tokens["input_ids"].shape[1]
        labels = None if batch.mlm_labels is None else F.pad(batch.mlm_labels, (0, more), value=-100)
        ids = F.pad(batch.tokens["input_ids"], (0, more))
        batches.append((batch.images["view1"], ids, batch.person_ids, labels, batch.weights))
        return original(model, batch, soft_label)

    monkeypatch.setattr(TBPS, "forward", forward)
    return batches


@pytest.mark.parametrize("recipe", LOSSES)
def test_the_losses_and_weights_of_six_steps_are_those_of_the_release(
    recipe: str, marked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a released checkpoint with its heads, in an epoch of warm-up and another."""
    config = small_config(recipe, marked, tmp_path / "run.yaml")
    weights = release(recipe, config, num_persons=10)
    start = f"model.clip_pretrained={save(weights, tmp_path / 'start.pth')}"
    batches = recorded(monkeypatch)
    assert main(["--config", str(config), start, "schedule.epoch=2", "schedule.epoch_warmup=0.5"]) == 0
    assert len(batches) == 6

    shares = [rate(epoch, 2, 0.5) for epoch in (1, 1, 1, 2, 2, 2)]
    expected = train(weights, LOSSES[recipe], batches, shares)
    assert losses(tmp_path / "run") == pytest.approx(expected, rel=1e-4)

    end = f"model.clip_pretrained={save(weights, tmp_path / 'end.pth')}"
    before, after = (
        build_model(load_options(config, [source]), 10)[0].state_dict() for source in (start, end)
    )
    found = torch.load(tmp_path / "run" / "checkpoint_last.pth")["model"]
    for name, tensor in after.items():
        way = (tensor - before[name]).double().norm()
        assert (found[name] - tensor).double().norm() <= 0.02 * way, name


@pytest.mark.parametrize("recipe", LOSSES)
def test_a_released_checkpoint_ranks_as_in_the_release(recipe: str, marked: Path, tmp_path: Path) -> None:
    """Punctuation is kept, images are resized as in training, and RDE has both of its embeddings."""
    config = small_config(recipe, marked, tmp_path / "run.yaml")
    weights = release(recipe, config, num_persons=10)
    file, out = save(weights, tmp_path / "best.pth"), tmp_path / "features"
    assert main(["--config", str(config), "--evaluate", str(file), "--save-features", str(out)]) == 0
    (encoded,) = load_features(out, "").sets.values()

    prepare = transforms.Compose(
        [transforms.Resize(SIZE), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    images = [Image.open(marked / "imgs" / name).convert("RGB") for name in encoded.evaluation_set.images]
    records = json.loads((marked / "test_reid_en.json").read_text(encoding="utf-8"))
    ids = open_clip.tokenize([caption for record in records for caption in record["captions"]], LENGTH)
    assert (ids[:, 1:5] == 0).any(), "some word has a token of id 0, which is padding elsewhere"
    with torch.no_grad():
        expected = similarities(weights, torch.stack([prepare(image) for image in images]), ids)
    found = encoded.features.texts["en"] @ encoded.features.images.T
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.01
