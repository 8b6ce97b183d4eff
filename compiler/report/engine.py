"""The section on an engine that was built of the written model, or why there is none."""

from sardonyx.backends import EngineReport
from sardonyx.report.content import Block, Cell, Code, Column, Facts, Notes, Section, Table, names, numbers


def engine_section(engine: EngineReport | None) -> Section:
    """Returns what runs in which type, what misses and why, and how to build elsewhere; empty without an engine."""
    if engine is None:
        return Section("Engine")
    blocks: list[Block] = []
    problems = tuple(filter(None, (engine.unmet, *engine.problems)))
    blocks += [Notes(problems, "bad")] if problems else []
    blocks += [Notes(engine.warnings, "warn")] if engine.warnings else []
    if engine.built:
        blocks.append(_facts(engine))
    if engine.proof is not None:
        rows = sorted(engine.proof.nodes.items(), key=lambda item: -item[1])
        blocks.append(Table((names("type"), numbers("products")), rows, "Products by the type that they run in"))
        layers = sorted(engine.proof.layers.items(), key=lambda item: -item[1])
        blocks.append(Table((names("layer"), numbers("layers")), layers, "Layers of the engine by type"))
        weights = sorted(engine.proof.weight_bytes.items(), key=lambda item: -item[1])
        blocks.append(Table((names("type"), numbers("bytes")), weights, "Constants of the engine by type"))
    if engine.proof is not None and engine.proof.misses:
        columns = (names("node"), names("operator"), Column("runs in"), Column("why"))
        misses = [(miss.node, miss.op_type, miss.precision, miss.reason) for miss in engine.proof.misses]
        blocks.append(Table(columns, misses, "Meant to run as integers, and do not"))
    blocks += _layers(engine)
    blocks += [Code(command, f"Build it elsewhere: {where}") for where, command in engine.commands.items()]
    return Section("Engine", tuple(blocks), "" if engine.built else "No engine was built.")


def _layers(engine: EngineReport) -> list[Block]:
    """Each layer, with the nodes that it computes, and where that is known from."""
    if not engine.layers:
        return []
    columns = (
        numbers("#"), names("layer"), Column("type"), Column("runs in"), Column("reads"), Column("writes"),
        names("kernel"), names("nodes"),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        (
            position,
            layer.name,
            layer.kind,
            layer.precision,
            "; ".join(layer.inputs),
            "; ".join(layer.outputs),
            layer.tactic,
            ", ".join(layer.nodes),
        )
        for position, layer in enumerate(engine.layers, start=1)
    ]
    table = Table(columns, rows, "Layers of the engine in order of execution").trimmed()
    return [table, Notes((engine.layers_source,))]


def _facts(engine: EngineReport) -> Facts:
    pairs = [
        ("file", engine.file),
        ("bytes", f"{engine.nbytes:,}, of which weights {engine.weights_bytes:,}"),
        ("built by", f"{engine.builder} {engine.version} in {engine.seconds:.1f} s"),
        ("peak memory of the builder", f"{engine.peak_rss_bytes:,} bytes"),
        ("compute capabilities", ", ".join(engine.targets) or "the builder's default"),
    ]
    if engine.proof is not None:
        pairs.append(("products as integers", f"{engine.proof.integer:,} of {engine.proof.planned:,} planned"))
    return Facts((*pairs, *(("shapes", shapes) for shapes in engine.shapes)))
