"""What a model asks of the loaders: the views, captions and masks that its losses read."""

import pytest

from options import LOSSES
from tests.helpers.tiny import ALL_OFF, tiny_model

FIRST, VIEW2, STRONG = {"view1", "tokens"}, {"view2"}, {"simclr1", "simclr2"}
BOTH = {"tokens", "tokens2"}


@pytest.mark.parametrize(
    ("on", "inputs"),
    [
        ("sdm mvs_image mvs_text", FIRST),
        ("nitc mvs_image", FIRST | VIEW2),
        ("nitc mvs_image mvs_text", FIRST | VIEW2 | BOTH),
        ("ritc ss mvs_image", FIRST | STRONG),
        ("ss", STRONG),
        ("ss_text", BOTH),
        ("ss ss_text", STRONG | BOTH),
        ("mlm", {"view1", "masked_tokens"}),
        *((loss, FIRST) for loss in sorted(set(LOSSES) - {"ss", "ss_text", "mlm"})),
    ],
)
def test_exactly_what_the_losses_read_is_asked_for(on: str, inputs: set[str]) -> None:
    switches = {f"experiment.{name}": "true" for name in on.split()}
    assert tiny_model(ALL_OFF | switches).inputs == inputs
