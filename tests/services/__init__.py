"""The boards and forges of real services, each against its stand-in."""
