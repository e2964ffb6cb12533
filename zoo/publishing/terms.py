"""Who publishes a release, when, and under what licence; and how to cite it."""

from __future__ import annotations

import datetime
import re
from typing import Any, NamedTuple

LICENCES = {
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "MIT": "https://opensource.org/license/mit",
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
}
"""Licences by SPDX identifier, and where their text is."""

METHOD = {
    "type": "conference-paper",
    "title": "MD tree: a model-diagnostic tree grown on loss landscape",
    "authors": [
        {"family-names": "Zhou", "given-names": "Yefan"},
        {"family-names": "Chen", "given-names": "Jianlong"},
        {"family-names": "Cao", "given-names": "Qinxue"},
        {"family-names": "Schürholt", "given-names": "Konstantin"},
        {"family-names": "Yang", "given-names": "Yaoqing"},
    ],
    "year": 2024,
    "collection-title": "International Conference on Machine Learning",
}


class Terms(NamedTuple):
    """What a publisher says.

    Attributes:
        date: Day of publication, as 2026-11-28.
        authors: Names.
        licence: A key of `LICENCES`.
        version: Version of the release, of three numbers.
        url: Where it will be found, if that is known.
    """

    date: str
    authors: tuple[str, ...] = ("mdzoo",)
    licence: str = "CC-BY-4.0"
    version: str = "1.0.0"
    url: str | None = None

    @property
    def licence_url(self) -> str:
        """Where the licence's text is."""
        return LICENCES[self.licence]

    def check(self) -> None:
        """Refuse what no reader of a release would understand.

        Raises:
            ValueError: If the licence is unknown, the date or the version is none, or there is no author.
        """
        if self.licence not in LICENCES:
            raise ValueError(f"licence is {self.licence!r}; it has to be one of {', '.join(LICENCES)}")
        if not re.fullmatch(r"\d+\.\d+\.\d+", self.version):
            raise ValueError(f"version is {self.version!r}; it has to be three numbers, as 1.0.0")
        try:
            datetime.date.fromisoformat(self.date)
        except ValueError as error:
            raise ValueError(f"date is {self.date!r}; write it as 2026-11-28") from error
        if not self.authors or not all(name.strip() for name in self.authors):
            raise ValueError("a release has one author at least; give a name")

    def bibtex(self, title: str) -> str:
        """A BibTeX entry for the release."""
        key = re.sub(r"\W+", "_", title).strip("_").lower()
        names = " and ".join(f"{{{name}}}" for name in self.authors)
        return (
            f"@misc{{{key}_{self.date[:4]},\n  title = {{{title}}},\n  author = {{{names}}},\n"
            f"  year = {{{self.date[:4]}}},\n  version = {{{self.version}}}"
            + (f",\n  url = {{{self.url}}}\n}}" if self.url else "\n}")
        )

    def citation(self, title: str) -> dict[str, Any]:
        """The content of a `CITATION.cff` of version 1.2.0 for the release."""
        return {
            "cff-version": "1.2.0",
            "message": "If you use this data set, please cite it.",
            "type": "dataset",
            "title": title,
            "authors": [{"name": name} for name in self.authors],
            "version": self.version,
            "date-released": self.date,
            "license": self.licence,
            **({"url": self.url} if self.url else {}),
            "references": [METHOD],
        }
