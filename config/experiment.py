"""The section `experiment` of the options: losses, augmentation, text.

A loss is added here as one switch, `NAME: bool = loss(...)`, and its weight `NAME_ratio`.
"""

from dataclasses import dataclass, fields
from functools import partial

from config.checks import (
    ALL_SIZES,
    BELOW_ONE,
    BLOCKS_OR_NONE,
    FRACTION,
    MAX_SIDE,
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    SHARES,
    TEXT_LENGTH,
    UP_TO_HALF,
    VOCABULARY,
    between,
    one_of,
    option,
)

IMAGE_AUGMENTATIONS = (
    *("pool", "none", "color_jitter", "rotation", "crop", "grayscale", "flip", "erasing"),
    *("blur", "hue", "vertical_flip", "stack"),
    *("autoaugment", "randaugment", "trivialaugment", "augmix", "simclr", "irra"),
)
TEXT_AUGMENTATIONS = ("deletion", "none", "synonym", "insertion", "swap", "eda", "tokens")
loss = partial(option, is_loss=True)


@dataclass(frozen=True)
class ExperimentOptions:
    """The method: losses, augmentation, text."""

    nitc: bool = loss(True, "N-ITC: contrastive loss with identity-aware, softened targets")
    nitc_ratio: float = option(1.0, "weight of N-ITC", NOT_NEGATIVE, needs="nitc")
    ritc: bool = loss(True, "R-ITC: reversed KL divergence from the targets")
    ritc_eps: float = option(
        0.01, "added to the targets of R-ITC so that their logarithm is finite", POSITIVE, needs="ritc"
    )
    ritc_ratio: float = option(1.0, "weight of R-ITC", NOT_NEGATIVE, needs="ritc")
    citc: bool = loss(True, "C-ITC: cyclic consistency within and across the modalities")
    citc_lambda1: float = option(0.25, "weight of C-ITC within the modalities", NOT_NEGATIVE, needs="citc")
    citc_lambda2: float = option(0.25, "weight of C-ITC across the modalities", NOT_NEGATIVE, needs="citc")
    citc_ratio: float = option(0.1, "weight of C-ITC", NOT_NEGATIVE, needs="citc")
    ss: bool = loss(True, "SS: SimCLR between two strongly augmented views of the image")
    ss_ratio: float = option(0.4, "weight of SS", NOT_NEGATIVE, needs="ss")
    ss_text: bool = loss(False, "SS-T: SimCLR between two augmentations of the caption; with ss: SS-IT")
    ss_text_ratio: float = option(0.4, "weight of SS-T", NOT_NEGATIVE, needs="ss_text")
    simclr_mlp: tuple[int | None, int, int | None] = option(
        (None, 128, None),
        "input, hidden and output width of the SimCLR heads; null: the width of the embedding",
        ALL_SIZES,
        needs="ss ss_text",
    )
    simclr_temperature: float = option(0.1, "temperature of SS and SS-T", POSITIVE, needs="ss ss_text")
    mvs_image: bool = option(True, "MVS-I: N-ITC averaged over two views of the image", needs="nitc")
    mvs_text: bool = option(False, "MVS-T: N-ITC averaged over two captions; both: MVS-IT", needs="nitc")
    mlm: bool = loss(False, "MLM: masked words predicted from the image and the other words")
    mlm_ratio: float = option(1.0, "weight of MLM", NOT_NEGATIVE, needs="mlm")
    mlm_variant: str = option(
        "tbps-clip",
        "masking and cross-modal part of MLM; irra: it reads all text_length tokens, padding included",
        one_of("tbps-clip", "irra"),
        needs="mlm",
    )
    mlm_masks_all: bool = option(
        False, "every loss reads the masked captions, as in IRRA's release; false: MLM alone", needs="mlm"
    )
    mask_captions: str = option(
        "none",
        "masked captions for every loss; random: words of probability 0.15; noise-aware: of a probability "
        "that grows where no patch of the image is like the word, by the epoch before (NAM)",
        one_of("none", "random", "noise-aware"),
    )
    mask_block: int = option(
        -3,
        "block before the last whose tokens are compared, from 0; numbers below 0 count from the last, -1",
        needs="mask_captions=noise-aware",
    )
    cmt_depth: int = option(4, "blocks of the cross-modal transformer of MLM", BLOCKS_OR_NONE, needs="mlm")
    mlm_max_words: int = option(
        65_536,
        "most words that the head of MLM predicts; weights with more are an error",
        VOCABULARY,
        needs="mlm",
    )
    id: bool = loss(False, "ID: one linear classifier of the persons for images and captions")
    id_ratio: float = option(1.0, "weight of ID", NOT_NEGATIVE, needs="id")
    id_on: str = option(
        "pooled",
        "what ID and CID classify: the pooled features, or also each embedding that acts at test time "
        "(tse, grab), by a classifier of its own",
        one_of("pooled", "all"),
        needs="id cid",
    )
    cid: bool = loss(False, "CID: classifier of the persons in pairs, or no match in hard ones (ITSELF)")
    cid_ratio: float = option(1.0, "weight of CID", NOT_NEGATIVE, needs="cid")
    cid_no_match: str = option(
        "own",
        "class of hard pairs in CID; own: one beyond all persons; release: that after the largest person "
        "of the batch, as in ITSELF's release",
        one_of("own", "release"),
        needs="cid",
    )
    sdm: bool = loss(False, "SDM: similarity distribution matching, the loss of IRRA")
    sdm_ratio: float = option(1.0, "weight of SDM", NOT_NEGATIVE, needs="sdm")
    tal: bool = loss(False, "TAL: triplet alignment loss, the loss of RDE")
    tal_ratio: float = option(1.0, "weight of TAL", NOT_NEGATIVE, needs="tal")
    ccd: bool = option(
        False,
        "consensus division of RDE: before each epoch, the losses of TAL, TSE and GRAB tell clean samples "
        "from noisy ones, which do not count in these losses",
        needs="tal tse grab",
    )
    ccd_first_epoch: int = option(
        1, "first epoch with a division before it; all samples count in earlier ones", POSITIVE, needs="ccd"
    )
    ccd_max_iter: int = option(10, "iterations of the mixture that divides", POSITIVE, needs="ccd")
    ccd_tol: float = option(1e-2, "gain in log-likelihood below which it stops", POSITIVE, needs="ccd")
    ccd_reg_covar: float = option(5e-4, "added to the variances of its two parts", POSITIVE, needs="ccd")
    tse: bool = loss(
        False, "TSE: TAL on a second embedding, of selected tokens, which also takes part at test time (RDE)"
    )
    tse_ratio: float = option(1.0, "weight of TSE", POSITIVE, needs="tse")
    tse_share: float = option(
        0.3, "share of the patches, and of text_length - 2 words, selected", SHARE, needs="tse"
    )
    tse_width: int = option(1024, "width of that embedding", between(2, MAX_SIDE), needs="tse")
    tse_batchnorm: str = option(
        "frozen",
        "its batch normalisation; frozen: mean 0 and variance 1, as in RDE's published runs",
        one_of("frozen", "trained"),
        needs="tse",
    )
    grab: bool = loss(
        False,
        "GRAB: TAL on an embedding of the tokens that the rollout of two blocks selects, which also takes "
        "part at test time (ITSELF); not with tse",
    )
    grab_ratio: float = option(1.0, "weight of GRAB", POSITIVE, needs="grab")
    grab_width: int = option(4096, "width of that embedding", between(2, MAX_SIDE), needs="grab")
    grab_blocks: tuple[int, int] = option(
        (4, 11),
        "the two blocks of the rollout, from 0; numbers below 0 count from the last one, -1",
        needs="grab",
    )
    grab_share: tuple[float, float] = option(
        (0.65, 0.5),
        "share of the patches, and of text_length - 2 words, selected in the first step, and from step "
        "grab_steps on",
        SHARES,
        needs="grab",
    )
    grab_steps: int = option(1450, "steps in which that share falls, geometrically", POSITIVE, needs="grab")
    grab_test_tokens: str = option(
        "rollout",
        "tokens at test time; rollout: as at the end of training; last: the share 0.4 that the last block "
        "attends to, as in ITSELF's release",
        one_of("rollout", "last"),
        needs="grab",
    )
    grab_global_weight: float = option(
        0.5,
        "a of the score a cos + (1 - a) cos' of the pooled features and this embedding; to be picked on val",
        SHARE,
        needs="grab",
    )
    sigmoid: bool = loss(False, "sigmoid loss, the loss of SigLIP, with a learned bias")
    sigmoid_ratio: float = option(1.0, "weight of the sigmoid loss", NOT_NEGATIVE, needs="sigmoid")
    dropout: float = option(0.05, "dropout on the attention weights of the text tower", BELOW_ONE)
    image_aug: str = option(
        "pool",
        "augmentation of the image; pool: two operations drawn from six; irra: flip, shift and erasing",
        one_of(*IMAGE_AUGMENTATIONS),
    )
    text_aug: str = option(
        "deletion",
        "augmentation of the words; eda: one of the four at random; tokens: RDE's, of the tokens",
        one_of(*TEXT_AUGMENTATIONS),
    )
    eda_alpha: float = option(
        0.05, "share of words, or tokens, that text_aug changes", BELOW_ONE, needs="text_aug!=none"
    )
    back_trans: bool = option(True, "replace a caption by its back-translation with probability backtrans_p")
    backtrans_p: float = option(0.1, "that probability", FRACTION, needs="back_trans")
    rewrites: bool = option(
        False,
        "every loss on the caption has another term on a rewritten one (diversity_captions), of weight "
        "max(0.1, 1 - 0.03 e) in epoch e, as in ICL",
    )
    mixgen: bool = option(False, "MixGen: join some pairs of a batch into new pairs")
    mixgen_type: str = option("ori", "ori: averaged; cat: side by side", one_of("ori", "cat"), needs="mixgen")
    mixgen_p: float = option(0.1, "probability that a batch has joined pairs", FRACTION, needs="mixgen")
    mixgen_ratio: float = option(0.1, "share of joined pairs in such a batch", UP_TO_HALF, needs="mixgen")
    use_altclip_processor: bool = option(
        False, "AltCLIP's preprocessing (centre crop), not data.image_size", needs="model.backbone=altclip"
    )
    text_length: int | None = option(
        None,
        "captions are cut to this many tokens, start and end included; null: 77, or the weights' "
        "(open_clip, transformers)",
        TEXT_LENGTH,
    )


LOSSES = tuple(f.name for f in fields(ExperimentOptions) if f.metadata["is_loss"])
