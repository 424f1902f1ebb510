"""The adapters that an engine process serves, by the names that requests use."""

import asyncio
from contextlib import AbstractContextManager
from pathlib import Path

import msgspec

from dragoman.core import logs
from dragoman.core.adapters import Adapter, too_many_adapters
from dragoman.core.errors import BadRequest, ModelNameTaken, ModelNotFound
from dragoman.engines.llama.batching.adapter_watch import AdapterWatch
from dragoman.engines.llama.native.backend import NO_ADAPTER, Backend
from dragoman.engines.llama.native.model import ModelError
from dragoman.engines.llama.process.adapter_faults import AdapterFault, AdapterFaults, fault_of
from dragoman.engines.llama.process.stepper import Stepper
from dragoman.engines.llama.weights.digests import content_digest
from dragoman.engines.llama.wire.adapter_registry import AdapterRecord, read_registry, write_registry

_log = logs.get_logger(__name__)


class AdapterManager(AdapterWatch):
    """Loads and unloads adapters, maps their qualified names to numbers, and writes the registry."""

    def __init__(self, registry: Path, max_adapters: int, max_adapters_per_owner: int | None = None) -> None:
        """`max_adapters`: the most adapters that are loaded at the same time.

        `max_adapters_per_owner`: the most of one owner other than the operator. None means no limit of its own.
        """
        self._registry = registry
        self._max_adapters = max_adapters
        self._max_adapters_per_owner = max_adapters_per_owner
        self._records: dict[str, AdapterRecord] = {}
        self._numbers: dict[str, int] = {}
        self._contents: dict[int, str] = {NO_ADAPTER: ""}
        self._faults = AdapterFaults(registry)
        self._computed: dict[int, AdapterFault] = {}
        """By the numbers of adapters that are in memory: what is counted if the process ends with one."""
        self._lock = asyncio.Lock()

    def restore(self, backend: Backend) -> None:
        """Load the adapters in the registry, before the stepper runs.

        Raises ModelError for an adapter of the settings that cannot be loaded. An adapter that a client registered and
        that can no longer be loaded is dropped, so that the model and the other adapters are served. One that the last
        processes ended with is not loaded.
        """
        for record in read_registry(self._registry):
            path = Path(record.path)
            try:
                restored = _with_digest(record, content_digest(path))
                if (refusal := self._faults.refusal(restored.adapter)) is not None:
                    _log.error("adapter_refused", adapter=restored.adapter.qualified_name, reason=refusal)
                    self._records[restored.adapter.qualified_name] = restored
                    continue
                with self._faults.computing(fault_of(restored.adapter)):
                    number = backend.load_adapter(path, record.adapter.scale)
            except (ModelError, OSError) as error:
                if not record.adapter.digest:
                    raise ModelError(f"the adapter {record.adapter.name} cannot be served: {error}") from error
                _log.warning("adapter_gone", adapter=record.adapter.name, reason=str(error))
                continue
            self._register(restored, number)
        self.write_registry()

    def number_of(self, name: str | None) -> int:
        """Return the number of an adapter by its qualified name. None stands for the model alone.

        Raises ModelNotFound, or BadRequest for one that the engine ended with.
        """
        if name is None:
            return NO_ADAPTER
        try:
            return self._numbers[name]
        except KeyError:
            if (record := self._records.get(name)) is not None:
                self._check_faults(record.adapter, "model")
            raise ModelNotFound(name) from None

    def computing(self, number: int) -> AbstractContextManager[None]:
        return self._faults.computing(self._computed[number])

    def unloaded(self, number: int) -> None:
        del self._computed[number]

    def content_of(self, number: int) -> str | None:
        """Return what determines what an adapter computes: its file and its scale. None: it is no longer served."""
        return self._contents.get(number)

    async def add(self, wanted: AdapterRecord, stepper: Stepper) -> AdapterRecord:
        """Load an adapter and return its record. Raises ModelNameTaken, BadRequest, or OSError for the registry."""
        path = Path(wanted.path)
        async with self._lock:
            if (existing := self._find(wanted.adapter)) is not None:
                if existing.adapter.source != wanted.adapter.source:
                    raise ModelNameTaken(wanted.adapter.name)
                self._check_faults(existing.adapter, "model_name")
                return existing
            self._check_room(wanted.adapter.owner)
            try:
                record = _with_digest(wanted, await asyncio.to_thread(content_digest, path))
                self._check_faults(record.adapter, "model_name")
                number = await self._load(stepper, record)
            except ModelError as error:
                raise BadRequest(str(error), "model_name") from error
            except OSError as error:
                raise BadRequest(f"{path.name} cannot be read: {error.strerror}", "model_name") from error
            try:
                write_registry(self._registry, [*self._records.values(), record])
            except OSError:
                stepper.unload_adapter(number)
                raise
            self._register(record, number)
            return record

    async def remove(self, name: str, stepper: Stepper) -> AdapterRecord:
        """Stop serving an adapter; its requests continue. Raises ModelNotFound, or OSError for the registry."""
        async with self._lock:
            if name not in self._records:
                raise ModelNotFound(name)
            # First, since workers list what the registry has: the adapter must not be gone for the process alone.
            write_registry(self._registry, [each for key, each in self._records.items() if key != name])
            record, number = self._records.pop(name), self._numbers.pop(name, None)
            if number is not None:
                self._contents.pop(number, None)
                stepper.unload_adapter(number)
            return record

    async def _load(self, stepper: Stepper, record: AdapterRecord) -> int:
        """Load an adapter between two steps and return its number. Raises ModelError."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[int | ModelError] = loop.create_future()
        fault = fault_of(record.adapter)

        def set_result(outcome: int | ModelError) -> None:
            if not result.done():
                result.set_result(outcome)

        def on_result(outcome: int | ModelError) -> None:
            if not isinstance(outcome, ModelError):
                self._computed[outcome] = fault
            loop.call_soon_threadsafe(set_result, outcome)

        stepper.load_adapter(Path(record.path), record.adapter.scale, on_result, self._faults.computing(fault))
        outcome = await result
        if isinstance(outcome, ModelError):
            raise outcome
        return outcome

    def _check_faults(self, adapter: Adapter, parameter: str) -> None:
        """Raise BadRequest if the engine ended with this adapter, or with many of its owner."""
        if (refusal := self._faults.refusal(adapter)) is not None:
            raise BadRequest(refusal, parameter)

    def _check_room(self, owner: str) -> None:
        """Raise BadRequest if the owner has too many adapters, or all owners together have."""
        owned = sum(record.adapter.owner == owner for record in self._records.values())
        if owner and self._max_adapters_per_owner is not None and owned >= self._max_adapters_per_owner:
            raise too_many_adapters(owned)
        if len(self._records) >= self._max_adapters:
            raise BadRequest(f"This model has {self._max_adapters} adapters already; remove one of them first", "name")

    def _find(self, wanted: Adapter) -> AdapterRecord | None:
        """Return the adapter that the owner knows by this name or alias: its own or the operator's."""
        for record in self._records.values():
            adapter = record.adapter
            if adapter.is_visible_to(wanted.owner) and wanted.name in (adapter.name, *adapter.aliases):
                return record
        return None

    def _register(self, record: AdapterRecord, number: int) -> None:
        adapter = record.adapter
        self._records[adapter.qualified_name] = record
        self._numbers[adapter.qualified_name] = number
        self._computed[number] = fault_of(adapter)
        self._contents[number] = self._computed[number].content

    def write_registry(self) -> None:
        """Write the registry. Raises OSError."""
        write_registry(self._registry, list(self._records.values()))


def _with_digest(record: AdapterRecord, digest: str) -> AdapterRecord:
    return AdapterRecord(msgspec.structs.replace(record.adapter, digest=digest), record.path)
