"""Pictures, tables and the report of an evaluation."""
