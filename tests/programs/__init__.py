"""Programs that people run, started cold, captured, and restored twice: ``make programs``."""
