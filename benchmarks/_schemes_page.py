"""The page of `benchmarks.schemes`."""

HEAD = (
    "| scheme | H(p)/H(u) | V(p)/V(u) | steps to the loss, over uniform | arrived | step time "
    "| time to the loss |"
)


def line(row):
    low, high = float(row["low"]), float(row["high"])
    ratio = float(row["steps_ratio"])
    cost = float(row["step_time_ratio"])
    moments = f"{float(row['second_moment_ratio']):.2f} | {float(row['variance_ratio']):.2f}"
    steps = f"{ratio:.2f} [{low:.2f}, {high:.2f}]"
    arrived = f"{row['arrived']}/{row['seeds']}"
    return (
        f"| {row['scheme']} | {moments} | {steps} | {arrived} | {cost:.2f} | {ratio * cost:.2f} |"
    )


def page(rows, note):
    "Markdown of all tables."
    parts = ["# Which scheme when", note]
    for data in dict.fromkeys(row["data"] for row in rows):
        mine = [row for row in rows if row["data"] == data]
        uniform = next(row for row in mine if row["scheme"] == "Uniform")
        parts.append(f"## {data}\n\nUniform: {float(uniform['steps']):.0f} steps to the loss.")
        parts.append("\n".join([HEAD, "| --- " * 7 + "|", *map(line, mine)]))
    return "\n\n".join(parts) + "\n"
