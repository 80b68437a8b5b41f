"""The page that goes into an emitted project: what it is, what was verified, how to synthesise it."""

from __future__ import annotations

from typing import Any


def project_readme(record: dict[str, Any], golden_events: int) -> str:
    """Markdown from the record of ``verification.json`` of a project that passed."""
    agreement = "equal bit by bit" if record["bit_exact"] else f"equal within {record['tolerance']:g}"
    shape = " × ".join(str(size) for size in record["input"]["shape"])
    found, random = record["estimates"], record["random_inputs"]
    versions = ", ".join(f"{name} {version}" for name, version in record["tool_versions"].items())
    synthesise = (
        "vitis-run --mode hls --tcl build_prj.tcl     # Vitis HLS 2024.1 and later\n"
        "vitis_hls -f build_prj.tcl                   # before\n"
        if record["backend"] == "Vitis"
        else "vivado_hls -f build_prj.tcl\n"
    )
    options = "build_opt.tcl" if record["backend"] == "Vitis" else "the head of build_prj.tcl"
    return f"""# A network as firmware

Written with hls4ml for {record["backend"]}, {record["io_type"]}, strategy {record["strategy"]},
{record["part"]}, clock period {record["clock_period_ns"]:g} ns.

- **In**: {shape} (channels last), type `{record["input"]["type"]}`.
- **Out**: {record["outputs"]}. The difference of two logits orders events as the softmax does.

## What has been verified

The C++ emulation of this project was compiled with g++ and compared with the quantised network, evaluated in
exact arithmetic, on {record["events"]} held-out events: outputs are {agreement}
({record["mismatches"]} events differ, largest difference {record["max_abs_difference"]:g}). The network gives
{record["distinct_outputs"]} distinct outputs on these events. The same was asked of {random["events"]} random inputs
over the whole range of the input type ({random["mismatches"]} differ, {random["distinct_outputs"]} distinct outputs).
`verification.json` holds the record, with the type of every number. Tools: {versions}.

Not verified here: timing, placement and the RTL itself, which need the vendor's tools. From the structure of the
design, without synthesis, we **estimate** {found["multipliers"]} multipliers (at most {found["dsp"]} DSP) and one
event per {found["interval_cycles"]} cycles ({found["interval_us"]:.1f} µs), set by layer `{found["slowest_layer"]}`.

## Synthesis

    {synthesise.replace(chr(10), chr(10) + "    ").rstrip()}

`csim`, `synth`, `cosim` are switched in {options}. The test bench reads
`tb_data/tb_input_features.dat` ({golden_events} of the events above, quantised) and `tb_output_predictions.dat`
(what the quantised network says of them); `csim` and `cosim` write their own answers beside them, to be
compared line by line.

`./build_lib.sh` compiles the emulation again (g++ only).
"""
