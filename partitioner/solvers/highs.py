"""An integer program through PuLP to HiGHS: on one thread, with one seed, to the last digit, without a word."""

from __future__ import annotations

import time

import pulp

from autopar.partitioner.solvers.quiet_stdout import no_output


class _Quiet(pulp.HiGHS):  # type: ignore[misc]
    """PuLP's HiGHS, made without a word."""

    def createAndConfigureSolver(self, lp: pulp.LpProblem) -> None:
        """Make the solver and set its options."""
        with no_output():
            super().createAndConfigureSolver(lp)


def run(program: pulp.LpProblem, deadline: float, whole: bool) -> tuple[int, float]:
    """Solve, with whole variables where they are declared or without; PuLP's status of the solution, and the lower bound."""
    solver = _Quiet(
        mip=whole,
        msg=False,
        gapRel=0.0,
        gapAbs=1e-8,
        threads=1,
        timeLimit=max(deadline - time.perf_counter(), 0.01),
        random_seed=0,
        mip_feasibility_tolerance=1e-9,
        primal_feasibility_tolerance=1e-9,
        dual_feasibility_tolerance=1e-9,
    )
    program.solve(solver)
    info = program.solverModel.getInfo()
    return program.sol_status, float(info.mip_dual_bound if whole else info.objective_function_value)
