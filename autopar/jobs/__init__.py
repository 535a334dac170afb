"""A job as its launcher sees it: torch is not loaded here, so that starting one takes no time.

    launch     starts the ranks, passes on what they print, and repeats the first cause of a failure
    settings   what the environment asks of a job
    failures   what failing ranks leave behind
    journal    what every rank of a host is doing
    stalls     a journal's notes -> who waits for whom, and whether that can end

Ranks write what the launcher reads, and so they use these files too.
"""
