"""From where a run's guests may get base models: which ways there are, and in which order they are tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from pytest_glasshouse.errors import ConfigurationError
from pytest_glasshouse.rows.spec import ModelSource

if TYPE_CHECKING:
    from pytest_glasshouse.workloads.base import BaseModel

#: How a model reaches a guest: from a source that a user may choose, or made there, as a stand-in's weights are.
Arriving = Literal["there", "hub", "pushed", "made"]
#: A directory of the guest, a download by the guest, or the host: in the order in which they are tried.
SOURCES: tuple[ModelSource, ...] = get_args(ModelSource)

#: The most bytes that are pushed unless the user raises it: about an hour at 1 MB/s.
PUSH_LIMIT_BYTES = 4 * 10**9


@dataclass(frozen=True, kw_only=True)
class ModelSources:
    """How a run's models may reach its guests. `directory` is one of the guest's; `only` the one source to use."""

    directory: str | None = None
    only: ModelSource | None = None
    push_limit_bytes: int = PUSH_LIMIT_BYTES

    def of(self, base: BaseModel, *, same_disk: bool) -> tuple[Arriving, ...]:
        """The sources to try, in order. Raises `ConfigurationError` if there is none, saying what would have to be given.

        A guest on this machine takes the model from where it is, whatever was chosen for rented ones: a dry run of a row that
        names a source needs none of that source's.
        """
        if base.shape is not None and not base.on_host:
            return ("made",)
        if same_disk and base.on_host:
            return ("pushed",) if base.directory is None else ("there",)
        if same_disk and base.hub is not None:
            return ("hub",)
        missing: dict[ModelSource, str] = {}
        if self.directory is None:
            missing["there"] = "name a directory of the guest with --glasshouse-guest-models"
        if base.hub is None:
            missing["hub"] = "the model is of no hub"
        if not base.on_host:
            missing["pushed"] = "this machine does not have its weights"
        elif base.size > self.push_limit_bytes:
            missing["pushed"] = (
                f"it has {base.size / 1e9:.1f} GB, and at most {self.push_limit_bytes / 1e9:g} are pushed unless "
                "--glasshouse-push-limit says more"
            )
        wanted = SOURCES if self.only is None else (self.only,)
        possible = tuple(source for source in wanted if source not in missing)
        if not possible:
            reasons = "; ".join(f"{source}: {missing[source]}" for source in wanted)
            raise ConfigurationError(f"model {base.model_id} cannot reach a guest: {reasons}")
        return possible
