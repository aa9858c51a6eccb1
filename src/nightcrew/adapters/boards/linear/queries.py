"""What is asked of Linear's GraphQL; each of these fits the official schema (tests/test_linear_board.py)."""

from __future__ import annotations

ISSUE = """
fragment IssueCore on Issue {
  id identifier number title description priority url createdAt updatedAt archivedAt trashed
  state { id name type position }
  team { id key name }
  project { id slugId name }
  assignee { id name email isMe }
  delegate { id name isMe app }
  labels(first: 10) { nodes { id name } }
  attachments(first: 10) { nodes { id url } }
  inverseRelations(first: 10) { nodes { id type issue { id identifier state { name type } } } }
}"""
WHO = "query Whoami { viewer { id name email isMe app organization { id urlKey name } } }"
TEAM = """
query TeamBoard($teamKey: String!) {
  teams(filter: { key: { eq: $teamKey } }, first: 1) {
    nodes { id key name
      states(first: 50) { nodes { id name type position } }
      labels(first: 200) { nodes { id name } }
    }
  }
}"""
TEAMS = "query Teams { teams(first: 100) { nodes { id key name } } }"
OPEN = f"""
query Candidates($filter: IssueFilter!, $first: Int!, $after: String) {{
  issues(filter: $filter, first: $first, after: $after, orderBy: updatedAt, includeArchived: false) {{
    nodes {{ ...IssueCore }} pageInfo {{ hasNextPage endCursor }}
  }}
}}{ISSUE}"""
STAMPS = """
query CandidateStamps($filter: IssueFilter!, $first: Int!, $after: String) {
  issues(filter: $filter, first: $first, after: $after, orderBy: updatedAt, includeArchived: true) {
    nodes { id updatedAt state { id type } } pageInfo { hasNextPage endCursor }
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
COMMENTS = """
query IssueComments($id: ID!, $first: Int!, $after: String) {
  comments(filter: { issue: { id: { eq: $id } } }, first: $first, after: $after, orderBy: createdAt) {
    nodes { id body createdAt user { id name email isMe app } botActor { id } externalUser { id } }
    pageInfo { hasNextPage endCursor }
  }
}"""
COMMENT = "query CommentById($id: String!) { comment(id: $id) { id body issue { id } } }"
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
ALL = (WHO, TEAM, TEAMS, OPEN, STAMPS, SOME, WHICH, COMMENTS, COMMENT, UPDATE, SAY, SAY_ANEW, ATTACH, CREATE, SESSION,
       ACTIVITY)  # fmt: skip
