"""What a process sets in its libraries at its start: importing a module of ours changes nothing in them."""

import logging
import warnings


def quieten() -> None:
    """Silence what libraries say of things that are handled here, or that users cannot change."""
    warnings.filterwarnings("ignore", module="PIL")  # of images that are checked here; they name no file
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    logging.getLogger("faiss").setLevel(logging.WARNING)  # by default it logs which of its builds it loads
    # An older transformers imports deprecated names of torch, and torch 2.4 warns of its own checkpointing.
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", ".torch.cpu.amp.autocast", FutureWarning)
