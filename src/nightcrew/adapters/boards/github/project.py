"""A GitHub project (v2) as what decides: its Status field says how far an issue is, and only what is in it is taken."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nightcrew.adapters.github_api import graphql
from nightcrew.core.model import TicketState
from nightcrew.errors import BoardError
from nightcrew.transport import Refused, Service

MEANS = {
    "todo": TicketState.OPEN, "to do": TicketState.OPEN, "ready": TicketState.OPEN, "backlog": TicketState.OTHER,
    "in progress": TicketState.WORKING, "in review": TicketState.REVIEW, "review": TicketState.REVIEW,
    "blocked": TicketState.BLOCKED, "failed": TicketState.FAILED, "done": TicketState.DONE,
}  # fmt: skip
"""What the usual names of a status mean; GitHub's own are Todo, In Progress and Done."""
BOARD = """
fragment Board on ProjectV2 {
  id title updatedAt closed
  fields(first: 30) { nodes { __typename ... on ProjectV2SingleSelectField { id name options { id name } } } }
  items(first: 100, after: $after, orderBy: { field: POSITION, direction: ASC }) {
    totalCount
    pageInfo { hasNextPage endCursor }
    nodes {
      id type isArchived updatedAt
      status: fieldValueByName(name: "Status") { ... on ProjectV2ItemFieldSingleSelectValue { name optionId } }
      content { __typename ... on Issue { number repository { nameWithOwner } } }
    }
  }
}"""
OF_ORGANIZATION = f"""
query Project($org: String!, $number: Int!, $after: String) {{
  organization(login: $org) {{ projectV2(number: $number) {{ ...Board }} }}
}}{BOARD}"""
OF_USER = f"""
query UserProject($org: String!, $number: Int!, $after: String) {{
  user(login: $org) {{ projectV2(number: $number) {{ ...Board }} }}
}}{BOARD}"""
MOVE = """
mutation MoveCard($project: ID!, $item: ID!, $field: ID!, $option: String!) {
  updateProjectV2ItemFieldValue(input: {
    projectId: $project, itemId: $item, fieldId: $field, value: { singleSelectOptionId: $option }
  }) { projectV2Item { id } }
}"""

ADD = """
mutation AddToProject($project: ID!, $content: ID!) {
  addProjectV2ItemById(input: { projectId: $project, contentId: $content }) { item { id } }
}"""


@dataclass
class Card:
    """An issue's place in the project; `status` is "" where none is set."""

    id: str
    status: str


@dataclass
class Project:
    """A project named `owner/number`. Raises BoardError when there is none, or when it has no Status."""

    service: Service
    name: str
    states: Mapping[str, TicketState]  # the owner's own names, besides the usual ones
    writes: Mapping[TicketState, str]
    cards: dict[str, Card] = field(default_factory=dict)  # by issue, as GitHub names it, in lower case
    ways: tuple[tuple[str, str], ...] = ((OF_ORGANIZATION, "organization"), (OF_USER, "user"))
    id: str = ""
    status: str = ""  # the field's id
    options: dict[str, str] = field(default_factory=dict)  # name -> id

    async def look(self) -> None:
        """Read its items: one request for each hundred."""
        found, after = dict[str, Card](), None
        while True:
            raw = await self._page(after)
            self._learn(raw)
            for item in raw["items"]["nodes"]:
                content = item.get("content") or {}
                if content.get("__typename") == "Issue" and not item["isArchived"]:
                    key = f"{content['repository']['nameWithOwner']}#{content['number']}"
                    found[key.lower()] = Card(item["id"], (item["status"] or {}).get("name") or "")
            if not raw["items"]["pageInfo"]["hasNextPage"]:
                break
            after = raw["items"]["pageInfo"]["endCursor"]
        self.cards = found

    async def _page(self, after: str | None) -> dict[str, Any]:
        owner, _, number = self.name.partition("/")
        for query, kind in self.ways:
            try:
                data = await graphql(self.service, query, {"org": owner, "number": int(number), "after": after})
            except Refused:
                continue  # GitHub says "could not resolve" for an owner of the other kind
            if found := (data.get(kind) or {}).get("projectV2"):
                project: dict[str, Any] = found
                self.ways = ((query, kind),)
                return project
        raise BoardError(f"GitHub shows us no project {self.name}.",
                         hint='Write project = "OWNER/NUMBER", and let the token read projects.')  # fmt: skip

    def _learn(self, raw: Mapping[str, Any]) -> None:
        self.id = raw["id"]
        fields = [one for one in raw["fields"]["nodes"] if one and one.get("name") == "Status"]
        if not fields:
            raise BoardError(f"The project {self.name} has no field Status.", hint="Add one of kind single select.")
        self.status = fields[0]["id"]
        self.options = {option["name"]: option["id"] for option in fields[0]["options"]}

    def state(self, ticket: str) -> TicketState | None:
        """What the card says of an issue, None when it is not in the project."""
        card = self.cards.get(ticket.lower())
        if card is None:
            return None
        own = {name.lower(): state for name, state in self.states.items()}
        own |= {name.lower(): state for state, name in self.writes.items()}
        return own.get(card.status.lower()) or MEANS.get(card.status.lower(), TicketState.OTHER)

    def option(self, state: TicketState) -> str:
        """The name of the status that shows a state, "" when the project has none."""
        named = self.writes.get(state, "")
        names = {name.lower(): name for name in self.options}
        usual = (name for name, means in MEANS.items() if means is state)
        return next((names[n] for n in (named.lower(), *usual) if n in names), "")

    async def move(self, ticket: str, state: TicketState) -> bool:
        """Show a state by the card; False when there is no card or no status for it."""
        card, option = self.cards.get(ticket.lower()), self.option(state)
        if card is None or not option:
            return False
        if card.status != option:
            asked = {"project": self.id, "item": card.id, "field": self.status, "option": self.options[option]}
            await graphql(self.service, MOVE, asked)
            card.status = option
        return True

    async def add(self, ticket: str, node: str) -> None:
        """Put an issue in, as open; the service makes one card for an issue, however often it is asked."""
        data = await graphql(self.service, ADD, {"project": self.id, "content": node})
        self.cards[ticket.lower()] = Card(data["addProjectV2ItemById"]["item"]["id"], "")
        await self.move(ticket, TicketState.OPEN)
