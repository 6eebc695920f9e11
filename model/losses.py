"""The losses: one pure function for each formula of the paper (arXiv 2308.10045).

B rows are those of this process, N = W*B columns those of all of them; a loss is a mean over the B local
rows, so that its mean over the processes is the loss of the whole batch. Features are L2-normalised.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def identity_targets(row_ids: Tensor, column_ids: Tensor) -> Tensor:
    """The true matching Q: q_ij = y_ij / sum_k y_ik, with y_ij = 1 where both show the same person.

    Args:
        row_ids: (B,) person ids.
        column_ids: (N,) person ids, each row's own among them.

    Returns:
        (B, N) float, rows summing to 1.
    """
    same = (row_ids[:, None] == column_ids[None, :]).float()
    return same / same.sum(dim=1, keepdim=True)


def nitc_loss(logits: Tensor, targets: Tensor, soft_label: float = 0.0) -> Tensor:
    """Normalised image-text contrastive loss (paper, N-ITC) of one direction: cross-entropy of P against T.

    T = (1 - a) Q + a P', P' being P without gradient (the "soft label"): the image tower has no dropout, so a
    second pass would draw the same P again, and the text tower's would differ by its dropout mask only.

    Args:
        logits: (B, N) scaled similarities of the local rows to all columns.
        targets: (B, N) rows of Q, each summing to 1.
        soft_label: a, the share of the model's own prediction.
    """
    log_p = logits.log_softmax(dim=1)
    if soft_label:
        targets = (1 - soft_label) * targets + soft_label * log_p.detach().exp()
    return -(targets * log_p).sum(dim=1).mean()


def ritc_loss(logits: Tensor, targets: Tensor, eps: float = 1e-2) -> Tensor:
    """Reversed image-text contrastive loss (paper, R-ITC) of one direction: KL(P || Q + eps).

    P comes first: where the model puts mass on a negative it pays log(1 / eps). With the two exchanged this
    would be N-ITC once more, up to a constant.

    Args:
        logits: (B, N) scaled similarities of the local rows to all columns.
        targets: (B, N) rows of Q, each summing to 1.
        eps: keeps log Q finite on negatives; its size sets how hard they are pushed away.
    """
    log_p = logits.log_softmax(dim=1)
    return (log_p.exp() * (log_p - (targets + eps).log())).sum(dim=1).mean()


def citc_loss(
    images: Tensor,
    texts: Tensor,
    all_images: Tensor,
    all_texts: Tensor,
    lambda1: float = 0.25,
    lambda2: float = 0.25,
) -> Tensor:
    """Cyclic image-text contrastive loss (paper, C-ITC; CyCLIP, arXiv 2205.14459).

    lambda1 * mean_ij (I_i.I_j - T_i.T_j)^2 + lambda2 * mean_ij (I_i.T_j - T_i.I_j)^2. The mean is over N^2
    entries, as in the released code and as its weight 0.1 fits; the paper's formula divides by N.

    Args:
        images, texts: (B, D) local features; row i of both is one pair.
        all_images, all_texts: (N, D) features of all processes.
    """
    in_modal = (images @ all_images.T - texts @ all_texts.T).square().mean()
    cross_modal = (images @ all_texts.T - texts @ all_images.T).square().mean()
    return lambda1 * in_modal + lambda2 * cross_modal


def ss_loss(
    first: Tensor,
    second: Tensor,
    all_first: Tensor,
    all_second: Tensor,
    offset: int,
    temperature: float = 0.1,
) -> Tensor:
    """SimCLR's NT-Xent between two views of the same images (paper, SS; arXiv 2002.05709).

    Each of the 2B local views has its partner among the 2N views of all processes as the one right answer;
    the view itself is left out.

    Args:
        first, second: (B, D) local features of either view.
        all_first, all_second: (N, D) features of all processes.
        offset: the row of `all_first` at which the local rows begin.
    """
    own = torch.arange(offset, offset + len(first), device=first.device)
    loss = first.new_zeros(())
    for view, same, other in ((first, all_first, all_second), (second, all_second, all_first)):
        in_view = (view @ same.T).scatter(1, own[:, None], -torch.inf)
        logits = torch.cat([view @ other.T, in_view], dim=1) / temperature
        loss = loss + F.cross_entropy(logits, own) / 2
    return loss
