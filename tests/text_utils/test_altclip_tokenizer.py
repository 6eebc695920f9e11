"""The tokenizer of AltCLIP: padding, cutting, pieces."""

import json
from pathlib import Path

import pytest
import torch

from tests.helpers.altclip_folders import copied
from text_utils.tokenizer import AltCLIPTokenizer

TOKENIZER_FILES = ("tokenizer*", "sentencepiece*", "special_tokens*")
START, PAD, END, UNKNOWN = range(4)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> AltCLIPTokenizer:
    return AltCLIPTokenizer(str(folder), 12)


def test_a_batch_is_padded_to_its_longest_caption(tokenizer: AltCLIPTokenizer) -> None:
    tokens = tokenizer(["a man", "a man in a coat"])
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    assert tokens.keys() == {"input_ids", "attention_mask"}
    assert ids.dtype == mask.dtype == torch.int64
    lengths = mask.sum(dim=1).tolist()
    assert lengths[0] < lengths[1] == ids.shape[1] < 12
    assert ids[:, 0].tolist() == [START, START]
    assert [row[length - 1] for row, length in zip(ids.tolist(), lengths, strict=True)] == [END, END]
    assert ids[0, lengths[0] :].unique().tolist() == [PAD]
    assert torch.equal(tokenizer(["a man"])["input_ids"][0], ids[0, : lengths[0]])


def test_a_caption_cut_at_the_text_length_keeps_its_end_token(
    folder: Path, tokenizer: AltCLIPTokenizer
) -> None:
    whole = AltCLIPTokenizer(str(folder), 77)
    caption = ["a man with a red coat and black trousers and white shoes and a bag"]
    ids, cut = whole(caption)["input_ids"][0], tokenizer(caption)["input_ids"][0]
    assert len(ids) > 12
    assert cut.tolist() == [*ids[:11].tolist(), END]


def test_pieces_are_those_of_sentencepiece(folder: Path, tokenizer: AltCLIPTokenizer) -> None:
    """Its ids after the four special tokens, which XLM-RoBERTa puts in its own order."""
    import sentencepiece

    reader = sentencepiece.SentencePieceProcessor(model_file=str(folder / "sentencepiece.bpe.model"))
    special = sum(reader.is_control(i) or reader.is_unknown(i) for i in range(reader.get_piece_size()))
    for caption in ("a man in a red coat", "红色上衣的女生", "une femme", "ein mann"):
        ids = [i + 4 - special if not reader.is_unknown(i) else UNKNOWN for i in reader.encode(caption)]
        assert tokenizer([caption])["input_ids"][0].tolist()[:11] == [START, *ids, END][:11]
    assert tokenizer.vocab_size == reader.get_piece_size() - special + 5


def test_any_text_has_tokens(tokenizer: AltCLIPTokenizer) -> None:
    for texts in (["红色上衣的女生"], ["🙂👍"], [""], ["   "], ["", "a man", "女"]):
        tokens = tokenizer(texts)
        assert tokens["input_ids"].shape[0] == len(texts)
        assert (tokens["input_ids"][:, 0] == START).all()
        assert (tokens["attention_mask"].sum(dim=1) >= 2).all()
        assert tokens["input_ids"].max() < tokenizer.vocab_size
    assert tokenizer([""])["input_ids"].tolist() == [[START, END]]
    assert UNKNOWN in tokenizer(["🙂"])["input_ids"]
    assert UNKNOWN not in tokenizer(["红色上衣的女"])["input_ids"]


def test_a_caption_is_cleaned_and_stripped_first(
    tokenizer: AltCLIPTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What transformers makes of a space at the end differs between versions: it never gets one."""
    seen, original = [], tokenizer._tokenizer
    monkeypatch.setattr(
        tokenizer, "_tokenizer", lambda texts, **settings: seen.extend(texts) or original(texts, **settings)
    )
    tokenizer(["  A man. \n", "\u3000"])
    assert seen == ["a man", ""]
    assert tokenizer.cleaning == "tbps-clip"
    assert tokenizer.clean("  A man. \n") == "a man"


def test_what_is_saved_is_the_same_tokenizer(
    folder: Path, tokenizer: AltCLIPTokenizer, tmp_path: Path
) -> None:
    tokenizer.save(tmp_path)
    for file in tmp_path.iterdir():
        same = file.read_bytes() == (folder / file.name).read_bytes()
        assert same is (file.name != "tokenizer_config.json")
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["model_max_length"] == 12
    caption = ["a man in a red coat, 红色上衣的女生"]
    saved = AltCLIPTokenizer(str(tmp_path), 12)
    assert torch.equal(saved(caption)["input_ids"], tokenizer(caption)["input_ids"])


def test_a_folder_without_tokenizer_files_has_no_tokenizer(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        AltCLIPTokenizer(str(copied(folder, tmp_path / "mute", TOKENIZER_FILES)))


def test_it_has_no_mask_token_of_clips(tokenizer: AltCLIPTokenizer) -> None:
    assert tokenizer.mask_token_id is None
    assert {START, PAD, END, UNKNOWN} <= set(tokenizer.special_ids)
