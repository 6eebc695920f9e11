"""TBPS on towers that are tables: a parameter holds the feature of each image and caption of a global batch.

What a loss does to each feature can then be compared with a formula, exactly.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from data.types import Batch
from model.objective import Sizes
from model.objectives import build_objectives
from model.tbps import TBPS
from options import ExperimentOptions
from tests.helpers.references import IGNORED

IDS = [0, 1, 2, 1, 0, 3, 1, 4]  # the same person within and across the halves that two ranks hold
N, WIDTH, LENGTH, VOCABULARY = len(IDS), 5, 4, 6
VIEWS = ("view1", "view2", "simclr1", "simclr2")
RITC_EPS, CITC_LAMBDAS, TEMPERATURE = 0.02, (0.25, 0.5), 0.2
CASES: dict[str, dict[str, bool | str]] = {
    "nitc": {},
    "nitc of two images": {"mvs_image": True},
    "nitc of two captions": {"mvs_text": True},
    "nitc of two of both": {"mvs_image": True, "mvs_text": True},
    **{name: {} for name in ("ritc", "citc", "ss", "ss_text", "mlm", "id", "sdm", "tal", "sigmoid")},
    "cid": {},
    "cid of the release": {"cid_no_match": "release"},
    "mlm without a mask on the second half": {},
    "mlm without a mask": {},
}


class TableClip(nn.Module):
    """In place of the towers: an image or a caption is the number of its row."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(7)
        people = torch.randn(5, WIDTH, generator=generator)[IDS]

        def looks(count: int) -> Tensor:
            """`count` looks at each row's person, alike enough that some rows are easy and some are hard."""
            return torch.cat([people + torch.randn(N, WIDTH, generator=generator) for _ in range(count)])

        self.embed_dim, self.max_logit_scale = WIDTH, math.log(100)
        self.visual, self.text = nn.Module(), nn.Module()
        self.visual.rows = nn.Parameter(looks(len(VIEWS)))
        self.text.rows = nn.Parameter(looks(2))
        self.text.words = nn.Parameter(torch.randn(N, LENGTH, VOCABULARY, generator=generator))
        self.text.token_embedding = nn.Embedding(VOCABULARY, 1)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(8.0)))
        self.logit_bias = nn.Parameter(torch.tensor(-2.5))

    def encode_image(self, numbers: Tensor, return_dense: bool = False, select: None = None) -> Any:
        rows = self.visual.rows[numbers]
        return (rows, rows[:, None]) if return_dense else rows

    def encode_text(self, tokens: dict[str, Tensor], return_dense: bool = False, select: None = None) -> Any:
        numbers = tokens["input_ids"][:, 0]
        rows = self.text.rows[numbers]
        return (rows, self.text.words[numbers]) if return_dense else rows


class WordScores(nn.Module):
    """In place of the cross-modal head: what stands for a token is its scores already."""

    def forward(self, words: Tensor, images: Tensor, attention_mask: Tensor, masked: Tensor) -> Tensor:
        return words.flatten(0, 1)[masked]


def table_model(case: str, use_gather: bool = True) -> TBPS:
    """TBPS with the one loss of the case, at weight 1."""
    torch.manual_seed(3)
    name = case.split()[0]
    settings = {"ritc_eps": RITC_EPS, "simclr_mlp": (None, 4, 3), "simclr_temperature": TEMPERATURE}
    settings |= {"citc_lambda1": CITC_LAMBDAS[0], "citc_lambda2": CITC_LAMBDAS[1], "cmt_depth": 0}
    experiment = ExperimentOptions(**settings, **{"mvs_image": False} | CASES[case])
    objectives = build_objectives([name], experiment, Sizes(WIDTH, VOCABULARY, 5, 77))
    if name == "mlm":
        objectives[name].head = WordScores()
    if name in ("id", "cid"):  # they start close to 0, where their gradient to the features is as small
        for parameter in objectives[name].fast_parameters():
            nn.init.normal_(parameter)
    return TBPS(TableClip(), objectives, {name: 1.0}, use_gather)


def mlm_labels(case: str) -> Tensor:
    """(N, LENGTH): five masked tokens in the first half of the rows and two in the second, or fewer."""
    labels = torch.full((N, LENGTH), IGNORED)
    if case != "mlm without a mask":
        labels[0, 1], labels[0, 3], labels[2, 2], labels[3, 1], labels[3, 2] = 4, 0, 5, 1, 1
    if case == "mlm":
        labels[6, 3], labels[7, 1] = 2, 3
    return labels


def numbered_batch(case: str, rows: slice) -> Batch:
    """These rows of the global batch, with every view and caption."""
    numbers = torch.arange(N)[rows]

    def captions(first: int) -> dict[str, Tensor]:
        ids = (first + numbers)[:, None].repeat(1, LENGTH)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return Batch(
        images={view: k * N + numbers for k, view in enumerate(VIEWS)},
        tokens=captions(0),
        person_ids=torch.tensor(IDS)[rows],
        indices=numbers,
        tokens2=captions(N),
        masked_tokens=captions(0),
        mlm_labels=mlm_labels(case)[rows],
    )
