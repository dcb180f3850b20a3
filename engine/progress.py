"""What a person sees while a run trains: a live display on a terminal, plain lines elsewhere.

Only rank 0 has one. It is drawn from `update` itself, at most `REFRESH_HZ` times a second, so there
is no thread beside the training and nothing to draw between steps. On a terminal, whatever else is
printed appears above the display; without one (a file, a pipe, CI) there is a line every
`log_every` steps.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from trivium.engine.metrics import Record
from trivium.engine.units import format_bytes, format_count, format_seconds

REFRESH_HZ = 2  # a drawing costs about a millisecond
RATE_WINDOW = 50  # steps that the remaining time is estimated from
BARS = "▁▂▃▄▅▆▇█"
CURVE_WIDTH = 32


class Progress:
    """The display of one run. Use as a context: the terminal is given back whatever happens.

    flops_convention says how MFU counts FLOPs; records without "mfu" show none.
    """

    def __init__(
        self,
        title: str,
        total_steps: int,
        *,
        first_step: int = 0,
        log_every: int = 1,
        flops_convention: str | None = None,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.title = title
        self.total_steps = total_steps
        self.log_every = log_every
        self.flops_convention = flops_convention
        self.console = console or Console(highlight=False)
        self._clock = clock
        self._step = first_step
        self._first_step = first_step
        self._times: deque[tuple[int, float]] = deque(maxlen=RATE_WINDOW + 1)
        self._losses = Curve(CURVE_WIDTH)
        self._validation: float | None = None
        self._skipped = 0
        self._record: Record = {}
        self._drawn = -1.0
        self._live: Live | None = None

    def __enter__(self) -> Progress:
        self._times.append((self._step, self._clock()))
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(
                self._display(), console=self.console, auto_refresh=False, transient=False
            )
            self._live.start()
        elif self.flops_convention:
            self.print(f"MFU counts {self.flops_convention}")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._live is not None:
            self._live.update(self._display(), refresh=True)
            self._live.stop()
            self._live = None

    def print(self, text: str) -> None:
        """Print above the display, as it is: no markup, no wrapping."""
        self.console.print(Text(text), soft_wrap=True)

    def update(self, record: Record) -> None:
        """Show a step's record."""
        now = self._clock()
        self._record = record
        self._step = record["step"]
        self._times.append((self._step, now))
        self._losses.add(record.get("loss"))
        self._validation = record.get("validation_loss", self._validation)
        self._skipped += bool(record.get("skipped"))
        if self._live is not None:
            if now - self._drawn >= 1 / REFRESH_HZ:
                self._drawn = now
                self._live.update(self._display(), refresh=True)
        elif self._step % self.log_every == 0 or self._step == self.total_steps:
            self.print(self.line())

    @property
    def remaining_seconds(self) -> float | None:
        """Time to the last step at the pace of the latest steps, validation and saves included."""
        (first, began), (last, ended) = self._times[0], self._times[-1]
        if last <= first:
            return None
        return (ended - began) / (last - first) * max(0, self.total_steps - last)

    def line(self) -> str:
        """The last step in one plain line."""
        figures = [f"{name} {value}" if name else value for name, value in self._figures()]
        done = f"step {self._step:>{len(str(self.total_steps))}}/{self.total_steps}"
        return "  ".join([done, *figures, f"ETA {format_seconds(self.remaining_seconds)}"])

    def _figures(self) -> list[tuple[str, str]]:
        """(name, value) of what the last record holds, in the order of importance."""
        record, figures = self._record, []
        if "loss" in record:
            figures.append(("loss", _number(record["loss"], ".4f")))
        if self._validation is not None:
            figures.append(("validation", _number(self._validation, ".4f")))
        if "grad_norm" in record:
            figures.append(("grad", _number(record["grad_norm"], ".2f")))
        if "lr" in record:
            figures.append(("lr", _number(record["lr"], ".2e")))
        if "tokens_per_s" in record:
            figures.append(("", f"{format_count(record['tokens_per_s'])} tokens/s"))
        if record.get("mfu") is not None:
            figures.append(("MFU", f"{record['mfu']:.1%}"))
        if "memory" in record:
            figures.append(("memory", format_bytes(record["memory"])))
        if self._skipped:
            figures.append(("skipped", str(self._skipped)))
        return figures

    def _display(self) -> RenderableType:
        share = self._step / max(1, self.total_steps)
        head = Table.grid(padding=(0, 2), expand=True)
        head.add_column(no_wrap=True)
        head.add_column(ratio=1)
        head.add_column(justify="right", no_wrap=True)
        steps = Text.assemble(
            (f"{self._step:,}", "bold"),
            f" of {self.total_steps:,} steps",
            (f"  {share:.0%}", "cyan"),
        )
        left = format_seconds(self.remaining_seconds)
        head.add_row(
            Text(self.title, "bold"),
            ProgressBar(total=max(1, self.total_steps), completed=self._step),
            Text.assemble(steps, ("  ETA ", "dim"), left),
        )
        figures = Text(no_wrap=True, overflow="ellipsis")
        for name, value in self._figures():
            if name:
                figures.append(f"{name} ", "dim")
            figures.append(value, "bold" if name in ("loss", "validation") else "")
            figures.append("   ")
        curve = Text.assemble(("loss ", "dim"), (self._losses.draw(), "cyan"), no_wrap=True)
        if self.flops_convention and self._record.get("mfu") is not None:
            curve.append(f"   MFU counts {self.flops_convention}", "dim")
        curve.overflow = "ellipsis"
        return Group(head, figures, curve)


class Curve:
    """The whole course of a quantity in a fixed number of characters, whatever its length.

    Each character is a mean over equally many values; when they run out, neighbours are merged.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._means: list[float] = []
        self._per_mean = 1
        self._pending: list[float] = []

    def add(self, value: float | None) -> None:
        """Take one value; None and NaN are passed over."""
        if value is None or value != value:
            return
        self._pending.append(value)
        if len(self._pending) < self._per_mean:
            return
        self._means.append(sum(self._pending) / self._per_mean)
        self._pending = []
        if len(self._means) == self.width:
            pairs = zip(self._means[::2], self._means[1::2], strict=True)
            self._means = [(a + b) / 2 for a, b in pairs]
            self._per_mean *= 2

    def draw(self) -> str:
        """One block character a mean, the smallest lowest."""
        if not self._means:
            return ""
        low, high = min(self._means), max(self._means)
        scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
        return "".join(BARS[round((mean - low) * scale)] for mean in self._means)


def _number(value: float | None, form: str) -> str:
    return "not finite" if value is None else format(value, form)
