"""With experiment.text_length=248, captions of 150 words that differ in the last one differ everywhere."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from data.annotations import load_data
from data.check.__main__ import main as check
from data.loaders import build_loaders
from misc.evaluation.evaluator import build_evaluators, encode_all
from misc.search.encoder import build_encoder
from misc.search.ranking.queries import Query, query_features
from misc.tiny_altclip import make_tiny_altclip, synthetic_captions
from model import build_model
from options import load_options, to_dict
from tests.helpers.tiny import SIZES

TEXT_LENGTH, NUM_WORDS = 248, 150
CAPTIONS = ["a man in a red coat " * 25 + last for last in ("and a bag", "and a hat")]
CAPTIONS = [" ".join(caption.split()[-NUM_WORDS:]) for caption in CAPTIONS]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of two captions, the same in every split, and the folder of a small AltCLIP."""
    root = tmp_path_factory.mktemp("long")
    records = []
    for split in ("train", "val", "test"):
        for number, caption in enumerate(CAPTIONS):
            name = f"{split}{number}.png"
            Image.effect_noise((16, 32), 50 + number).convert("RGB").save(root / name)
            records.append({"split": split, "id": number, "file_path": name, "captions": [caption]})
    (root / "reid_raw.json").write_text(json.dumps(records))
    sizes = {"width": 16, "layers": 1, "heads": 2, "embed_dim": 8, "image_size": 16}
    known = [*CAPTIONS, *synthetic_captions(60)]
    make_tiny_altclip(root / "altclip", known, vocab_size=600, **sizes, text_length=TEXT_LENGTH)
    return root


@pytest.mark.parametrize("backbone", ["clip", "altclip"])
def test_long_captions_that_differ_in_the_last_word_have_different_features(
    backbone: str, root: Path, tmp_path: Path
) -> None:
    settings = SIZES if backbone == "clip" else {"model.altclip_pretrained": str(root / "altclip")}
    settings = settings | {
        "model.backbone": backbone,
        "experiment.text_length": TEXT_LENGTH,
        "data.annotation_file": str(root / "reid_raw.json"),
        "data.image_root": str(root),
        "data.image_size": "[16, 16]",
        "data.batch_size": 2,
        "data.num_workers": 0,
        "experiment.text_aug": "none",
        "experiment.back_trans": "false",
        "misc.device": "cpu",
    }
    overrides = [f"{key}={value}" for key, value in settings.items()]
    options = load_options("config/s.config.yaml", overrides)
    splits = load_data(options)
    torch.manual_seed(0)
    model, tokenizer, processor = build_model(options, splits.num_identities)
    model.eval()
    loaders = build_loaders(options, splits, tokenizer, processor, model.inputs)

    (batch,) = loaders.train
    assert not torch.equal(*batch.tokens["input_ids"])
    with torch.no_grad():
        assert not torch.equal(*model.embed(batch.tokens))

    setting = (loaders.images, options, torch.device("cpu"), torch.float32)
    found = encode_all(build_evaluators(model, tokenizer, {"test": loaders.test}, *setting))
    evaluated = found["test"].features.texts["en"]
    assert not torch.equal(*evaluated)

    torch.save({"model": model.state_dict(), "options": to_dict(options)}, tmp_path / "run.pth")
    encoder = build_encoder(options, tmp_path / "run.pth")
    asked = torch.tensor(query_features(encoder, [Query(((caption, 1.0),)) for caption in CAPTIONS]))
    assert not torch.equal(*asked)
    torch.testing.assert_close(asked, evaluated, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("limit", "number"), [(77, 6), (151, 6), (152, 0), (TEXT_LENGTH, 0)])
def test_the_check_counts_against_the_text_length(
    limit: int, number: int, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(root / "reid_raw.json"), str(root), "--out", str(tmp_path)]
    assert check([*arguments, "--text-length", str(limit)]) in (0, 1)
    assert f"captions of more than {limit} tokens" in (tmp_path / "findings.txt").read_text() or not number
    printed = capsys.readouterr().out
    assert f"the longest {NUM_WORDS + 2}; {100 if number else 0:.2f} % have more than {limit}" in printed
