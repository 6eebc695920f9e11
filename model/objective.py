"""What a loss is: what it compares (`Pairs`), and the interface that `TBPS` calls (`Objective`)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from data.types import Batch
from model.losses import identity_targets
from model.protocol import DualEncoder, Selection
from options import ExperimentOptions

Rows = dict[str, Tensor]  # {name of an input, or input/head: (B, D)}

MAX_ENTRIES = 1 << 19  # of a matrix of similarities: 2 MB, of which a loss makes a dozen
OWN_ROWS = ("features", "local")  # of `Pairs`: a row for each local sample


def renamed(rows: Rows, old: str, new: str) -> Rows:
    """The rows of the input `old`, and of heads on it, under the name of the input `new`."""
    return {new + name[len(old) :]: row for name, row in rows.items() if name.split("/")[0] == old}


@dataclass(frozen=True)
class Pairs:
    """A batch as the losses see it: B rows of this process against the N rows of all processes.

    Attributes:
        features: (B, D) of each encoded input, and fp32 of what the objectives project, not normalised.
        all_features: (N, D), those projected of all processes; row `offset` + i is local row i.
        local: (B, D) fp32, normalised, of what the objectives project.
        gathered: (N, D), the same of all processes.
        person_ids, all_ids: (B,) and (N,).
        scale, bias: of the logits: logit = scale * cosine + bias.
        soft_label: a, the share of the model's own prediction in the targets of N-ITC.
        weights: (B,) of the local rows in the losses that are sums over rows; None: 1.
        num_samples: rows of all processes; None: B on each.
        rewritten_weight: of the losses on the rewritten captions.
    """

    features: Rows
    all_features: Rows
    local: Rows
    gathered: Rows
    person_ids: Tensor
    all_ids: Tensor
    offset: int
    scale: Tensor
    bias: Tensor | float
    soft_label: float
    weights: Tensor | None = None
    num_samples: int | None = None
    rewritten_weight: float = 0.0

    def blocks(self) -> list[slice]:
        """Parts of the local rows, of whose (B, N) matrices at most `MAX_ENTRIES` entries are held."""
        number, at_once = len(self.person_ids), max(1, MAX_ENTRIES // len(self.all_ids))
        return [slice(at, min(at + at_once, number)) for at in range(0, number, at_once)]

    def rows(self, part: slice) -> "Pairs":
        """Some of the local rows, against all rows."""
        local = {name: {key: rows[part] for key, rows in getattr(self, name).items()} for name in OWN_ROWS}
        weights = None if self.weights is None else self.weights[part]
        place = {"person_ids": self.person_ids[part], "offset": self.offset + part.start}
        return replace(self, **local, **place, weights=weights)

    @cached_property
    def rewritten(self) -> "Pairs":
        """The same pairs, with the rewritten captions in the place of the captions."""
        sides = {name: getattr(self, name) for name in ("features", "all_features", "local", "gathered")}
        changed = {name: rows | renamed(rows, "rewritten", "tokens") for name, rows in sides.items()}
        return replace(self, **changed)

    @cached_property
    def targets(self) -> Tensor:
        """(B, N) the true matching Q, rows summing to 1."""
        return identity_targets(self.person_ids, self.all_ids)

    @cached_property
    def positives(self) -> Tensor:
        """(B, N) bool, true where both show the same person."""
        return self.person_ids[:, None] == self.all_ids

    @cached_property
    def _cosines(self) -> dict[tuple[str, str], tuple[Tensor, Tensor]]:
        return {}

    def cosines(self, image: str = "view1", text: str = "tokens") -> tuple[Tensor, Tensor]:
        """(B, N) cosine similarities of images to captions and of captions to images, computed once."""
        if (image, text) not in self._cosines:
            to_texts = self.local[image] @ self.gathered[text].T
            self._cosines[image, text] = (to_texts, self.local[text] @ self.gathered[image].T)
        return self._cosines[image, text]


class LossOutput(NamedTuple):
    """`total` to call backward on, the weighted `parts` it sums, and a `report` of other scalars; where it is
    watched, the `mismatch` of the whole captions' tokens (B, text_length).
    """

    total: Tensor
    parts: dict[str, Tensor]
    report: dict[str, Tensor]
    mismatch: Tensor | None = None


class Sizes(NamedTuple):
    """What heads are built for: the width of the pooled features, the vocabulary, the persons in training,
    the most tokens of a caption, and the widths of the embeddings of the heads that act at test time.
    """

    embed_dim: int
    vocab_size: int
    num_identities: int
    text_length: int
    embeddings: Mapping[str, int] = MappingProxyType({})  # by the name of the head


class Objective:
    """One loss, called with `Pairs`; by default on the pooled features of the first view and caption.

    The loss of a batch is the mean (of a `SumObjective`, the sum) of that of its local rows, each against all
    rows: it may be called with some of them at a time.

    Attributes:
        inputs: the inputs of a batch that it reads; loaders make, and towers encode, no other.
        head_name: name of its head in the model and in checkpoints; None: it has none.
        head: what it trains on top of the towers.
        rate_option: the option of `schedule` with the absolute peak rate of its head; None: it has none.
        uses_scale: whether it reads the scale, which is frozen where no objective does.
        acts_at_test: whether the head has an embedding of its own, which takes part in `TBPS.embed`.
        embed_dim: E, the width of that embedding.
        select: the tokens that it is made of at test time; None: all.
        score_weight: the weight of its cosine in the score, beside 1 for that of the pooled features.
    """

    inputs: tuple[str, ...] = ("view1", "tokens")
    head_name: ClassVar[str | None] = None
    head: nn.Module | None = None
    rate_option: ClassVar[str | None] = None
    uses_scale: ClassVar[bool] = False
    acts_at_test: ClassVar[bool] = False
    embed_dim: int = 0
    select: Selection | None = None
    score_weight: float = 1.0

    @classmethod
    def from_options(cls, experiment: ExperimentOptions, sizes: Sizes) -> "Objective":
        """The objective that the options describe."""
        return cls()

    def select_at(self, step: int) -> Selection | None:
        """The tokens that the embedding is made of in training, after that many steps of the optimizer."""
        return self.select

    def fast_parameters(self) -> list[nn.Parameter]:
        """The parameters of the head that train at `schedule.ratio_factor` times the learning rate."""
        return []

    def classifier_parameters(self) -> list[nn.Parameter]:
        """Those of the fast parameters whose biases train at that rate even with `schedule.bias_factor`."""
        return self.fast_parameters()

    def embed(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """The embedding of a head that acts at test time, one vector an input: (B, E).

        `TBPS.embed` puts it beside the pooled feature.

        Args:
            tokens: (B, L, D) of the tower, the class token first for images; or those that are selected.
            mask: (B, L), 1 on the tokens of a caption; None for images.
        """
        raise NotImplementedError

    def keep(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """What `TBPS.encode` adds to the features as `INPUT/HEAD_NAME`, (B, ...): by default the embedding.

        The towers may encode a batch in parts; what must see all of its rows belongs to `project`.
        """
        return self.embed(tokens, mask)

    def project(self, features: Rows) -> Rows:
        """What is normalised, gathered over the processes and contrasted, by name: (B, D) each.

        A head that acts at test time projects its embedding of each input as `INPUT/HEAD_NAME`.

        Args:
            features: of all `inputs`; or those of rewritten captions alone, as of "tokens".
        """
        return {name: features[name] for name in self.inputs if name in features}

    def names(self, head_name: str = "") -> list[str]:
        """The names of its inputs in `Pairs`; of a head, those of their embeddings."""
        return [f"{name}/{head_name}" if head_name else name for name in self.inputs]

    def __call__(self, pairs: Pairs) -> Tensor:
        """The mean loss of the local rows, in fp32; `TBPS` makes that of the whole batch of it."""
        raise NotImplementedError


class SumObjective(Objective):
    """A loss that is a sum over the rows of the whole batch, in which each may have a weight."""

    def rows(self, pairs: Pairs) -> Tensor:
        """(B,) the loss of each local row, not weighted."""
        raise NotImplementedError

    def __call__(self, pairs: Pairs) -> Tensor:
        """The sum over the local rows."""
        rows = self.rows(pairs)
        return (rows if pairs.weights is None else pairs.weights * rows).sum()


class TokenObjective(Objective):
    """A loss on the tokens of inputs: a sum over the rows of a batch, divided by a count of the whole.

    It is computed part by part where a batch goes through the towers in parts.

    Attributes:
        dense: the inputs whose tokens it is given.
        pad_to: the length that captions are padded to, where it reads the tokens of padding too; None: not.
    """

    dense: tuple[str, ...] = ("view1",)
    pad_to: int | None = None

    def project(self, features: Rows) -> Rows:
        return {}  # it contrasts no rows

    def count(self, batch: Batch) -> Tensor:
        """(K,) float counts of the local batch; their means over the processes go to `loss` and `report`."""
        raise NotImplementedError

    def report(self, counts: Tensor) -> Rows:
        """Scalars for the log."""
        return {}

    def loss(self, clip: DualEncoder, batch: Batch, tokens: Rows, counts: Tensor) -> Tensor:
        """The share of these rows in the loss.

        Args:
            tokens: (B, L, D) of each input that `dense` names.
            counts: of the whole batch.
        """
        raise NotImplementedError
