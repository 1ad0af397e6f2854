"""Plots as inline SVG whose colours are variables of the page, so that one plot serves light and dark.

matplotlib draws with stand-in colours that are replaced by `var(--...)` in its SVG. Text stays text: it is sharp at
any size and can be searched, and takes the font of the page. The palette is Okabe and Ito's, made for every kind of
colour vision; series also differ by their place in the legend, which is in the order of the plot.
"""

import hashlib
import html
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from markupsafe import Markup
from rich.cells import cell_len

from sluice.text import short

SERIES = 8
_INK, _FAINT = "#0a0b0c", "#0d0e0f"
_COLOURS = [f"#0{number}c0de"[:7] for number in range(1, SERIES + 1)]
_VARIABLES = {_INK: "var(--ink)", _FAINT: "var(--line)"} | {
    colour: f"var(--series-{number})" for number, colour in enumerate(_COLOURS, 1)
}
NARROW, WIDE = 5.0, 10.4  # inches; the page shows 100 units of an inch as about 100 pixels
_LINES = (1, 4, 3, 6, 2, 7)  # series that lines take, neighbours far apart; then the same ones dashed
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a name with two dollar signs is no formula
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.labelsize": 9.5,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "text.color": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.major.pad": 6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _FAINT,
    "grid.linewidth": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "path.simplify": True,
    "path.simplify_threshold": 0.5,
}


@contextmanager
def _axes(
    width: float, height: float, found: list[Markup], alt: str, left: float = 0.72, legend: bool = False
) -> Iterator[Any]:
    """Axes to draw on; their SVG is appended to `found` when the block ends.

    The margins are given and not sought, which would mean drawing everything twice: `left` is in inches. A `legend`
    of several names goes above the axes.
    """
    import matplotlib
    from matplotlib.figure import Figure

    salt = hashlib.sha256(alt.encode("utf-8", "replace")).hexdigest()[:12]
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((left / width, 0.55 / height, 1 - (left + 0.15) / width, 1 - 0.65 / height))
        yield axes
        handles, names = axes.get_legend_handles_labels()
        if legend and len(names) > 1:
            columns = _legend_columns(names, width)
            lines = -(-len(names) // columns)
            above = 0.12 + 0.2 * lines  # inches; the figure grows by them, so the axes keep their size
            figure.set_size_inches(width, height + above)
            box = axes.get_position()
            scale = height / (height + above)
            axes.set_position((box.x0, box.y0 * scale, box.width, box.height * scale))
            figure.legend(
                _by_row(handles, columns),
                _by_row(names, columns),
                loc="upper left",
                bbox_to_anchor=(0, 1),
                ncols=columns,
                columnspacing=1.4,
                handlelength=1.3,
                borderpad=0,
            )
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    found.append(_inline(buffer.getvalue(), alt))


def _inline(svg: str, alt: str) -> Markup:
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<(metadata|style)\b.*?</\1>", "", body, flags=re.DOTALL)
    body = re.sub(r'(<g|<text) id="[a-zA-Z0-9_.]+"', r"\1", body)  # the names of groups repeat from plot to plot
    body = re.sub(r" xmlns(:xlink)?=\"[^\"]*\"", "", body).replace("xlink:href", "href")
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body).groups()  # type: ignore[union-attr]
    label = html.escape(alt, quote=True)
    start = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}"'
    body = re.sub(r"<svg[^>]*", start, body, count=1)
    body = re.sub(r"#0[0-9a-f]{5}", lambda match: _VARIABLES.get(match.group(), match.group()), body)
    body = body.replace(" font-family: 'DejaVu Sans';", "")
    return Markup(re.sub(r"\n\s*", "\n", body))


def _legend_columns(names: Sequence[str], width: float) -> int:
    """The most columns of a legend that `width` inches have room for."""
    for columns in range(len(names), 1, -1):
        longest = (max(cell_len(name) for name in names[column::columns]) for column in range(columns))
        if sum(0.44 + 0.068 * length for length in longest) <= width:
            return columns
    return 1


def _by_row(items: Sequence[Any], columns: int) -> list[Any]:
    """matplotlib fills a legend column by column; in this order it reads row by row."""
    return [item for column in range(columns) for item in items[column::columns]]


