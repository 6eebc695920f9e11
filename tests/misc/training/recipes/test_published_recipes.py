"""IRRA, RDE and ITSELF, written down once more and plainly from their papers and the names of their
checkpoints, against their recipes in `config/`: whole runs step by step, gradients, and the evaluation of
checkpoints.
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
BUDGET = 4  # steps in which ITSELF's number of tokens falls
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


def transformer(
    w: Weights, at: str, x: Tensor, heads: int, is_causal: bool = False
) -> tuple[Tensor, list[Tensor]]:
    """The tokens after all blocks, and the attention of each."""
    attention = []
    number = len([name for name in w if name.startswith(at) and name.endswith("ln_1.weight")])
    for block in (f"{at}.resblocks.{i}" for i in range(number)):
        own = norm(w, f"{block}.ln_1", x)
        attended, rows = attend(w, f"{block}.attn", own, own, heads, is_causal)
        x = x + attended
        hidden = quick_gelu(linear(w, f"{block}.mlp.c_fc", norm(w, f"{block}.ln_2", x)))
        x = x + linear(w, f"{block}.mlp.c_proj", hidden)
        attention.append(rows)
    return x, attention


def image_tokens(w: Weights, pixels: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The projected tokens (B, 1 + P, E), and each block's attention."""
    at = "base_model.visual"
    patches = F.conv2d(pixels, w[f"{at}.conv1.weight"], stride=w[f"{at}.conv1.weight"].shape[-1])
    first = w[f"{at}.class_embedding"].expand(len(pixels), 1, -1)
    x = torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1) + w[f"{at}.positional_embedding"]
    x, rows = transformer(w, f"{at}.transformer", norm(w, f"{at}.ln_pre", x), HEADS)
    return norm(w, f"{at}.ln_post", x) @ w[f"{at}.proj"], rows


