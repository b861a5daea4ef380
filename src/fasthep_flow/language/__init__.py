"""What the author wrote: the text of a YAML file becomes a plan."""

from __future__ import annotations

from fasthep_flow.language.document import Document, read_text, read_workflow
from fasthep_flow.language.planner import make_plan, select_tasks

__all__ = ["Document", "make_plan", "read_text", "read_workflow", "select_tasks"]
