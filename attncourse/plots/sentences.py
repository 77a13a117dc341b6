"""Words: which of them one word attends to, in the sentence itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from attncourse.plots.base import INK, PALE, SERIES, figure, set_title, styled


class LiveSentence:
    """A sentence; a bow from one word to each word that it attends to, as thick as the weight."""

    @styled
    def __init__(
        self,
        words: Sequence[str],
        weights: np.ndarray,
        query: int,
        ax: Axes | None = None,
        *,
        title: str = "",
    ):
        """Draw the first weights.

        Args:
            words: The tokens, up to some twelve in a line.
            weights: (tokens,), what the asking word gives to each; not negative.
            query: Which word asks.
            ax: Where; an own figure if not given.
            title: In words.
        """
        if ax is None:
            _, ax = figure(height=2.5)
        self.ax, self.figure = ax, ax.get_figure()
        lengths = np.array([len(word) + 2.5 for word in words])
        self.x = np.cumsum(lengths) - lengths / 2
        self.words = [ax.text(x, 0, "", ha="center", va="center", fontsize=13) for x in self.x]
        self.shares = [
            ax.text(x, -0.55, "", ha="center", va="center", fontsize=9, color="#444444")
            for x in self.x
        ]
        self.bows = [ax.plot([], [], color=SERIES[1], solid_capstyle="round")[0] for _ in words]
        ax.set(xlim=(0, lengths.sum()), ylim=(-0.75, 2.45), xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        self.update(words, weights, query, title)

    def update(
        self, words: Sequence[str], weights: np.ndarray, query: int, title: str | None = None
    ) -> None:
        """Show another word's weights; words may change, but not how many there are."""
        turn = np.linspace(0, np.pi, 40)
        widest = np.abs(self.x - self.x[query]).max() or 1
        for key, (word, weight) in enumerate(zip(words, weights, strict=True)):
            middle, radius = (self.x[query] + self.x[key]) / 2, (self.x[key] - self.x[query]) / 2
            height = 0.4 + 1.6 * 2 * abs(radius) / widest
            self.bows[key].set_data(
                middle + radius * np.cos(turn), 0.3 + (key != query) * height * np.sin(turn)
            )
            self.bows[key].set(linewidth=9 * weight, visible=bool(weight > 0.005))
            self.words[key].set(
                text=word,
                weight="bold" if key == query else "normal",
                bbox={
                    "boxstyle": "round,pad=0.25",
                    "facecolor": PALE if key == query else "white",
                    "edgecolor": INK if key == query else "white",
                },
            )
            self.shares[key].set_text(f"{weight:.0%}")
        if title is not None:
            set_title(self.ax, title)
