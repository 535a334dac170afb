"""Who waits for whom: watched calls, the watchdog, errors that every rank hears of."""
