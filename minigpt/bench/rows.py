"""Figures in, rows for `--json` and a table in plain text out, each peer's figure as a multiple of ours."""

from typing import Any

Row = dict[str, Any]


def row(what: str, who: str, value: float, unit: str) -> Row:
    """Return one figure: what was measured, of whom, with four significant digits, in which unit."""
    return {"what": what, "who": who, "value": float(f"{value:.4g}"), "unit": unit}


def as_table(rows: list[Row]) -> str:
    """Return rows as a table in plain text, with each figure as a multiple of ours."""
    lines = []
    for found in rows:
        same = (r["value"] for r in rows if r["what"] == found["what"] and r["who"] == "minigpt")
        ours = next(same, 0.0)
        share = (
            f"  {found['value'] / ours:5.2f} x ours" if ours and found["who"] != "minigpt" else ""
        )
        figure = f"{found['value']:>12,.4g} {found['unit']:<8}"
        lines.append(f"{found['what']:<32}  {found['who']:<12}  {figure}{share}".rstrip())
    return "\n".join(lines)