def _ticks(axis: Any, whole: bool = False) -> None:
    """Up to seven plain labels; only `whole` numbers where something is counted."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10], integer=whole))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if abs(value) < 10_000 else short(value)))


def _logarithmic_ticks(axis: Any) -> None:
    """1, 2, 5, 10 ...: the plain labels, since formulas are switched off."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _rows(axes: Any, names: Sequence[str], room: int) -> np.ndarray:
    """Set up names down the left side, the first on top; returns their places.

    With room for many more rows the few do not grow without limit.
    """
    places = np.arange(len(names))
    axes.set_yticks(places, names)
    axes.set_ylim(max(len(names), room / 1.5) - 0.4, -0.6)
    axes.grid(False, axis="y")
    axes.spines["left"].set_visible(False)
    return places


def _names_width(names: Iterable[str]) -> float:
    """Inches for names at the left side."""
    return 0.2 + 0.072 * max((cell_len(name) for name in names), default=0)


def bars(values: Mapping[str, float], label: str, alt: str, series: int = 1, room: int = 0) -> Markup:
    """One horizontal bar a name, with its number at the end; at least as high as a plot of `room` names."""
    found: list[Markup] = []
    with _axes(NARROW, 0.65 + 0.27 * max(len(values), room), found, alt, _names_width(values)) as axes:
        places = _rows(axes, list(values), room)
        sizes = list(values.values())
        axes.barh(places, sizes, height=0.68, color=_COLOURS[series - 1])
        whole = all(value == int(value) for value in sizes)
        for place, value in zip(places, sizes):
            text = short(value) if whole or value >= 100 else f"{value:.2f}"
            axes.annotate(text, (value, place), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
        axes.set_xlim(0, max(sizes, default=1) * 1.18 or 1)
        axes.set_xlabel(label)
        _ticks(axes.xaxis, whole)
    return found[0]


def stacked_shares(rows: Mapping[str, Mapping[str, int]], colours: Mapping[str, int], label: str, alt: str) -> Markup:
    """One bar a name that is divided among outcomes, in percent. `colours` maps the outcomes to series, in order."""
    found: list[Markup] = []
    with _axes(NARROW, 0.65 + 0.27 * len(rows), found, alt, _names_width(rows), legend=True) as axes:
        places = _rows(axes, list(rows), 0)
        totals = np.array([max(1, sum(row.values())) for row in rows.values()])
        begin = np.zeros(len(rows))
        for outcome, series in colours.items():
            share = 100 * np.array([row.get(outcome, 0) for row in rows.values()]) / totals
            if share.any():
                axes.barh(places, share, left=begin, height=0.68, color=_COLOURS[series - 1], label=outcome)
            begin += share
        axes.set_xlim(0, 100)
        axes.set_xlabel(label)
    return found[0]


def before_after(
    rows: Mapping[str, tuple[float, float]], names: tuple[str, str], label: str, alt: str, room: int = 0
) -> Markup:
    """Two bars a name, such as the shares of a cell before and after mixing; `room` is that of `bars`."""
    found: list[Markup] = []
    with _axes(NARROW, 0.65 + 0.36 * max(len(rows), room), found, alt, _names_width(rows), legend=True) as axes:
        places = _rows(axes, list(rows), room)
        for number, (name, series) in enumerate(zip(names, (8, 1))):
            sizes = [pair[number] for pair in rows.values()]
            axes.barh(places + 0.38 * number - 0.19, sizes, height=0.35, color=_COLOURS[series - 1], label=name)
        axes.set_xlabel(label)
        _ticks(axes.xaxis)
    return found[0]


def histogram(
    edges: np.ndarray, counts: Mapping[str, np.ndarray], label: str, unit: str, alt: str, series: int = 1
) -> Markup:
    """Stacked histograms over common edges; at most two names, the first in the colour of `series`."""
    found: list[Markup] = []
    with _axes(NARROW, 2.3, found, alt, legend=True) as axes:
        below = np.zeros(len(edges) - 1)
        for (name, height), colour in zip(counts.items(), (series, 5)):
            top = below + height
            axes.stairs(top, edges, baseline=below, fill=True, color=_COLOURS[colour - 1], label=name, linewidth=0)
            below = top
        axes.set_xlim(edges[0], edges[-1])
        axes.set_ylim(0, max(1.0, 1.05 * below.max(initial=0)))
        axes.set_xlabel(label)
        axes.set_ylabel(unit)
        _ticks(axes.yaxis, whole=True)
        axes.grid(False, axis="x")
    return found[0]


def columns(values: Mapping[str, Mapping[str, float]], label: str, unit: str, alt: str) -> Markup:
    """Stacked columns over names in their order, such as documents by length; at most two rows of values."""
    found: list[Markup] = []
    with _axes(NARROW, 2.3, found, alt, legend=True) as axes:
        names = list(next(iter(values.values()), {}))
        places, below = np.arange(len(names)), np.zeros(len(names))
        for (name, heights), series in zip(values.items(), (1, 6)):
            height = np.array(list(heights.values()), float)
            axes.bar(places, height, 0.8, below, color=_COLOURS[series - 1], label=name)
            below += height
        every = -(-len(names) // 10)
        axes.set_xticks(places[::every], names[::every])
        axes.set_xlabel(label)
        axes.set_ylabel(unit)
        _ticks(axes.yaxis, whole=True)
        axes.grid(False, axis="x")
    return found[0]


def curves(
    series: Mapping[str, tuple[np.ndarray, np.ndarray]],
    label: str,
    unit: str,
    alt: str,
    *,
    faint: Mapping[str, tuple[np.ndarray, np.ndarray]] | None = None,
    boundaries: Sequence[float] = (),
    logarithmic: bool = False,
    points: bool = False,
    width: float = NARROW,
) -> Markup:
    """Lines over a common axis.

    Args:
        series: name -> (x, y).
        faint: the same names with what the lines smooth, drawn pale behind them.
        boundaries: places on the x-axis where one stage of training ends and the next begins.
    """
    found: list[Markup] = []
    with _axes(width, 2.7, found, alt, left=0.85, legend=True) as axes:
        for place in boundaries:
            axes.axvline(place, color=_INK, linewidth=0.8, linestyle=(0, (2, 3)), alpha=0.6)
        for number, (name, (x, y)) in enumerate(series.items()):
            colour = _COLOURS[_LINES[number % len(_LINES)] - 1]
            if faint and name in faint:
                axes.plot(*faint[name], color=colour, linewidth=0.8, alpha=0.3)
            marker = "o" if points or len(x) == 1 else ""
            dashes = "-" if number < len(_LINES) else (0, (4, 1.5))
            axes.plot(x, y, color=colour, linewidth=1.7, linestyle=dashes, label=name, marker=marker, markersize=3.5)
        if logarithmic:
            axes.set_yscale("log")
            _logarithmic_ticks(axes.yaxis)
        else:
            _ticks(axes.yaxis)
        _ticks(axes.xaxis)
        axes.set_xlim(left=0)
        axes.set_xlabel(label)
        axes.set_ylabel(unit)
    return found[0]


def heat_map(values: np.ndarray, label: str, unit: str, alt: str) -> Markup:
    """A matrix of ratios, 1 being nothing special: blue towards 0, orange towards 2 and more, blank at 1.

    Blank is transparent, so one picture serves light and dark.
    """
    from matplotlib.ticker import MaxNLocator

    found: list[Markup] = []
    with _axes(WIDE, min(6.0, 1.1 + 0.12 * max(8, len(values))), found, alt, left=0.85) as axes:
        away = np.clip(np.asarray(values, float) - 1, -1, 1)
        pixels = np.empty((*away.shape, 4))
        pixels[..., :3] = np.where(away[..., None] < 0, (0.0, 0.45, 0.7), (0.84, 0.37, 0.0))
        pixels[..., 3] = np.abs(away)
        rows, columns = away.shape
        axes.imshow(pixels, aspect="auto", interpolation="nearest", extent=(0.5, columns + 0.5, rows + 0.5, 0.5))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        axes.set_xlabel(label)
        axes.set_ylabel(unit)
        axes.grid(False)
    return found[0]
