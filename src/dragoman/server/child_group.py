"""Children that are forked from one process, and share the memory of its imports. Linux only.

A launcher imports, forks all of them and ends (server/worker_launcher.py), whereupon this process adopts them. One that
is started again has an interpreter of its own.
"""

import asyncio
import os
import signal
from collections.abc import Sequence
from typing import NamedTuple

from dragoman.core.child_process import orphans_adopted
from dragoman.core.forked_process import ProcessHandle
from dragoman.server.supervisor import FIRST_OUTPUT_SECONDS, ChildCommand, ChildFailed, ChildProcess, exit_description


class AdoptedProcess(ProcessHandle):
    """Implements supervisor.ChildProcess."""

    def __init__(self, process_id: int, stdin: asyncio.StreamWriter, stdout: asyncio.StreamReader) -> None:
        super().__init__(process_id)
        self.stdin = stdin
        self.stdout = stdout

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


class _Pipes(NamedTuple):
    """The ends of one child's standard input and output."""

    child_input: int
    input: int
    output: int
    child_output: int


async def start_group(command: ChildCommand, count: int) -> list[ChildProcess]:
    """Start `count` children by the command's launcher. Raises ChildFailed.

    The list is empty if the command has no launcher, or if this system cannot adopt children.
    """
    if not command.group_arguments or count < 2:
        return []
    with orphans_adopted() as can_adopt:
        if not can_adopt:
            return []
        pipes = [_Pipes(*os.pipe(), *os.pipe()) for _ in range(count)]
        try:
            process_ids = await _launch(command, [(each.child_input, each.child_output) for each in pipes])
            if len(process_ids) != count:
                raise ChildFailed(f"the {command.name} launcher has started {len(process_ids)} of {count} processes")
        except BaseException:
            for each in pipes:
                os.close(each.input)
                os.close(each.output)
            raise
        finally:
            for each in pipes:
                os.close(each.child_input)
                os.close(each.child_output)
    return [await _adopted(process_id, each) for process_id, each in zip(process_ids, pipes, strict=True)]


async def _launch(command: ChildCommand, descriptors: Sequence[tuple[int, int]]) -> list[int]:
    """Run the launcher to its end and return the ids of the children that it has forked. Raises ChildFailed."""
    passed = [descriptor for pair in descriptors for descriptor in pair]
    try:
        launcher = await asyncio.create_subprocess_exec(
            *command.group_arguments,
            *map(str, passed),
            env=dict(command.environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(*command.inherited_fds, *passed),
            start_new_session=True,
        )
    except OSError as error:
        raise ChildFailed(f"the {command.name} launcher cannot be started: {error.strerror}") from error
    assert launcher.stdout is not None, "started with a pipe"
    try:
        async with asyncio.timeout(FIRST_OUTPUT_SECONDS):
            # communicate() would close its standard input from Python 3.12 on, and it ends with that.
            output = await launcher.stdout.read()
            await launcher.wait()
    except TimeoutError:
        raise ChildFailed(f"the {command.name} launcher took over {FIRST_OUTPUT_SECONDS:g} seconds") from None
    finally:
        if launcher.returncode is None:
            launcher.kill()
            await launcher.wait()
    if launcher.returncode:
        raise ChildFailed(f"the {command.name} launcher ended with {exit_description(launcher.returncode)}")
    return [int(word) for word in output.split()]


async def _adopted(process_id: int, pipes: _Pipes) -> AdoptedProcess:
    loop = asyncio.get_running_loop()
    output, unused = asyncio.StreamReader(), asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(output), os.fdopen(pipes.output, "rb", 0))
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(unused), os.fdopen(pipes.input, "wb", 0)
    )
    return AdoptedProcess(process_id, asyncio.StreamWriter(transport, protocol, None, loop), output)
