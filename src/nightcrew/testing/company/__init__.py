"""A fake company on loopback: stand-ins of boards and forges, each checked against its official schema."""
