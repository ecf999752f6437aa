"""A report page as a browser would take it apart."""

import xml.etree.ElementTree as ET
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "img", "input", "hr"}


def xml_root(text):
    """The root of an XML text with its declaration; raises when it is not well formed."""
    return ET.fromstring(text.encode())  # noqa: S314 - written by the code under test


class Page(HTMLParser):
    """Tags, attributes and visible text of one page."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.tags = []
        self.unclosed = []
        self.scripts = []
        self.styles = []
        self._texts = []
        self._open = []
        self.feed(source)
        self.close()
        self.unclosed += self._open
        self.text = " ".join(" ".join(self._texts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if not self._open or self._open.pop() != tag:
            self.unclosed.append(tag)

    def handle_data(self, data):
        inside = self._open[-1] if self._open else ""
        if inside == "script":
            self.scripts.append(data)
        elif inside == "style":
            self.styles.append(data)
        else:
            self._texts.append(data)

    def attributes(self, name):
        """Every value of one attribute."""
        return [attrs[name] for _, attrs in self.tags if name in attrs]
