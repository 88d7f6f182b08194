"""The arc-cosine kernels of piecewise linear activations without a call to libm.

With ``c = cos t`` the correlation of a pair and ``g = 1 - |c|`` its gap::

    t(g)                 = 2π √g turn(g)
    sin t - t cos t      = 2π g √g lift(g)

where ``turn`` and ``lift`` are smooth on [0, 1], so a polynomial each and one square root give both
the kernel and its derivative (Cho & Saul, Kernel methods for deep learning, NIPS 2009). In ``g``,
rather than in ``c``, nothing cancels where a pair is nearly perfectly correlated.
"""

from __future__ import annotations

from ntk_dist.kernels.lanes import polynomial

__all__ = ["LIFT", "SAME", "TURN", "lift", "turn"]

# Minimax by the exchange algorithm in 50 digits, lowest power first. Absolute errors on [0, 1]:
# turn 3.5e-9 and 2.3e-17, lift 1.9e-8 and 4.0e-17, each a fraction of a rounding of the result.
TURN: dict[int, tuple[float, ...]] = {
    32: (
        0.22507907557021452,
        0.018757006560179808,
        0.0042120452400684926,
        0.001316824615336053,
        0.00020916847924360071,
        0.00057002964780638018,
        -0.00034514246611683688,
        0.00020098888420598527,
    ),
    64: (
        0.22507907903927649,
        0.018756589919954403,
        0.0042202327304523766,
        0.001256021709851936,
        0.00042739487334395243,
        0.00015737780169464936,
        6.0867654617711169e-5,
        2.5527084075570635e-5,
        5.8972805740246801e-6,
        1.807286048022482e-5,
        -3.1478399099517245e-5,
        6.1305384266599881e-5,
        -8.1852222966863249e-5,
        8.2643875921192513e-5,
        -5.9400291030387632e-5,
        2.9295402208310655e-5,
        -8.8486300081515076e-6,
        1.2739263874506842e-6,
    ),
}
LIFT: dict[int, tuple[float, ...]] = {
    32: (
        0.15005270059406702,
        0.0075038934031549873,
        0.0011922005520156835,
        0.00033178669256757243,
        -1.0736864304105792e-5,
        8.5079948943520131e-5,
    ),
    64: (
        0.15005271935951764,
        0.0075026359679957822,
        0.0012057807789305338,
        0.00027911597461391349,
        7.770750405269984e-5,
        2.4218464808360378e-5,
        8.0744348306732457e-6,
        3.177877616110166e-6,
        1.225698747580166e-7,
        2.6454081496115035e-6,
        -3.6723730950897937e-6,
        4.7952258099139554e-6,
        -4.0888240572958062e-6,
        2.4183946052125339e-6,
        -8.5466976748616989e-7,
        1.4699800996019296e-7,
    ),
}

SAME = {32: 2**-21, 64: 2**-50}
"""Gaps below four roundings are none. Patches of one colour, common in images, are perfectly
correlated, and the root of what rounding leaves of their gaps is 1.6e-5 of the NTK of pictures with
white margins, 1e-9 in float64; without it they err by 1e-7 and 2e-15."""

turn = polynomial(TURN)
lift = polynomial(LIFT)
