"""From [[adapters]] to what each deployment serves beside its model."""

import time

import msgspec

from dragoman.core.adapters import Adapter
from dragoman.engines.base import AdapterFile
from dragoman.engines.llama.weights.adapter_files import resolve_adapter
from dragoman.engines.llama.weights.gguf_files import ModelSourceError
from dragoman.engines.llama.wire.adapter_registry import AdapterRecord
from dragoman.server.planning import DeploymentError, DeploymentPlan
from dragoman.server.settings import AdapterSettings, Settings


def with_adapters(settings: Settings, plans: list[DeploymentPlan], *, progress: bool = False) -> list[DeploymentPlan]:
    """The plans, with the adapters of the settings in their places. Raises DeploymentError."""
    taken = {name for planned in plans for name in (planned.name, *planned.aliases)}
    added: dict[str, list[AdapterRecord]] = {planned.name: [] for planned in plans}
    for adapter in settings.adapters:
        for name in (adapter.name, *adapter.aliases):
            if name in taken:
                raise _error(adapter, f"another model or adapter is called {name}")
            taken.add(name)
        base = _find_base(adapter, plans)
        record = _adapter_record(adapter, base, progress=progress)
        added[base.name].append(record)
        if len(added[base.name]) > settings.max_adapters:
            raise _error(adapter, f"{base.name} may have {settings.max_adapters} adapters; raise max_adapters")
    return [msgspec.structs.replace(planned, adapters=tuple(added[planned.name])) for planned in plans]


def _find_base(adapter: AdapterSettings, plans: list[DeploymentPlan]) -> DeploymentPlan:
    if adapter.base is None and len(plans) == 1:
        found = plans[0]
    elif adapter.base is None:
        raise _error(adapter, f"say in base which deployment it is for: {', '.join(entry.name for entry in plans)}")
    else:
        named = [planned for planned in plans if adapter.base in (planned.name, *planned.aliases)]
        if not named:
            raise _error(adapter, f"its base {adapter.base} is no deployment")
        found = named[0]
    if found.architecture is None:
        raise _error(adapter, f"its base {found.name} takes no adapters")
    return found


def _adapter_record(adapter: AdapterSettings, base: DeploymentPlan, *, progress: bool) -> AdapterRecord:
    try:
        source, file = resolve_adapter(adapter.path, progress=progress)
    except ModelSourceError as error:
        raise _error(adapter, str(error)) from error
    _check_architecture(adapter, file, base)
    served = Adapter(adapter.name, source, int(time.time()), adapter.aliases, adapter.scale)
    return AdapterRecord(served, str(file.path.absolute()))


def _check_architecture(adapter: AdapterSettings, file: AdapterFile, base: DeploymentPlan) -> None:
    if file.architecture != base.architecture:
        raise _error(
            adapter,
            f"{file.path.name} is for the architecture {file.architecture}, and {base.name} is {base.architecture}",
        )


def _error(adapter: AdapterSettings, problem: str) -> DeploymentError:
    return DeploymentError(f"the adapter {adapter.name} cannot be served: {problem}")
