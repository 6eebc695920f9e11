"""The losses: one pure function for each formula of the paper (arXiv 2308.10045) and of its peers.

B rows are those of this process, N = W*B columns those of all of them. A loss is a mean over the B local
rows unless it says otherwise, so that its mean over the processes is the loss of the whole batch. Features
are L2-normalised, a cosine is the product of two of them, a logit is a scaled cosine.
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
    would be N-ITC again, up to a constant.

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


def mlm_loss(logits: Tensor, labels: Tensor, num_masked: Tensor) -> Tensor:
    """Masked language modelling (paper, MLM; BERT, arXiv 1810.04805): -sum_m log p_m(label_m) / num_masked.

    Args:
        logits: (M, V) predictions at the M masked positions of the local captions; M may be 0.
        labels: (M,) the tokens that stood there.
        num_masked: scalar, the mean of M over the processes: the mean of this loss over them is then the
            sum over all masked positions by their number. 0 where nothing is masked anywhere.
    """
    least = torch.finfo(num_masked.dtype).tiny
    return F.cross_entropy(logits, labels, reduction="sum") / num_masked.clamp(min=least)


def id_loss(image_logits: Tensor, text_logits: Tensor, person_ids: Tensor) -> Tensor:
    """Identity classification (paper, ID; arXiv 1711.05535): cross-entropy of both modalities, averaged.

    Args:
        image_logits, text_logits: (B, C) scores of the C persons of the training split.
        person_ids: (B,) which of them it is.
    """
    return (F.cross_entropy(image_logits, person_ids) + F.cross_entropy(text_logits, person_ids)) / 2


def cid_loss(
    logits: Tensor, swapped: Tensor, person_ids: Tensor, no_match: Tensor, has_hard: Tensor
) -> Tensor:
    """Cross-modal identity classification (ITSELF, WACV 2026, CID): the cross-entropy of pairs [image; text]
    and that of [text; image], averaged over all pairs.

    Row i has three pairs: its own (V_i, T_i), of person y_i, and the hard ones (V_j, T_i) and (V_i, T_k),
    which do not match; j and k are those of `hardest`.

    Args:
        logits, swapped: (3, B, C) scores of the classes for the three pairs of each row, in either order.
        person_ids: (B,) the class of its own pair.
        no_match: (B,) the class of its hard pairs.
        has_hard: (B,) bool, false where the batch shows no other person: such a row has its own pair alone.
    """
    labels = torch.stack([person_ids, no_match, no_match])
    weights = torch.stack([torch.ones_like(has_hard), has_hard, has_hard]).to(logits.dtype)
    losses = [
        F.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none")
        for scores in (logits, swapped)
    ]
    return (weights.flatten() * sum(losses)).sum() / (2 * weights.sum())


def hardest(cosines: Tensor, positives: Tensor) -> Tensor:
    """(B,) of each row the column of the most similar sample of another person; any where there is none.

    Args:
        cosines: (B, N) cosine similarities of the local rows to all columns.
        positives: (B, N) bool, true where both show the same person.
    """
    return cosines.masked_fill(positives, -torch.inf).argmax(dim=1)


def sdm_loss(cosines: Tensor, targets: Tensor, scale: float = 50.0, eps: float = 1e-8) -> Tensor:
    """Similarity distribution matching (IRRA, arXiv 2303.12501) of one direction: KL(P || Q + eps).

    R-ITC with a fixed scale and a small eps; IRRA adds the two directions.

    Args:
        cosines: (B, N) cosine similarities of the local rows to all columns.
        targets: (B, N) rows of Q, each summing to 1.
    """
    return ritc_loss(scale * cosines, targets, eps)


def tal_loss(cosines: Tensor, positives: Tensor, margin: float = 0.1, tau: float = 0.015) -> Tensor:
    """Triplet alignment loss (RDE, arXiv 2308.09911) of one direction, one value for each local row: (B,).

    [m - sum_j a_ij c_ij + tau log sum_{j negative} exp(c_ij / tau)]_+, a_i = softmax of c_i / tau over the
    positives of row i, without gradient: the hardest negative, softly, against the softly best positive. A
    row without a negative has 0. The loss of a batch is the sum of its rows.

    Args:
        cosines: (B, N) cosine similarities c of the local rows to all columns.
        positives: (B, N) bool, true where both show the same person; one in each row at least.
    """
    scaled = cosines / tau
    attention = scaled.detach().masked_fill(~positives, -torch.inf).softmax(dim=1)
    # Finite, so that a row without negatives is a number: cosines end at -1 / tau = -67, exp(-1e4) is 0.
    negative = tau * scaled.masked_fill(positives, -1e4).logsumexp(dim=1)
    return (margin - (attention * cosines).sum(dim=1) + negative).clamp(min=0)


def sigmoid_loss(logits: Tensor, positives: Tensor) -> Tensor:
    """Sigmoid loss (SigLIP, arXiv 2303.15343): -1/B sum_ij log sigmoid(z_ij l_ij), z = 1 for the same person
    and -1 otherwise.

    Args:
        logits: (B, N) scaled cosines plus bias of the local images to all captions. Every pair is judged by
            itself, so the other direction has the same loss.
        positives: (B, N) bool, true where both show the same person.
    """
    return -F.logsigmoid(torch.where(positives, logits, -logits)).sum(dim=1).mean()


def token_mismatch(words: Tensor, patches: Tensor) -> Tensor:
    """1 - the largest cosine of a token of a caption with a patch of its image (NAM, arXiv 2405.04940).

    Args:
        words: (B, L, D) the tokens, not normalised.
        patches: (B, P, D) likewise.

    Returns:
        (B, L) fp32, from 0 to 2.
    """
    words, patches = (F.normalize(tokens.float(), dim=2) for tokens in (words, patches))
    with torch.autocast(words.device.type, enabled=False):
        return 1 - (words @ patches.transpose(1, 2)).amax(dim=2)
