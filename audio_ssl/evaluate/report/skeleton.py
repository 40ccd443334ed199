"""The frame of every report: one HTML page, no script, no file beside it, nothing from the network.

Everything that comes from data goes through :func:`html.escape`; a policy in the page forbids what might slip by.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib import resources

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; media-src data:"


def whole(
    title: str, sections: Sequence[tuple[str, str, str]], *, header: str, footer: str, styles: Sequence[str] = (),
    own_style: str = "",
) -> str:  # fmt: skip
    """The whole page.

    Args:
        title: plain text.
        sections: key, title and HTML of each; those without HTML are left out.
        header: HTML of the head that is seen.
        footer: HTML of the foot.
        styles: style sheets of this package beside ``page.css``.
        own_style: a style sheet from elsewhere, as text; it comes last.
    """
    there = [(key, heading, body) for key, heading, body in sections if body]
    links = "".join(f'<li><a href="#{key}">{heading}</a></li>' for key, heading, _ in there)
    bodies = "".join(
        f'<section id="{key}" aria-labelledby="h-{key}"><h2 id="h-{key}">{heading}</h2>{body}</section>'
        for key, heading, body in there
    )
    folder = resources.files("audio_ssl.evaluate.report")
    style = "".join(folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", *styles)) + own_style
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" '
        'content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f'{header}<nav aria-label="Sections"><ul>{links}</ul></nav><main>{bodies}</main>'
        f"<footer>{footer}</footer></body></html>\n"
    )


def tile(title: str, value: str, note: str) -> str:
    """HTML of one figure in a row of them."""
    return f"<div><dt>{escape(title)}</dt><dd>{escape(value)}<small>{escape(note)}</small></dd></div>"
