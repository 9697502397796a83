"""Controls of the page: model, steps, seed, fidelity, uncertainty map."""

from __future__ import annotations

import random
from collections.abc import Mapping

from nicegui import ui
from nicegui.events import Handler, ValueChangeEventArguments

from amd_restore.apps.files.uncertainty import UNCERTAINTY_SAMPLES
from amd_restore.apps.ui.uploads import HIGHEST_SEED, Controls
from amd_restore.weights import Header

_THEMES: dict[str, bool | None] = {"system": None, "light": False, "dark": True}


class Panel:
    """Controls, whose values count from the next restoration.

    Args:
        headers: headers by the name of the model; the first one is chosen.
        on_uncertainty: called when the map is switched on or off.
    """

    def __init__(
        self, headers: Mapping[str, Header], on_uncertainty: Handler[ValueChangeEventArguments[bool | None]]
    ) -> None:
        self._headers = headers
        first = next(iter(headers))
        names = {name: f"{name} (slow)" if header.kind == "teacher" else name for name, header in headers.items()}
        self._model = ui.select(names, value=first, label="Model", on_change=self._adapt).classes("w-full")
        self._model.props("outlined dense options-dense")
        with ui.row().classes("w-full items-center justify-between"):
            ui.label("Steps").classes("text-sm")
            self._steps = ui.toggle(list(headers[first].steps), value=headers[first].default_steps)
            self._steps.props('role=group aria-label="Steps" dense padding="xs md" no-caps')
        with ui.row().classes("w-full items-center no-wrap"):
            self._seed = ui.number("Seed", value=0, min=0, max=HIGHEST_SEED, precision=0).classes("grow")
            self._seed.props("outlined dense")
            self._dice = ui.button(icon="casino", on_click=self._draw_seed)
            self._dice.props('flat round aria-label="Another seed"').tooltip("Random seed; changes fine detail")
        with ui.column().classes("w-full gap-0"):
            ui.label("Fidelity: from detailed to faithful").classes("text-sm")
            self._fidelity = ui.slider(min=0, max=1, step=0.05, value=0).props('label aria-label="Fidelity"')
        with ui.column().classes("w-full gap-0"):
            self._uncertainty = ui.switch("Uncertainty map", on_change=on_uncertainty).props("dense")
            ui.label(
                f"Lies over the restoration, light where it is likely wrong. Takes {UNCERTAINTY_SAMPLES} more samples: "
                f"about {UNCERTAINTY_SAMPLES + 1} times as long."
            ).classes("text-xs opacity-70 mt-1")

    @property
    def scale(self) -> int:
        """Return the scale of the chosen model."""
        return self._headers[self._model.value].scale

    @property
    def has_uncertainty(self) -> bool:
        """Return whether the map is switched on."""
        return bool(self._uncertainty.value)

    def values(self) -> Controls:
        """Return the values, within their limits: those of the browser do not apply to other clients."""
        seed = min(max(int(self._seed.value or 0), 0), HIGHEST_SEED)
        fidelity = min(max(float(self._fidelity.value), 0.0), 1.0)
        return Controls(self._steps.value, seed, fidelity, self._model.value, self.has_uncertainty)

    def set_enabled(self, enabled: bool) -> None:
        """Enable or disable all controls."""
        for element in (self._model, self._steps, self._seed, self._dice, self._fidelity, self._uncertainty):
            element.set_enabled(enabled)

    def _adapt(self, event: ValueChangeEventArguments[str]) -> None:
        """Offer the steps of the model."""
        header = self._headers[event.value]
        self._steps.set_options(list(header.steps), value=header.default_steps)

    def _draw_seed(self) -> None:
        self._seed.set_value(random.randint(0, HIGHEST_SEED))


def theme_choice() -> None:
    """Build the choice of light or dark colours, at first those of the system."""
    dark = ui.dark_mode(None)
    names = {name: name.capitalize() for name in _THEMES}
    choice = ui.toggle(names, value="system", on_change=lambda event: dark.set_value(_THEMES.get(event.value)))
    choice.props('role=group aria-label="Colours" dense flat no-caps padding="xs sm"')
