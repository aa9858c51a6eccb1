"""What is asked of Linear's GraphQL; each of these fits the official schema (tests/services/test_linear_board.py)."""

from __future__ import annotations

INNER = 10  # labels, attachments, relations read with each issue; one that has as many is read again with all
ALL_OF_IT = 60


def _issue(inner: int) -> str:
    return f"""
fragment IssueCore on Issue {{
  id identifier number title description priority url createdAt updatedAt archivedAt trashed
  state {{ id name type position }}
  team {{ id key name }}
  project {{ id slugId name }}
  assignee {{ id name email isMe }}
  creator {{ id name email isMe }}
  delegate {{ id name isMe app }}
  labels(first: {inner}) {{ nodes {{ id name }} }}
  attachments(first: {inner}) {{ nodes {{ id url }} }}
  inverseRelations(first: {inner}) {{
    nodes {{ id type issue {{ id identifier archivedAt trashed state {{ name type }} team {{ key }} }} }}
  }}
}}"""


ISSUE = _issue(INNER)
SAID = """
fragment Said on Comment { id body createdAt issue { id } user { id name email isMe app } botActor { id }
  externalUser { id } }"""
WHO = "query Whoami { viewer { id name displayName email isMe app organization { id urlKey name } } }"
TEAM = """
query TeamBoard($teamKey: String!) {
  teams(filter: { key: { eqIgnoreCase: $teamKey } }, first: 1) {
    nodes { id key name
      states(first: 50) { nodes { id name type position } }
      labels(first: 200) { nodes { id name } }
    }
  }
}"""
TEAMS = "query Teams { teams(first: 100) { nodes { id key name } } }"
OPEN = f"""
query Candidates($filter: IssueFilter!, $first: Int!, $after: String) {{
  issues(filter: $filter, first: $first, after: $after, orderBy: createdAt, includeArchived: false) {{
    nodes {{ ...IssueCore }} pageInfo {{ hasNextPage endCursor }}
  }}
}}{ISSUE}"""
"""In the order of making, which stays as it is while people work."""
CHANGES = f"""
query Changes($filter: IssueFilter!, $first: Int!, $said: CommentFilter!, $words: Int!) {{
  issues(filter: $filter, first: $first, orderBy: updatedAt, includeArchived: true) {{
    nodes {{ id updatedAt }} pageInfo {{ hasNextPage endCursor }}
  }}
  comments(filter: $said, first: $words, orderBy: updatedAt) {{
    nodes {{ ...Said }} pageInfo {{ hasNextPage endCursor }}
  }}
}}{SAID}"""
STAMPS = """
query CandidateStamps($filter: IssueFilter!, $first: Int!, $after: String) {
  issues(filter: $filter, first: $first, after: $after, orderBy: updatedAt, includeArchived: true) {
    nodes { id updatedAt } pageInfo { hasNextPage endCursor }
  }
}"""
SOME = f"""
query Issues($filter: IssueFilter!, $first: Int!) {{
  issues(filter: $filter, first: $first, includeArchived: true) {{ nodes {{ ...IssueCore }} }}
}}{ISSUE}"""
WHICH = """
query Which($filter: IssueFilter!, $first: Int!) {
  issues(filter: $filter, first: $first, includeArchived: true) { nodes { id } }
}"""
WHOLE = f"""
query WholeIssue($filter: IssueFilter!) {{
  issues(filter: $filter, first: 1, includeArchived: true) {{ nodes {{ ...IssueCore }} }}
}}{_issue(ALL_OF_IT)}"""
LABELS = """
query Labels($filter: IssueLabelFilter!) {
  issueLabels(filter: $filter, first: 10) { nodes { id name } }
}"""
"""Labels of the workspace are in no team's own list."""
COMMENTS = f"""
query Comments($said: CommentFilter!, $first: Int!, $after: String) {{
  comments(filter: $said, first: $first, after: $after, orderBy: updatedAt) {{
    nodes {{ ...Said }} pageInfo {{ hasNextPage endCursor }}
  }}
}}{SAID}"""
UPDATE = """
mutation Claim($id: String!, $input: IssueUpdateInput!) {
  issueUpdate(id: $id, input: $input) { success issue { id updatedAt } }
}"""
SAY = """
mutation CommentCreate($id: String!, $issueId: String!, $body: String!) {
  commentCreate(input: { id: $id, issueId: $issueId, body: $body }) { success comment { id } }
}"""
SAY_ANEW = """
mutation CommentUpdate($id: String!, $body: String!) {
  commentUpdate(id: $id, input: { body: $body }) { success comment { id } }
}"""
ATTACH = """
mutation AttachPr($issueId: String!, $url: String!, $title: String!) {
  attachmentCreate(input: { issueId: $issueId, url: $url, title: $title }) { success attachment { id } }
}"""
CREATE = """
mutation IssueCreate($input: IssueCreateInput!) {
  issueCreate(input: $input) { success issue { id identifier url } }
}"""
SESSIONS = """
query AgentSessions {
  agentSessions(first: 100, orderBy: createdAt) { nodes { id issue { id } appUser { id } } }
}"""
"""The newest of the workspace: Linear cannot be asked for those of an issue."""
SESSION = """
mutation AgentSessionOnIssue($issueId: String!, $externalUrls: [AgentSessionExternalUrlInput!]) {
  agentSessionCreateOnIssue(input: { issueId: $issueId, externalUrls: $externalUrls }) {
    success agentSession { id status url }
  }
}"""
ACTIVITY = """
mutation AgentActivity($id: String!, $sessionId: String!, $content: JSONObject!) {
  agentActivityCreate(input: { id: $id, agentSessionId: $sessionId, content: $content }) {
    success agentActivity { id }
  }
}"""
ALL = (WHO, TEAM, TEAMS, OPEN, CHANGES, STAMPS, SOME, WHICH, WHOLE, LABELS, COMMENTS, UPDATE, SAY, SAY_ANEW,
       ATTACH, CREATE, SESSIONS, SESSION, ACTIVITY)  # fmt: skip
