"""The talk with `codex app-server`: handshake, login, thread, turn, and an answer to everything codex asks."""

from __future__ import annotations

import json
from collections.abc import Mapping

from nightcrew import __version__
from nightcrew.adapters.agents.codex.account import ACCOUNT, INTERRUPT, Account
from nightcrew.adapters.agents.codex.faults import inner, text_at
from nightcrew.adapters.agents.codex.settings import Settings
from nightcrew.ports import Progress, Task

INITIALIZE, LOGIN, THREAD, TURN = "initialize", "account/login/start", "thread", "turn/start"
_NOT_OURS = -32601  # JSON-RPC: no such method


class CodexConversation:
    """One session with `codex app-server`, sans I/O. `progress.over` is set once the turn has ended, or never will."""

    def __init__(self, task: Task, settings: Settings, api_key: str = "") -> None:
        self.progress = Progress(session_id=task.session_id if task.resume else "")
        self._task, self._settings, self._api_key = task, settings, api_key
        self._account = Account()
        self._interrupted = self._locked_out = False

    def opening(self) -> bytes:
        """The handshake; the prompt follows when codex has answered."""
        client = {"name": "nightcrew", "title": "nightcrew", "version": __version__}
        return _request(INITIALIZE, INITIALIZE, {"clientInfo": client})

    def hear(self, line: bytes) -> bytes:
        """Take one line of stdout; return what to answer on stdin."""
        event = self._account.hear(line)
        answer = self._answer(event) if event else b""
        self._show()
        return answer

    def _answer(self, event: Mapping[str, object]) -> bytes:
        if "id" in event:
            return self._decide(event) if "method" in event else self._go_on(text_at(event, "id"), event)
        too_many = 0 < self._task.max_turns < self._account.answers
        if too_many and self._account.state == "open" and not self._interrupted:
            self._interrupted = True
            where = {"threadId": self._account.thread, "turnId": self._account.turn}
            return _request(INTERRUPT, "turn/interrupt", where)
        return b""

    def _go_on(self, answered: str, event: Mapping[str, object]) -> bytes:
        """The next request, once codex has answered the last one."""
        if answered == ACCOUNT:
            return self._enter()
        if "error" in event:
            return b""
        if answered == INITIALIZE:
            return _line({"method": "initialized"}) + _request(ACCOUNT, ACCOUNT, {})
        if answered == LOGIN:
            return self._thread()
        if answered == THREAD:
            return self._turn()
        return b""

    def _enter(self) -> bytes:
        """A key is given by a request: the app-server does not take it from the environment, as exec does."""
        if not self._account.needs_login:
            return self._thread()
        self._locked_out = not self._api_key
        if self._locked_out:
            return b""
        return _request(LOGIN, LOGIN, {"type": "apiKey", "apiKey": self._api_key})

    def _thread(self) -> bytes:
        task = self._task
        wanted: dict[str, object] = {
            "cwd": str(task.workspace),
            "approvalPolicy": "never",
            "sandbox": "read-only" if task.read_only else self._settings.sandbox,
        }
        if task.model:
            wanted["model"] = task.model
        if task.instructions:
            wanted["developerInstructions"] = task.instructions
        if task.resume and task.session_id:
            return _request(THREAD, "thread/resume", {"threadId": task.session_id, "excludeTurns": True, **wanted})
        return _request(THREAD, "thread/start", wanted)

    def _turn(self) -> bytes:
        words = [{"type": "text", "text": self._task.prompt}]
        wanted: dict[str, object] = {"threadId": self._account.thread, "input": words}
        if self._settings.effort:
            wanted["effort"] = self._settings.effort
        if self._task.schema is not None:
            wanted["outputSchema"] = self._task.schema
        return _request(TURN, TURN, wanted)

    def _decide(self, event: Mapping[str, object]) -> bytes:
        """Codex asks something. It gets an answer always: it would wait for one for ever."""
        asked = text_at(event, "method")
        self._account.warn(f"codex asked {asked}, nobody is there to answer")
        yes = self._settings.approve and not self._task.read_only
        answers: dict[str, object] = {
            "item/commandExecution/requestApproval": {"decision": "accept" if yes else "decline"},
            "item/fileChange/requestApproval": {"decision": "accept" if yes else "decline"},
            "execCommandApproval": {"decision": "approved" if yes else "denied"},
            "applyPatchApproval": {"decision": "approved" if yes else "denied"},
            "item/permissions/requestApproval": {"permissions": {}},
            "item/tool/requestUserInput": {"answers": {}},
            "mcpServer/elicitation/request": {"action": "decline"},
            "item/tool/call": {"contentItems": [], "success": False},
        }
        if asked in answers:
            return _line({"id": inner(event, "id"), "result": answers[asked]})
        refusal = {"code": _NOT_OURS, "message": "nightcrew does not offer this"}
        return _line({"id": inner(event, "id"), "error": refusal})

    def _show(self) -> None:
        account, progress = self._account, self.progress
        # A thread that codex has not written down yet cannot be resumed: until then it has no name.
        progress.session_id = account.thread if account.stored else progress.session_id
        progress.model, progress.usage, progress.lines = account.model, account.usage, account.lines
        progress.waiting_on = "tool" if account.tool else "model"
        progress.last, progress.warnings = account.last, account.warnings
        progress.same_calls, progress.transcript = account.same_calls, account.transcript
        if account.told:  # told on once: whoever reads them empties `windows`
            progress.windows = (*(w for w in progress.windows if w.name not in account.told), *account.told.values())
            account.told = {}
        progress.over = self._locked_out or account.over(self._settings.network_tries)


def _request(name: str, method: str, params: Mapping[str, object]) -> bytes:
    """Codex echoes `name` in its answer."""
    return _line({"id": name, "method": method, "params": params})


def _line(message: Mapping[str, object]) -> bytes:
    return json.dumps(message).encode() + b"\n"
