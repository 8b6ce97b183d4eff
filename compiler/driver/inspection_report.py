"""The page of an inspection."""

from sardonyx import ir
from sardonyx.driver.inspection import Inspection
from sardonyx.report import Report, Section, model_drawings
from sardonyx.report.content import Block, Cell, Column, Facts, Figure, Notes, Table, Verdict, names, numbers

_LARGE = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def inspection_report(found: Inspection, model: ir.Model) -> Report:
    """Returns the page of an inspection.

    Args:
        found: What was found.
        model: The model, with shapes.
    """
    title = found.path or "model"
    sections = (
        Section("Interface", (_interface(found),)),
        _on_target(found),
        Section("Operators", (_operators(found),)),
        Section("Nodes", (_nodes(model),), found.assumption),
        _graph(model),
    )
    notes = (Section("To know", (Notes(tuple(f"Repaired: {repair}" for repair in found.repairs)),)),)
    return Report(title, "model inspection", _verdict(found), (*(notes if found.repairs else ()), *sections))


def _verdict(found: Inspection) -> Verdict:
    on, unknown = found.target, found.unknown_macs
    products = f"{on['integer_weights']:,} weights and {on['quantized_values']:,} activations"
    headline = f"On {on['name']}, {products} could be integers."
    macs = f"{unknown:,} nodes of unknown shape left out" if unknown else found.assumption
    peak = f"at {found.peak_node}" if found.peak_node else "inputs alone"
    if found.unknown_values:
        peak += f"; {found.unknown_values:,} values of unknown shape left out"
    figures = (
        Figure("nodes", f"{found.nodes:,}", f"{on['nodes_after_exact_passes']:,} after the exact passes"),
        Figure("parameters", _large(found.parameters), f"{_large(found.nbytes)}B of tensors"),
        Figure("multiply-accumulates", _large(found.macs), macs),
        Figure("peak of activations", f"{_large(found.peak_bytes)}B", peak),
    )
    return Verdict(headline, "plain", "", figures)


def _large(number: int) -> str:
    return next((f"{number / size:.2f} {unit}" for size, unit in _LARGE if number >= size), f"{number} ")


def _interface(found: Inspection) -> Facts:
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in found.opsets.items())
    dtypes = ", ".join(f"{dtype} {count:,}" for dtype, count in found.dtypes.items())
    pairs = [("input", text) for text in found.inputs] + [("output", text) for text in found.outputs]
    pairs += [("dynamic axes", ", ".join(found.dynamic_axes) or "none"), ("types of values", dtypes)]
    return Facts((*pairs, ("opsets", opsets), ("IR version", str(found.ir_version))))


def _on_target(found: Inspection) -> Section:
    on = found.target
    floats = [(node, reason) for node, reason in on["float_nodes"].items()]
    blocks: list[Block] = (
        [Notes((*on["refusals"], *on["warnings"]), "warn")] if on["refusals"] or on["warnings"] else []
    )
    if floats:
        blocks.append(Table((names("node"), Column("why it stays in float")), floats, "Integer kernels not used"))
    if on["not_in_table"]:
        rows = sorted(on["not_in_table"].items(), key=lambda item: -item[1])
        blocks.append(Table((names("operator"), numbers("nodes")), rows, "Operators without an integer kernel"))
    return Section(f"On {on['name']}", tuple(blocks), "After the exact passes.")


def _operators(found: Inspection) -> Table:
    rows = sorted(found.operators.items(), key=lambda item: (-item[1], item[0]))
    return Table((names("operator"), numbers("nodes")), rows)


def _nodes(model: ir.Model) -> Table:
    columns = (
        names("node"), names("operator"), names("output"), names("type and shape"), numbers("MACs"),
        numbers("bytes computed"), numbers("parameters"),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for node in (node for graph in ir.all_graphs(model) for node in graph):
        weights = [value.const_value for value in node.inputs if value is not None and value.is_initializer()]
        output = node.outputs[0] if node.outputs else None
        rows.append(
            (
                node.name,
                node.op_type,
                None if output is None else output.name,
                None if output is None else ir.describe_type(output),
                ir.node_macs(node),
                None if output is None else ir.value_bytes(output),
                sum(tensor.size for tensor in weights if tensor is not None),
            )
        )
    return Table(columns, rows)


def _graph(model: ir.Model) -> Section:
    blocks = model_drawings(model)
    return Section("Graph", blocks, "" if blocks else "Too large to be drawn.")
