"""The garbage collector of a process that has started."""

import gc


def freeze_startup_objects() -> None:
    """Exempt all objects that exist now from garbage collection: they live as long as the process.

    Each collection of them would stop the process for some tens of milliseconds. So would one before, which finds
    nothing: what a start leaves behind has no cycles.
    """
    gc.freeze()
