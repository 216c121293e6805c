"""The memory limit of a worker, so that a case that needs too much memory ends no other process.

In a control group, Linux ends the worker when its memory is used up; the parent process sees this
in the group. Otherwise the address space of the worker is limited, and allocations raise an error.
This module does not import torch, so that it can say why torch cannot be imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

SHARE = 0.9  # of the available memory, which a worker may use
V1, V2 = "cgroup", "cgroup2"  # kinds of file systems


def limit_memory(group: str | None = None, *, on_gpu: bool = False) -> str:
    """Limit the memory of this process, and let it be the first that the system ends.

    Args:
        group: the folder that `worker_groups` returned in the parent process.
        on_gpu: without a group, set no limit: CUDA reserves more address space than it uses.

    Returns:
        The limit in words, such as `address space 21.3 GB` or `cgroup 21.3 GB`.
    """
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    free = available_bytes()
    if group is not None and free is not None:
        with suppress(OSError):
            return f"cgroup {_gb(_enter(Path(group), int(SHARE * free)))}"
    before = address_space_limit()
    if resource is None or on_gpu or free is None:
        return "none" if before is None else f"address space {_gb(before)}, set before the start"
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = used + int(SHARE * free)
    if before is not None and before <= limit:
        return f"address space {_gb(before)}, set before the start"
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return f"address space {_gb(limit)}"


def address_space_limit() -> int | None:
    """The limit of the address space of this process in bytes, or None."""
    if resource is None:
        return None
    limits = [x for x in resource.getrlimit(resource.RLIMIT_AS) if x != resource.RLIM_INFINITY]
    return min(limits, default=None)


def reason_of_failed_start() -> str:
    """Why torch cannot be imported, if a limit of the address space is the reason; or empty.

    A process tries it, where a limit exists.
    """
    limit = address_space_limit()
    if limit is None:
        return ""
    tried = subprocess.run([sys.executable, "-c", "import torch"], capture_output=True)
    if tried.returncode == 0:
        return ""
    return (
        f"the address-space limit of {_gb(limit)} (ulimit -v {limit // 1024}) is below what torch "
        "needs to be imported"
    )


def worker_groups() -> str | None:
    """Make the control group of this run, to be called before the first worker starts.

    This needs control groups of version 2, and a group that is delegated to this run alone, as
    `systemd-run --user --scope -p Delegate=yes` makes it. No process leaves the group that it is
    in, so that limits of this group hold as before.

    Returns:
        The folder for `limit_memory`, or None where no group can be made.
    """
    own = _own_groups(V2)
    if not own:
        return None
    try:
        return str(_delegated(own[0]))
    except OSError:
        return None


def ended_for_memory(group: str, pid: int) -> bool:
    """Whether Linux ended the worker `pid` as the memory of its group was used up. Removes the
    group, so this can be asked once."""
    folder = Path(group) / f"worker-{pid}"
    ended = _entry(folder / "memory.events", "oom_kill")
    with suppress(OSError):
        folder.rmdir()
    return bool(ended)


def remove_groups(group: str) -> None:
    """Remove the groups of workers that have ended."""
    for folder in Path(group).glob("worker-*"):
        with suppress(OSError):  # a group with a process cannot be removed
            folder.rmdir()


def system_kills() -> int | None:
    """The processes that Linux ended since its start as memory ran out. If it grows while a worker
    ends by SIGKILL, this was the reason."""
    return _entry(Path("/proc/vmstat"), "oom_kill")


def available_bytes() -> int | None:
    """The memory that is available to this process: that of the machine, or less if a control
    group of this process (a container, a Slurm job) has less."""
    found = [_entry(Path("/proc/meminfo"), "MemAvailable:")]
    if found[0] is None:
        return None
    found[0] *= 1024
    for folder in _own_groups(V2):
        cached = _entry(folder / "memory.stat", "inactive_file")
        found.append(_left(folder / "memory.max", folder / "memory.current", cached))
    for folder in _own_groups(V1):
        cached = _entry(folder / "memory.stat", "total_inactive_file")
        limit, used = folder / "memory.limit_in_bytes", folder / "memory.usage_in_bytes"
        found.append(_left(limit, used, cached))
    return min(x for x in found if x is not None)


def _enter(group: Path, limit: int) -> int:
    folder = group / f"worker-{os.getpid()}"
    folder.mkdir()
    try:
        (folder / "memory.max").write_text(str(limit))
        with suppress(FileNotFoundError):  # a kernel without swap
            (folder / "memory.swap.max").write_text("0")
        (folder / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        with suppress(OSError):
            folder.rmdir()
        raise
    return limit


def _delegated(group: Path) -> Path:
    """The group, once its groups inside can have limits. Processes in it move one group down, as
    Linux wants it; only processes of this run may be there."""
    control = group / "cgroup.subtree_control"
    if "memory" in control.read_text().split():
        return group
    if "memory" not in (group / "cgroup.controllers").read_text().split():
        raise PermissionError
    pids = (group / "cgroup.procs").read_text().split()
    if pids != [str(os.getpid())]:
        raise PermissionError
    leaf = group / "loop"
    leaf.mkdir(exist_ok=True)
    (leaf / "cgroup.procs").write_text(pids[0])
    try:
        control.write_text("+memory")
    except OSError:
        (group / "cgroup.procs").write_text(pids[0])
        leaf.rmdir()
        raise
    return group


def _own_groups(kind: str) -> list[Path]:
    """The folders of the memory group of this process, from its own to the outermost visible."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        groups = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for mount in mounts:
        place, _, system = mount.partition(" - ")
        if not system.startswith(f"{kind} ") or (kind == V1 and "memory" not in system):
            continue
        root, top = place.split()[3:5]
        for line in groups:
            _, names, path = line.split(":", 2)
            if names == "" if kind == V2 else "memory" in names.split(","):
                return list(_upwards(Path(top), path, root))
    return []


def _upwards(top: Path, path: str, root: str) -> Iterator[Path]:
    inside = path.removeprefix(root.rstrip("/")).strip("/")
    folder = top / inside
    if ".." in inside or not folder.is_dir():
        folder = top  # the path is that of another namespace
    while folder != top:
        yield folder
        folder = folder.parent
    yield top


def _left(limit: Path, used: Path, cached: int | None) -> int | None:
    """The bytes up to a limit; memory of cached files can be taken back."""
    try:
        return max(0, int(limit.read_text()) - int(used.read_text()) + (cached or 0))
    except (OSError, ValueError):  # no such file, or `max`
        return None


def _entry(path: Path, name: str) -> int | None:
    """The number after a name in a file of the kernel."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.split()[:1] == [name]]
    return int(found[0]) if found else None


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
