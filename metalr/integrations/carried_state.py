"""The scheduler's state inside the optimizer's, for frameworks that checkpoint the one and not the other."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer

from metalr.control.scheduler import MetaLR
from metalr.integrations.resuming import continue_from

__all__ = ["STATE_KEY", "CarriedState"]

STATE_KEY = "meta_lr"


class CarriedState:
    """Keeps a scheduler's state as one more entry of the optimizer's first parameter group.

    Optimizers save and load every entry of their groups. So the state comes back with the optimizer's,
    whether that was loaded before the scheduler was built or after.

    Args:
        scheduler: Whose state travels.
        first_group: The group; asked again each time, since loading replaces it.
    """

    def __init__(self, scheduler: MetaLR, first_group: Callable[[], dict[str, Any]]) -> None:
        self._scheduler = scheduler
        self._first_group = first_group
        self._stored: dict[str, Any] | None = None
        alive = weakref.WeakMethod(self.adopt)  # a scheduler that was replaced must not come back

        def after_load(optimizer: Optimizer) -> None:
            adopt = alive()
            if adopt is not None:
                adopt()

        scheduler.optimizer.register_load_state_dict_post_hook(after_load)

    def adopt(self) -> bool:
        """Whether the group held a state that is not from here; the scheduler then goes on from it.

        Raises:
            ValueError: a state of another version, or of another controller.
        """
        state = self._first_group().get(STATE_KEY)
        if state is None or state is self._stored:
            return False
        continue_from(self._scheduler, state)
        self._stored = state
        return True

    def drop(self) -> None:
        """Forget what the group holds: a training begins anew."""
        self._first_group().pop(STATE_KEY, None)

    def store(self) -> None:
        """Put the present state into the group."""
        self._stored = self._scheduler.state_dict()
        self._first_group()[STATE_KEY] = self._stored
