"""Pictures: arrays in, Axes out; and the live forms that sliders redraw.

Each picture is a class with an `update`, so that a slider changes what is drawn instead of drawing
anew, and a function of the same name that builds it once and returns its Axes. Figures never enter
pyplot: what is open there would be shown a second time. Colours come from viridis and cividis, and
a word, marker or line style says what each of them says.
"""

from attncourse.plots.accuracy import LiveErrors, errors
from attncourse.plots.averages import LiveDraws, bands
from attncourse.plots.base import (
    DPI,
    INK,
    PALE,
    PAPER,
    SERIES,
    caption,
    css_width,
    figure,
    freeze,
    in_unit,
    png,
    show,
)
from attncourse.plots.boards import LiveBoard, board
from attncourse.plots.brackets import LiveBrackets
from attncourse.plots.caches import LiveKept, LivePool
from attncourse.plots.distributions import distribution, numbers, table
from attncourse.plots.frontiers import Gained, LiveFrontier, beaten_by, unbeaten
from attncourse.plots.guesses import guess
from attncourse.plots.hashing import LiveSectors, LiveTable
from attncourse.plots.lines import LiveBars, LiveBudget, LiveCurves, bars, budget, curves, growth
from attncourse.plots.matrices import (
    LiveGraph,
    LiveHeatmap,
    LiveMask,
    LiveReach,
    arcs,
    gallery,
    graph,
    heads,
    heatmap,
    mask_legend,
    reach,
)
from attncourse.plots.moves import LiveMoves, Move
from attncourse.plots.pages import LivePage
from attncourse.plots.points import scatter
from attncourse.plots.programs import LiveProgram
from attncourse.plots.rankings import LiveRanking, Ranked
from attncourse.plots.records import LiveComparison, benchmark
from attncourse.plots.rings import LiveRing, LiveShares
from attncourse.plots.roofline import LiveRoofline, attainable, roofline
from attncourse.plots.runs import LiveRun
from attncourse.plots.scale import LiveScale, scale_legend
from attncourse.plots.schedules import LiveSchedule
from attncourse.plots.sentences import LiveSentence
from attncourse.plots.steps import LiveOnline, launches, lifetimes
from attncourse.plots.timelines import LiveTimeline
from attncourse.plots.traces import LiveTiles, tiles

__all__ = [
    "DPI",
    "INK",
    "PALE",
    "PAPER",
    "SERIES",
    "Gained",
    "LiveBars",
    "LiveBoard",
    "LiveBrackets",
    "LiveBudget",
    "LiveComparison",
    "LiveCurves",
    "LiveDraws",
    "LiveErrors",
    "LiveFrontier",
    "LiveGraph",
    "LiveHeatmap",
    "LiveKept",
    "LiveMask",
    "LiveMoves",
    "LiveOnline",
    "LivePage",
    "LivePool",
    "LiveProgram",
    "LiveRanking",
    "LiveReach",
    "LiveRing",
    "LiveRoofline",
    "LiveRun",
    "LiveScale",
    "LiveSchedule",
    "LiveSectors",
    "LiveSentence",
    "LiveShares",
    "LiveTable",
    "LiveTiles",
    "LiveTimeline",
    "Move",
    "Ranked",
    "arcs",
    "attainable",
    "bands",
    "bars",
    "beaten_by",
    "benchmark",
    "board",
    "budget",
    "caption",
    "css_width",
    "curves",
    "distribution",
    "errors",
    "figure",
    "freeze",
    "gallery",
    "graph",
    "growth",
    "guess",
    "heads",
    "heatmap",
    "in_unit",
    "launches",
    "lifetimes",
    "mask_legend",
    "numbers",
    "png",
    "reach",
    "roofline",
    "scale_legend",
    "scatter",
    "show",
    "table",
    "tiles",
    "unbeaten",
]
