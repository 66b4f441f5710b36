from __future__ import annotations

from PySide6.QtCore import QPoint, Qt
from pytestqt.qtbot import QtBot

from ui.widgets.layer_bar import BAR_PX, TOP_PX, LayerBar, LayerBarValues

# Two empty layers, one that is as large as ten others.
SIZES = (10, 10, 0, 0, 10, 100, 10, 10)


def show(qtbot: QtBot, counts: tuple[int, ...]) -> tuple[LayerBar, list[tuple[int, int]]]:
    bar = LayerBar()
    qtbot.addWidget(bar)
    names = tuple(f"GPU {index}" for index in range(len(counts)))
    bar.set_values(LayerBarValues(sizes=SIZES, first=0, counts=counts, names=names))
    bar.resize(802, 96)
    bar.show()
    moves: list[tuple[int, int]] = []
    bar.cut_moved.connect(lambda cut, layer: moves.append((cut, layer)))
    bar.grab()
    return bar, moves


def test_a_cut_is_dragged_to_the_layer_under_the_mouse(qtbot: QtBot) -> None:
    bar, moves = show(qtbot, (4, 4))
    # 800 px for 150 bytes and one for each empty layer: layer 4 begins at 108.7, layer 5 at 162.
    y = TOP_PX + BAR_PX // 2
    left = Qt.MouseButton.LeftButton
    qtbot.mousePress(bar, left, pos=QPoint(110, y))
    qtbot.mouseMove(bar, QPoint(160, y))
    qtbot.mouseRelease(bar, left, pos=QPoint(160, y))
    assert moves[-1] == (0, 5)


def test_keys_move_a_cut_by_one_and_with_shift_by_eight_but_never_past_its_neighbours(
    qtbot: QtBot,
) -> None:
    bar, moves = show(qtbot, (2, 3, 3))
    bar.setFocus()
    qtbot.keyClick(bar, Qt.Key.Key_Right)
    qtbot.keyClick(bar, Qt.Key.Key_Down)
    qtbot.keyClick(bar, Qt.Key.Key_Left)
    qtbot.keyClick(bar, Qt.Key.Key_Right, Qt.KeyboardModifier.ShiftModifier)
    assert moves == [(0, 3), (1, 4), (1, 8)]
    assert (
        bar.accessibleDescription()
        == "GPU 0, layers 0 to 1; GPU 1, layers 2 to 4; GPU 2, layers 5 to 7"
    )
