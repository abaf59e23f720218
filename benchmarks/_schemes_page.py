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


WHEN = """## How to read it

* V(p)/V(u) is what a scheme is for; steps follow it only where noise limits the training. Where
  the interval of the steps holds 1 the gain in variance bought nothing at this rate and batch.
* Time to the loss is steps times step time: on networks this small scoring costs more than a step,
  and a column above 1 says that uniform sampling is faster. Where a step costs much more than a
  pass of scores the same variance counts for more: `probe` measures that for a model of yours.
* A ratio above 1 in H(p)/H(u) is a scheme that harms: ranks of old losses on both sets, raw losses
  at the last visit on MNIST.
* ReducibleLoss loses most: what no holdout model explains keeps the largest gradients, is
  drawn least and weighs most; it is for label noise, which neither set has.
* Measured in two parts on a machine under heavy load, with four seeds.
* Shuffle and DynamicPruning draw without replacement; their H is that of each draw's own law, and
  what they gain by not repeating items is in the steps alone. H of MultipleImportance is that of
  the mixture, an upper bound. Uniform sampling with replacement computes weights over all items,
  so that Shuffle takes less time per step."""


def page(rows, note):
    "Markdown of all tables."
    parts = ["# Which scheme when", note]
    for data in dict.fromkeys(row["data"] for row in rows):
        mine = [row for row in rows if row["data"] == data]
        uniform = next(row for row in mine if row["scheme"] == "Uniform")
        parts.append(f"## {data}\n\nUniform: {float(uniform['steps']):.0f} steps to the loss.")
        parts.append("\n".join([HEAD, "| --- " * 7 + "|", *map(line, mine)]))
    parts.append(WHEN)
    return "\n\n".join(parts) + "\n"
