"""The operations of each kind of layer, in the order in which llama.cpp runs them.

Sources: `build_qkv`, `build_attn`, `build_attn_mha`, `build_ffn`, `build_moe_ffn` (llama-graph.cpp),
`build_mamba2_layer` (models/mamba-base.cpp) and the graphs in models/. A layer is recognised by the
names and shapes of its tensors, so that most architectures need no code of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.plan.graph import Graph, Place, Tensor
from app.plan.model import KvCacheType
from app.plan.shapes import F32, Model, Shape, row_bytes

_F16 = (KvCacheType.F16, KvCacheType.F32)
"""Types of cache that are f16 when flash attention reads them."""


class Builder:
    """Adds layers to a graph.

    Args:
        model: The model and what is computed at once.
        graph: Where the operations go.
        inputs: The tensors that hold positions, indices and masks, by name; those that are
            missing take no room.
        overrides: Places of tensors that lie apart from their layers, by name.
        unpacks: For each place whether a cache of another type is copied to f16 beside the result of
            flash attention (`ggml_cuda_flash_attn_ext_get_alloc_size`).
    """

    def __init__(
        self,
        model: Model,
        graph: Graph,
        inputs: Mapping[str, Tensor],
        *,
        overrides: Mapping[str, Place] | None = None,
        unpacks: Sequence[bool] = (),
    ) -> None:
        self.model, self.graph = model, graph
        self._tokens = model.work.tokens
        self._inputs = inputs
        self._overrides = overrides or {}
        self._unpacks = unpacks
        self._scope = ""
        self._at: Place = graph.host
        self._layer = 0

    def _input(self, name: str) -> tuple[Tensor, ...]:
        return (self._inputs[name],) if name in self._inputs else ()

    def _values(self, count: int) -> int:
        """Bytes of `count` numbers for each token."""
        return count * self._tokens * F32

    def _place(self, name: str) -> Place:
        """Where a matrix of the layer lies."""
        return self._overrides.get(f"blk.{self._layer}.{name}.weight", self._at)

    def _times(self, size: int, name: str, *sources: Tensor) -> Tensor:
        """A product with a matrix of the layer, in bytes."""
        return self.graph.op(size, *sources, at=self._place(name))

    def norm(self, source: Tensor) -> Tensor:
        """A norm without its weight; only the root mean square one works in place."""
        if self.model.layer_norm:
            return self.graph.op(self.graph.size(source), source)
        return self.graph.over(source)

    def _normed(self, source: Tensor) -> Tensor:
        """Norm and weight; a bias is added in place."""
        return self.graph.over(self.norm(source), at=self._at)

    def rows(self, source: Tensor) -> Tensor:
        """Only the tokens whose logits are wanted; all of them in the worst case."""
        return self.graph.op(self.model.hidden, source, *self._input("rows"))

    def head(self, source: Tensor, at: Place) -> None:
        """The last norm and the logits, both outputs."""
        graph, self._at = self.graph, at
        if self.model.late_rows and not self.model.single:
            graph.keep(source)
            source = self.rows(source)
        result = self._normed(source)
        graph.keep(result)
        if self.model.single:
            result = self.rows(result)
        place = self._overrides.get("output.weight", at)
        graph.keep(graph.expand(graph.op(self.model.logits, result, at=place)))

    def layer(self, index: int, source: Tensor, at: Place, *, last: bool) -> Tensor:
        """One layer at its place: from what the layer before gave (`source`) to the next one's input.

        After attention the `last` layer keeps only the tokens that are wanted.
        """
        shape = self.model.shapes[index]
        if shape.empty:
            return source
        self._layer, self._at = index, at
        if not shape.heads and not shape.recurrent and not self.model.single:
            residual = self.rows(source) if last else source
            return self._added(shape, self._mixer(shape, self._normed(residual)), residual)
        start = self._normed(source)
        if self.model.parallel:
            return self._parallel(shape, source, start, last=last)
        current, residual = self._first_half(shape, start), source
        if self.model.single:
            return self.graph.over(current, residual)
        if last and not self.model.late_rows:
            current, residual = self.rows(current), self.rows(residual)
        if not (shape.has("ffn_down") or shape.has("ffn_down_exps")):
            return source
        if shape.has("post_ffw_norm"):
            current = self._normed(current)
        current = self.graph.over(current, residual)
        return self._added(shape, self._mixer(shape, self._normed(current)), current)

    def _added(self, shape: Shape, output: Tensor, residual: Tensor) -> Tensor:
        """The feed-forward network's result and what went around it."""
        if shape.has("post_ffw_norm"):
            output = self._normed(output)
        if self.model.residual_first:
            return self.graph.over(residual, output)
        return self.graph.over(output, residual)

    def _first_half(self, shape: Shape, start: Tensor) -> Tensor:
        """Attention, or what stands in its place."""
        if shape.recurrent:
            return self._state_space(shape, start)
        if shape.attends:
            return self._attention(shape, start)
        if shape.heads and shape.has("attn_output"):
            return self._times(self.model.hidden, "attn_output", start)
        return self._mixer(shape, start)

    def _parallel(self, shape: Shape, source: Tensor, normed: Tensor, *, last: bool) -> Tensor:
        """Attention and feed-forward of the same input (phi2)."""
        current = self._attention(shape, normed)
        if last:
            current, normed, source = self.rows(current), self.rows(normed), self.rows(source)
        output = self._feed_forward(shape, normed, "")
        return self.graph.over(self.graph.over(current, output), source)

    # --- attention ----------------------------------------------------------

    def _attention(self, shape: Shape, normed: Tensor) -> Tensor:
        self._scope = " local" if shape.local else ""
        if shape.has("attn_kv_a_mqa"):
            q, k, v = self._latent(shape, normed)
        else:
            q, k, v = self._qkv(shape, normed)
        value = self.model.value_mla if self.model.latent else shape.value
        mixed = self.graph.expand(self._mixed(shape, q, k, v))
        if self.model.rotation_v:
            matrix = self._input(f"rotation v{self._scope}")
            size = self._values(shape.heads * value)
            mixed = self.graph.op(size, *matrix, self.graph.view(mixed))
        return self._times(self.model.hidden, "attn_output", mixed)

    def _qkv(self, shape: Shape, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        graph, model = self.graph, self.model
        roped = shape.has("attn_q_norm") or not model.architecture.startswith("nemotron_h")
        sizes = [
            self._values(count)
            for count in (
                shape.heads * shape.key, shape.kv_heads * shape.key, shape.kv_heads * shape.value
            )
        ]  # fmt: skip
        if shape.has("attn_qkv"):
            whole = self._times(sum(sizes), "attn_qkv", normed)
            q, k, v = (graph.view(whole, size) for size in sizes)
            q = graph.op(sizes[0], q, *self._input("positions")) if roped else q
            if model.architecture == "phi3":
                q = graph.over(q)
            q = self._turned(q, "k")
            v = self._turned(graph.op(sizes[2], v), "v") if model.rotation_v else graph.view(v)
            k = graph.op(sizes[1], k, *self._input("positions")) if roped else k
            return q, self._turned(k, "k"), v

        def made(size: int, name: str, *, rope: bool, norm: bool, rotation: str) -> Tensor:
            tensor = graph.view(self._times(size, name, normed))
            if norm:
                tensor = graph.over(graph.over(tensor), at=self._at)
            if rope:
                tensor = graph.over(tensor, *self._input("positions"))
            return self._turned(tensor, rotation)

        norm = shape.has("attn_q_norm")
        q = made(sizes[0], "attn_q", rope=roped, norm=norm, rotation="k")
        k = made(sizes[1], "attn_k", rope=roped, norm=norm, rotation="k")
        v = made(sizes[2], "attn_v", rope=False, norm=False, rotation="v")
        return q, k, v

    def _turned(self, tensor: Tensor, side: str) -> Tensor:
        """Heads rotated before they are quantized (`llama_mul_mat_hadamard` in llama-impl.h)."""
        if not (self.model.rotation_k if side == "k" else self.model.rotation_v):
            return tensor
        graph, matrix = self.graph, self._input(f"rotation {side}{self._scope}")
        return graph.view(graph.op(graph.size(tensor), *matrix, graph.view(tensor)))

    def _latent(self, shape: Shape, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Multi-head latent attention (models/deepseek2.cpp)."""
        graph, model, heads = self.graph, self.model, shape.heads
        whole, rope = model.key_mla, model.rope
        if shape.has("attn_q_a"):
            low = self._times(self._values(shape.rows("attn_q_a")), "attn_q_a", normed)
            q = self._times(self._values(heads * whole), "attn_q_b", self._normed(low))
        else:
            q = self._times(self._values(heads * whole), "attn_q", normed)
        if model.latent:
            part = graph.view(q, self._values(heads * rope))
            nope = graph.view(graph.view(q, self._values(heads * (whole - rope))))
            absorbed = self._times(self._values(heads * model.rank), "attn_k_b", nope)
            turned = graph.op(self._values(heads * rope), part, *self._input("positions"))
            q = graph.op(self._values(heads * (model.rank + rope)), graph.view(absorbed), turned)
            low = self._times(self._values(model.rank + rope), "attn_kv_a_mqa", normed)
            latent = self._latent_norm(low)
            v = graph.view(latent)
            key = graph.op(self._values(rope), graph.view(low), *self._input("positions"))
            return q, graph.op(self._values(model.rank + rope), v, key), v
        q = graph.over(graph.view(q), *self._input("positions"))
        low = self._times(self._values(model.rank + rope), "attn_kv_a_mqa", normed)
        latent = self._latent_norm(low)
        both_size = self._values(heads * (whole - rope + model.value_mla))
        both = self._times(both_size, "attn_kv_b", latent)
        v = graph.op(self._values(heads * model.value_mla), graph.view(both))
        key = graph.op(self._values(rope), graph.view(low), *self._input("positions"))
        wide = graph.op(self._values(heads * rope), key)
        k = graph.op(self._values(heads * whole), graph.view(both), wide)
        return self._turned(q, "k"), self._turned(k, "k"), self._turned(v, "v")

    def _latent_norm(self, low: Tensor) -> Tensor:
        """The latent part of what `attn_kv_a_mqa` gives; as a part of a row it is not normed in place."""
        graph, size = self.graph, self._values(self.model.rank)
        return graph.over(graph.op(size, graph.view(low, size)), at=self._at)

    def _mixed(self, shape: Shape, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """K and V written into the cache, then the attention itself, heads side by side.

        K comes before V only where there are two caches (sliding windows).
        """
        graph, model, work = self.graph, self.model, self.model.work
        for tensor in (q, k, v) if model.windows else (q, v, k):
            graph.expand(tensor)
        mask = self._input(f"mask{self._scope}")
        at = self._at
        graph.sink(graph.view(k), *self._input(f"k indices{self._scope}"), at=at)
        if not model.latent:
            stored = graph.view(v)
            if not work.flash_attention and shape.kv_heads * shape.value < model.widest_v:
                stored = graph.view(graph.op(self._values(model.widest_v), stored))
            graph.sink(stored, *self._input(f"v indices{self._scope}"), at=at)
        value = model.rank if model.latent else shape.value
        out = self._values(shape.heads * value)
        q = graph.view(graph.view(q))
        cells = work.local_cells if shape.local else work.cells
        k_row, v_row = shape.kv_heads * shape.key, shape.kv_heads * value
        keys = graph.held(cells * row_bytes(k_row, work.kv_type_k), at)
        values = keys if model.latent else graph.held(cells * row_bytes(v_row, work.kv_type_v), at)
        if work.flash_attention:
            return self._flash(shape, q, (keys, values), mask, out)
        scores = graph.over(graph.op(self._values(shape.heads * cells), keys, q), *mask)
        if model.latent:
            transposed = graph.op(cells * model.rank * 2, values)
            mixed = graph.op(out, transposed, scores)
            size = self._values(shape.heads * model.value_mla)
            mixed = self._times(size, "attn_v_b", mixed)
            return graph.op(size, graph.view(mixed))
        return graph.op(out, graph.view(graph.op(out, values, scores)))

    def _flash(
        self,
        shape: Shape,
        q: Tensor,
        cache: tuple[Tensor, Tensor],
        mask: tuple[Tensor, ...],
        out: int,
    ) -> Tensor:
        """Attention as one operation (`ggml_flash_attn_ext`)."""
        graph, model, work = self.graph, self.model, self.model.work
        cells = work.local_cells if shape.local else work.cells
        value = model.rank if model.latent else shape.value
        kinds, widths = (work.kv_type_k, work.kv_type_v), (shape.key, value)
        keys, values = (
            graph.op(2 * cells * shape.kv_heads * width, tensor)
            if kind is KvCacheType.F32
            else tensor
            for kind, width, tensor in zip(kinds, widths, cache, strict=True)
        )
        if self._unpacks and self._unpacks[self._at]:
            unpacked = sum(w for w, kind in zip(widths, kinds, strict=True) if kind not in _F16)
            out += 2 * cells * shape.kv_heads * unpacked
        mixed = graph.bind(graph.op(out, q, keys, values, *mask), self._at)
        if not model.latent:
            return graph.view(mixed)
        size = self._values(shape.heads * model.value_mla)
        single = self._times(size, "attn_v_b", graph.view(mixed))
        return graph.view(graph.op(size, graph.view(single)))

    # --- feed-forward -------------------------------------------------------

    def _mixer(self, shape: Shape, normed: Tensor) -> Tensor:
        if not shape.has("ffn_gate_inp"):
            return self._feed_forward(shape, normed, "")
        mixed = self._experts(shape, normed)
        if not shape.has("ffn_down_shexp"):
            return mixed
        graph = self.graph
        if not shape.has("ffn_gate_inp_shexp"):
            return graph.over(mixed, self._feed_forward(shape, normed, "_shexp"))
        shared = self._feed_forward(shape, normed, "_shexp")
        gate = self._times(self._values(1), "ffn_gate_inp_shexp", normed)
        gate = graph.over(graph.op(self._values(1), gate), gate)
        return graph.over(mixed, graph.over(shared, gate))

    def _feed_forward(self, shape: Shape, source: Tensor, suffix: str) -> Tensor:
        graph = self.graph
        wide = self._values(shape.rows(f"ffn_up{suffix}"))
        if shape.has(f"ffn_gate{suffix}"):
            gate = self._times(wide, f"ffn_gate{suffix}", source)
            up = self._times(wide, f"ffn_up{suffix}", source)
            inner = graph.op(wide, gate, up)
        else:
            inner = self._times(wide, f"ffn_up{suffix}", source)
            narrow = self._values(shape.columns(f"ffn_down{suffix}"))
            inner = graph.over(inner) if narrow == wide else graph.op(narrow, inner)
        return self._times(self.model.hidden, f"ffn_down{suffix}", inner)

    def _experts(self, shape: Shape, normed: Tensor) -> Tensor:
        graph, used = self.graph, self.model.experts_used
        count = self._values(shape.rows("ffn_gate_inp"))
        probabilities = graph.over(self._times(count, "ffn_gate_inp", normed))
        biased = probabilities
        if shape.bias("exp_probs_b"):
            biased = graph.over(probabilities, at=self._at)
        chosen = graph.view(graph.op(count, biased))
        weights = graph.op(self._values(used), graph.view(probabilities), chosen)
        if self.model.architecture in ("llama", "qwen3moe", "phimoe") or self.model.weights_normed:
            total = graph.over(graph.op(self._values(1), graph.view(weights)))
            weights = graph.op(self._values(used), graph.view(weights), total)
        graph.expand(weights)
        source = graph.view(normed)
        wide = self._values(used * shape.rows("ffn_up_exps"))
        if shape.has("ffn_gate_exps"):
            gate = self._times(wide, "ffn_gate_exps", source, chosen)
            up = self._times(wide, "ffn_up_exps", source, chosen)
            if shape.bias("ffn_up_exps"):
                gate, up = (graph.over(t, chosen, at=self._at) for t in (gate, up))
            inner = graph.op(wide, gate, up)
        else:
            inner = graph.over(self._times(wide, "ffn_up_exps", source, chosen))
        out = self._times(used * self.model.hidden, "ffn_down_exps", inner, chosen)
        if shape.bias("ffn_down_exps"):
            out = graph.over(out, chosen, at=self._at)
        return self._combined(out, weights, used)

    def _combined(self, out: Tensor, weights: Tensor, used: int) -> Tensor:
        """The weighted sum over the experts that each token chose."""
        graph = self.graph
        out = graph.expand(graph.over(out, weights))
        parts = [graph.expand(graph.view(out)) for _ in range(used)]
        mixed = graph.expand(graph.op(self.model.hidden, *parts[:2]))
        for part in parts[2:]:
            mixed = graph.expand(graph.over(mixed, part))
        return mixed

    # --- state space --------------------------------------------------------

    def _state_space(self, shape: Shape, normed: Tensor) -> Tensor:
        """Mamba 2 (models/mamba-base.cpp)."""
        graph, number = self.graph, self.model.number
        inner, state = number("ssm.inner_size"), number("ssm.state_size")
        kernel, ranks = number("ssm.conv_kernel"), number("ssm.time_step_rank")
        mixed, values = inner + 2 * number("ssm.group_count") * state, self._values(inner)
        at, kept = self._at, (kernel - 1) * mixed * F32
        graph.sink(at=at)  # clears a state, and so draws what follows to its place
        before = graph.expand(graph.op(kept, graph.held(kept, at), *self._input("states")))
        graph.sink(graph.op(0, *self._input("more states")), at=at)
        size = self._values(shape.rows("ssm_in"))
        projected = graph.view(self._times(size, "ssm_in", normed))
        z, x, dt = (graph.view(projected) for _ in range(3))
        window = graph.op(kept + self._tokens * mixed * F32, graph.view(before), graph.view(x))
        graph.sink(graph.view(window), at=at)
        convolved = graph.over(graph.op(self._values(mixed), window, at=at), at=at)
        convolved = graph.over(convolved)
        x, b, c = (graph.view(convolved) for _ in range(3))
        steps = graph.over(graph.op(self._values(ranks), dt), at=at)
        states = inner * state * F32
        sources = graph.held(states, at), x, steps, b, c, *self._input("states")
        scanned = graph.expand(graph.op(values + states, *sources, at=at))
        graph.sink(graph.op(0, *self._input("more states")), at=at)
        graph.sink(graph.view(scanned), at=at)
        gate = graph.op(values, z)
        y = graph.view(scanned)
        y = graph.over(y, graph.over(x, size=values, at=at), size=values)
        gated = graph.op(values, gate, y)
        normed = self._normed(graph.view(gated))
        return self._times(self.model.hidden, "ssm_out", graph.view(normed))
