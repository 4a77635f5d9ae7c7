"""Models and files of other programs: what comes in, what goes out, and the proof that it is the same."""
