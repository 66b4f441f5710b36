"""Plans against llama.cpp's own figures, and against loads that others published."""

from __future__ import annotations

import pytest

from app.gguf import bundled
from app.plan.placement import by_proportions
from tests.end_to_end.benchmarks import exact_plan, published_loads


@pytest.mark.engine
def test_every_byte_is_where_llama_cpp_would_put_it() -> None:
    found = exact_plan.run(60, seed=11, gemma=None)
    assert found.cases == 60
    assert found.places > 120
    assert found.fitting
    assert found.wrong == []
    assert found.false_fits == []
    assert found.exact_compute >= 0.95 * found.places


def test_loads_that_others_published() -> None:
    layout = bundled.layout(published_loads.ULTRA)
    assert layout.size_bytes / 2**20 == pytest.approx(published_loads.WEIGHTS_MIB, abs=0.01)
    counts = by_proportions(layout.block_count + 1, published_loads.SPLIT)
    assert counts == (40, 37, 62, 24)
    cache = published_loads.cache_mib(layout, counts)
    assert cache == pytest.approx(list(published_loads.CACHE_MIB), abs=0.05)
    compute = published_loads.compute_mib(layout, counts)
    assert compute[1:] == pytest.approx(list(published_loads.COMPUTE_MIB[1:]), abs=1)
    assert compute[0] == pytest.approx(published_loads.COMPUTE_MIB[0], abs=32)
