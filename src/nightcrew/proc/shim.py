"""The small shell that stands between us and a program: it enters the cgroups, and keeps the exit code for us."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from nightcrew.proc import table

# The words: cgroups to enter, one a line; where the exit code goes, so that it outlives nightcrew; "stay" or not; the
# program. The traps keep the shell alive through the signals of its group; its child gets the default back.
# A shell that waits for one child takes adopted ones as well: one that stays says the exit code on 9, then lives until
# the last of them is gone.
SHIM = """\
IFS='
'; set -f
for place in $1; do echo $$ >"$place/cgroup.procs"; done 2>/dev/null
unset IFS; set +f
rc=$2; stay=$3; shift 3
[ -n "$rc$stay" ] || exec "$@"
trap : HUP INT QUIT TERM PIPE
"$@" 9>&-
code=$?
[ -z "$rc" ] || echo $code >"$rc"
[ -n "$stay" ] || exit $code
left() { kin=; read -r kin <"/proc/$$/task/$$/children"; [ -n "$kin" ]; } 2>/dev/null
if left; then echo $code >&9; fi 2>/dev/null
exec 9>&-
while left; do /bin/sleep 01 || sleep 01 || break; done
exit $code
"""

# Makes the shell a "child subreaper", the parent of every orphan below it: that outlives an exec and is not inherited.
# Python ignores two signals and may change the environment for its own locale: the program must inherit neither.
# Python itself heeds nothing in the folder or the environment.
_BECOME = """\
import os, _signal, sys
told = int(sys.argv[1])
if told != 9:
    os.dup2(told, 9)
    os.close(told)
try:
    import ctypes
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
except Exception:
    pass
for each in (_signal.SIGPIPE, _signal.SIGXFSZ):
    _signal.signal(each, _signal.SIG_DFL)
with open("/proc/self/environ", "rb") as given:
    env = dict(each.split(b"=", 1) for each in given.read().split(b"\\0") if b"=" in each)
os.execve(sys.argv[2], sys.argv[2:], env)
"""

_SHELL = ["/bin/sh", "-c"]


def before(places: Sequence[str], rc: Path | None, told: int = -1) -> list[str]:
    """The words that go before those of a program, so that it runs in the cgroups `places` and leaves its code in `rc`.

    With a descriptor `told` the shim adopts what the program leaves behind, says the exit code there, and stays.
    """
    if not (places or rc or told >= 0):
        return []
    become = [sys.executable, "-I", "-S", "-c", _BECOME, str(told)] if told >= 0 else []
    words = ["\n".join(places), str(rc.absolute()) if rc else "", "stay" if told >= 0 else ""]
    return [*become, *_SHELL, SHIM, "nightcrew", *words]


def may_stay() -> bool:
    """Whether a shim can adopt orphans here."""
    return sys.platform == "linux" and bool(sys.executable) and table.has_proc()


def is_shim(words: Sequence[str]) -> bool:
    """Whether this command line is a shim of ours, also one of an older nightcrew, or is about to become one."""
    return (list(words[:2]) == _SHELL and list(words[3:4]) == ["nightcrew"]) or _BECOME in words[:5]


def stays(words: Sequence[str]) -> bool:
    """Whether it is one that adopts what its program leaves behind."""
    return is_shim(words) and list(words[6:7]) == ["stay"]


def runs(words: list[str]) -> list[str]:
    """What a shim runs; any other command line as it is."""
    return words[words.index("nightcrew") + 4 :] if is_shim(words) and "nightcrew" in words else words


def is_nap(words: Sequence[str]) -> bool:
    """Whether this is how a shim waits for those that are left."""
    return list(words) in (["/bin/sleep", "01"], ["sleep", "01"])