def text_tokens(w: Weights, ids: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The projected tokens (B, 77, E), and each block's attention."""
    x = w["base_model.token_embedding.weight"][ids] + w["base_model.positional_embedding"]
    x, rows = transformer(w, "base_model.transformer", x, HEADS, is_causal=True)
    return norm(w, "base_model.ln_final", x) @ w["base_model.text_projection"], rows


def at_end(tokens: Tensor, ids: Tensor) -> Tensor:
    return torch.stack([own[place] for own, place in zip(tokens, ids.argmax(1), strict=True)])


def rolled_out(attention: list[Tensor]) -> Tensor:
    """ITSELF's product of the attentions of the blocks that it looks at: here, of all."""
    result = torch.eye(attention[0].shape[1], dtype=attention[0].dtype)
    for rows in attention:
        rows = rows.detach().clone()
        for own in rows.flatten(1):  # a view of each input's matrix
            places = own.argsort()[: int(0.25 * len(own))]
            own[places[places != 0]] = 0
        rows = (rows + torch.eye(rows.shape[1])) / 2
        result = (rows / rows.sum(-1, keepdim=True)) @ result
    return result


def chosen_patches(rows: Tensor, share: float) -> list[Tensor]:
    """For each image that share of its patches that the class token attends to most."""
    scores = rows[:, 0, 1:]
    return [1 + own.argsort(descending=True)[: int(scores.shape[1] * share)] for own in scores]


def chosen_words(rows: Tensor, ids: Tensor, share: float) -> list[Tensor]:
    """For each caption the words that its end token attends to most. Id 0 is padding, wherever it stands."""
    chosen = []
    for own, caption in zip(rows, ids, strict=True):
        end = int(caption.argmax())
        words = [place for place in range(1, end) if caption[place] != 0]
        words.sort(key=own[end].tolist().__getitem__, reverse=True)
        chosen.append(torch.tensor(words[: int((LENGTH - 2) * share)]))
    return chosen


def selection(
    w: Weights, at: str, residual: str, tokens: Tensor, chosen: list[Tensor], training: bool
) -> Tensor:
    """The embedding by token selection, BatchNorm over all of them in training, else as stored."""
    mlp = f"{at}.mlp"
    stored = [w[f"{mlp}.bns.0.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    x = torch.cat([F.normalize(own[places], dim=1) for own, places in zip(tokens, chosen, strict=True)])
    hidden = F.batch_norm(linear(w, f"{mlp}.layers.0", x), *stored, training)
    all_places = linear(w, f"{at}.{residual}", x) + linear(w, f"{mlp}.layers.1", hidden.relu())
    return torch.stack([own.amax(0) for own in all_places.split([len(places) for places in chosen])])


def embeddings(
    w: Weights, pixels: Tensor, ids: Tensor, share: float = 0.3, rolls: bool = False, training: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """Images and captions: the pooled features and, of RDE and ITSELF, those by token selection: a share of
    the tokens, by the attention of the last block or by the rollout.
    """
    images, image_rows = image_tokens(w, pixels)
    texts, text_rows = text_tokens(w, ids)
    pooled = (images[:, 0], at_end(texts, ids))
    if "visul_emb_layer.fc.weight" not in w:
        return [pooled]
    image_rows, text_rows = (rolled_out(rows) if rolls else rows[-1] for rows in (image_rows, text_rows))
    patches, words = chosen_patches(image_rows, share), chosen_words(text_rows, ids, share)
    by_selection = (
        selection(w, "visul_emb_layer", "fc", images, patches, training),
        selection(w, "texual_emb_layer", "linear", texts, words, training),
    )
    return [pooled, by_selection]


def similarities(
    w: Weights, pixels: Tensor, ids: Tensor, weight: float = 0.5, **selected: float | bool
) -> Tensor:
    """(captions, images), as the releases rank by them."""
    pairs = embeddings(w, pixels, ids, **selected)
    pooled, *others = (F.normalize(texts) @ F.normalize(images).T for images, texts in pairs)
    return weight * pooled + (1 - weight) * others[0] if others else pooled


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
    w: Weights, pixels: Tensor, ids: Tensor, persons: Tensor, labels: Tensor, weights: None, step: int
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
    w: Weights, pixels: Tensor, ids: Tensor, persons: Tensor, labels: None, weights: Tensor, step: int
) -> Tensor:
    same = (persons[:, None] == persons).float()
    return sum((weights * both_ways(tal, *pair, same)).sum() for pair in embeddings(w, pixels, ids))


def identities(w: Weights, name: str, images: Tensor, texts: Tensor, persons: Tensor) -> Tensor:
    """ITSELF's CID and ID of one of its embeddings: no match is the class after all persons."""
    cosines = F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    same, rows, no_match = persons[:, None] == persons, [], len(w[f"classifier_{name}.bias"]) - 1
    for i, person in enumerate(persons):
        j, k = (c.masked_fill(same[i], -2).argmax() for c in (cosines[:, i], cosines[i]))
        rows += [
            (images[i], texts[i], person),
            (images[j], texts[i], no_match),
            (images[i], texts[k], no_match),
        ]
    v, t = (torch.stack([row[side] for row in rows]) for side in (0, 1))
    labels, total = torch.tensor([int(row[2]) for row in rows]), 0
    for pair in (torch.cat([v, t], 1), torch.cat([t, v], 1)):
        hidden = F.gelu(norm(w, f"mlp_{name}.1", linear(w, f"mlp_{name}.0", pair)))
        total = total + F.cross_entropy(linear(w, f"classifier_{name}", hidden), labels) / 2
    return total + sum(
        F.cross_entropy(linear(w, f"classifier_id_{name}", x), persons) for x in (images, texts)
    )


def itself_loss(
    w: Weights, pixels: Tensor, ids: Tensor, persons: Tensor, labels: None, weights: None, step: int
) -> Tensor:
    """Steps count from 1; the share falls geometrically over the first `BUDGET`."""
    same, share = (persons[:, None] == persons).float(), 0.65 * (0.5 / 0.65) ** min(1, step / BUDGET)
    pairs = embeddings(w, pixels, ids, share, rolls=True, training=True)
    tals = sum(both_ways(tal, *pair, same).sum() for pair in pairs)
    return tals + sum(identities(w, n, *p, persons) for n, p in zip(("global", "grab"), pairs, strict=True))


LOSSES = {"irra": irra_loss, "rde": rde_loss, "itself": itself_loss}


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


SMALL = {
    "irra": {"cmt_depth": 1},
    "rde": {"tse_width": 2 * EMBED},
    "itself": {"grab_width": 2 * EMBED, "grab_blocks": [0, 1], "grab_steps": BUDGET},
}


def small_config(recipe: str, data: Path, path: Path) -> Path:
    """The recipe with small towers and images, on `data`."""
    options = {
        "base": str(Path(f"config/{recipe}.yaml").absolute()),
        "misc": {"device": "cpu"},
        "model": TOWERS | {"clip_pretrained": None},
        "experiment": SMALL[recipe],
        "data": {"annotation_file": str(data), "image_root": str(data / "imgs"), "dataset": "auto"},
        "output": {"dir": str(path.with_suffix(""))},
        "log": {"print_period": 1},
    }
    options["data"] |= {"image_size": list(SIZE), "num_workers": 0, "batch_size": 16, "sampler": "random"}
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
        for name, width in (("global", EMBED), ("grab", 2 * EMBED)) if recipe == "itself" else ():
            layers |= {f"classifier_{name}": (num_persons + 1, width), f"mlp_{name}.0": (width, 2 * width)}
            layers |= {f"mlp_{name}.1": (width,), f"classifier_id_{name}": (num_persons, width)}
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
    if recipe == "itself":  # matrices of ones would make single precision too coarse
        content |= {
            name: torch.zeros_like(tensor) for name, tensor in heads(layers).items() if tensor.ndim > 1
        }
    torch.manual_seed(1)
    return {
        name: tensor + 0.1 * torch.randn_like(tensor).clamp(-2, 2) if tensor.is_floating_point() else tensor
        for name, tensor in content.items()
    }


def double(weights: Weights) -> Weights:
    return {
        name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in weights.items()
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
        row = (batch.images["view1"].double(), ids, batch.person_ids, labels, batch.weights, model.step + 1)
        batches.append(row)
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
    weights = double(weights)
    expected = train(weights, LOSSES[recipe], batches, shares)
    assert losses(tmp_path / "run") == pytest.approx(expected, rel=1e-5)

    end = f"model.clip_pretrained={save(weights, tmp_path / 'end.pth')}"
    before, after = (
        build_model(load_options(config, [source]), 10)[0].state_dict() for source in (start, end)
    )
    found = torch.load(tmp_path / "run" / "checkpoint_last.pth")["model"]
    for name, tensor in after.items():
        if name.endswith("num_batches_tracked"):
            continue
        way = (tensor - before[name]).double().norm()
        # What batch normalisation takes away again has no gradient but that of rounding.
        assert (found[name] - tensor).double().norm() <= 0.03 * way + 2e-6, name


@pytest.mark.parametrize("step", [0, 2, 7])
def test_the_gradients_of_itself_are_those_of_its_formulas(step: int, marked: Path, tmp_path: Path) -> None:
    """Of its six losses, before, in and after the steps in which fewer and fewer tokens are selected."""
    config = small_config("itself", marked, tmp_path / "run.yaml")
    weights = release("itself", config, num_persons=10)
    source = save(weights, tmp_path / "start.pth")
    model, tokenizer, _ = build_model(load_options(config, [f"model.clip_pretrained={source}"]), 10)
    records = json.loads((marked / "train_reid_en.json").read_text(encoding="utf-8"))[:12]
    tokens = tokenizer([record["captions"][0] for record in records])
    pixels, persons = torch.randn(12, 3, *SIZE), torch.arange(12) // 2
    model.step = step
    output = model.train()(Batch({"view1": pixels}, tokens, persons, torch.arange(12)), 0.0)
    output.total.backward()

    exact = {n: t.requires_grad_(t.is_floating_point()) for n, t in double(weights).items()}
    for name in exact:  # updated in place
        exact[name] = exact[name].detach() if "running" in name else exact[name]
    ids = F.pad(tokens["input_ids"], (0, LENGTH - tokens["input_ids"].shape[1]))
    expected = itself_loss(exact, pixels.double(), ids, persons, None, None, step + 1)
    expected.backward()
    assert output.total.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = {n: torch.zeros_like(t) if t.grad is None else t.grad for n, t in exact.items()}
    named = f"model.clip_pretrained={save(gradients, tmp_path / 'gradients.pth')}"  # under our names
    wanted = build_model(load_options(config, [named]), 10)[0].state_dict()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    largest = max(gradient.norm() for gradient in found.values())
    for name, gradient in found.items():
        assert (gradient - wanted[name]).norm() <= 1e-4 * (wanted[name].norm() + 1e-3 * largest), name


OF_ITSELF = {"experiment.grab_test_tokens": "last", "experiment.grab_global_weight": 0.68}


@pytest.mark.parametrize(
    ("recipe", "names", "settings", "plain"),
    [
        ("irra", {}, {}, {}),
        ("rde", {}, {}, {}),
        ("itself", {}, {}, {"share": 0.5, "rolls": True}),
        ("itself", {}, OF_ITSELF, {"share": 0.4, "weight": 0.68}),
        ("itself", {"_global.": "_bge.", "_grab.": "_tse."}, OF_ITSELF, {"share": 0.4, "weight": 0.68}),
    ],
    ids=["irra", "rde", "itself", "itself as released", "itself as first released"],
)
def test_a_released_checkpoint_ranks_as_in_the_release(
    recipe: str,
    names: dict[str, str],
    settings: dict[str, object],
    plain: dict[str, float],
    marked: Path,
    tmp_path: Path,
) -> None:
    """Punctuation is kept, images are resized as in training, and RDE and ITSELF have both embeddings."""
    config = small_config(recipe, marked, tmp_path / "run.yaml")
    weights = release(recipe, config, num_persons=10)
    renamed = weights
    for new, old in names.items():
        renamed = {name.replace(new, old): tensor for name, tensor in renamed.items()}
    file, out = save(renamed, tmp_path / "best.pth"), tmp_path / "features"
    command = ["--config", str(config), "--evaluate", str(file), "--save-features", str(out)]
    assert main([*command, *(f"{key}={value}" for key, value in settings.items())]) == 0
    (encoded,) = load_features(out, "").sets.values()

    prepare = transforms.Compose(
        [transforms.Resize(SIZE), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    )
    images = [Image.open(marked / "imgs" / name).convert("RGB") for name in encoded.evaluation_set.images]
    records = json.loads((marked / "test_reid_en.json").read_text(encoding="utf-8"))
    ids = open_clip.tokenize([caption for record in records for caption in record["captions"]], LENGTH)
    assert (ids[:, 1:5] == 0).any(), "some word has a token of id 0, which is padding elsewhere"
    with torch.no_grad():
        expected = similarities(weights, torch.stack([prepare(image) for image in images]), ids, **plain)
    found = encoded.features.texts["en"] @ encoded.features.images.T
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert expected.std() > 0.01
