"""A checkpoint is the states of a run's components: collected here, and put back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict

import torch
from torch import Tensor, nn

from misc.process import distributed
from misc.process.seed import random_state, restore_random_state
from options import UserError

State = dict[str, Any]  # plain tensors, dicts, lists, strings and numbers


class Stateful(Protocol):
    """What a checkpoint can hold."""

    def state_dict(self) -> State: ...
    def load_state_dict(self, state: State) -> object: ...


class Best(TypedDict, total=False):
    """The best epoch so far, and its mean text-to-image R@1 (None where the last epoch is the best)."""

    epoch: int
    R1: float | None


@dataclass(frozen=True)
class Components:
    """Everything that a checkpoint holds.

    Attributes:
        named: components alike on all ranks; the checkpoint has the state of each under its name.
        plain: components alike on all ranks whose states are entries of the checkpoint themselves.
        per_rank: components that differ between the ranks; entry "ranks" lists their states, by name.
        options: all options as plain values, for those who use the checkpoint: nothing is restored from it.
    """

    named: Mapping[str, Stateful]
    plain: Sequence[Stateful]
    per_rank: Mapping[str, Stateful]
    options: Mapping[str, object]

    def state_dict(self) -> State:
        """The content of a checkpoint. Collective: all ranks call this together."""
        of_rank = {name: component.state_dict() for name, component in self.per_rank.items()}
        return self._shared() | {"ranks": distributed.gather_objects(of_rank)}

    def _shared(self) -> State:
        state: State = {name: component.state_dict() for name, component in self.named.items()}
        for component in self.plain:
            state |= component.state_dict()
        return state | {"options": self.options}

    def load_state_dict(self, state: State) -> None:
        """Restore all components; those of ranks only with as many processes as wrote the checkpoint.

        Raises:
            UserError: of another model, or of other trained parameters.
            Exception: any, where the state is not one that `state_dict` returned.
        """
        for name, own in (self._shared() | {"ranks": []}).items():
            kind = dict if isinstance(own, dict) else type(own)
            if not isinstance(state[name], kind):
                raise TypeError(f"'{name}' is not a {kind.__name__}")
        for name, component in self.named.items():
            if isinstance(component, nn.Module):
                load_model_state(component, state[name])
            else:
                component.load_state_dict(state[name])
        for component in self.plain:
            component.load_state_dict(state)
        if len(state["ranks"]) == distributed.world_size():
            for name, component in self.per_rank.items():
                component.load_state_dict(state["ranks"][distributed.rank()][name])


class RandomState:
    """The random state of this process, as a component."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def state_dict(self) -> dict[str, Tensor]:
        """What `random_state` returns."""
        return random_state(self._device)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from there."""
        restore_random_state(state, self._device)


def load_model_state(model: nn.Module, saved: State) -> None:
    """Fill the model from a checkpoint's state of it, every name and shape accounted for.

    Raises:
        UserError: naming the first parameter that does not fit.
    """
    own = model.state_dict()
    for name in own.keys() | saved.keys():
        if name not in saved or name not in own:
            where = "the checkpoint" if name not in saved else "the model"
            raise UserError(f"checkpoint: '{name}' is not in {where}; use the options it was trained with")
        if own[name].shape != saved[name].shape:
            raise UserError(
                f"checkpoint: '{name}' has shape {tuple(saved[name].shape)}, the model of these options "
                f"{tuple(own[name].shape)}; use the options it was trained with"
            )
    model.load_state_dict(saved)
