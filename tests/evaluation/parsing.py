"""A page as a browser takes it apart, for tests of what a reader sees."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "wbr", "link", "hr", "input"}


class Parsed(HTMLParser):
    """Checks that tags are balanced, and keeps the tags, the addresses that the page names, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str | None] = []
        self.tags: list[str] = []
        self.pieces: list[str] = []
        self.feed(page)
        assert self.open == []

    @property
    def text(self) -> str:
        """What can be read, with single spaces."""
        return " ".join("".join(self.pieces).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in VOID:
            self.open.append(tag)
            self.pieces.append(" ")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.pieces.append(" ")

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.pieces.append(data)
