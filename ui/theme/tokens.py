"""Every colour and size of the look, light and dark. `docs/architecture.md` says what each colour means."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Theme:
    """Colours by role, as `#RRGGBB`.

    Roles: `accent` is what can be pressed or was chosen; `ok` checked and true; `warn`
    works, but look; `error` will not work as it is. The `weights`, `kv`, `compute` blues
    are the model's own memory; `others`, `reserve`, `track` are not the model.
    """

    name: str
    bg: str
    surface: str
    alt: str
    line: str
    line_strong: str
    text: str
    muted: str
    accent: str
    on_accent: str
    accent_soft: str
    ok: str
    ok_soft: str
    warn: str
    error: str
    weights: str
    weights_2: str
    kv: str
    compute: str
    compute_edge: str
    others: str
    reserve: str
    track: str
    grid: str
    thumb: str
    switch_off: str
    segment_on: str
    on_weights: str
    on_weights_2: str
    code_keyword: str
    code_function: str
    code_string: str
    code_comment: str


LIGHT = Theme(
    name="light",
    bg="#FAFAF9", surface="#FFFFFF", alt="#F2F2F0", line="#E5E5E1", line_strong="#CFCFC9",
    text="#1C1C1A", muted="#5E5E59",
    accent="#2B63D9", on_accent="#FFFFFF", accent_soft="#E9EFFC",
    ok="#19744A", ok_soft="#E5F2EA", warn="#8A5A00",
    error="#C23934",
    weights="#2B63D9", weights_2="#9DBAF4", kv="#6C93E8", compute="#DCE6FB",
    compute_edge="#6089E4", others="#85857E", reserve="#B9B9B2", track="#EDEDEA",
    grid="#E5E5E1", thumb="#FFFFFF", switch_off="#8A8A84", segment_on="#FFFFFF",
    on_weights="#FFFFFF", on_weights_2="#1C1C1A",
    code_keyword="#8B3FB0", code_function="#2B63D9", code_string="#19744A",
    code_comment="#5E5E59",
)  # fmt: skip

DARK = Theme(
    name="dark",
    bg="#151618", surface="#1D1F22", alt="#26292D", line="#2D3135", line_strong="#454A50",
    text="#E9E9E7", muted="#A6AAB0",
    accent="#7FAAFF", on_accent="#0E1626", accent_soft="#212C42",
    ok="#4CC38A", ok_soft="#20352B", warn="#E3AD45",
    error="#FF8078",
    weights="#6394F0", weights_2="#3B5F9F", kv="#446EBA", compute="#232E42",
    compute_edge="#527FD0", others="#848A92", reserve="#50565D", track="#292C30",
    grid="#2D3135", thumb="#F4F4F2", switch_off="#6A7078", segment_on="#34383D",
    on_weights="#0E1626", on_weights_2="#E9E9E7",
    code_keyword="#D6A1F0", code_function="#7FAAFF", code_string="#4CC38A",
    code_comment="#A6AAB0",
)  # fmt: skip


RADIUS_CONTROL, RADIUS_CARD, RADIUS_BAR = 8, 12, 3
# Text heights in px: the only four sizes.
TEXT_SMALL, TEXT_BODY, TEXT_LEAD, TEXT_TITLE = 12, 14, 17, 24
