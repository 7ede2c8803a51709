"""Further plugins for OpenVINO, so that tests have two devices on a machine with one.

The alias that AUTO and MULTI really run beside CPU is HETERO over a second CPU plugin:

    ORCH_OPENVINO_PLUGINS='[{"name": "CPU2", "library": "intel_cpu", "device_properties": {"NUM_STREAMS": "1"}},
                            {"name": "XPU", "library": "hetero", "properties": {"MULTI_DEVICE_PRIORITIES": "CPU2"}}]'

Name the alias first, as in AUTO:XPU,CPU: after CPU (2026.4.1) the alias runs on CPU as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from orchestrator.errors import Kind, OrchError

VARIABLE = "ORCH_OPENVINO_PLUGINS"


class PluginAlias(BaseModel):
    """One plugin library registered under a name; `properties` go to the registration, the others to the device."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    library: Literal["intel_cpu", "hetero"]
    properties: dict[str, str] = Field(default_factory=dict)
    device_properties: dict[str, str] = Field(default_factory=dict)

    @property
    def stands_for(self) -> str | None:
        """Return the device that does the work behind a HETERO alias."""
        return self.properties.get("MULTI_DEVICE_PRIORITIES") if self.library == "hetero" else None


def read_aliases(environment: Mapping[str, str]) -> tuple[PluginAlias, ...]:
    """Return the plugins that ORCH_OPENVINO_PLUGINS names, none when it is not set; raise OrchError for bad JSON."""
    text = environment.get(VARIABLE, "")
    if not text:
        return ()
    try:
        return TypeAdapter(tuple[PluginAlias, ...]).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        raise OrchError(Kind.INVALID, first["msg"], where=VARIABLE, hint="it is for tests; unset it") from None
