from minigpt.bench.rows import as_table, row


def test_a_figure_keeps_four_digits_and_peers_are_multiples_of_ours():
    rows = [
        row("step", "minigpt", 12.34567, "ms"),
        row("step", "hf", 24.6914, "ms"),
        row("x", "hf", 1, "s"),
    ]
    assert rows[0] == {"what": "step", "who": "minigpt", "value": 12.35, "unit": "ms"}
    lines = as_table(rows).splitlines()
    assert lines[0].split() == ["step", "minigpt", "12.35", "ms"]
    assert lines[1].split() == ["step", "hf", "24.69", "ms", "2.00", "x", "ours"]
    assert lines[2].split() == ["x", "hf", "1", "s"]
    assert lines[0].index("ms") == lines[1].index("ms")
