"""Running a divided graph: actions in the order of a schedule, and messages between positions."""
