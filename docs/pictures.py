"""Draws docs/images/row_order.svg with the code that orders the rows.

``python -m docs.pictures`` writes the file.
"""

from pathlib import Path

import numpy as np

from pipeline.data.order import PassOrder, SourceSize, build_order

PATH = Path(__file__).resolve().parent / "images" / "row_order.svg"
SIZE = SourceSize("books", rows=32, block_rows=4)
WINDOW_ROWS = 12
SEED = 1
ACCUMULATION, DP_SIZE, MICRO_ROWS = 2, 2, 2

CELL, LEFT, WIDTH = 26, 20, 900
COLORS = ("#bfdbfe", "#bbf7d0", "#fde68a", "#fecaca", "#ddd6fe", "#fbcfe8", "#a5f3fc", "#e2e8f0")
INK = "#334155"


def text(x: float, y: float, content: str, size: int = 12, anchor: str = "start") -> str:
    """An SVG text."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}" fill="{INK}">'
        f"{content}</text>"
    )


def row_cell(x: float, y: float, row: int) -> str:
    """A row: a square with its number, in the colour of its block."""
    color = COLORS[row // SIZE.block_rows]
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{CELL}" height="{CELL}" fill="{color}" stroke="{INK}"/>'
        + text(x + CELL / 2, y + CELL / 2 + 4, str(row), 11, "middle")
    )


def bracket(x: float, y: float, width: float, label: str) -> str:
    """A bracket under a range of cells, with a label."""
    path = f"M{x:g},{y:g} v5 h{width:g} v-5"
    return f'<path d="{path}" fill="none" stroke="{INK}"/>' + text(
        x + width / 2, y + 18, label, 11, "middle"
    )


def stored(y: float) -> list[str]:
    """The rows as the shards hold them."""
    out = [text(LEFT, y, "1. Stored: rows of a source, in blocks (WebDataset samples)")]
    for block in range(SIZE.rows // SIZE.block_rows):
        x = LEFT + block * (SIZE.block_rows * CELL + 4)
        first = block * SIZE.block_rows
        out += [row_cell(x + i * CELL, y + 8, first + i) for i in range(SIZE.block_rows)]
        out.append(bracket(x, y + 10 + CELL, SIZE.block_rows * CELL, f"block {block}"))
    return out


def windows(y: float, order: PassOrder) -> list[str]:
    """The blocks in the order of the epoch, grouped into windows."""
    out = [text(LEFT, y, "2. Each epoch permutes the blocks; consecutive blocks form a window")]
    x = float(LEFT)
    for number, start in enumerate(range(0, SIZE.rows, WINDOW_ROWS)):
        blocks = list(order.blocks_between(start, min(start + WINDOW_ROWS, SIZE.rows)))
        left = x
        for block in blocks:
            first = block * SIZE.block_rows
            out += [row_cell(x + i * CELL, y + 8, first + i) for i in range(SIZE.block_rows)]
            x += SIZE.block_rows * CELL
        out.append(bracket(left, y + 10 + CELL, x - left, f"window {number}"))
        x += 12
    return out


def stream(y: float, rows: list[int]) -> list[str]:
    """The rows as they are trained on, and the steps that take them."""
    out = [text(LEFT, y, "3. The rows are permuted inside each window; a step takes the next rows")]
    step_rows = ACCUMULATION * DP_SIZE * MICRO_ROWS
    for start in range(0, len(rows), step_rows):
        x = LEFT + start * CELL + 6 * (start // step_rows)
        out += [
            row_cell(x + i * CELL, y + 8, row) for i, row in enumerate(rows[start:][:step_rows])
        ]
        end = start + step_rows
        label = f"step {start // step_rows + 1}: positions {start} to {end - 1}"
        out.append(bracket(x, y + 10 + CELL, step_rows * CELL, label))
    return out


def ranks(y: float, rows: list[int]) -> list[str]:
    """Which data-parallel rank takes which rows of the first step, in which micro-batch."""
    out = [
        text(
            LEFT,
            y,
            f"4. Step 1 on {DP_SIZE} data-parallel ranks, micro_rows {MICRO_ROWS}, "
            f"{ACCUMULATION} gradient accumulation steps: "
            "rows.reshape(accumulation, dp, micro)[m, r]",
        )
    ]
    step = np.array(rows[: ACCUMULATION * DP_SIZE * MICRO_ROWS])
    for micro, of_ranks in enumerate(step.reshape(ACCUMULATION, DP_SIZE, MICRO_ROWS)):
        for rank, cells in enumerate(of_ranks):
            x = LEFT + 110 + micro * 190
            top = y + 30 + rank * (CELL + 8)
            out += [row_cell(x + i * CELL, top, int(row)) for i, row in enumerate(cells)]
            if micro == 0:
                out.append(text(LEFT, top + 17, f"dp rank {rank}"))
        out.append(text(LEFT + 110 + micro * 190, y + 22, f"micro-batch {micro}", 11))
    note = "Tensor-parallel peers take the same rows. Workers and ranks never change the order."
    out.append(text(LEFT + 470, y + 50, note[:41], 11))
    out.append(text(LEFT + 470, y + 66, note[42:], 11))
    return out


def picture() -> str:
    """The whole picture as SVG."""
    order = build_order((SIZE,), [(0, None)], SEED, window_rows=WINDOW_ROWS)
    rows = [int(row) for row in order.rows_at(np.arange(SIZE.rows)).row]
    epoch = PassOrder(SIZE, SEED, 0, WINDOW_ROWS)
    parts = [*stored(24), *windows(112, epoch), *stream(200, rows), *ranks(288, rows)]
    height = 400
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="Helvetica, Arial, sans-serif"><title>The order of the training rows</title>\n'
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    PATH.write_text(picture(), encoding="utf-8")
