"""What can go wrong, said to a person: one sentence, and what to do about it."""

from __future__ import annotations


class NightcrewError(Exception):
    """A fault a person should read. `str(error)` says what happened and to which ticket; `hint` says what to do."""

    hint = ""
    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint or type(self).hint

    def sentence(self) -> str:
        """The error and its cure on one line."""
        said = str(self).strip()
        return f"{said}{'' if said.endswith(('.', '!', '?')) else '.'} {self.hint}" if self.hint else said


class ConfigError(NightcrewError):
    """The configuration cannot be used; the message names the key and the cure."""

    exit_code = 2


class UsageError(NightcrewError):
    """The command asks for something that is not there (no such ticket, pull request, agent)."""

    exit_code = 2


class AlreadyRunning(NightcrewError):
    """Another nightcrew works on the same state."""

    exit_code = 3


class BoardError(NightcrewError):
    """The board could not be read or written; the scan is tried again."""


class GitError(NightcrewError):
    """A git command failed: `command`, `code` and what git said (`stderr`) are kept."""

    def __init__(self, command: str, code: int, stderr: str, *, hint: str = "") -> None:
        super().__init__(f"git {command} failed ({code}): {last_line(stderr)}", hint=hint)
        self.command, self.code, self.stderr = command, code, stderr

    def __reduce__(self) -> tuple[type[GitError], tuple[str, int, str]]:
        return type(self), (self.command, self.code, self.stderr)


class ForgeError(NightcrewError):
    """The forge refused or could not be reached."""


class Fenced(NightcrewError):
    """The run was taken over; this late result changes nothing (I6)."""


class HookFailed(NightcrewError):
    """A workspace hook ended with an error or out of time."""


class WorkflowFileError(NightcrewError):
    """The repository's WORKFLOW.md cannot be used."""


MAKE_ROOM = "Make room on the disk; it is tried again by itself."


def last_line(text: str) -> str:
    """The last line that says something, for one-sentence errors."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no message"
