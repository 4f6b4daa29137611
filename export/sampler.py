"""Guidance and sampling as nodes of a graph: ``stages/sampler.py`` on the device that computed the logits.

    logits [row, codebook, token] ─┐
    pairs [2, slot] ───────────────┴─ guide ─ softmax ─┬───────── draw ─┬─ redraw ─ columns [slot, codebook]
    settings [4, slot, 1, 1] ──────┘                   └─ filter ─ draw ┘
    uniforms [2, slot, codebook, 1] fp64

``pairs`` names each slot's guided and unguided row. A slot whose logits are no numbers gets a column of -1. Every
operator here has a CUDA kernel, none needs its result on the host, and no shape depends on a value, so that a CUDA
graph can hold all of it. Sums along the tokens are products with triangular matrices, in two steps of 64 tokens:
CumSum starts again for each of its results. ArgMax, ReduceMax and ReduceMin would need cuDNN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from export.graph import Graph
from songstarter.checkpoint import exact_division

SUMMED_AT_ONCE = 64
DOUBLE, FLOAT, INT64 = 11, 1, 7  # element types of ONNX
LAST_AXIS = -1


def write_sampler(graph: Graph, *, codebooks: int, vocabulary: int) -> None:
    """Add the sampler's inputs, nodes and its output ``columns`` to a graph that has a tensor ``logits``."""
    graph.input("pairs", np.int64, [2, "slot"])
    graph.input("settings", np.float32, [4, "slot", 1, 1])
    graph.input("uniforms", np.float64, [2, "slot", codebooks, 1])
    _Sampler(graph, codebooks, vocabulary).write()
    graph.output("columns", np.int64, ["slot", codebooks])


