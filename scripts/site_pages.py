"""Pages of the site (`make docs`) that lie outside docs/, for mkdocs: README, CONTRIBUTING, CHANGELOG."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
LINK = re.compile(r"(!?)\[([^][]*)\]\(([^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages from the repository's top folder, their links seen from docs/."""
    for name, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, name, content=LINK.sub(_from_docs, text)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Leave the words of links to what is no page of the site: notebooks, experiments, folders."""
    return LINK.sub(lambda link: link[2] if link[3].startswith("../") else link[0], markdown)


def _from_docs(link: re.Match[str]) -> str:
    mark, words, target = link.groups()
    if "://" in target or target.startswith("#"):
        return link[0]
    pages = {source: name for name, source in PAGES.items()}
    moved = pages.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}")
    return f"{mark}[{words}]({moved})"
