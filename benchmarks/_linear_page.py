"""The rows of the linear benchmark as a table, a page and a figure."""

import csv

import numpy as np

COLUMNS = (
    "data",
    "loss",
    "solver",
    "setting",
    "ns_per_step",
    "gradients_per_step",
    "ns_per_gradient",
    "step_over_ours",
    "seconds_to_target",
    "passes_or_iterations",
)


def text(v):
    if v is None:
        return ""
    if not isinstance(v, float):
        return str(v)
    if np.isnan(v):
        return ""
    return "not reached" if np.isinf(v) else f"{v:.4g}"


def problems_of(rows):
    return list(dict.fromkeys((r["data"], r["loss"]) for r in rows))


def line(cells):
    return "| " + " | ".join(cells) + " |"


def write(rows, notes, folder):
    "linear.csv and linear.md."
    cells = []
    for row in rows:
        cells.append([text(row[c]) for c in COLUMNS])
    with open(folder / "linear.csv", "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *cells])
    table = [line(COLUMNS), "|" + "---|" * len(COLUMNS), *map(line, cells)]
    page = ["# Linear models beside peers", "", *notes, "", *table, ""]
    (folder / "linear.md").write_text("\n".join(page))


def seconds(row):
    return row["seconds_to_target"]


def firsts(rows):
    "One line per problem: who was first to the target, and the best of ours beside it."
    for data, loss in problems_of(rows):
        here = [r for r in rows if (r["data"], r["loss"]) == (data, loss)]
        first = min(here, key=seconds)
        ours = min([r for r in here if r["solver"].startswith("impsamp")], key=seconds)
        if not np.isfinite(seconds(first)):
            continue
        note = f"- {data}, {loss}: {first['solver']}, {text(seconds(first))} s"
        if first is not ours:
            note += f"; best of ours: {ours['solver']}, {text(seconds(ours))} s"
        yield note


def marker(solver):
    return "o" if "impsamp" in solver else "x"


def draw_column(ax, rows, key, label, hues):
    "One point per solver and problem."
    names = problems_of(rows)
    for r in rows:
        if np.isfinite(r[key]):
            k = names.index((r["data"], r["loss"]))
            ax.plot(r[key], k, marker(r["solver"]), color=hues[r["solver"]], ms=7)
    ax.set(xscale="log", xlabel=label)
    ax.grid(axis="x", alpha=0.3)


def draw(rows, folder):
    "linear.svg and linear.png."
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams["svg.hashsalt"] = "impsamp"
    solvers = list(dict.fromkeys(r["solver"] for r in rows))
    hues = dict(zip(solvers, plt.get_cmap("tab10").colors))
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True, layout="constrained")
    draw_column(left, rows, "ns_per_gradient", "ns per component gradient", hues)
    draw_column(right, rows, "seconds_to_target", "seconds to the target", hues)
    names = [f"{data}\n{loss}" for data, loss in problems_of(rows)]
    left.set_yticks(range(len(names)), names, fontsize=8)
    ticks = [30, 50, 100, 200, 500, 1000]
    left.set_xticks(ticks, ticks)
    left.minorticks_off()
    left.invert_yaxis()
    marks = [
        plt.Line2D([], [], ls="", marker=marker(s), color=hue, label=s) for s, hue in hues.items()
    ]
    fig.legend(handles=marks, loc="outside lower center", ncol=5, fontsize=8, frameon=False)
    fig.savefig(folder / "linear.svg", metadata={"Date": None}, dpi=110)
    fig.savefig(folder / "linear.png", metadata={"Software": None}, dpi=110)
    plt.close(fig)