@dataclass(frozen=True)
class _Sampler:
    """Writes the nodes; blocks are [slot, codebook, token] unless another shape is named."""

    graph: Graph
    codebooks: int
    vocabulary: int

    def write(self) -> None:
        guidance, temperature, bound, by_mass = (self._part("settings", index) for index in range(4))
        mixed = self._guide(guidance)
        ranked_logits = self._rank(mixed)
        peak = self._node("Gather", [ranked_logits, self._axis(0)], "peak", axis=2)
        shares, ranked = self._softmax(mixed, ranked_logits, peak, temperature)
        kept = self._keep(shares, ranked, self._double(bound, "bound"), self._double(by_mass, "by_mass"))
        first = self._draw("first", shares, self._part("uniforms", 0))
        second = self._draw("second", kept, self._part("uniforms", 1))
        chosen = self._at(kept, first, "kept_at_first")
        stays = self._node("Greater", [chosen, self._number(0.0)], "stays")
        drawn = self._node("Where", [stays, first, second], "drawn")
        greedy = self._node("Equal", [temperature, self._single(0)], "greedy")
        token = self._node("Where", [greedy, self._likeliest(mixed, peak), drawn], "token")
        none = self.graph.constant(np.array(-1, np.int64))
        sound = self._node("Where", [self._numbers(mixed), token, none], "sound")
        self.graph.node("Squeeze", [sound, self._axis(2)], "columns")

    def _guide(self, guidance: str) -> str:
        guided, null = (self._node("Gather", ["logits", self._part("pairs", row)], f"logits_{row}") for row in range(2))
        pulled = self._node("Mul", [guidance, self._node("Sub", [guided, null], "apart")], "pulled")
        beyond = self._node("Add", [null, pulled], "beyond")
        alone = self._node("Equal", [guidance, self._single(1)], "alone")
        return self._node("Where", [alone, guided, beyond], "mixed")

    def _numbers(self, mixed: str) -> str:
        """[slot, 1, 1]: whether all of a slot's logits are finite; less themselves, only those are nothing."""
        nothing = self._node("Sub", [mixed, mixed], "nothing")
        axes = self.graph.constant(np.array([1, 2], np.int64))
        nothings = self._node("ReduceSum", [nothing, axes], "nothings", keepdims=1)
        return self._node("Equal", [nothings, self._single(0)], "numbers")

    def _rank(self, mixed: str) -> str:
        """The logits, largest first; only their values, for kernels differ in the order of equals."""
        values, places = self._name("ranked_logits"), self._name("ranking")
        count = self.graph.constant(np.array([self.vocabulary], np.int64))
        self.graph.node_of_many("TopK", [mixed, count], [values, places], axis=LAST_AXIS)
        return values

    def _likeliest(self, mixed: str, peak: str) -> str:
        """[slot, codebook, 1]: the first of the largest, which is how many tokens stand before any of those."""
        at_peak = self._double(self._node("Equal", [mixed, peak], "at_peak"), "peaks")
        before = self._node("Equal", [self._sums(at_peak, "peaks"), self._number(0.0)], "before_peak")
        return self._count(before, "likeliest")

    def _softmax(self, mixed: str, ranked_logits: str, peak: str, temperature: str) -> tuple[str, str]:
        """Shares of the tokens, and the same ranked, in fp64 but of fp32's exactness."""
        zero = self._node("Equal", [temperature, self._single(0)], "temperature_is_zero")
        divisor = self._node("Where", [zero, self._single(1), temperature], "divisor")
        powers, ranked_powers = (
            self._node(
                "Exp",
                [self._node("Div", [self._node("Sub", [x, peak], f"{x}.below"), divisor], f"{x}.scaled")],
                f"{x}.powers",
            )
            for x in (mixed, ranked_logits)
        )
        total = self._reduce_sum(powers, "powers_total")
        shares = self._node("Div", [powers, total], "shares_single")
        ranked = self._node("Div", [ranked_powers, total], "ranked_single")
        return self._double(shares, "shares"), self._double(ranked, "ranked")

    def _keep(self, shares: str, ranked: str, bound: str, by_mass: str) -> str:
        """Shares with what the filter drops set to 0.

        A token stays while the likelier ones weigh no more than the bound. Under top-p a token weighs its share, and
        equals come in the order of their numbers; under top-k each weighs 1, the bound is k - 1/2, and equals stay.
        """
        counted = self._node("Sub", [self._number(1.0), by_mass], "counted")
        weights = self._node("Add", [self._node("Mul", [ranked, by_mass], "masses"), counted], "weights")
        likelier = self._node("Sub", [self._sums(weights, "weights"), weights], "likelier")
        inside = self._count(self._node("LessOrEqual", [likelier, bound], "inside"), "inside_count")
        one = self.graph.constant(np.array(1, np.int64))
        last = self._at(ranked, self._node("Sub", [inside, one], "last_place"), "last")
        above = self._count(self._node("Greater", [ranked, last], "ranked_above"), "above_count")
        equal = self._node("Equal", [shares, last], "equal")
        reached = self._node(
            "Add", [self._at(likelier, above, "likelier_than_last"), self._earlier(equal, last, by_mass)], "reached"
        )
        equals = self._node("And", [equal, self._node("LessOrEqual", [reached, bound], "within")], "equals_that_stay")
        keep = self._node("Or", [self._node("Greater", [shares, last], "above"), equals], "keep")
        return self._node("Where", [keep, shares, self._number(0.0)], "kept")

    def _earlier(self, equal: str, last: str, by_mass: str) -> str:
        """What the tokens as likely as the last that stays weigh that stand before each; nothing under top-k."""
        ones = self._double(equal, "equal_ones")
        earlier = self._node("Sub", [self._sums(ones, "equal"), ones], "earlier")
        return self._node("Mul", [earlier, self._node("Mul", [last, by_mass], "mass_of_equal")], "earlier_mass")

    def _draw(self, name: str, shares: str, uniform: str) -> str:
        """[slot, codebook, 1]: the token under which each uniform falls, when shares stand end to end."""
        reached = self._sums(shares, name)
        end = self.graph.constant(np.array([self.vocabulary - 1], np.int64))
        total = self._node("Gather", [reached, end], f"{name}_total", axis=2)
        mark = self._node("Mul", [uniform, total], f"{name}_mark")
        passed = self._count(self._node("LessOrEqual", [reached, mark], f"{name}_passed"), f"{name}_count")
        return self._node("Min", [passed, self.graph.constant(np.array(self.vocabulary - 1, np.int64))], name)

    def _count(self, conditions: str, name: str) -> str:
        """[slot, codebook, 1]: of how many tokens a condition holds."""
        ones = self._node("Cast", [conditions], f"{name}_ones", to=FLOAT)
        return self._node("Cast", [self._reduce_sum(ones, f"{name}_sum")], name, to=INT64)

    def _at(self, x: str, places: str, name: str) -> str:
        return self._node("GatherElements", [x, places], name, axis=LAST_AXIS)

    def _sums(self, x: str, name: str) -> str:
        """The sum up to and including each token, in fp64."""
        blocks = exact_division(self.vocabulary, SUMMED_AT_ONCE)
        inner = self.graph.weight("sum_within", np.triu(np.ones((SUMMED_AT_ONCE, SUMMED_AT_ONCE))))
        outer = self.graph.weight("sum_before", np.triu(np.ones((blocks, blocks)), 1))
        cut = self.graph.constant(np.array([-1, blocks, SUMMED_AT_ONCE], np.int64))
        joined = self.graph.constant(np.array([-1, self.codebooks, self.vocabulary], np.int64))
        within = self._node("MatMul", [self._node("Reshape", [x, cut], f"{name}_cut"), inner], f"{name}_within")
        last = self.graph.constant(np.array(SUMMED_AT_ONCE - 1, np.int64))
        totals = self._node("Gather", [within, last], f"{name}_totals", axis=2)
        before = self._node(
            "Unsqueeze", [self._node("MatMul", [totals, outer], f"{name}_before"), self._axis(2)], f"{name}_offset"
        )
        sums = self._node("Add", [within, before], f"{name}_sums_cut")
        return self._node("Reshape", [sums, joined], f"{name}_sums")

    def _part(self, tensor: str, index: int) -> str:
        """One of the arrays that a tensor holds along its first axis."""
        return self._node("Gather", [tensor, self.graph.constant(np.array(index, np.int64))], f"{tensor}_{index}")

    def _reduce_sum(self, x: str, name: str) -> str:
        return self._node("ReduceSum", [x, self._axis(LAST_AXIS)], name, keepdims=1)

    def _double(self, x: str, name: str) -> str:
        return self._node("Cast", [x], name, to=DOUBLE)

    def _node(self, operator: str, inputs: list[str], name: str, **attributes: object) -> str:
        return self.graph.node(operator, inputs, self._name(name), **attributes)

    def _name(self, name: str) -> str:
        return f"sampler.{name}"

    def _axis(self, axis: int) -> str:
        return self.graph.constant(np.array([axis], np.int64))

    def _single(self, value: float) -> str:
        return self.graph.constant(np.array(value, np.float32))

    def _number(self, value: float) -> str:
        return self.graph.constant(np.array(value, np.float64))
