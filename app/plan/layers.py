"""The operations of each kind of layer, in the order in which llama.cpp runs them.

Sources: `build_qkv`, `build_attn`, `build_attn_mha`, `build_ffn`, `build_moe_ffn` (llama-graph.cpp),
`build_mamba2_layer` (models/mamba-base.cpp) and the graphs in models/. A layer is recognised by the
names and shapes of its tensors, so that most architectures need no code of their own.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.plan.graph import Graph, Tensor
from app.plan.shapes import F32, Model, Shape


class Builder:
    """Adds layers to the graph of one device.

    Args:
        inputs: The tensors that hold positions, indices and masks, by name, where they are freed
            after their last use; without them they lie elsewhere.
    """

    def __init__(self, model: Model, graph: Graph, inputs: Mapping[str, Tensor]) -> None:
        self.model, self.graph = model, graph
        self._tokens = model.work.tokens
        self._inputs = inputs
        self._scope = ""
        self.elsewhere: Shape | None = None
        """The last layer, if a device computes its attention."""

    def _input(self, name: str) -> tuple[Tensor, ...]:
        return (self._inputs[name],) if name in self._inputs else ()

    def _values(self, count: int) -> int:
        """Bytes of `count` numbers for each token."""
        return count * self._tokens * F32

    def norm(self, source: Tensor) -> Tensor:
        """A norm without its weight; only the root mean square one works in place."""
        if self.model.layer_norm:
            return self.graph.op(self.model.hidden, source)
        return self.graph.over(source)

    def _normed(self, source: Tensor) -> Tensor:
        """Norm and weight; a bias is added in place."""
        return self.graph.over(self.norm(source))

    def rows(self, source: Tensor) -> Tensor:
        """Only the tokens whose logits are wanted; all of them in the worst case."""
        return self.graph.op(self.model.hidden, source, *self._input("rows"))

    def head(self, source: Tensor, normed: Tensor | None) -> Tensor:
        """The last norm; what is wanted of it are the logits. Arguments as for `layer`."""
        graph = self.graph
        result = graph.over(self.norm(self.wanted(source)) if normed is None else normed)
        graph.keep(result)
        return self.rows(result) if self.model.single else result

    def wanted(self, source: Tensor) -> Tensor:
        """Of the last layer's result only the tokens whose logits are wanted, if the layer did not see to it."""
        if not self.model.late_rows or self.model.single:
            return source
        self.graph.keep(source)
        return self.rows(source)

    def crossing(self, shape: Shape) -> dict[str, int]:
        """What is handed over, in bytes by name, where a layer on the host precedes.

        Operations without weights after the layer's last matrix run on the device already
        (`ggml_backend_sched_split_graph` extends devices upwards).
        """
        hidden = self.model.hidden
        if self.model.parallel:
            return dict.fromkeys(("mixed", "second", "source"), hidden)
        if shape.has("ffn_down_exps") and not shape.has("ffn_down_shexp"):
            used = self.model.experts_used
            sizes = {"experts": used * hidden, "weights": self._values(used)}
            return sizes | {"source": hidden}
        if shape.has("ffn_gate_inp_shexp"):
            return {"gate": self._values(1), "second": hidden, "mixed": hidden, "source": hidden}
        if shape.has("ffn_down_shexp"):
            return dict.fromkeys(("mixed", "second", "source"), hidden)
        return dict.fromkeys(("mixed", "source"), hidden)

    def handed_over(self, inputs: dict[str, Tensor]) -> Tensor:
        """The next layer's input from what `crossing` names; takes them out of `inputs`."""
        graph, residual = self.graph, inputs.pop("source")
        if "experts" in inputs:
            used = self.model.experts_used
            mixed = self._combined(inputs.pop("experts"), inputs.pop("weights"), used)
        else:
            mixed = inputs.pop("mixed")
        if "gate" in inputs:
            inputs["second"] = graph.over(inputs["second"], inputs.pop("gate"))
        if "second" in inputs:
            mixed = graph.over(mixed, inputs.pop("second"))
        return graph.over(mixed, residual)

    def layer(
        self, shape: Shape, source: Tensor, *, last: bool, normed: Tensor | None = None
    ) -> Tensor:
        """One layer: from what the layer before gave (`source`) to the next one's input.

        `normed` is the norm of `source`, if the device before computed that; after attention the
        `last` layer keeps only the tokens that are wanted.
        """
        if shape.empty:
            return source
        start = self.graph.over(self.norm(source) if normed is None else normed)
        if self.model.parallel:
            return self._parallel(shape, source, start, last=last)
        current, residual = self._first_half(shape, source, start), source
        if last and not self.model.late_rows:
            current, residual = self.rows(current), self.rows(residual)
        if self.model.single:
            if current == source:
                current = self._mixer(shape, start)
            return self.graph.over(current, residual)
        if not (shape.has("ffn_down") or shape.has("ffn_down_exps")):
            return residual
        return self._second_half(shape, current, residual, start)

    def _first_half(self, shape: Shape, source: Tensor, start: Tensor) -> Tensor:
        """Attention, or what stands in its place; `source` itself where there is nothing."""
        if shape.recurrent:
            return self._state_space(shape, start)
        if shape.attends:
            return self._attention(shape, start)
        if shape.heads and shape.has("attn_output"):
            return self.graph.op(self.model.hidden, start)
        return source

    def _second_half(
        self, shape: Shape, current: Tensor, residual: Tensor, start: Tensor
    ) -> Tensor:
        """The feed-forward network with both residuals; a layer without attention goes on from `start`."""
        if current != residual:
            if shape.has("post_ffw_norm"):
                current = self._normed(current)
            current = self.graph.over(current, residual)
            start = self._normed(current)
        output = self._mixer(shape, start)
        if shape.has("post_ffw_norm"):
            output = self._normed(output)
        if self.model.residual_first:
            return self.graph.over(current, output)
        return self.graph.over(output, current)

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
        return self.graph.op(self.model.hidden, mixed)

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
            whole = graph.op(sum(sizes), normed)
            q, k, v = (graph.view(whole) for _ in range(3))
            q = graph.op(sizes[0], q, *self._input("positions")) if roped else q
            if model.architecture == "phi3":
                q = graph.over(q)
            q = self._turned(q, "k")
            v = self._turned(graph.op(sizes[2], v), "v") if model.rotation_v else graph.view(v)
            k = graph.op(sizes[1], k, *self._input("positions")) if roped else k
            return q, self._turned(k, "k"), v

        def made(size: int, *, rope: bool, norm: bool, rotation: str) -> Tensor:
            tensor = graph.view(graph.op(size, normed))
            if norm:
                tensor = graph.over(graph.over(tensor))
            if rope:
                tensor = graph.over(tensor, *self._input("positions"))
            return self._turned(tensor, rotation)

        norm = shape.has("attn_q_norm")
        q = made(sizes[0], rope=roped, norm=norm, rotation="k")
        k = made(sizes[1], rope=roped, norm=norm, rotation="k")
        v = made(sizes[2], rope=False, norm=False, rotation="v")
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
            low = graph.op(self._values(shape.rows("attn_q_a")), normed)
            q = graph.op(self._values(heads * whole), self._normed(low))
        else:
            q = graph.op(self._values(heads * whole), normed)
        if model.latent:
            part = graph.view(q)
            absorbed = graph.op(self._values(heads * model.rank), graph.view(graph.view(q)))
            turned = graph.op(self._values(heads * rope), part, *self._input("positions"))
            q = graph.op(self._values(heads * (model.rank + rope)), graph.view(absorbed), turned)
            low = graph.op(self._values(model.rank + rope), normed)
            latent = graph.over(graph.op(self._values(model.rank), graph.view(low)))
            v = graph.view(latent)
            key = graph.op(self._values(rope), graph.view(low), *self._input("positions"))
            return q, graph.op(self._values(model.rank + rope), v, key), v
        q = graph.over(graph.view(q), *self._input("positions"))
        low = graph.op(self._values(model.rank + rope), normed)
        latent = graph.over(graph.op(self._values(model.rank), graph.view(low)))
        both = graph.op(self._values(heads * (whole - rope + model.value_mla)), latent)
        v = graph.op(self._values(heads * model.value_mla), graph.view(both))
        key = graph.op(self._values(rope), graph.view(low), *self._input("positions"))
        wide = graph.op(self._values(heads * rope), key)
        k = graph.op(self._values(heads * whole), graph.view(both), wide)
        return self._turned(q, "k"), self._turned(k, "k"), self._turned(v, "v")

    def _mixed(self, shape: Shape, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """K and V written into the cache, then the attention itself, heads side by side.

        K comes before V only where there are two caches (sliding windows).
        """
        graph, model, work = self.graph, self.model, self.model.work
        for tensor in (q, k, v) if model.windows else (q, v, k):
            graph.expand(tensor)
        mask = self._input(f"mask{self._scope}")
        graph.sink(graph.view(k), *self._input(f"k indices{self._scope}"))
        if not model.latent:
            stored = graph.view(v)
            if not work.flash_attention and shape.kv_heads * shape.value < model.widest_v:
                stored = graph.view(graph.op(self._values(model.widest_v), stored))
            graph.sink(stored, *self._input(f"v indices{self._scope}"))
        value = model.rank if model.latent else shape.value
        out = self._values(shape.heads * value)
        q = graph.view(graph.view(q))
        if shape is self.elsewhere:
            return graph.op(out, q, *mask)
        if work.flash_attention:
            if work.unpacks_cache:
                cells = work.local_cells if shape.local else work.cells
                widths = (shape.key * work.kv_type_k.quantized, value * work.kv_type_v.quantized)
                out += 2 * cells * shape.kv_heads * sum(widths)
            mixed = graph.op(out, q, *mask)
            if not model.latent:
                return graph.view(mixed)
            single = graph.op(self._values(shape.heads * model.value_mla), graph.view(mixed))
            return graph.view(
                graph.op(self._values(shape.heads * model.value_mla), graph.view(single))
            )
        cells = work.local_cells if shape.local else work.cells
        scores = graph.over(graph.op(self._values(shape.heads * cells), q), *mask)
        if model.latent:
            transposed = graph.op(cells * model.rank * 2)
            mixed = graph.op(out, transposed, scores)
            mixed = graph.op(self._values(shape.heads * model.value_mla), mixed)
            return graph.op(self._values(shape.heads * model.value_mla), graph.view(mixed))
        return graph.op(out, graph.view(graph.op(out, scores)))

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
        gate = graph.op(self._values(1), normed)
        gate = graph.over(graph.op(self._values(1), gate), gate)
        return graph.over(mixed, graph.over(shared, gate))

    def _feed_forward(self, shape: Shape, source: Tensor, suffix: str) -> Tensor:
        graph = self.graph
        wide = self._values(shape.rows(f"ffn_up{suffix}"))
        if shape.has(f"ffn_gate{suffix}"):
            gate, up = graph.op(wide, source), graph.op(wide, source)
            inner = graph.op(wide, gate, up)
        else:
            inner = graph.op(wide, source)
            narrow = self._values(shape.shapes[f"ffn_down{suffix}.weight"][0])
            inner = graph.over(inner) if narrow == wide else graph.op(narrow, inner)
        return graph.op(self.model.hidden, inner)

    def _experts(self, shape: Shape, normed: Tensor) -> Tensor:
        graph, used = self.graph, self.model.experts_used
        count = self._values(shape.rows("ffn_gate_inp"))
        probabilities = graph.over(graph.op(count, normed))
        biased = probabilities
        if shape.bias("exp_probs_b"):
            biased = graph.over(probabilities)
        chosen = graph.view(graph.op(count, biased))
        weights = graph.op(self._values(used), graph.view(probabilities), chosen)
        if self.model.architecture in ("llama", "qwen3moe", "phimoe") or self.model.weights_normed:
            total = graph.over(graph.op(self._values(1), graph.view(weights)))
            weights = graph.op(self._values(used), graph.view(weights), total)
        graph.expand(weights)
        source = graph.view(normed)
        wide = self._values(used * shape.rows("ffn_up_exps"))
        if shape.has("ffn_gate_exps"):
            gate, up = graph.op(wide, source, chosen), graph.op(wide, source, chosen)
            if shape.bias("ffn_up_exps"):
                gate, up = graph.over(gate, chosen), graph.over(up, chosen)
            inner = graph.op(wide, gate, up)
        else:
            inner = graph.over(graph.op(wide, source, chosen))
        out = graph.op(used * self.model.hidden, inner, chosen)
        if shape.bias("ffn_down_exps"):
            out = graph.over(out, chosen)
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
        before = graph.expand(graph.op((kernel - 1) * mixed * F32, *self._input("states")))
        graph.sink(graph.op(0, *self._input("more states")))
        projected = graph.view(graph.op(self._values(shape.rows("ssm_in")), normed))
        z, x, dt = (graph.view(projected) for _ in range(3))
        window = graph.op(
            (kernel - 1 + self._tokens) * mixed * F32, graph.view(before), graph.view(x)
        )
        graph.sink(graph.view(window))
        convolved = graph.over(graph.over(graph.op(self._values(mixed), window)))
        x, b, c = (graph.view(convolved) for _ in range(3))
        steps = graph.over(graph.op(self._values(ranks), dt))
        scanned = graph.expand(graph.op(values + inner * state * F32, x, steps, b, c))
        graph.sink(graph.op(0, *self._input("more states")))
        graph.sink(graph.view(scanned))
        gate = graph.op(values, z)
        y = graph.view(scanned)
        y = graph.over(y, graph.over(x, size=values), size=values)
        gated = graph.op(values, gate, y)
        return graph.op(self.model.hidden, graph.view(self._normed(graph.view(gated))))
