"""Charts and the page that a run leaves behind."""

from spherood.report.content import Content, Example
from spherood.report.page import write_page

__all__ = ["Content", "Example", "write_page"]
