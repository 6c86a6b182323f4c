"""The picture of chapter 00."""

from collections.abc import Callable, Mapping

from course_utils.display.figures import COLOURS, figure, show_figure


def plot_weight_bytes(
    models: Mapping[str, int],
    memories: Mapping[str, float],
    weight_bytes: Callable[[int, float], int],
    bits: tuple[int, ...] = (16, 8, 4, 2),
) -> None:
    """Gigabytes of each model's weights at several widths, with lines for what devices hold.

    models: parameters by name; memories: gigabytes by name; weight_bytes(parameters, bits).
    """
    fig, (axis,) = figure(width=8.0, height=3.6)
    for place, width in enumerate(bits):
        sizes = [weight_bytes(parameters, width) / 1e9 for parameters in models.values()]
        spots = [number + (place - 1.5) * 0.2 for number in range(len(models))]
        axis.bar(spots, sizes, 0.18, color=COLOURS[place], label=f"{width} bits")
    for name, size in memories.items():
        axis.axhline(size, color="grey", linestyle=":", linewidth=1)
        axis.text(len(models) - 0.38, size, f"{name}, {size:g} GB", fontsize=8, va="center")
    axis.set_yscale("log")
    axis.set_xlim(-0.5, len(models) - 0.4)
    axis.set_xticks(range(len(models)), list(models))
    axis.set(title="Bits per weight decide where a model fits", ylabel="weights (GB, log scale)")
    axis.legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, -0.12))
    show_figure(
        fig,
        "bars of gigabytes for each model at 16, 8, 4 and 2 bits per weight on a logarithmic axis, "
        "with dotted lines for the memory of three devices.",
    )
