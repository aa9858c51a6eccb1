"""What people and robots do on the GitLab stand-in, as the forge contracts ask for it; see contracts.People."""

from __future__ import annotations

from nightcrew.core.model import Repo
from nightcrew.testing.company.gitlab_state import Merge, Place, State

STATUS = {"passed": "success", "failed": "failed", "running": "running"}


class GitLabPeople:
    """Acts on the merge requests of a `Repo`."""

    def __init__(self, state: State) -> None:
        self.state = state

    def place(self, repo: Repo) -> Place:
        return self.state.places[repo.url.removesuffix(".git").split("/", 3)[3]]

    def _merge(self, repo: Repo, number: int) -> Merge:
        return self.place(repo).merges[number]

    def check(self, repo: Repo, head: str, name: str, state: str, log: str = "") -> None:
        self.state.check(self.place(repo), head, name, STATUS[state], log)

    def comment(self, repo: Repo, number: int, author: str, text: str) -> None:
        self.state.note(self._merge(repo, number), author, text)

    def thread(self, repo: Repo, number: int, author: str, path: str, text: str) -> None:
        self.state.thread(self.place(repo), self._merge(repo, number), author, path, text)

    def review(self, repo: Repo, number: int, author: str, verdict: str, text: str) -> None:
        """As the service does it: the text is a comment, the verdict a state and a note of its own."""
        merge = self._merge(repo, number)
        with self.state.turn:
            if text:
                self.state.note(merge, author, text)
            act = self.state.approve if verdict == "approved" else self.state.request_changes
            act(merge, author)

    def change_base(self, repo: Repo, **files: str) -> str:
        with self.state.turn:
            named = {f"{k}.txt": v for k, v in files.items()}
            return self.place(repo).bare.commit(repo.base, "change the base", named)

    def merge(self, repo: Repo, number: int) -> None:
        self.state.merge(self.place(repo), self._merge(repo, number))

    def close(self, repo: Repo, number: int) -> None:
        self.state.close(self._merge(repo, number))
