"""Objects as a notebook shows them, and characters that some terminals lack."""

from collections.abc import Iterable, Sequence
from html import escape

PLAIN = {
    **{"ρ": "rho", "λ": "lambda", "τ": "tau", "σ": "sigma", "√": "sqrt", "∞": "inf", "²": "^2"},
    **{"±": "+-", "–": "-", "—": "-", "−": "-", "×": "x", "·": "*", "≤": "<=", "≥": ">="},
    **{"✓": "[+]", "✗": "[-]", "≈": "[~]"},
    **{"…": "...", "’": "'", "“": '"', "”": '"'},
}
"""How characters are spelled where the terminal or the file has none of them, as in ASCII or Latin-1."""


def html_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a titled table as HTML, with everything in it escaped.

    Args:
        title: above the table.
        columns: their headings.
        rows: a value for each column; see :func:`text_of`.
    """
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(text_of(value))}</td>' for value in row)}</tr>" for row in rows)
    return f"<p><b>{escape(title)}</b></p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def text_of(value: object) -> str:
    """Return a value as a cell shows it: a dash for None, four digits of a float."""
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
