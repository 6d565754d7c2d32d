"""Programs for the containers under test, and what they are to see (behaviour.py)."""
