"""CPU time by role, of the processes that benchmarks/gpu.py has started on this machine."""

from __future__ import annotations

import psutil

ROLES = ("client", "router", "member", "member_core", "bare_cores", "other")
"""This process, which is bare vLLM's front end, too; the replicas of the router and of the members; vLLM's processes
under a member, and those of bare vLLM; the rest of Ray and of `ensemble serve`."""


def read_cpu_s() -> dict[str, float]:
    """Give the CPU seconds that the living processes of each role have used since they started."""
    own = psutil.Process()
    seconds = dict.fromkeys(ROLES, 0.0)
    for process in [own, *own.children(recursive=True)]:
        try:
            times, role = process.cpu_times(), _find_role(process, own)
        except psutil.Error:
            continue  # It has ended meanwhile.
        seconds[role] += times.user + times.system
    return seconds


def _find_role(process: psutil.Process, own: psutil.Process) -> str:
    if process == own:
        return "client"
    # Ray and vLLM write into it what a process is.
    title = " ".join(process.cmdline())
    if title.startswith("VLLM"):
        return "bare_cores" if own in process.parents()[:2] else "member_core"
    if title.startswith("ray::ServeReplica"):
        kind = title.split(":")[-1]
        return "router" if kind.startswith("router") else "member" if kind.startswith("member") else "other"
    return "other"
